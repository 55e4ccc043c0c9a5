#pragma once
// Looking at some rows of attention, to choose what the other rows may leave out.

#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/core/view.hpp>
#include <longspan/mask/block_sparse.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// One query head and its keys: q [queries, heads, head_dim], k [keys, kv_heads, head_dim], queries at the end of the
/// keys, every query sees the keys up to its own. A view: q and k outlive it.
class HeadOf {
 public:
  /// Throws std::invalid_argument unless shapes agree as in a call, head is one of q's, there is at least one query and
  /// no more of them than keys, and scale is finite and > 0 (default 1/sqrt(head_dim)).
  HeadOf(TensorView<const float> q, TensorView<const float> k, Index head, std::optional<float> scale = {})
      : q_(q),
        k_(k),
        head_(head),
        scale_(scale.value_or(static_cast<float>(1 / std::sqrt(static_cast<double>(q.dim))))) {
    check(q.tokens >= 1 && q.tokens <= k.tokens, "HeadOf.q.tokens", q.tokens, "within [1, keys]");
    check(k.heads >= 1 && q.heads % k.heads == 0, "HeadOf.q.heads", q.heads, MultipleOf{k.heads});
    check(head >= 0 && head < q.heads, "HeadOf.head", head, Below{q.heads});
    check(k.dim == q.dim, "HeadOf.k.dim", k.dim, q.dim);
    check(std::isfinite(scale_) && scale_ > 0, "HeadOf.scale", scale_, "finite and > 0");
  }

  Index queries() const { return q_.tokens; }
  Index keys() const { return k_.tokens; }
  Index dim() const { return q_.dim; }
  float scale() const { return scale_; }
  /// Where the first query stands.
  Index first_query() const { return keys() - queries(); }
  const float* query(Index position) const { return q_.row(position - first_query(), head_); }
  const float* key(Index position) const { return k_.row(position, head_ / (q_.heads / k_.heads)); }
  float score(Index query_position, Index key_position) const {
    return scale_ * dot(query(query_position), key(key_position), dim());
  }
  /// Blocks of `block` queries and as many keys, from position 0 to the last key.
  BlockGrid grid(Index block) const {
    check(block >= 1, "sparse.block", block, ">= 1");
    const Index blocks = ceil_div(keys(), block);
    return {blocks, blocks, block, block};
  }

  static float dot(const float* a, const float* b, Index size) {
    Lanes sum[2] = {Lanes(0.f), Lanes(0.f)};
    Index d = 0;
    for (; d + 2 * kLanes <= size; d += 2 * kLanes)
      unroll<2>([&](auto i)
                    LONGSPAN_LAMBDA { sum[i] = fma(load(a + d + i * kLanes), load(b + d + i * kLanes), sum[i]); });
    float rest = 0;
    for (; d < size; ++d) rest = fma(a[d], b[d], rest);
    return fold(sum[0] + sum[1], [](const auto& x, const auto& y) LONGSPAN_LAMBDA { return x + y; }) + rest;
  }

 private:
  TensorView<const float> q_, k_;
  Index head_;
  float scale_;
};

namespace detail {
/// e^(x − max) in place, for the first `size` of x; returns their sum.
inline double softmax_terms(float* x, Index size, float max) {
  double sum = 0;
  for (Index j = 0; j < size; j += kLanes) {
    alignas(64) float term[kLanes];
    const Index count = std::min<Index>(kLanes, size - j);
    std::fill_n(term, kLanes, kMinusInfinity);
    std::copy_n(x + j, count, term);
    exp2((Lanes::load_aligned(term) - Lanes(max)) * Lanes(kLog2e)).store_aligned(term);
    std::copy_n(term, count, x + j);
    for (Index i = 0; i < count; ++i) sum += static_cast<double>(term[i]);
  }
  return sum;
}
}  // namespace detail

/// The attention weights of some queries over all keys up to their own, exact but for rounding. O(rows · keys ·
/// head_dim) time, rows · keys floats.
class Probe {
 public:
  Probe(const HeadOf& head, std::vector<Index> positions) : positions_(std::move(positions)), stride_(head.keys()) {
    weights_.assign(static_cast<std::size_t>(std::ssize(positions_) * stride_), 0.f);
    std::vector<float> max(positions_.size(), kMinusInfinity);
    for (Index j = 0; j < head.keys(); ++j) {  // a key is read once for all rows
      const float* key = head.key(j);
      for (std::size_t i = 0; i < positions_.size(); ++i) {
        if (j > positions_[i]) continue;
        const float s = head.scale() * HeadOf::dot(head.query(positions_[i]), key, head.dim());
        row(static_cast<Index>(i))[j] = s;
        max[i] = std::max(max[i], s);
      }
    }
    for (Index i = 0; i < rows(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double sum = detail::softmax_terms(row(i), positions_[at] + 1, max[at]);
      for (Index j = 0; j <= positions_[at]; ++j) row(i)[j] = static_cast<float>(static_cast<double>(row(i)[j]) / sum);
    }
  }
  /// The last `count` queries (or all there are).
  static Probe last(const HeadOf& head, Index count) {
    std::vector<Index> positions;
    for (Index p = std::max(head.first_query(), head.keys() - count); p < head.keys(); ++p) positions.push_back(p);
    return {head, std::move(positions)};
  }
  /// `count` queries (or all there are) at equal distances, the last one among them.
  static Probe spread(const HeadOf& head, Index count) {
    std::vector<Index> positions;
    const Index rows = std::min(count, head.queries());
    for (Index i = 1; i <= rows; ++i) positions.push_back(head.first_query() + head.queries() * i / rows - 1);
    return {head, std::move(positions)};
  }

  Index rows() const { return std::ssize(positions_); }
  Index position(Index row) const { return positions_[static_cast<std::size_t>(row)]; }
  float* row(Index i) { return weights_.data() + i * stride_; }
  const float* row(Index i) const { return weights_.data() + i * stride_; }

  /// The mean share of a row's mass that a mask keeps.
  template <Mask M>
  double kept(const M& mask) const {
    double all = 0;
    for (Index i = 0; i < rows(); ++i) {
      const Index p = position(i);
      for (Index k = 0; k <= p;) {
        const Interval run = intersect(mask.some({p, p + 1}, k), {0, p + 1});
        if (run.empty()) break;
        for (Index j = run.begin; j < run.end; ++j)
          if (mask.allows(p, j)) all += static_cast<double>(row(i)[j]);
        k = run.end;
      }
    }
    return all / static_cast<double>(rows());
  }

 private:
  std::vector<Index> positions_;
  Index stride_;
  std::vector<float> weights_;
};

/// The mean share of the mass that attention under a mask has kept, from the LSE of its rows and that of full
/// attention: the measured truth. Rows that see nothing in either don't count. Throws std::invalid_argument on another
/// size.
inline double kept_mass(std::span<const float> lse_of_kept, std::span<const float> lse_of_all) {
  check(lse_of_kept.size() == lse_of_all.size(), "kept_mass.size", lse_of_kept.size(), lse_of_all.size());
  double sum = 0;
  Index rows = 0;
  for (std::size_t i = 0; i < lse_of_all.size(); ++i)
    if (lse_of_all[i] > kMinusInfinity) {
      sum += std::exp(static_cast<double>(lse_of_kept[i]) - static_cast<double>(lse_of_all[i]));
      ++rows;
    }
  return rows == 0 ? 1 : sum / static_cast<double>(rows);
}

/// Which blocks to look at, and what that keeps.
struct Sparsity {
  BlockSparse mask;    ///< with Causal by &: blocks on the diagonal are whole
  double kept = 0;     ///< mean share of attention mass in them, measured on rows at equal distances
  double density = 0;  ///< share of the causal blocks
};

namespace detail {
/// The rows that `kept` is measured on.
inline constexpr Index kMeasured = 64;

/// From the blocks that f(row, column) chooses; those on the diagonal always, so that no row is empty.
template <class F>
Sparsity chosen(const HeadOf& head, Index block, const Probe& measured, F&& f) {
  const BlockGrid grid = head.grid(block);
  Index blocks = 0, all = 0;
  const Index first = head.first_query() / block;
  BlockSparse mask(grid, [&](Index r, Index c) {
    if (r < first || c > r) return false;
    const bool taken = c == r || f(r, c);
    ++all, blocks += taken ? 1 : 0;
    return taken;
  });
  const double kept = measured.kept(mask);
  return {std::move(mask), kept, static_cast<double>(blocks) / static_cast<double>(all)};
}
}  // namespace detail

}  // namespace longspan::inline LONGSPAN_ISA
