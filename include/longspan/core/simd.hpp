#pragma once
// The one include of xsimd, and the few operations whose exact bits the numeric contract fixes.

#include <cmath>
#include <limits>
#include <utility>

// g++ 12 takes the undefined operand inside many AVX-512 intrinsics for a read of an uninitialised variable (GCC bug
// 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

using Lanes = xsimd::batch<float>;
inline constexpr int kLanes = static_cast<int>(Lanes::size);
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// a·b + c: in one rounding where the machine has the instruction, and the same in lanes and in scalars everywhere.
/// xsimd 8.1 has no fused form for AVX-512 and leaves it to the compiler's contraction.
LONGSPAN_INLINE Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
#if defined(__AVX512F__)
  return Lanes(_mm512_fmadd_ps(a, b, c));
#elif defined(__FMA__) || defined(__aarch64__)
  return xsimd::fma(a, b, c);
#else
  return a * b + c;
#endif
}
LONGSPAN_INLINE float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}
LONGSPAN_INLINE double fma(double a, double b, double c) { return std::fma(a, b, c); }

using DoubleLanes = xsimd::batch<double>;
inline constexpr int kDoubleLanes = static_cast<int>(DoubleLanes::size);

/// a·b + c in one rounding on every machine, as std::fma.
LONGSPAN_INLINE DoubleLanes fma(const DoubleLanes& a, const DoubleLanes& b, const DoubleLanes& c) {
#if defined(__AVX512F__)
  return DoubleLanes(_mm512_fmadd_pd(a, b, c));
#elif defined(__FMA__) || defined(__aarch64__)
  return xsimd::fma(a, b, c);
#else
  alignas(64) double x[kDoubleLanes], y[kDoubleLanes], z[kDoubleLanes];
  a.store_aligned(x), b.store_aligned(y), c.store_aligned(z);
  for (int i = 0; i < kDoubleLanes; ++i) z[i] = std::fma(x[i], y[i], z[i]);
  return DoubleLanes::load_aligned(z);
#endif
}
/// As floats, to the nearest.
LONGSPAN_INLINE void store_floats(float* p, const DoubleLanes& x) {
#if defined(__AVX512F__)
  _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
#elif defined(__AVX__)
  _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
#else
  alignas(64) double t[kDoubleLanes];
  x.store_aligned(t);
  for (int i = 0; i < kDoubleLanes; ++i) p[i] = static_cast<float>(t[i]);
#endif
}

LONGSPAN_INLINE Lanes load(const float* p) { return Lanes::load_unaligned(p); }
LONGSPAN_INLINE void store(float* p, const Lanes& x) { x.store_unaligned(p); }

/// x, in a register: compilers would load it from memory once more for each instruction that can.
LONGSPAN_INLINE Lanes held(const Lanes& x) {
#if defined(__AVX512F__) && (defined(__GNUC__) || defined(__clang__))
  __m512 bits = x;
  __asm__("" : "+v"(bits));
  return Lanes(bits);
#else
  return x;
#endif
}

/// Asks for the cache line of p, to read or to write it; never faults.
template <bool Write = false>
LONGSPAN_INLINE void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, Write);
#endif
}

/// 0, 1, 2, … in lanes.
LONGSPAN_INLINE Lanes iota() {
  alignas(64) float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(i);
  return Lanes::load_aligned(x);
}

/// One value out of kLanes: `op` of lanes j and j + half, for halves kLanes/2, …, 2, 1. The order is part of the
/// contract.
template <class Op>
LONGSPAN_INLINE float fold(const Lanes& x, Op&& op) {
#if defined(__AVX512F__)
  const __m256 upper = _mm512_castps512_ps256(_mm512_shuffle_f32x4(x, x, 0xee));
  const __m256 half =
      op(xsimd::batch<float, xsimd::avx2>(_mm512_castps512_ps256(x)), xsimd::batch<float, xsimd::avx2>(upper));
#elif defined(__AVX__)
  const __m256 half = x;
#endif
#if defined(__AVX__)
  using Four = xsimd::batch<float, xsimd::sse2>;
  const Four four = op(Four(_mm256_castps256_ps128(half)), Four(_mm256_extractf128_ps(half, 1)));
  const Four two = op(four, Four(_mm_movehl_ps(four, four)));
  return op(two, Four(_mm_shuffle_ps(two, two, 1))).get(0);
#else
  alignas(64) float t[kLanes];
  x.store_aligned(t);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) t[j] = op(t[j], t[j + half]);
  return t[0];
#endif
}

/// 2^x for x <= 0, within 2 ulp where the result is a normal float (degree-6 minimax on [-1/2, 1/2], and a power of two
/// applied so that denormals come out right); exactly 1 at 0, exactly 0 from -150 on, NaN stays NaN.
LONGSPAN_INLINE Lanes exp2(const Lanes& x) {
  const auto two_to = [](const Lanes& f) LONGSPAN_LAMBDA {
    Lanes p(1.535336188319500e-4f);
    p = fma(p, f, Lanes(1.339887440266574e-3f));
    p = fma(p, f, Lanes(9.618437357674640e-3f));
    p = fma(p, f, Lanes(5.550332471162809e-2f));
    p = fma(p, f, Lanes(2.402264791363012e-1f));
    p = fma(p, f, Lanes(6.931472028550421e-1f));
    return fma(p, f, Lanes(1.0f));
  };
#if defined(__AVX512F__)
  // scalef(NaN, -inf) is 0, which is what the subtraction of -inf from itself leads to.
  const Lanes whole(_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  return Lanes(_mm512_scalef_ps(two_to(x - whole), whole));
#else
  const Lanes bounded = xsimd::max(Lanes(-151.f), x);  // 2^-151 rounds to 0; in this order NaN stays
  const Lanes whole = xsimd::nearbyint(bounded), half = xsimd::nearbyint(whole * 0.5f);
  const Lanes p = two_to(bounded - whole);
  return xsimd::ldexp(xsimd::ldexp(p, xsimd::to_int(half)), xsimd::to_int(whole - half));
#endif
}
inline float exp2(float x) { return exp2(Lanes(x)).get(0); }

/// tanh, within 4 ulp; ±1 far out, NaN stays NaN. (xsimd's leaves products for the compiler to contract with sums, so
/// its bits depend on where it is inlined. The polynomial is Cephes' tanhf, Moshier 1989.)
LONGSPAN_INLINE Lanes tanh(const Lanes& x) {
  const Lanes size = xsimd::abs(x), z = x * x;
  Lanes p(-5.70498872745e-3f);
  p = fma(p, z, Lanes(2.06390887954e-2f));
  p = fma(p, z, Lanes(-5.37397155531e-2f));
  p = fma(p, z, Lanes(1.33314422036e-1f));
  p = fma(p, z, Lanes(-3.33332819422e-1f));
  const Lanes near = fma(p * z, x, x);
  const Lanes e = exp2(fma(size, Lanes(-2.88539008177792681f), Lanes(0.f)));  // e^(-2|x|)
  const Lanes far = (Lanes(1.f) - e) / (Lanes(1.f) + e);
  return xsimd::select(size < Lanes(0.625f), near, xsimd::select(x < Lanes(0.f), -far, far));
}
inline double tanh(double x) { return std::tanh(x); }

inline constexpr float kLog2e = 1.44269504088896340736f;

/// The natural logarithm of a normal number > 0, within 2 ulp. (As for tanh: the bits are fixed here. The polynomial is
/// Cephes' logf.)
LONGSPAN_INLINE Lanes log(const Lanes& x) {
  // x = half · 2^whole, half in [1/2, 1)
#if defined(__AVX512F__)
  // xsimd 8.1's frexp does not compile for AVX-512 without optimization, as sanitizers want it
  const Lanes half(_mm512_getmant_ps(x, _MM_MANT_NORM_p5_1, _MM_MANT_SIGN_src));
  const Lanes whole = Lanes(_mm512_getexp_ps(x)) + Lanes(1.f);
#else
  xsimd::batch<std::int32_t> places;
  const Lanes half = xsimd::frexp(x, places), whole = xsimd::to_float(places);
#endif
  const xsimd::batch_bool<float> low = half < Lanes(0.707106781186547524f);
  const Lanes exponent = whole - xsimd::select(low, Lanes(1.f), Lanes(0.f));
  const Lanes m = xsimd::select(low, half + half, half) - Lanes(1.f), z = m * m;
  Lanes p(7.0376836292e-2f);
  p = fma(p, m, Lanes(-1.1514610310e-1f));
  p = fma(p, m, Lanes(1.1676998740e-1f));
  p = fma(p, m, Lanes(-1.2420140846e-1f));
  p = fma(p, m, Lanes(1.4249322787e-1f));
  p = fma(p, m, Lanes(-1.6668057665e-1f));
  p = fma(p, m, Lanes(2.0000714765e-1f));
  p = fma(p, m, Lanes(-2.4999993993e-1f));
  p = fma(p, m, Lanes(3.3333331174e-1f));
  const Lanes small = fma(exponent, Lanes(-2.12194440e-4f), fma(p * m, z, Lanes(0.f)));
  return fma(exponent, Lanes(0.693359375f), m + fma(Lanes(-0.5f), z, small));
}
inline double log(double x) { return std::log(x); }

/// Calls f(integral_constant 0 … N-1), unrolled before inlining: accumulators indexed any other way stay in memory.
template <int N, class F>
LONGSPAN_INLINE void unroll(F&& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) LONGSPAN_LAMBDA {
    (f(std::integral_constant<int, static_cast<int>(I)>{}), ...);
  }
  (std::make_index_sequence<static_cast<std::size_t>(N)>{});
}

}  // namespace longspan::inline LONGSPAN_ISA
