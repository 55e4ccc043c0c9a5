#pragma once
// The patterns of MInference (Jiang et al., arXiv 2407.02490), chosen for one head.

#include <algorithm>
#include <queue>
#include <vector>

#include <longspan/sparse/probe.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The first `sinks` and the last `window` blocks of keys of every block of queries (counted with its own). No data
/// decide but `kept` is measured. Throws std::invalid_argument unless sinks >= 0 and window >= 1.
struct AShape {
  Index block = 64;
  Index sinks = 1;
  Index window = 16;

  Sparsity operator()(const HeadOf& head) const {
    check(sinks >= 0, "AShape.sinks", sinks, ">= 0");
    check(window >= 1, "AShape.window", window, ">= 1");
    return detail::chosen(head, block, Probe::spread(head, detail::kMeasured),
                          [&](Index r, Index c) { return c < sinks || r - c < window; });
  }
};

/// Vertical lines (keys that all look at) and slashes (distances at which all look back), from the weights of the last
/// queries: the heaviest line first, until what is in the blocks that the lines cross holds `mass` of those queries'
/// weights, or `most` lines are taken. Throws std::invalid_argument unless probes >= 1, 0 < mass <= 1 and most >= 1.
/// O(probes · keys · head_dim + lines · block · probes).
struct VerticalSlash {
  Index block = 64;
  Index probes = 64;
  double mass = 0.98;
  Index most = 1024;

  Sparsity operator()(const HeadOf& head) const {
    check(probes >= 1, "VerticalSlash.probes", probes, ">= 1");
    check(mass > 0 && mass <= 1, "VerticalSlash.mass", mass, "within (0, 1]");
    check(most >= 1, "VerticalSlash.most", most, ">= 1");
    const Index blocks = head.grid(block).rows;
    std::vector<bool> column(static_cast<std::size_t>(blocks)), distance(static_cast<std::size_t>(blocks) + 1);
    choose(head, column, distance);
    return detail::chosen(head, block, Probe::spread(head, detail::kMeasured), [&](Index r, Index c) {
      return column[static_cast<std::size_t>(c)] || distance[static_cast<std::size_t>(r - c)];
    });
  }

 private:
  /// Marks columns of blocks, and distances in blocks. Lines are told apart by single keys and distances: by blocks,
  /// the last queries would not show whether a block is dark because of its keys or because of how far away it is.
  void choose(const HeadOf& head, std::vector<bool>& column, std::vector<bool>& distance) const {
    Probe probe = Probe::last(head, probes);
    const Index n = head.keys();
    std::vector<double> line(static_cast<std::size_t>(2 * n));  // keys, then distances
    for (Index i = 0; i < probe.rows(); ++i)
      for (Index j = 0; j <= probe.position(i); ++j) {
        const auto w = static_cast<double>(probe.row(i)[j]);
        line[static_cast<std::size_t>(j)] += w;
        line[static_cast<std::size_t>(n + probe.position(i) - j)] += w;
      }
    using Entry = std::pair<double, Index>;
    std::vector<Entry> entries;
    for (Index l = 0; l < 2 * n; ++l) entries.emplace_back(line[static_cast<std::size_t>(l)], l);
    std::priority_queue<Entry> heaviest(entries.begin(), entries.end());

    double kept = 0;
    const auto take = [&](Index row_block, Index c) {  // the weights of that block, once
      if (c < 0) return;
      for (Index i = 0; i < probe.rows(); ++i) {
        const Index p = probe.position(i);
        if (p / block != row_block) continue;
        for (Index j = c * block; j < std::min((c + 1) * block, p + 1); ++j) {
          const auto w = static_cast<double>(std::exchange(probe.row(i)[j], 0.f));
          kept += w;
          line[static_cast<std::size_t>(j)] -= w;
          line[static_cast<std::size_t>(n + p - j)] -= w;
        }
      }
    };
    const auto for_row_blocks = [&](auto&& f) {
      for (Index r = probe.position(0) / block; r <= (n - 1) / block; ++r) f(r);
    };
    distance[0] = true;  // the diagonal is always taken
    for_row_blocks([&](Index r) { take(r, r); });
    const double wanted = mass * static_cast<double>(probe.rows());
    for (Index lines = 0; lines < most && kept < wanted && !heaviest.empty();) {
      const double weight = heaviest.top().first;
      const Index l = heaviest.top().second;  // no binding: lambdas of C++20 may capture one, clang 14 does not
      heaviest.pop();
      const double now = line[static_cast<std::size_t>(l)];
      if (now < 0.999 * weight) {  // other lines have taken some of it
        if (now > 0) heaviest.push({now, l});
        continue;
      }
      ++lines;
      if (l < n) {
        column[static_cast<std::size_t>(l / block)] = true;
        for_row_blocks([&](Index r) { take(r, l / block); });
      } else {  // queries of a block look back at keys of two
        for (const Index d : {(l - n) / block, (l - n) / block + 1}) {
          distance[static_cast<std::size_t>(d)] = true;
          for_row_blocks([&](Index r) { take(r, r - d); });
        }
      }
    }
  }
};

/// For each block of queries, the `count` blocks of keys whose mean has the largest product with the mean of the
/// queries (MInference's block-sparse pattern). Throws std::invalid_argument unless count >= 1. O(keys · head_dim +
/// blocks² · head_dim).
struct PooledTopK {
  Index block = 64;
  Index count = 32;

  Sparsity operator()(const HeadOf& head) const {
    check(count >= 1, "PooledTopK.count", count, ">= 1");
    const BlockGrid grid = head.grid(block);
    const auto means = [&](Index from, const auto& row) {
      std::vector<float> mean(static_cast<std::size_t>(grid.rows * head.dim()));
      for (Index p = from; p < head.keys(); ++p)
        for (Index d = 0; d < head.dim(); ++d) mean[static_cast<std::size_t>(p / block * head.dim() + d)] += row(p)[d];
      return mean;  // sums: but for the last block of keys all have the same count
    };
    std::vector<float> keys = means(0, [&](Index p) { return head.key(p); });
    const std::vector<float> queries = means(head.first_query(), [&](Index p) { return head.query(p); });
    const Index last = head.keys() - (grid.rows - 1) * block;
    for (Index d = 0; d < head.dim(); ++d)
      keys[static_cast<std::size_t>((grid.rows - 1) * head.dim() + d)] *=
          static_cast<float>(block) / static_cast<float>(last);

    Index of_row = -1;
    std::vector<bool> taken;
    return detail::chosen(head, block, Probe::spread(head, detail::kMeasured), [&](Index r, Index c) {
      if (of_row != r) {
        of_row = r;
        std::vector<std::pair<float, Index>> scores;
        for (Index j = 0; j < r; ++j)
          scores.emplace_back(HeadOf::dot(queries.data() + r * head.dim(), keys.data() + j * head.dim(), head.dim()),
                              j);
        const auto most = static_cast<std::size_t>(std::min<Index>(count, r));
        std::partial_sort(scores.begin(), scores.begin() + std::min<Index>(count, r), scores.end(), std::greater<>());
        taken.assign(static_cast<std::size_t>(r) + 1, false);
        for (std::size_t i = 0; i < most; ++i) taken[static_cast<std::size_t>(scores[i].second)] = true;
      }
      return static_cast<bool>(taken[static_cast<std::size_t>(c)]);
    });
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
