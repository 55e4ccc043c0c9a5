#pragma once
// BigBird's pattern of blocks.

#include <random>

#include <longspan/mask/block_sparse.hpp>

namespace longspan::inline LONGSPAN_ISA {

struct BigBird {
  Index blocks = 0;        ///< of queries, and as many of keys
  Index block = 64;        ///< tokens in a block
  Index radius = 1;        ///< blocks on each side of a query's own
  Index global = 1;        ///< first blocks, which see and are seen by all
  Index random = 3;        ///< further blocks of each row, or all that there are
  std::uint64_t seed = 0;  ///< the same blocks on every machine
};

/// BigBird (arXiv 2007.14062, ITC) by blocks: a window, global blocks, and random ones. In both directions: & Causal
/// where need be. Throws std::invalid_argument as BlockSparse does, and unless radius, global and random are >= 0.
/// O(blocks²).
inline BlockSparse big_bird(const BigBird& b) {
  check(b.radius >= 0, "BigBird.radius", b.radius, ">= 0");
  check(b.global >= 0, "BigBird.global", b.global, ">= 0");
  check(b.random >= 0, "BigBird.random", b.random, ">= 0");
  std::mt19937_64 draw(b.seed);
  Index of_row = -1;
  std::vector<Index> random;  // columns of that row
  const auto fixed = [&](Index row, Index column) {
    return row < b.global || column < b.global || std::abs(row - column) <= b.radius;
  };
  return {{b.blocks, b.blocks, b.block, b.block}, [&](Index row, Index column) {
            if (of_row != row) {
              of_row = row;
              std::vector<Index> others;
              for (Index c = 0; c < b.blocks; ++c)
                if (!fixed(row, c)) others.push_back(c);
              random.clear();
              while (std::ssize(random) < b.random && !others.empty()) {
                const auto drawn = static_cast<std::size_t>(draw() % others.size());
                random.push_back(std::exchange(others[drawn], others.back()));
                others.pop_back();
              }
            }
            return fixed(row, column) || std::find(random.begin(), random.end(), column) != random.end();
          }};
}

}  // namespace longspan::inline LONGSPAN_ISA
