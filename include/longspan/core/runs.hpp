#pragma once
// Runs of positions that are kept in memory, and `allows` of masks that know their runs: in lanes it costs a lookup on
// the side that is one position, and a comparison in lanes for each end of a run.

#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/position.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Of ascending, disjoint runs: what lies at or after k of the first that ends behind k, or kNoRun. O(log runs).
inline Interval next_run(std::span<const Interval> runs, Index k) {
  const auto run = std::partition_point(runs.begin(), runs.end(), [k](Interval r) { return r.end <= k; });
  return run == runs.end() ? kNoRun : run_from(k, run->begin, run->end);
}

/// The one that holds `at`, or an empty one.
inline Interval run_around(std::span<const Interval> runs, Index at) {
  const auto run = std::partition_point(runs.begin(), runs.end(), [at](Interval r) { return r.end <= at; });
  return run == runs.end() || at < run->begin ? Interval{} : *run;
}

/// Appends a run that begins at or after the end of the last; one that touches it makes it longer.
inline void append_run(std::vector<Interval>& runs, Interval run) {
  if (!runs.empty() && runs.back().end == run.begin)
    runs.back().end = run.end;
  else
    runs.push_back(run);
}

/// Answers in lanes.
using LaneTruth = Truth<xsimd::batch_bool<float>>;

template <class Place>
inline constexpr bool kInLanes = false;
template <>
inline constexpr bool kInLanes<Position<Lanes>> = true;

/// Where a position is; of lanes, which are neighbours, where the first is.
LONGSPAN_INLINE Index place(Index at) { return at; }
LONGSPAN_INLINE Index place(ExactPosition at) { return at.value; }
LONGSPAN_INLINE Index place(const Position<float>& at) { return at.base + static_cast<Index>(at.offset); }
LONGSPAN_INLINE Index place(const Position<Lanes>& at) { return at.base + static_cast<Index>(at.offset.get(0)); }

/// Whether a position lies in a run.
LONGSPAN_INLINE auto within(const auto& at, Interval run) { return (at >= run.begin) & (at < run.end); }

/// Whether a position, or which of the lanes, lies in the runs of a source `next(k)` (core/interval_algebra.hpp).
template <class Place, class Next>
LONGSPAN_INLINE auto in_runs(const Place& at, const Next& next) {
  const Index first = place(at);
  if constexpr (kInLanes<Place>) {
    LaneTruth seen{xsimd::batch_bool<float>(false)};
    for (Index k = first; k < first + kLanes;) {
      const Interval run = next(k);
      if (run.begin >= first + kLanes) break;
      seen = seen | within(at, run);
      k = run.end;
    }
    return seen;
  } else {
    return next(first).begin == first;
  }
}

/// `allows` from both readings of a mask by runs: keys_of(query, k), the next run of keys that the query sees, and
/// queries_of(key, q), the next run of queries that see the key.
template <class Query, class Key, class KeysOf, class QueriesOf>
LONGSPAN_INLINE auto allows_by_runs(const Query& q, const Key& k, const KeysOf& keys_of, const QueriesOf& queries_of) {
  if constexpr (kInLanes<Query>) {
    const Index key = place(k);
    return in_runs(q, [&](Index from) LONGSPAN_LAMBDA { return queries_of(key, from); });
  } else {
    const Index query = place(q);
    return in_runs(k, [&](Index from) LONGSPAN_LAMBDA { return keys_of(query, from); });
  }
}

/// Throws unless the lengths so far begin with 0 and do not descend.
inline void check_cumulative(const char* argument, std::span<const Index> lengths) {
  check(!lengths.empty() && lengths.front() == 0, argument, lengths.empty() ? -1 : lengths.front(),
        "0 at the beginning");
  for (std::size_t i = 1; i < lengths.size(); ++i)
    check(lengths[i] >= lengths[i - 1], argument, lengths[i], AtLeast{lengths[i - 1]});
}

}  // namespace longspan::inline LONGSPAN_ISA
