#pragma once
// Set algebra on runs. A "run source" is a function `next(k)`: the first run of positions at or after k that belong to
// a set, or kNoRun; runs ascend, are disjoint and start at or after k. Union, intersection and complement of such
// sources are run sources again, which is all that the algebra of masks needs.

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The next run of A ∩ B at or after k.
template <class A, class B>
constexpr Interval next_of_intersection(const A& a, const B& b, Index k) {
  for (;;) {
    const Interval x = a(k), y = b(k);
    if (x.empty() || y.empty()) return kNoRun;
    const Interval both = intersect(x, y);
    if (!both.empty()) return both;
    k = std::max(x.begin, y.begin);  // they don't meet: nothing can be visible before the later one begins
  }
}

/// The next run of A ∪ B at or after k; runs of the two that touch are joined.
template <class A, class B>
constexpr Interval next_of_union(const A& a, const B& b, Index k) {
  const Interval x = a(k), y = b(k);
  if (x.empty()) return y;
  if (y.empty()) return x;
  Interval joined = y.begin < x.begin ? y : x;
  // Sources clip a run to the place asked for, so a run that overlaps or touches the end answers with exactly that end.
  for (bool grew = true; grew && joined.end != kUnbounded;) {
    const Interval more_a = a(joined.end), more_b = b(joined.end);
    const Index end = joined.end;
    if (more_a.begin == end) joined.end = std::max(joined.end, more_a.end);
    if (more_b.begin == end) joined.end = std::max(joined.end, more_b.end);
    grew = joined.end != end;
  }
  return joined;
}

/// The next run of what A leaves out, at or after k.
template <class A>
constexpr Interval next_of_complement(const A& a, Index k) {
  for (;;) {
    if (k == kUnbounded) return kNoRun;
    const Interval taken = a(k);
    if (taken.empty()) return {k, kUnbounded};
    if (k < taken.begin) return {k, taken.begin};
    k = taken.end;
  }
}

// The same over many sources: next(i, k) is the next run of source i, for the i of an interval that isn't empty.

/// The next run of all the sources' intersection at or after k.
template <class Next>
constexpr Interval next_of_all(Interval sources, const Next& next, Index k) {
  for (;;) {
    Interval common{k, kUnbounded};
    Index last = k;  // the latest begin of a run
    for (Index i = sources.begin; i < sources.end; ++i) {
      const Interval run = next(i, k);
      if (run.empty()) return kNoRun;
      common = intersect(common, run);
      last = std::max(last, run.begin);
    }
    if (!common.empty()) return common;
    k = last;
  }
}

/// The next run of all the sources' union at or after k; runs of several that touch are joined.
template <class Next>
constexpr Interval next_of_any(Interval sources, const Next& next, Index k) {
  if (sources.size() == 1) return next(sources.begin, k);
  Interval joined = kNoRun;
  for (Index i = sources.begin; i < sources.end; ++i)
    if (const Interval run = next(i, k); !run.empty() && run.begin < joined.begin) joined = run;
  for (Index end = k; end != joined.end && joined.end != kUnbounded;) {
    end = joined.end;
    for (Index i = sources.begin; i < sources.end && joined.end != kUnbounded; ++i)
      if (const Interval run = next(i, joined.end); run.begin == joined.end) joined.end = run.end;
  }
  return joined;
}

}  // namespace longspan::inline LONGSPAN_ISA
