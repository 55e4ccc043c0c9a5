#pragma once
// The tree of speculative decoding.

#include <longspan/mask/algebra.hpp>
#include <longspan/mask/dense.hpp>
#include <longspan/mask/masks.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Speculative decoding over a tree of tokens (SpecInfer, arXiv 2305.09781; Medusa): node i stands at position
/// first + i, and sees all keys before `first`, its ancestors and itself. Positions before `first` are causal.
/// Throws std::invalid_argument unless first >= 0 and each parent is an earlier node or -1 for a root.
/// O(nodes²) bits.
inline auto tree(Index first, std::span<const Index> parents) {
  const auto size = std::ssize(parents);
  std::vector<bool> sees(static_cast<std::size_t>(size * size));
  for (Index i = 0; i < size; ++i) {
    const Index parent = parents[static_cast<std::size_t>(i)];
    check(parent >= -1 && parent < i, "tree.parents", parent, "an earlier node, or -1");
    for (Index j = 0; j < i && parent >= 0; ++j)
      sees[static_cast<std::size_t>(i * size + j)] = sees[static_cast<std::size_t>(parent * size + j)];
    sees[static_cast<std::size_t>(i * size + i)] = true;
  }
  check(first >= 0, "tree.first", first, ">= 0");
  return Sinks{first} | DenseMask({size, size, first, first}, [&](Index i, Index j) {
           return static_cast<bool>(sees[static_cast<std::size_t>(i * size + j)]);
         });
}

}  // namespace longspan::inline LONGSPAN_ISA
