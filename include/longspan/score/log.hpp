#pragma once
// The logarithm of score functions that grow slowly with the distance.

#include <cmath>
#include <cstdint>

#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// ln(x) for finite x >= 1, within 2 ulp or 2^-24, whichever is more. (xsimd's leaves products for the compiler to
/// contract with sums, so its bits depend on where it is inlined. The polynomial is Cephes' logf, Moshier 1989.)
LONGSPAN_INLINE Lanes log(const Lanes& x) {
  using Whole = xsimd::batch<std::int32_t>;
  // x = m · 2^e with m in [sqrt(1/2), sqrt(2)): the bits above those of sqrt(1/2) count the exponent.
  constexpr std::int32_t kRootHalf = 0x3f3504f3;
  const Whole bits = xsimd::bitwise_cast<Whole>(x);
  const Whole above = bits - Whole(kRootHalf);
  const Lanes e = xsimd::to_float(above >> 23);
  const Lanes m = xsimd::bitwise_cast<Lanes>((above & Whole(0x007fffff)) + Whole(kRootHalf));
  const Lanes f = m - Lanes(1.f), z = f * f;
  Lanes p(7.0376836292e-2f);
  p = fma(p, f, Lanes(-1.1514610310e-1f));
  p = fma(p, f, Lanes(1.1676998740e-1f));
  p = fma(p, f, Lanes(-1.2420140846e-1f));
  p = fma(p, f, Lanes(1.4249322787e-1f));
  p = fma(p, f, Lanes(-1.6668057665e-1f));
  p = fma(p, f, Lanes(2.0000714765e-1f));
  p = fma(p, f, Lanes(-2.4999993993e-1f));
  p = fma(p, f, Lanes(3.3333331174e-1f));
  // f − z/2 + f·z·p + e·ln 2, the small part of ln 2 first
  const Lanes curve = fma(f * z, p, fma(z, Lanes(-0.5f), Lanes(0.f)));
  return fma(e, Lanes(0.693359375f), f + fma(e, Lanes(-2.12194440e-4f), curve));
}
inline double log(double x) { return std::log(x); }

}  // namespace longspan::inline LONGSPAN_ISA
