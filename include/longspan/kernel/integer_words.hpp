#pragma once
// Words of four whole numbers of eight bits, for the machines that multiply and add those: AVX512_VNNI.

#include <longspan/core/bytes.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
/// Four i8 that are neighbours in a sum. Keys and values stay as they are; a query, and the weights of a block (each
/// multiplied by the scale of its value), become whole numbers of 16 bits with a scale of their own, and are multiplied
/// as two digits of eight: first the upper ones, then, the sum moved up, the lower ones. Sums are exact.
/// Errors: 2^-16 of the query's largest |element| for each of its elements (a bit more above 256 dims, so that no sum
/// overflows), 2^-17 of the block's largest weight for each weight; both below those of the keys and values themselves.
/// A query or a block with what is not finite gets a scale of NaN.
struct IntegerWords {
  using Number = std::int8_t;
  typedef int Sum __attribute__((vector_size(64)));  // of Lanes or __m512i g++ 12 copies every sum in every step
  static constexpr Index kPer = 4;
  static constexpr bool kScalesScores = true;
  static constexpr int kDigits = 2;
  static constexpr bool kWhole = true;

  static LONGSPAN_INLINE Sum zero() { return Sum{}; }
  static Index query_words(Index words) { return kDigits * words + 2; }

  /// vpdpbusd wants one side without a sign. Of scores that is the key, 128 added, which score() takes off; of values
  /// it is the weight.
  static LONGSPAN_INLINE Lanes key(const Lanes& word) {
    return floats(_mm512_xor_si512(bits(word), _mm512_set1_epi32(static_cast<int>(0x80808080u))));
  }
  static LONGSPAN_INLINE Sum add_score(Sum sum, const Lanes& query, const Lanes& key) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, bits(key), bits(query));
  }
  static LONGSPAN_INLINE Sum add_value(Sum sum, const Lanes& weight, const Lanes& value) {
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, bits(weight), bits(value));
  }
  /// No value is a NaN: only scales are.
  static LONGSPAN_INLINE Sum add_careful(Sum sum, const Lanes& weight, const Lanes& value) {
    return add_value(sum, weight, value);
  }
  /// The sum of the upper digits becomes that of both.
  static LONGSPAN_INLINE Sum next_digit(Sum sum) { return sum << 8; }
  static LONGSPAN_INLINE Lanes number(Sum sum) { return Lanes(_mm512_cvtepi32_ps((__m512i)sum)); }
  template <class Term>
  static LONGSPAN_INLINE Lanes score(Sum sum, Term&& term, const Lanes& scale) {
    return number(sum - (Sum)bits(term(1))) * term(0) * scale;
  }
  static LONGSPAN_INLINE Lanes weight(const Lanes& exact) { return exact; }

  static LONGSPAN_INLINE Lanes load(const i8* p) { return Lanes(_mm512_loadu_ps(p)); }
  static void encode(const i8* row, Index dim, float* words) {
    auto* const to = reinterpret_cast<std::byte*>(words);
    std::memcpy(to, row, static_cast<std::size_t>(dim));
    std::memset(to + dim, 0, static_cast<std::size_t>(ceil_div(dim, kPer) * kPer - dim));
  }
  /// What an element of a query is rounded by at most, per unit of the largest: half a step, and what the product
  /// before it is off.
  static double query_error(Index dim) { return 0.51 / static_cast<double>(query_limit(dim)); }
  /// The words of the upper digits, those of the lower, the scale, and what the 128 of the keys add.
  static void encode_query(const float* row, Index dim, float* to) {
    const Index words = ceil_div(dim, kPer);
    const auto part = [&](Index d) LONGSPAN_LAMBDA { return _mm512_maskz_loadu_ps(first(dim - d), row + d); };
    __m512 largest = _mm512_setzero_ps(), zero = _mm512_setzero_ps();
    for (Index d = 0; d < dim; d += kLanes) {
      largest = _mm512_max_ps(largest, _mm512_abs_ps(part(d)));
      zero = _mm512_fmadd_ps(part(d), _mm512_setzero_ps(), zero);  // NaN where that is not finite
    }
    const float most = _mm512_reduce_max_ps(largest);
    const float limit = query_limit(dim);
    const __m512 inverse = _mm512_set1_ps(most > kLeast ? limit / most : 0.f);
    __m512i total = _mm512_setzero_si512();
    auto* const digits = reinterpret_cast<std::byte*>(to);
    for (Index d = 0; d < dim; d += kLanes) {
      const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(part(d), inverse));
      total = _mm512_add_epi32(total, whole);
      const __mmask16 some = first(words * kPer - d);
      const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
      _mm_mask_storeu_epi8(digits + d, some, _mm512_cvtepi32_epi8(upper));
      _mm_mask_storeu_epi8(digits + words * kPer + d, some, _mm512_cvtepi32_epi8(whole));
    }
    to[kDigits * words] = most / limit + _mm512_reduce_add_ps(zero);
    to[kDigits * words + 1] = std::bit_cast<float>(128 * _mm512_reduce_add_epi32(total));
  }

  /// A block's weights of one query as words, those of the upper digits first. Returns their scale.
  static LONGSPAN_INLINE float store_weights(float* words, const Lanes (&weights)[4]) {
    Lanes largest(0.f);
    unroll<4>([&](auto v) LONGSPAN_LAMBDA { largest = larger(largest, weights[v]); });
    const Lanes most(largest_lane(largest)), by = inverse(most);
    auto* const digits = reinterpret_cast<std::byte*>(words);
    unroll<4>([&](auto v) LONGSPAN_LAMBDA {
      const __m512i whole = _mm512_cvtps_epi32(weights[v] * by);
      store(digits + v * kLanes, _mm512_cvtepi32_epi8(_mm512_srli_epi32(whole, 8)));
      store(digits + (4 + v) * kLanes, _mm512_cvtepi32_epi8(whole));
    });
    return scale(most).get(0);
  }
  /// The same a lane of queries at a time: the larger of two weights; the factor that makes whole numbers of a block's;
  /// the two words of four of them; their scale. Weights are not negative, so their bits are in their order, infinity
  /// and NaNs behind all others.
  static LONGSPAN_INLINE Lanes larger(const Lanes& a, const Lanes& b) {
    return floats(_mm512_max_epu32(bits(a), bits(b)));
  }
  static LONGSPAN_INLINE Lanes inverse(const Lanes& largest) {
    return xsimd::select(largest > Lanes(kLeast), Lanes(kWeights) / largest, Lanes(0.f));
  }
  static LONGSPAN_INLINE Lanes scale(const Lanes& largest) {  // the second product is 0, or NaN
    return fma(largest, Lanes(1 / kWeights), largest * Lanes(0.f));
  }
  static LONGSPAN_INLINE void store_four(const Lanes (&weights)[4], const Lanes& by, float* upper, float* lower) {
    const auto two = [&](int i) LONGSPAN_LAMBDA {  // weights i and i + 2
      return _mm512_or_si512(_mm512_cvtps_epi32(weights[i] * by),
                             _mm512_slli_epi32(_mm512_cvtps_epi32(weights[i + 2] * by), 16));
    };
    const __m512i even = two(0), odd = two(1), low = _mm512_set1_epi32(0x00ff00ff);
    constexpr int kSelect = 0xca;  // a ? b : c
    _mm512_store_si512(upper, _mm512_ternarylogic_epi32(low, _mm512_srli_epi32(even, 8), odd, kSelect));
    _mm512_store_si512(lower, _mm512_ternarylogic_epi32(low, even, _mm512_slli_epi32(odd, 8), kSelect));
  }

  /// All of it for the weights of some keys of a block, whole groups of four, `stride` floats apart; words are as far
  /// apart, those of the lower digits `digit` floats behind the upper ones. Returns the scales.
  static Lanes store_digits(const float* weights, Index stride, Interval keys, float* words, Index digit) {
    const auto weight = [&](Index key) LONGSPAN_LAMBDA { return Lanes::load_aligned(weights + key * stride); };
    Lanes largest(0.f);
    for (Index key = keys.begin; key < keys.end; ++key) largest = larger(largest, weight(key));
    const Lanes by = inverse(largest);
    for (Index key = keys.begin; key < keys.end; key += kPer) {
      float* const upper = words + key / kPer * stride;
      store_four({weight(key), weight(key + 1), weight(key + 2), weight(key + 3)}, by, upper, upper + digit);
    }
    return scale(largest);
  }

  /// Words of the first elements of four rows, as many as make whole vectors; returns how many.
  static Index zip_rows(const i8* const* rows, Index dim, float* words) {
    Index d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
      const auto row = [&](int i)
                           LONGSPAN_LAMBDA { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + d)); };
      const auto four = [&](int i, __m128i earlier, __m128i later) LONGSPAN_LAMBDA {
        store(words + d + i, _mm_unpacklo_epi16(earlier, later));
        store(words + d + i + 4, _mm_unpackhi_epi16(earlier, later));
      };
      four(0, _mm_unpacklo_epi8(row(0), row(1)), _mm_unpacklo_epi8(row(2), row(3)));
      four(8, _mm_unpackhi_epi8(row(0), row(1)), _mm_unpackhi_epi8(row(2), row(3)));
    }
    return d;
  }

 private:
  static constexpr float kWeights = 65535, kLeast = 0x1p-100f;  // below that, all counts as 0

  /// No sum overflows.
  static float query_limit(Index dim) {
    return std::max(1.f, std::min(32639.f, 0x1p31f / static_cast<float>(255 * dim) - 256.f));
  }
  static LONGSPAN_INLINE __m512i bits(const Lanes& x) { return _mm512_castps_si512(x); }
  static LONGSPAN_INLINE Lanes floats(__m512i x) { return Lanes(_mm512_castsi512_ps(x)); }
  static LONGSPAN_INLINE float largest_lane(const Lanes& weights) {
    return std::bit_cast<float>(_mm512_reduce_max_epu32(bits(weights)));
  }
  static LONGSPAN_INLINE void store(void* to, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(to), x); }
  static LONGSPAN_INLINE __mmask16 first(Index count) {
    return static_cast<__mmask16>(count >= kLanes ? 0xffff : (1 << count) - 1);
  }
};
#endif

}  // namespace longspan::inline LONGSPAN_ISA
