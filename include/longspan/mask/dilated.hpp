#pragma once
// Masks with gaps between the keys: every reading is O(1), but runs are many where they are one key long.

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/periodic.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// `window` keys back from the query, `stride` apart: k <= q, (q-k) divisible by stride, q-k < stride·window. With
/// `run`, the same in units of `run` neighbouring tokens: the query's unit sees every stride-th unit, and blocks of
/// memory are used whole. kUnbounded for window: back to the beginning. Throws std::invalid_argument unless window,
/// stride, run >= 1 and stride·run < 2^22.
class Dilated {
 public:
  Dilated(Index window, Index stride, Index run = 1) : stride_(stride), run_(run) {
    check(window >= 1, "Dilated.window", window, ">= 1");
    check(stride >= 1 && stride < kPeriodEnd, "Dilated.stride", stride, "within [1, 2^22)");
    check(run >= 1 && run < ceil_div(kPeriodEnd, stride), "Dilated.run", run, "within [1, 2^22 / stride)");
    reach_ = std::min(window - 1, kPositionEnd / (stride * run)) * stride;
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    if constexpr (kInLanes<std::decay_t<decltype(q)>>) {
      const Index unit = floor_div(place(k), run_);
      return (k <= q) & (q < (unit + reach_ + 1) * run_) & in_step(q, unit);
    } else {
      const Index unit = floor_div(place(q), run_);
      return (k <= q) & (k >= (unit - reach_) * run_) & in_step(k, unit);
    }
  }
  Interval some(Interval q, Index k) const {
    const Interval units = units_of(q);
    return next(k, units, {units.begin - reach_, q.end});
  }
  Interval every(Interval q, Index k) const {
    const Interval units = units_of(q);
    if (units.size() > 1 && stride_ > 1) return kNoRun;
    return next(k, {units.begin, units.begin + 1}, {units.end - 1 - reach_, q.begin + 1});
  }
  Index edge_after(Index q) const { return (floor_div(q, run_) + 1) * run_; }

 private:
  Interval units_of(Interval q) const { return {floor_div(q.begin, run_), floor_div(q.end - 1, run_) + 1}; }
  LONGSPAN_INLINE auto in_step(const auto& at, Index unit) const {
    const Index begin = floor_mod(unit, stride_) * run_;
    return within(residue(at, stride_ * run_), {begin, begin + run_});
  }
  /// Keys in step with some of `units`, from a unit on and before a key.
  Interval next(Index k, Interval units, Interval from_unit_to_key) const {
    const Index first = std::max({k, Index{0}, from_unit_to_key.begin * run_});
    const Interval steps = next_periodic(first, units.begin * run_, stride_ * run_, units.size() * run_);
    return run_from(steps.begin, steps.begin, std::min(steps.end, from_unit_to_key.end));
  }
  Index reach_ = 0, stride_, run_;  // reach: units back
};

/// LongNet (arXiv 2307.02486): segments of `segment` tokens that don't see each other, and in each the tokens at
/// `offset` modulo `dilation`, which see each other; the rest sees nothing, so `|` over offsets or over further
/// segments and dilations. In both directions: & Causal where need be. (LongNet shifts `offset` by head: one call for
/// each.) Throws std::invalid_argument unless segment is a multiple of dilation and 0 <= offset < dilation < 2^22.
class DilatedSegments {
 public:
  DilatedSegments(Index segment, Index dilation, Index offset = 0)
      : segment_(segment), dilation_(dilation), offset_(offset) {
    check(dilation >= 1 && dilation < kPeriodEnd, "DilatedSegments.dilation", dilation, "within [1, 2^22)");
    check(segment >= 1 && segment <= kPositionEnd, "DilatedSegments.segment", segment, "within [1, 2^52]");
    check(segment % dilation == 0, "DilatedSegments.segment", segment, MultipleOf{dilation});
    check(offset >= 0 && offset < dilation, "DilatedSegments.offset", offset, Below{dilation});
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    if constexpr (kInLanes<std::decay_t<decltype(q)>>)
      return within(q, segment_of(place(k))) & taken(q) & taken(k);
    else
      return within(k, segment_of(place(q))) & taken(k) & taken(q);
  }
  Interval some(Interval q, Index k) const {
    const Index first = next_periodic(q.begin, offset_, dilation_, 1).begin;
    if (first >= q.end) return kNoRun;
    return next(k, {segment_of(first).begin, segment_of(first + (q.end - 1 - first) / dilation_ * dilation_).end});
  }
  Interval every(Interval q, Index k) const {
    const Interval segment = segment_of(q.begin);
    const bool all = q.size() == 1 ? residue(q.begin, dilation_) == offset_ : dilation_ == 1;
    return all && segment.contains(q) ? next(k, segment) : kNoRun;
  }
  Index edge_after(Index q) const {
    const Index taken = next_periodic(q, offset_, dilation_, 1).begin;
    return taken > q ? taken : segment_of(q).end;
  }

 private:
  Interval segment_of(Index at) const {
    const Index begin = floor_div(at, segment_) * segment_;
    return {begin, begin + segment_};
  }
  LONGSPAN_INLINE auto taken(const auto& at) const { return within(residue(at, dilation_), {offset_, offset_ + 1}); }
  Interval next(Index k, Interval keys) const {
    const Interval run = next_periodic(std::max(k, keys.begin), offset_, dilation_, 1);
    return run_from(run.begin, run.begin, std::min(run.end, keys.end));
  }
  Index segment_, dilation_, offset_;
};

}  // namespace longspan::inline LONGSPAN_ISA
