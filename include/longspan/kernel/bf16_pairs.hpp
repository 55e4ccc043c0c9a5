#pragma once
// Words of two bf16, for the machines that multiply and add those: AVX512_BF16.

#include <longspan/kernel/float_words.hpp>

namespace longspan::inline LONGSPAN_ISA {

#if defined(LONGSPAN_BF16_DOT_PRODUCTS)
/// The bf16 that are the codes 0 to 127 of a type.
template <Fp8Element T>
struct ByteTable {
  alignas(64) std::uint16_t bits[128];
  constexpr ByteTable() : bits() {
    for (int i = 0; i < 128; ++i) {
      T code;
      code.bits = static_cast<decltype(code.bits)>(i);
      bits[i] = bf16(static_cast<float>(code)).bits;
    }
  }
};
template <Fp8Element T>
inline constexpr ByteTable<T> kByteTable;

/// Two bf16 that are neighbours in a sum, the earlier one in the lower half. vdpbf16ps adds the upper product, then the
/// lower, each in one rounding, and takes denormals for 0. Queries and weights are rounded to bf16; the score is scaled
/// afterwards, so that a query that is bf16 stays as it is, and the sum of weights is that of the rounded ones.
struct Bf16Pairs : FloatSums {
  using Number = bf16;
  static constexpr Index kPer = 2;
  static constexpr bool kScalesScores = true;

  static LONGSPAN_INLINE Lanes add(const Lanes& sum, const Lanes& a, const Lanes& b) {
    return Lanes(_mm512_dpbf16_ps(sum, (__m512bh)bits(a), (__m512bh)bits(b)));
  }
  static LONGSPAN_INLINE Lanes add_score(const Lanes& sum, const Lanes& query, const Lanes& key) {
    return add(sum, query, key);
  }
  static LONGSPAN_INLINE Lanes add_value(const Lanes& sum, const Lanes& weight, const Lanes& value) {
    return add(sum, weight, value);
  }
  static LONGSPAN_INLINE Lanes add_careful(const Lanes& sum, const Lanes& weight, const Lanes& value) {
    const __mmask32 counts = _mm512_test_epi16_mask(bits(weight), bits(weight));
    return add(sum, Lanes(_mm512_castsi512_ps(_mm512_maskz_mov_epi16(counts, bits(value)))), weight);
  }
  template <class Term>
  static LONGSPAN_INLINE Lanes score(const Lanes& sum, Term&&, const Lanes& scale) {
    return sum * scale;
  }
  /// To the nearest bf16, still as a float; ties away from 0.
  static LONGSPAN_INLINE Lanes weight(const Lanes& exact) {
    const __m512i half_up = _mm512_add_epi32(bits(exact), _mm512_set1_epi32(0x8000));
    return Lanes(_mm512_castsi512_ps(_mm512_and_si512(half_up, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
  }
  /// Words of the lanes of two vectors of rounded weights.
  static LONGSPAN_INLINE Lanes pair(const Lanes& earlier, const Lanes& later) {
    return Lanes(_mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(bits(earlier), 16), bits(later))));
  }
  /// What words hold, as floats: the earlier elements, and the later ones.
  static LONGSPAN_INLINE Lanes earlier(const Lanes& words) {
    return Lanes(_mm512_castsi512_ps(_mm512_slli_epi32(bits(words), 16)));
  }
  static LONGSPAN_INLINE Lanes later(const Lanes& words) {
    return Lanes(_mm512_castsi512_ps(_mm512_and_si512(bits(words), _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
  }
  /// Words of the lanes of two vectors, to the nearest, ties to even; what is denormal counts as 0 in them anyway.
  static LONGSPAN_INLINE Lanes rounded_pair(const Lanes& earlier, const Lanes& later) {
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i order = _mm512_or_si512(i, _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(kLanes)), 16));
    return Lanes(_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(later, earlier))));
  }
  /// kLanes neighbouring rounded weights as kLanes/2 words.
  static LONGSPAN_INLINE void store_pairs(float* words, const Lanes& weights) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits(weights), 16)));
  }

  static LONGSPAN_INLINE Lanes load(const bf16* p) { return Lanes(_mm512_loadu_ps(p)); }
  /// … of 32 bytes: by their seven lower bits from a table of bf16, and the sign.
  template <Fp8Element T>
  static LONGSPAN_INLINE Lanes load(const T* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i index = _mm512_cvtepu8_epi16(bytes), sign = _mm512_slli_epi16(index, 8);
    const auto part = [](int i) LONGSPAN_LAMBDA { return _mm512_load_si512(kByteTable<T>.bits + i * 32); };
    const __m512i low = _mm512_permutex2var_epi16(part(0), index, part(1));
    const __m512i high = _mm512_permutex2var_epi16(part(2), index, part(3));
    const __mmask32 upper = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
    const __m512i size = _mm512_mask_blend_epi16(upper, low, high);
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    return Lanes(_mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(size, sign, _mm512_set1_epi16(static_cast<short>(0x8000)), kOrAnd)));
  }
  /// kLanes words of the elements of two rows.
  template <Fp8Element T>
  static LONGSPAN_INLINE Lanes zip(const T* earlier, const T* later) {
    return pair(longspan::load(earlier), longspan::load(later));
  }
  static LONGSPAN_INLINE Lanes zip(const bf16* earlier, const bf16* later) {
    const auto half = [](const bf16* p) LONGSPAN_LAMBDA {
      return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    return Lanes(_mm512_castsi512_ps(_mm512_permutex2var_epi16(half(earlier), zip_order(0), half(later))));
  }
  /// Words of the first elements of two rows, as many as make whole vectors; returns how many.
  template <Fp8Element T>
  static Index zip_rows(const T* const* rows, Index dim, float* words) {
    Index d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(words + d, zip(rows[0] + d, rows[1] + d));
    return d;
  }
  static Index zip_rows(const bf16* const* rows, Index dim, float* words) {
    const bf16 *const earlier = rows[0], *const later = rows[1];
    const __m512i low = zip_order(0), high = zip_order(16);
    Index d = 0;
    for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
      const __m512i a = _mm512_loadu_si512(earlier + d), b = _mm512_loadu_si512(later + d);
      _mm512_storeu_si512(words + d, _mm512_permutex2var_epi16(a, low, b));
      _mm512_storeu_si512(words + d + kLanes, _mm512_permutex2var_epi16(a, high, b));
    }
    for (; d + kLanes <= dim; d += kLanes) store(words + d, zip(earlier + d, later + d));
    return d;
  }
  static void encode_query(const float* row, Index dim, float* words) { encode(row, dim, words); }
  template <class T>
  static void encode(const T* row, Index dim, float* words) {
    auto* to = reinterpret_cast<bf16*>(words);
    Index d = 0;
    if constexpr (Fp8Element<T>)
      for (; d + kPer * kLanes <= dim; d += kPer * kLanes) store(words + d / kPer, load(row + d));
    convert(row + d, dim - d, to + d);
    if (dim % 2 != 0) to[dim] = bf16();
  }

 private:
  static LONGSPAN_INLINE __m512i bits(const Lanes& x) { return _mm512_castps_si512(x); }
  /// Elements first … first + 15 of two vectors, alternating.
  static LONGSPAN_INLINE __m512i zip_order(int first) {
    const __m512i i = _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                       _mm512_set1_epi32(first));
    return _mm512_or_si512(i, _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(32)), 16));
  }
};
#endif

}  // namespace longspan::inline LONGSPAN_ISA
