#pragma once
// Sixteen-bit floats as keys, values, queries and output are stored in, and how they become lanes of floats. All
// arithmetic is in float.

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The upper half of a float: 8 bits of exponent, 7 of fraction. From a float: to the nearest, ties to even; what is
/// too large becomes infinity, a NaN stays one.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  constexpr explicit bf16(float x) : bits(rounded(std::bit_cast<std::uint32_t>(x))) {}
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }

 private:
  static constexpr std::uint16_t rounded(std::uint32_t x) {
    if ((x & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(x >> 16 | 0x40u);
    return static_cast<std::uint16_t>((x + 0x7fffu + (x >> 16 & 1u)) >> 16);
  }
};

/// IEEE 754's binary16: 5 bits of exponent, 10 of fraction. From a float as for bf16; below 2^-14 in steps of 2^-24.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  explicit f16(float x) : bits(rounded(std::bit_cast<std::uint32_t>(x))) {}
  explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | rest << 13);  // infinity, NaN
    // The exponent moved where a float has it; the product with 2^112 puts its bias right, and denormals, too.
    const float x = std::bit_cast<float>(rest << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) | sign);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }

 private:
  static std::uint16_t rounded(std::uint32_t x) {
    const auto sign = static_cast<std::uint16_t>(x >> 16 & 0x8000u);
    const std::uint32_t size = x & 0x7fffffffu;
    std::uint32_t half;
    if (size > 0x7f800000u)
      half = 0x7e00u | (size >> 13 & 0x3ffu);
    else if (size >= 0x477ff000u)  // 65520 and more
      half = 0x7c00u;
    else if (size < 0x38800000u)  // below 2^-14: the float addition rounds to a multiple of 2^-24
      half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    else
      half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    return static_cast<std::uint16_t>(sign | half);
  }
};

/// What keys, values, queries and output may be made of.
template <class T>
concept ElementType = std::same_as<T, float> || std::same_as<T, bf16> || std::same_as<T, f16>;

/// How many elements of a sum a dot product instruction of this build wants to be neighbours: a PagedCache stores them
/// so.
template <class T>
inline constexpr Index kPack = 1;
#if defined(LONGSPAN_BF16_DOT_PRODUCTS)
template <>
inline constexpr Index kPack<bf16> = 2;
#endif

/// Elements in one T: more than one where they are smaller than a byte.
template <class T>
inline constexpr Index kHeld = 1;

/// kLanes elements as floats.
LONGSPAN_INLINE Lanes load(const bf16* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return Lanes(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return Lanes(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
#else
  alignas(64) float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return Lanes::load_aligned(x);
#endif
}
LONGSPAN_INLINE Lanes load(const f16* p) {
#if defined(__AVX512F__)
  return Lanes(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__) && defined(__AVX2__)
  return Lanes(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  alignas(64) float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return Lanes::load_aligned(x);
#endif
}

/// kLanes floats as elements, rounded to the nearest, ties to even.
LONGSPAN_INLINE void store(f16* p, const Lanes& x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__) && defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i] = f16(x.get(static_cast<std::size_t>(i)));
#endif
}
LONGSPAN_INLINE void store(bf16* p, const Lanes& x) {
#if defined(__AVX512F__)  // the scalar's operations
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i rounded = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#else
  alignas(64) float t[kLanes];
  x.store_aligned(t);
  for (int i = 0; i < kLanes; ++i) p[i] = bf16(t[i]);
#endif
}

/// `count` elements as floats, each multiplied by `scale`, or floats as elements, rounded to the nearest, ties to even.
template <class From, ElementType To>
inline void convert(const From* from, Index count, To* to, float scale = 1.f) {
  Index i = 0;
  for (const Lanes by(scale); i + kLanes <= count; i += kLanes) store(to + i, load(from + i) * by);
  for (; i < count; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]) * scale);
}

}  // namespace longspan::inline LONGSPAN_ISA
