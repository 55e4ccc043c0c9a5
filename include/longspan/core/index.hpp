#pragma once
// The words that all floors use for places in a sequence.

#include <algorithm>
#include <cstdint>
#include <limits>

#include <longspan/core/config.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Every position, count and stride. 64 bits: contexts and caches outgrow 32.
using Index = std::int64_t;

/// An end that lies behind every key: "to the end of whatever keys there are".
inline constexpr Index kUnbounded = std::numeric_limits<Index>::max();

/// Positions that a call accepts lie below this, so that no sum of two overflows and each is exact in double.
inline constexpr Index kPositionEnd = Index{1} << 52;

/// A half-open range [begin, end) of positions.
struct Interval {
  Index begin = 0;
  Index end = 0;

  constexpr Index size() const { return empty() ? 0 : end - begin; }
  constexpr bool empty() const { return end <= begin; }
  constexpr bool contains(Interval other) const { return begin <= other.begin && other.end <= end; }
  constexpr bool operator==(const Interval&) const = default;
};

/// The answer "there is no further run".
inline constexpr Interval kNoRun{kUnbounded, kUnbounded};

/// The keys of [begin, end) at or after `from`, or kNoRun.
constexpr Interval run_from(Index from, Index begin, Index end) {
  const Interval run{std::max(from, begin), end};
  return run.empty() ? kNoRun : run;
}

constexpr Interval intersect(Interval a, Interval b) { return {std::max(a.begin, b.begin), std::min(a.end, b.end)}; }

/// Which rows a policy is asked about, where it does not treat all alike.
struct Site {
  Index head = 0;      ///< query head of the call
  Index sequence = 0;  ///< of a batch
};

/// One sequence of a call, as policies with tables check that they cover it.
struct Extent {
  Index heads = 0;  ///< of queries
  Index sequence = 0;
  Interval queries;  ///< positions
  Interval keys;
};

constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace longspan::inline LONGSPAN_ISA
