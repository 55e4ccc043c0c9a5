#pragma once
// Words of one float, which every machine can multiply and add.

#include <longspan/core/bytes.hpp>
#include <longspan/core/elements.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A word at any address, in all lanes.
LONGSPAN_INLINE Lanes broadcast(const void* p) {
  float word;
  std::memcpy(&word, p, sizeof word);
  return Lanes(word);
}

/// What holds for all words whose sums are floats.
struct FloatSums {
  using Sum = Lanes;
  static constexpr int kDigits = 1;      ///< words that a query, or a weight, is cut into; sums are done one by one
  static constexpr bool kWhole = false;  ///< sums are whole numbers: they are exact, and become floats once a block

  static LONGSPAN_INLINE Sum zero() { return Lanes(0.f); }
  /// Words of a query, with what score() wants to know of it behind them.
  static Index query_words(Index words) { return words; }
  /// A sum over a digit, as the sum over the next one begins.
  static LONGSPAN_INLINE Sum next_digit(const Sum& sum) { return sum; }
  /// A word of a key as add_score() takes it.
  static LONGSPAN_INLINE Lanes key(const Lanes& word) { return word; }
};

/// One float: the elements of keys and values are widened. Queries are scaled before; weights are exact.
struct FloatWords : FloatSums {
  using Number = float;                         ///< what words are made of
  static constexpr Index kPer = 1;              ///< elements of a sum (dims of a key, keys of a value) in a word
  static constexpr bool kScalesScores = false;  ///< a score is multiplied by a factor of its key

  static LONGSPAN_INLINE Lanes add_score(const Lanes& sum, const Lanes& query, const Lanes& key) {
    return fma(query, key, sum);
  }
  static LONGSPAN_INLINE Lanes add_value(const Lanes& sum, const Lanes& weight, const Lanes& value) {
    return fma(weight, value, sum);
  }
  /// A weight of 0 adds nothing, whatever the value is.
  static LONGSPAN_INLINE Lanes add_careful(const Lanes& sum, const Lanes& weight, const Lanes& value) {
    return xsimd::select(weight == Lanes(0.f), sum, fma(value, weight, sum));
  }
  /// The score that a sum is; term(i) is word i of what stands behind the query.
  template <class Term>
  static LONGSPAN_INLINE Lanes score(const Lanes& sum, Term&&, const Lanes&) {
    return sum;
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

  template <class Term>
  static LONGSPAN_INLINE Lanes score(const Lanes& sum, Term&&, const Lanes& scale) {
    return sum * scale;
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
