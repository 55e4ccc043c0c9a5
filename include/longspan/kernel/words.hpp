#pragma once
// How the kernels multiply: words of 32 bits in lanes, accumulated in float. What a word holds follows from the element
// type and the instruction set; a machine with other dot products (VNNI, AMX, SVE) is one more struct here.

#include <type_traits>

#include <longspan/core/bytes.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A word at any address, in all lanes.
LONGSPAN_INLINE Lanes broadcast(const void* p) {
  float word;
  std::memcpy(&word, p, sizeof word);
  return Lanes(word);
}

/// One float: the elements of keys and values are widened. Queries are scaled before; weights are exact.
struct FloatWords {
  static constexpr Index kPer = 1;              ///< elements of a sum (dims of a key, keys of a value) in a word
  static constexpr bool kScalesScores = false;  ///< a score is multiplied by a factor of its key

  static LONGSPAN_INLINE Lanes add(const Lanes& sum, const Lanes& a, const Lanes& b) { return fma(a, b, sum); }
  /// A weight of 0 adds nothing, whatever the value is.
  static LONGSPAN_INLINE Lanes add_careful(const Lanes& sum, const Lanes& value, const Lanes& weight) {
    return xsimd::select(weight == Lanes(0.f), sum, fma(value, weight, sum));
  }
  static LONGSPAN_INLINE Lanes weight(const Lanes& exact) { return exact; }

  /// kLanes words.
  template <class Element>
  static LONGSPAN_INLINE Lanes load(const Element* p) {
    return longspan::load(p);
  }
  /// `dim` elements as words.
  template <class Element>
  static void encode(const Element* row, Index dim, float* words) {
    convert(row, dim, words);
  }
};

/// The same for elements with a scale a key.
struct ScaledFloatWords : FloatWords {
  static constexpr bool kScalesScores = true;
};

#if defined(LONGSPAN_BF16_DOT_PRODUCTS)
/// The bf16 that are the codes 0 to 127 of a type.
template <ByteElement T>
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
template <ByteElement T>
inline constexpr ByteTable<T> kByteTable;

/// Two bf16 that are neighbours in a sum, the earlier one in the lower half. vdpbf16ps adds the upper product, then the
/// lower, each in one rounding, and takes denormals for 0. Queries and weights are rounded to bf16; the score is scaled
/// afterwards, so that a query that is bf16 stays as it is, and the sum of weights is that of the rounded ones.
struct Bf16Pairs {
  static constexpr Index kPer = 2;
  static constexpr bool kScalesScores = true;

  static LONGSPAN_INLINE Lanes add(const Lanes& sum, const Lanes& a, const Lanes& b) {
    return Lanes(_mm512_dpbf16_ps(sum, (__m512bh)bits(a), (__m512bh)bits(b)));
  }
  static LONGSPAN_INLINE Lanes add_careful(const Lanes& sum, const Lanes& value, const Lanes& weight) {
    const __mmask32 counts = _mm512_test_epi16_mask(bits(weight), bits(weight));
    return add(sum, Lanes(_mm512_castsi512_ps(_mm512_maskz_mov_epi16(counts, bits(value)))), weight);
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
  /// kLanes neighbouring rounded weights as kLanes/2 words.
  static LONGSPAN_INLINE void store_pairs(float* words, const Lanes& weights) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits(weights), 16)));
  }

  static LONGSPAN_INLINE Lanes load(const bf16* p) { return Lanes(_mm512_loadu_ps(p)); }
  /// … of 32 bytes: by their seven lower bits (of i8, the size) from a table of bf16, and the sign.
  template <ByteElement T>
  static LONGSPAN_INLINE Lanes load(const T* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    __m512i index, sign;
    if constexpr (kScaled<T>) {
      sign = _mm512_cvtepi8_epi16(bytes);
      index = _mm512_abs_epi16(sign);
    } else {
      index = _mm512_cvtepu8_epi16(bytes);
      sign = _mm512_slli_epi16(index, 8);
    }
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
  template <ByteElement T>
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
  template <ByteElement T>
  static Index zip_rows(const T* earlier, const T* later, Index dim, float* words) {
    Index d = 0;
    for (; d + kLanes <= dim; d += kLanes) store(words + d, zip(earlier + d, later + d));
    return d;
  }
  static Index zip_rows(const bf16* earlier, const bf16* later, Index dim, float* words) {
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
  template <class Element>
  static void encode(const Element* row, Index dim, float* words) {
    auto* to = reinterpret_cast<bf16*>(words);
    convert(row, dim, to);
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

/// The words of an element type. A class, not only an alias: where all words are floats, an alias would not depend on
/// its argument, and `if constexpr` would have its other branch compiled as well.
template <class Element>
struct WordsFor {
  using Type = std::conditional_t<kScaled<Element>, ScaledFloatWords, FloatWords>;
};
#if defined(LONGSPAN_BF16_DOT_PRODUCTS)
template <class Element>
requires std::same_as<Element, bf16> || ByteElement<Element>
struct WordsFor<Element> {
  using Type = Bf16Pairs;
};
#endif
template <class Element>
using WordsOf = typename WordsFor<Element>::Type;

/// Whether elements lie in memory as words do, where they are packed; and whether each is a word.
template <class Element>
inline constexpr bool kLieAsWords = sizeof(Element) * static_cast<std::size_t>(WordsOf<Element>::kPer) == sizeof(float);
template <class Element>
inline constexpr bool kAreWords = kLieAsWords<Element>&& WordsOf<Element>::kPer == 1;

/// The scales of `keys`, at their place in the block that begins at `block`: what scores are multiplied by, and what
/// weights are before they meet values.
template <class P>
void read_scales(const P& problem, Index kv_head, Interval keys, Index block, float* of_keys, float* of_values) {
  problem.for_each_piece(kv_head, keys, [&](const auto& run, Index key) {
    for (Index j = 0; j < run.size; ++j) {
      of_keys[key - block + j] = run.key_scale[j] * problem.score_factor();
      of_values[key - block + j] = run.value_scale[j];
    }
  });
}

/// A weight as it meets a value with a scale; one of 0 stays 0 whatever that is.
LONGSPAN_INLINE Lanes scaled_weight(const Lanes& weight, const Lanes& scale) {
  return xsimd::select(weight == Lanes(0.f), weight, weight * scale);
}

/// The first `keys` keys of a run as words, whatever their layout: rows, row_stride words apart, or (false is returned)
/// columns, column_stride words apart.
template <class Element>
bool encode_keys(const KeyValueRun<Element>& run, Index keys, Index dim, float* to, Index row_stride,
                 Index column_stride) {
  using Words = WordsOf<Element>;
  if (run.dim_stride == 1 && run.key_pack == 1) {
    for (Index j = 0; j < keys; ++j) Words::encode(run.key + j * run.key_stride, dim, to + j * row_stride);
    return true;
  }
  if (Words::kPer == 1 && run.key_stride == 1 && run.key_pack == 1) {
    for (Index d = 0; d < dim; ++d) Words::encode(run.key + d * run.dim_stride, keys, to + d * column_stride);
    return false;
  }
  constexpr Index kPiece = 64;
  Element piece[kPiece];
  for (Index j = 0; j < keys; ++j)
    for (Index d = 0; d < dim; d += kPiece) {
      const Index size = std::min(kPiece, dim - d);
      for (Index i = 0; i < size; ++i) piece[i] = *run.key_at(j, d + i);
      Words::encode(piece, size, to + j * row_stride + d / Words::kPer);
    }
  return true;
}

/// `keys` as columns of words, `stride` words apart, of which the first is at position `first`. `encoded` is for what
/// lies in rows that are no words yet.
template <class P>
void copy_keys(const P& problem, Index kv_head, Interval keys, Index first, float* encoded, float* to, Index stride) {
  using Element = typename P::Source::Element;
  const Index dim = problem.source.head_dim(), words = ceil_div(dim, WordsOf<Element>::kPer);
  problem.for_each_piece(kv_head, keys, [&](const auto& run, Index key) {
    float* const columns = to + (key - first);
    const float* rows = encoded;
    Index row_stride = words;
    if constexpr (kAreWords<Element>)
      if (run.dim_stride == 1) rows = run.key, row_stride = run.key_stride;
    if (rows != encoded || encode_keys(run, run.size, dim, encoded, words, stride))
      transpose(rows, row_stride, run.size, words, columns, stride);
    else
      for (Index d = 0; d < dim; ++d) std::copy_n(rows + d * stride, run.size, columns + d * stride);
  });
}

/// The values at the positions `keys`, inside the block that begins at `block`, as rows of words, `stride` words apart,
/// from the word that keys.begin is in on; what is not among `keys` counts as 0.
template <class P>
void encode_values(const P& problem, Index kv_head, Interval keys, Index block, float* to, Index stride) {
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  const Index dim = problem.source.value_dim();
  const Element* at[kBlock] = {};
  Index pack = 1;
  problem.for_each_piece(kv_head, keys, [&](const auto& run, Index key) {
    for (Index j = 0; j < run.size; ++j) at[key - block + j] = run.value_at(j, 0);
    pack = run.value_pack;
  });
  const auto one = [&](const Element* const* elements, float* words) {
    Index d = 0;
    if constexpr (Words::kPer == 1) {
      if (pack == 1) return Words::encode(elements[0], dim, words);
      for (; d < dim; ++d) Words::encode(elements[0] + d * pack, 1, words + d);
    } else {
      if (pack == 1 && elements[0] && elements[1]) d = Words::zip_rows(elements[0], elements[1], dim, words);
      for (; d < dim; ++d) {
        bf16 word[Words::kPer] = {};
        for (Index e = 0; e < Words::kPer; ++e)
          if (elements[e]) word[e] = bf16(static_cast<float>(elements[e][d * pack]));
        std::memcpy(words + d, word, sizeof word);
      }
    }
  };
  const Index first = (keys.begin - block) / Words::kPer, last = ceil_div(keys.end - block, Words::kPer);
  for (Index w = first; w < last; ++w) {
    one(at + w * Words::kPer, to + (w - first) * stride);
    std::fill(to + (w - first) * stride + dim, to + (w - first + 1) * stride, 0.f);
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
