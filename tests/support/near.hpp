#pragma once
// Comparisons of results. Each names the first (or worst) place where it fails; a NaN on either side always fails,
// except that same_bits means what it says.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <limits>
#include <span>

namespace longspan::testing {

namespace detail {
inline ::testing::AssertionResult other_size(std::size_t got, std::size_t wanted) {
  return ::testing::AssertionFailure() << "got " << got << " numbers, expected " << wanted;
}
inline ::testing::AssertionResult differs(std::size_t i, double got, double wanted) {
  return ::testing::AssertionFailure() << std::setprecision(17) << "[" << i << "]: got " << got << ", expected "
                                       << wanted;
}
}  // namespace detail

/// |got − wanted| in units of `unit`; 0 for equal infinities, +inf where one is NaN or only one is infinite.
inline double error_in(double got, double wanted, double unit) {
  if (got == wanted) return 0;
  const double error = std::abs(got - wanted) / unit;
  return error <= std::numeric_limits<double>::max() ? error : std::numeric_limits<double>::infinity();
}

/// The distance of neighbouring floats at x (the smallest one's at and below the normal ones).
inline double float_ulp(double x) {
  if (!std::isfinite(x)) return 1;
  const int exponent = x == 0 ? -126 : std::max(std::ilogb(x), -126);
  return std::ldexp(1.0, exponent - 23);
}

/// The error of a float against the exact value, in units in the last place of float.
inline double error_in_ulps(float got, double wanted) { return error_in(got, wanted, float_ulp(wanted)); }

/// Every |got − wanted| <= tolerance · scale; scale <= 0: the largest finite |wanted|.
inline ::testing::AssertionResult near(std::span<const float> got, std::span<const double> wanted, double tolerance,
                                       double scale = 0) {
  if (got.size() != wanted.size()) return detail::other_size(got.size(), wanted.size());
  if (!(scale > 0))
    for (const double x : wanted)
      if (std::isfinite(x)) scale = std::max(scale, std::abs(x));
  std::size_t at = 0;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = error_in(got[i], wanted[i], 1);
    if (error > worst) worst = error, at = i;
  }
  if (worst <= tolerance * scale) return ::testing::AssertionSuccess() << "error " << worst / scale;
  return detail::differs(at, got[at], wanted[at]) << ", error " << worst << " above " << tolerance << " · " << scale;
}

/// Every float within `ulps` units in the last place of the exact value.
inline ::testing::AssertionResult within_ulps(std::span<const float> got, std::span<const double> wanted, double ulps) {
  if (got.size() != wanted.size()) return detail::other_size(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = error_in_ulps(got[i], wanted[i]);
    if (!(error <= ulps)) return detail::differs(i, got[i], wanted[i]) << ", error " << error << " ulp";
  }
  return ::testing::AssertionSuccess();
}

/// The same bits everywhere: −0 is not 0, and equal NaNs are equal.
inline ::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> wanted) {
  if (got.size() != wanted.size()) return detail::other_size(got.size(), wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(wanted[i]))
      return detail::differs(i, got[i], wanted[i]) << std::hex << ", bits " << std::bit_cast<std::uint32_t>(got[i])
                                                   << " and " << std::bit_cast<std::uint32_t>(wanted[i]);
  return ::testing::AssertionSuccess();
}

}  // namespace longspan::testing
