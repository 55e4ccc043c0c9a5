#pragma once
// How the kernels multiply: words of 32 bits in lanes. What a word holds, and what sums are, follows from the element
// type and the instruction set: float_words.hpp, bf16_pairs.hpp, integer_words.hpp; a machine with other dot products
// (AMX, SVE) is one more of them.

#include <algorithm>
#include <type_traits>

#include <longspan/core/concepts.hpp>
#include <longspan/core/int4.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/kernel/bf16_pairs.hpp>
#include <longspan/kernel/float_words.hpp>
#include <longspan/kernel/integer_words.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The words of an element type. A class, not only an alias: where all words are floats, an alias would not depend on
/// its argument, and `if constexpr` would have its other branch compiled as well.
template <class Element>
struct WordsFor {
  using Type = std::conditional_t<kScaled<Element>, ScaledFloatWords, FloatWords>;
};
#if defined(LONGSPAN_BF16_DOT_PRODUCTS)
template <class Element>
requires std::same_as<Element, bf16> || Fp8Element<Element>
struct WordsFor<Element> {
  using Type = Bf16Pairs;
};
#endif
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
template <class Element>
requires std::same_as<Element, i8> || std::same_as<Element, i4>
struct WordsFor<Element> {
  using Type = IntegerWords;
};
#endif
template <class Element>
using WordsOf = typename WordsFor<Element>::Type;

/// Whether elements lie in memory as words do, where they are packed; and whether each is a word.
template <class Element>
inline constexpr bool kLieAsWords =
    sizeof(Element) * static_cast<std::size_t>(WordsOf<Element>::kPer) == sizeof(float) && kHeld<Element> == 1;
template <class Element>
inline constexpr bool kAreWords = kLieAsWords<Element>&& WordsOf<Element>::kPer == 1;

/// The scales of `keys`, at their place in the block that begins at `block`: what scores are multiplied by, and what
/// weights are before they meet values.
template <class P>
void read_scales(const P& problem, Index kv_head, Interval keys, Index block, float* of_keys, float* of_values) {
  problem.for_each_piece(kv_head, keys, [&](const auto& run, Index key) {
    convert(run.key_scale, run.size, of_keys + (key - block), problem.score_factor());
    std::copy_n(run.value_scale, run.size, of_values + (key - block));
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
  if (run.key_stride == run.key_pack && run.key_pack == Words::kPer) {
    for (Index w = 0; w < ceil_div(dim, Words::kPer); ++w)
      Words::encode(run.key + w * run.dim_stride, keys * Words::kPer, to + w * column_stride);
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
      for (Index w = 0; w < words; ++w) std::copy_n(rows + w * stride, run.size, columns + w * stride);
  });
}

/// Whether the values at the positions `keys`, inside the block that begins at `block`, are words where they are: no
/// word is cut but by the end of `keys`; and where sums are whole numbers, all are in one piece. `zipped`: words may as
/// well be made of whole rows.
template <class P>
bool values_are_words(const P& problem, Index kv_head, Interval keys, Index block, bool zipped) {
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  if (!kLieAsWords<Element> && !zipped) return false;
  bool are = true;
  problem.for_each_piece(kv_head, keys, [&](const auto& run, Index key) LONGSPAN_LAMBDA {
    const Index place = (key - block) % Words::kPer, end = key + run.size;
    are = are && (end == keys.end || (end - block) % Words::kPer == 0) &&
          (run.value_pack == Words::kPer ? run.value_first == place
                                         : zipped && run.value_pack == 1 && place == 0 && run.size % Words::kPer == 0);
    if (Words::kWhole) are = are && run.size == keys.size();
  });
  return are;
}

/// encode_values of elements that lie one by one.
template <class P>
void copy_values(const P& problem, Index kv_head, Interval keys, Index block, float* to, Index stride) {
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
      if (std::find(elements, elements + Words::kPer, nullptr) == elements + Words::kPer) {
        if (pack == 1)
          d = Words::zip_rows(elements, dim, words);
        else if (pack == Words::kPer && elements[Words::kPer - 1] - elements[0] == Words::kPer - 1)  // one word
          for (; d + kLanes <= dim; d += kLanes) store(words + d, Words::load(elements[0] + d * pack));
      }
      for (; d < dim; ++d) {
        typename Words::Number word[Words::kPer] = {};
        for (Index e = 0; e < Words::kPer; ++e)
          if (elements[e]) word[e] = typename Words::Number(static_cast<float>(elements[e][d * pack]));
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

/// The values at the positions `keys`, inside the block that begins at `block`, as rows of words, `stride` words apart,
/// from the word that keys.begin is in on; what is not among `keys` counts as 0.
template <class P>
void encode_values(const P& problem, Index kv_head, Interval keys, Index block, float* to, Index stride) {
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  if constexpr (MakesValues<typename P::Source>) {
    const Interval own{keys.begin - problem.first_key, keys.end - problem.first_key};
    problem.source.template make_values<Words>(kv_head, own, keys.begin - block, to, stride);
  } else {
    copy_values(problem, kv_head, keys, block, to, stride);
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
