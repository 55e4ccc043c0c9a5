#pragma once
// Sparse patterns of the literature with a closed form: every reading is O(1).

#include <longspan/core/concepts.hpp>
#include <longspan/core/periodic.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/dilated.hpp>
#include <longspan/mask/masks.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The first `count` tokens see everything and are seen by everybody: k < count or q < count. In both directions: &
/// Causal where need be. Throws std::invalid_argument unless count >= 0.
class GlobalTokens {
 public:
  explicit GlobalTokens(Index count) : count_(count) { check(count >= 0, "GlobalTokens.count", count, ">= 0"); }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return (k < count_) | (q < count_); }
  Interval some(Interval q, Index k) const { return run_from(k, 0, q.begin < count_ ? kUnbounded : count_); }
  Interval every(Interval q, Index k) const { return run_from(k, 0, q.end <= count_ ? kUnbounded : count_); }
  Index pairs(Interval q, Interval keys) const {
    const Interval others{count_, kUnbounded};
    return pairs_of(q, keys) - pairs_of(intersect(q, others), intersect(keys, others));
  }
  Index edge_after(Index q) const { return q < count_ ? count_ : kUnbounded; }

 private:
  Index count_;
};

/// Chunks of `size` tokens that don't see each other, causal inside (the local layers of Llama 4).
/// Throws std::invalid_argument unless size >= 1.
class Chunked {
 public:
  explicit Chunked(Index size) : size_(std::min(size, kPositionEnd)) { check(size >= 1, "Chunked.size", size, ">= 1"); }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    if constexpr (kInLanes<std::decay_t<decltype(q)>>)
      return (k <= q) & (q < begin(place(k)) + size_);
    else
      return (k <= q) & (k >= begin(place(q)));
  }
  Interval some(Interval q, Index k) const { return run_from(k, std::max<Index>(0, begin(q.begin)), q.end); }
  Interval every(Interval q, Index k) const { return run_from(k, std::max<Index>(0, begin(q.end - 1)), q.begin + 1); }

 private:
  Index begin(Index at) const { return floor_div(at, size_) * size_; }
  Index size_;
};

/// The last `width` keys of every `period`, as far as causality allows: k mod period >= period - width and k <= q.
/// Throws std::invalid_argument unless 1 <= width <= period < 2^22.
class Columns {
 public:
  explicit Columns(Index period, Index width = 1) : period_(period), width_(width) {
    check(period >= 1 && period < kPeriodEnd, "Columns.period", period, "within [1, 2^22)");
    check(width >= 1 && width <= period, "Columns.width", width, "within [1, period]");
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return (k <= q) & (residue(k, period_) >= period_ - width_);
  }
  Interval some(Interval q, Index k) const { return next(k, q.end); }
  Interval every(Interval q, Index k) const { return next(k, q.begin + 1); }

 private:
  Interval next(Index k, Index end) const {
    const Interval run = next_periodic(std::max<Index>(k, 0), period_ - width_, period_, width_);
    return run_from(run.begin, run.begin, std::min(run.end, end));
  }
  Index period_, width_;
};

/// Longformer (arXiv 2004.05150): keys within `radius`, and the first `global` tokens see and are seen by all.
inline auto longformer(Index radius, Index global) { return Window::symmetric(radius) | GlobalTokens{global}; }

/// Sparse Transformer (arXiv 1904.10509), strided: the keys q-stride … q, and every stride-th one before.
inline auto strided(Index stride) { return Window{stride + 1} | Dilated{kUnbounded, stride}; }

/// Sparse Transformer, fixed: the query's own block so far, and the last `summary` keys of every block.
inline auto fixed_blocks(Index block, Index summary) { return Chunked{block} | Columns{block, summary}; }

}  // namespace longspan::inline LONGSPAN_ISA
