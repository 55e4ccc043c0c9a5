#pragma once
// Positions, and the cosines and sines of position × inverse frequency. The angle is formed exactly and cosine and sine
// are rounded once, and every rounding below is an explicit operation that no compiler may merge, and no libm is asked:
// an angle is the same bits everywhere.

#include <bit>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Positions that can be rotated are [0, kRopeEnd), and inverse frequencies at most kRopeFastest radians per position:
/// together they keep angles below 2^50, where their reduction still counts quarter turns exactly.
inline constexpr Index kRopeEnd = Index{1} << 40;
inline constexpr double kRopeFastest = 1024;

/// The position of each token of a call: consecutive ones from a first, or one per token in any order. A view of the
/// caller's list, made implicitly from an integer, a span or a vector.
class TokenPositions {
 public:
  TokenPositions(Index first) : first_(first) {}
  TokenPositions(std::span<const Index> each) : each_(each), listed_(true) {}
  TokenPositions(const std::vector<Index>& each) : TokenPositions(std::span<const Index>(each)) {}

  Index operator[](Index token) const { return listed_ ? each_[static_cast<std::size_t>(token)] : first_ + token; }

  /// Throws std::invalid_argument unless these are `tokens` positions, all in `allowed`.
  void require(Index tokens, Interval allowed) const;

 private:
  Index first_ = 0;
  std::span<const Index> each_;
  bool listed_ = false;
};

namespace detail {

/// Where a refused position should have been.
struct Within {
  Interval allowed;
  friend std::ostream& operator<<(std::ostream& text, const Within& w) {
    return text << "within [" << w.allowed.begin << ", " << w.allowed.end << ")";
  }
};

// pi / 2 = kHalfPi1 + kHalfPi2 + kHalfPi3 within 2^-163.
inline constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
inline constexpr double kHalfPi1 = 0x1.921fb54442d18p+0;
inline constexpr double kHalfPi2 = 0x1.1a62633145c07p-54;
inline constexpr double kHalfPi3 = -0x1.f1976b7ed8fbcp-110;

/// cosine[i], sine[i] = factor · cos, sin(position(i) · frequency[i]) for i < count; |position| < kRopeEnd,
/// |frequency| <= kRopeFastest. Error of floats: 0.5 + 2^-20 ulp below 2^30 turns (the rounding to float and little
/// else), 0.5 + 2^-14 in the whole range; of doubles: 2^-52 below 2^30 turns.
template <class T, class Position>
LONGSPAN_INLINE void cosines_and_sines_at(const Position& position, const double* __restrict frequency, Index count,
                                          double factor, T* __restrict cosine, T* __restrict sine) {
  // Adding this leaves the nearest whole number in the low bits of the mantissa (below 2^51, negative ones too).
  constexpr double kRound = 0x1.8p+52;
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  for (Index i = 0; i < count; ++i) {
    // The angle: high + low, exactly.
    const double high = position(i) * frequency[i];
    const double low = std::fma(position(i), frequency[i], -high);
    // r = high + low − quarters · pi/2 in about [−pi/4, pi/4]. `a` is exact: it is a multiple of 2^-53 below 1 (of
    // 2^-52 below 2). `s + e` is exactly a + low (Knuth's TwoSum). The two roundings left are relative to what remains
    // after cancellation, so r keeps its relative precision however near the angle comes to a quarter turn.
    const double shifted = std::fma(high, kTwoOverPi, kRound);
    const double quarters = shifted - kRound;
    const double a = std::fma(-quarters, kHalfPi1, high);
    const double s = a + low;
    const double b = s - a;
    const double e = (a - (s - b)) + (low - b);
    const double r = std::fma(-quarters, kHalfPi2, s) + std::fma(-quarters, kHalfPi3, e);
    // Taylor: the first omitted terms are r^16/17! = 2^-54 and r^18/18! = 2^-59 (relative) at pi/4.
    const double z = r * r;
    double p = -1.0 / 1307674368000;
    p = std::fma(p, z, 1.0 / 6227020800);
    p = std::fma(p, z, -1.0 / 39916800);
    p = std::fma(p, z, 1.0 / 362880);
    p = std::fma(p, z, -1.0 / 5040);
    p = std::fma(p, z, 1.0 / 120);
    p = std::fma(p, z, -1.0 / 6);
    const double near_sine = std::fma(r * z, p, r);
    double q = 1.0 / 20922789888000;
    q = std::fma(q, z, -1.0 / 87178291200);
    q = std::fma(q, z, 1.0 / 479001600);
    q = std::fma(q, z, -1.0 / 3628800);
    q = std::fma(q, z, 1.0 / 40320);
    q = std::fma(q, z, -1.0 / 720);
    q = std::fma(q, z, 1.0 / 24);
    q = std::fma(q, z, -0.5);
    const double near_cosine = std::fma(q, z, 1.0);
    // Back to the quarter: an odd one swaps the two; sine is negative in 2, 3 and cosine in 1, 2.
    const std::uint64_t quarter = std::bit_cast<std::uint64_t>(shifted);
    const bool swap = (quarter & 1) != 0;
    const std::uint64_t sine_bits = std::bit_cast<std::uint64_t>(swap ? near_cosine : near_sine);
    const std::uint64_t cosine_bits = std::bit_cast<std::uint64_t>(swap ? near_sine : near_cosine);
    sine[i] = static_cast<T>(factor * std::bit_cast<double>(sine_bits ^ ((quarter << 62) & kSign)));
    cosine[i] = static_cast<T>(factor * std::bit_cast<double>(cosine_bits ^ (((quarter + 1) << 62) & kSign)));
  }
}

/// … where all are at one position.
template <class T>
LONGSPAN_INLINE void cosines_and_sines(double position, const double* __restrict frequency, Index count, double factor,
                                       T* __restrict cosine, T* __restrict sine) {
  cosines_and_sines_at([position](Index) LONGSPAN_LAMBDA { return position; }, frequency, count, factor, cosine, sine);
}

}  // namespace detail

inline void TokenPositions::require(Index tokens, Interval allowed) const {
  const auto one = [&](Index position) {
    check(position >= allowed.begin && position < allowed.end, "position", position, detail::Within{allowed});
  };
  if (listed_) {
    check(static_cast<Index>(each_.size()) == tokens, "positions.size", each_.size(), tokens);
    for (const Index position : each_) one(position);
  } else if (tokens > 0) {
    one(first_);
    if (tokens > allowed.end - first_) one(allowed.end);  // the first that leaves; first_ + tokens may overflow
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
