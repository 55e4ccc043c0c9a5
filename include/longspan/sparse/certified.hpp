#pragma once
// Blocks left out under a bound: what they can hold at most is known, so the error is.

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <longspan/sparse/probe.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What Certified chose. For every row of the head, with scores as in the call and no score function or mask but
/// causal:
///   the mass that is left out is at most left_out of all,
///   |attention(mask & Causal) − attention(Causal)| <= 2 · left_out · max|v|, rounding aside.
struct CertifiedSparsity {
  BlockSparse mask;
  double left_out = 0;  ///< the certificate: largest over all rows, <= epsilon / 2
  double density = 0;   ///< share of the causal blocks
};

/// Of each block of queries, the fewest blocks of keys (by falling bounds) so that the error of each row is at most
/// epsilon · max|v|. What a block can hold at most follows from the least and largest value of its keys in each
/// dimension (as Quest, arXiv 2406.10774): Σ_d max(q_d·least_d, q_d·largest_d); what taken blocks hold is computed. A
/// row's left-out share f moves the output by f·(out of what is left out − out of what is kept), hence the 2. The
/// certificate includes the rounding of its own arithmetic. Throws std::invalid_argument unless 0 < epsilon <= 2.
/// O(queries · keys / block · head_dim + visible pairs of the result · head_dim).
struct Certified {
  Index block = 64;
  double epsilon = 1e-3;

  CertifiedSparsity operator()(const HeadOf& head) const {
    check(epsilon > 0 && epsilon <= 2, "Certified.epsilon", epsilon, "within (0, 2]");
    const BlockGrid grid = head.grid(block);
    const Ranges ranges(head, block, grid.columns);
    double left_out = 0;
    Index of_row = -1, blocks = 0, all = 0;
    std::vector<bool> taken;
    BlockSparse mask(grid, [&](Index r, Index c) {
      if (r < head.first_query() / block || c > r) return false;
      if (of_row != r) left_out = std::max(left_out, choose(head, ranges, of_row = r, taken));
      ++all, blocks += taken[static_cast<std::size_t>(c)] ? 1 : 0;
      return static_cast<bool>(taken[static_cast<std::size_t>(c)]);
    });
    return {std::move(mask), left_out, static_cast<double>(blocks) / static_cast<double>(all)};
  }

 private:
  /// Least and largest of each dimension in each block of keys.
  struct Ranges {
    Ranges(const HeadOf& head, Index block, Index blocks) : dim(head.dim()) {
      const auto size = static_cast<std::size_t>(blocks * dim);
      least.assign(size, std::numeric_limits<float>::infinity());
      largest.assign(size, kMinusInfinity);
      for (Index j = 0; j < head.keys(); ++j)
        for (Index d = 0; d < dim; ++d) {
          const auto at = static_cast<std::size_t>(j / block * dim + d);
          least[at] = std::min(least[at], head.key(j)[d]);
          largest[at] = std::max(largest[at], head.key(j)[d]);
        }
    }
    /// No key of the block has a larger product with q; and the size of the sum's terms, which its rounding is relative
    /// to.
    std::pair<double, double> bound(const float* q, Index b) const {
      double sum = 0, terms = 0;
      for (Index d = 0; d < dim; ++d) {
        const auto at = static_cast<std::size_t>(b * dim + d);
        const double x = static_cast<double>(q[d]) * static_cast<double>(least[at]),
                     y = static_cast<double>(q[d]) * static_cast<double>(largest[at]);
        sum += std::max(x, y);
        terms += std::max(std::abs(x), std::abs(y));
      }
      return {sum, terms};
    }
    Index dim;
    std::vector<float> least, largest;
  };

  /// The blocks of one block of queries; returns the largest share that a row may leave out. Masses are relative to a
  /// row's largest bound, so that nothing overflows.
  double choose(const HeadOf& head, const Ranges& ranges, Index r, std::vector<bool>& taken) const {
    const Index first = std::max(r * block, head.first_query()), end = std::min((r + 1) * block, head.keys());
    const auto rows = static_cast<std::size_t>(end - first), columns = static_cast<std::size_t>(r) + 1;
    const auto scale = static_cast<double>(head.scale());
    std::vector<double> most(rows * columns), held(rows), top(rows), weight(columns);
    for (std::size_t i = 0; i < rows; ++i) {
      const float* q = head.query(first + static_cast<Index>(i));
      double* const row = &most[i * columns];
      for (std::size_t c = 0; c < columns; ++c) {
        const auto [sum, terms] = ranges.bound(q, static_cast<Index>(c));
        row[c] = scale * (sum + kRounding * terms);
      }
      top[i] = *std::max_element(row, row + columns);
      double all = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        row[c] = keys_in(c, static_cast<std::size_t>(first) + i) * std::exp(row[c] - top[i]);
        all += row[c];
      }
      for (std::size_t c = 0; c < columns; ++c) weight[c] += row[c] / all;
    }
    std::vector<std::size_t> order(columns);
    for (std::size_t c = 0; c < columns; ++c) order[c] = c;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weight[a] > weight[b]; });
    std::swap(*std::find(order.begin(), order.end(), columns - 1), order.front());  // the diagonal, whatever it holds

    // … and what is left behind each place in this order, from the small end: a difference of sums would be no bound.
    for (std::size_t i = 0; i < rows; ++i) {
      double behind = 0;
      for (std::size_t n = columns; n-- > 0;) behind += std::exchange(most[i * columns + order[n]], behind);
    }

    taken.assign(columns, false);
    double worst = 2;
    for (std::size_t n = 0; n < columns && !(worst <= epsilon / 2); ++n) {
      const std::size_t c = order[n];
      taken[c] = true;
      worst = 0;
      for (std::size_t i = 0; i < rows; ++i) {
        held[i] += least_held(head, first + static_cast<Index>(i), static_cast<Index>(c), top[i]);
        if (n + 1 == columns) continue;  // nothing is left
        const double left = most[i * columns + c] + kSmallest;
        const double share = left / (left + held[i]) * (1 + 1e-12);
        worst = std::max(worst, std::isnan(share) ? 1 : std::min(1., share));
      }
    }
    return worst;
  }

  /// How many keys of a block the query sees.
  double keys_in(std::size_t c, std::size_t query) const {
    const auto size = static_cast<std::size_t>(block);
    return static_cast<double>(std::min(size, query + 1 - std::min(query + 1, c * size)));
  }
  /// e^(score − top) over the keys of a block, computed in double.
  double least_held(const HeadOf& head, Index query, Index c, double top) const {
    const float* q = head.query(query);
    double sum = 0;
    for (Index j = c * block; j < std::min((c + 1) * block, query + 1); ++j) {
      const float* k = head.key(j);
      double product = 0, terms = 0;
      for (Index d = 0; d < head.dim(); ++d) {
        const double term = static_cast<double>(q[d]) * static_cast<double>(k[d]);
        product += term;
        terms += std::abs(term);
      }
      sum += std::exp(static_cast<double>(head.scale()) * (product - kRounding * terms) - top);
    }
    return sum;
  }
  static constexpr double kSmallest = 1e-300;   ///< above what masses lose where they are too small for a double
  static constexpr double kRounding = 0x1p-40;  ///< of sums of up to 2^12 products in double, per unit of their terms
};

}  // namespace longspan::inline LONGSPAN_ISA
