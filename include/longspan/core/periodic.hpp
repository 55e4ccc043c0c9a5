#pragma once
// Sets of positions that repeat with a period, as runs and in lanes.

#include <longspan/core/position.hpp>
#include <longspan/core/runs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Rounded down, where / rounds to 0.
constexpr Index floor_div(Index a, Index b) { return a / b - (a % b < 0 ? 1 : 0); }
constexpr Index floor_mod(Index a, Index b) { return a - floor_div(a, b) * b; }

/// Of the positions phase … phase + width - 1 and those that lie any number of periods away: the next run at or after
/// k.
constexpr Interval next_periodic(Index k, Index phase, Index period, Index width) {
  if (width >= period) return run_from(k, k, kUnbounded);
  if (width <= 0 || k > 2 * kPositionEnd) return kNoRun;
  const Index past = floor_mod(k - phase, period);
  return past < width ? Interval{k, k - past + width} : Interval{k - past + period, k - past + period + width};
}

/// Periods lie below this, so that remainders and sums of two are exact in float.
inline constexpr Index kPeriodEnd = Index{1} << 22;

/// A position modulo a period, as a position again.
LONGSPAN_INLINE Index residue(Index at, Index period) { return floor_mod(at, period); }
LONGSPAN_INLINE Index residue(const Position<float>& at, Index period) { return floor_mod(place(at), period); }
LONGSPAN_INLINE Position<Lanes> residue(const Position<Lanes>& at, Index period) {
  const Lanes size(static_cast<float>(period));
  const Lanes x = at.offset + Lanes(static_cast<float>(floor_mod(at.base, period)));  // whole and below 2^23:
  return {0, x - xsimd::floor(x / size) * size};  // so no quotient rounds up to a whole number that it is below
}

}  // namespace longspan::inline LONGSPAN_ISA
