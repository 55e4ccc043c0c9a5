#pragma once
// Elements of eight bits, as a cache may store them: two formats of OCP's fp8, and whole numbers with a scale.

#include <algorithm>
#include <cmath>
#include <limits>

#include <longspan/core/elements.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The OCP 8-bit float with `Exponent` bits of exponent (OFP8 specification, 2023). From a float: to the nearest, ties
/// to even; what is too large becomes the largest (infinities, too), a NaN stays one.
template <int Exponent>
struct fp8 {
  static_assert(Exponent == 4 || Exponent == 5);
  static constexpr int kFraction = 7 - Exponent, kBias = (1 << (Exponent - 1)) - 1;
  static constexpr std::uint32_t kLargest = Exponent == 4 ? 0x7e : 0x7b;  ///< 448, 57344
  static constexpr std::uint32_t kNaN = 0x7f;                             ///< e5m2 has others, too

  std::uint8_t bits = 0;

  fp8() = default;
  constexpr explicit fp8(float x) : bits(rounded(std::bit_cast<std::uint32_t>(x))) {}
  constexpr explicit operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24, rest = bits & 0x7fu;
    if (rest > (Exponent == 4 ? 0x7eu : 0x7cu)) return std::bit_cast<float>(sign | 0x7fc00000u);
    if (Exponent == 5 && rest == 0x7c) return std::bit_cast<float>(sign | 0x7f800000u);
    // The exponent moved where a float has it; the product puts its bias right, and denormals, too.
    const float x = std::bit_cast<float>(rest << (23 - kFraction)) * std::bit_cast<float>((254u - kBias) << 23);
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) | sign);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }

 private:
  static constexpr std::uint8_t rounded(std::uint32_t x) {
    const std::uint32_t sign = x >> 24 & 0x80u, size = x & 0x7fffffffu;
    if (size > 0x7f800000u) return static_cast<std::uint8_t>(sign | kNaN);
    constexpr int kDropped = 23 - kFraction;
    constexpr std::uint32_t kLeast = static_cast<std::uint32_t>(128 - kBias) << 23;  // the smallest normal one
    std::uint32_t code;
    if (size < kLeast) {  // the addition rounds to a multiple of the smallest denormal
      constexpr std::uint32_t kUnit = static_cast<std::uint32_t>(128 - kBias + 23 - kFraction) << 23;
      code = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + std::bit_cast<float>(kUnit)) - kUnit;
    } else {
      code = (size - kLeast + (1u << 23) + (1u << (kDropped - 1)) - 1 + (size >> kDropped & 1u)) >> kDropped;
    }
    return static_cast<std::uint8_t>(sign | (code < kLargest ? code : kLargest));
  }
};
using e4m3 = fp8<4>;
using e5m2 = fp8<5>;

/// What the elements of a row are divided by to become whole numbers up to 127; NaN with a NaN or an infinity among
/// them.
template <class T>
float row_scale(const T* row, Index dim) {
  float largest = 0;
  bool finite = true;
  for (Index d = 0; d < dim; ++d) {
    const float size = std::abs(static_cast<float>(row[d]));
    finite = finite && size < std::numeric_limits<float>::infinity();
    largest = size > largest ? size : largest;
  }
  return finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
}

/// A whole number in [−127, 127]; what it stands for is that many times the scale of its row (a key or a value of one
/// token and head), the row's largest |x| / 127.
struct i8 {
  std::int8_t bits = 0;

  i8() = default;
  explicit i8(float whole) : bits(static_cast<std::int8_t>(whole)) {}
  constexpr explicit operator float() const { return static_cast<float>(bits); }
  explicit operator double() const { return static_cast<double>(bits); }

  /// Encodes a row: `to`(d) is where element d goes. Each is within half a scale, to the nearest, ties to even. A row
  /// with a NaN or an infinity gets a scale of NaN: nothing of it is seen as a number. Returns the scale.
  template <class T, class To>
  static float encode(const T* row, Index dim, To&& to) {
    const float scale = row_scale(row, dim);
    for (Index d = 0; d < dim; ++d) {
      // scale is 0 where the row is, or nearly: below 2^-142
      const float x = scale > 0 ? static_cast<float>(row[d]) / scale : 0;
      to(d) = i8(std::nearbyint(std::min(std::max(x, -127.f), 127.f)));
    }
    return scale;
  }
};

template <class T>
concept Fp8Element = std::same_as<T, e4m3> || std::same_as<T, e5m2>;
template <class T>
concept ByteElement = std::same_as<T, i8> || Fp8Element<T>;
struct i4;  // int4.hpp
/// What keys and values may be stored as.
template <class T>
concept StoredElement = ElementType<T> || ByteElement<T> || std::same_as<T, i4>;
/// Whether each key and each value has a scale of its own: see KeyValueRun.
template <class T>
inline constexpr bool kScaled = std::same_as<T, i8>;

#if defined(LONGSPAN_BF16_DOT_PRODUCTS)  // all of them are bf16 exactly
template <Fp8Element T>
inline constexpr Index kPack<T> = 2;
#endif
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
template <>
inline constexpr Index kPack<i8> = 4;
#endif

#if defined(__AVX512F__)
namespace detail {
/// Sixteen elements in the upper bytes of 16 bits, as floats.
LONGSPAN_INLINE __m512 widen(__m256i upper, i8) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_cvtepi16_epi32(upper), 8));
}
LONGSPAN_INLINE __m512 widen(__m256i upper, e5m2) { return _mm512_cvtph_ps(upper); }  // f16 with eight bits more
LONGSPAN_INLINE __m512 widen(__m256i upper, e4m3) {
  const __m512i x = _mm512_cvtepi16_epi32(upper), size = _mm512_and_si512(x, _mm512_set1_epi32(0x7f00));
  // the exponent goes where a float has it, as in the scalar's conversion; 0x7f is NaN
  const __m512 scaled = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(size, 12)), _mm512_set1_ps(0x1p120f));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(size, _mm512_set1_epi32(0x7f00));
  const __m512i bits = _mm512_mask_mov_epi32(_mm512_castps_si512(scaled), nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_castsi512_ps(
      _mm512_or_si512(bits, _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0x80000000u)))));
}
}  // namespace detail
#endif

/// kLanes elements as floats; of i8, the whole numbers.
template <ByteElement T>
LONGSPAN_INLINE Lanes load(const T* p) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return Lanes(detail::widen(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8), T()));
#else
  alignas(64) float x[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = static_cast<float>(p[i]);
  return Lanes::load_aligned(x);
#endif
}

}  // namespace longspan::inline LONGSPAN_ISA
