#pragma once
// The four inner loops, free of policies: scores and values, with queries in lanes (wide) and with keys or value dims
// in lanes (narrow). Each is a register tile of accumulators (kernel/isa.hpp) that lives through one loop; a tile is a
// function of its own, so that the compiler gives it all registers and instantiates it once for all policies.
//
// Each chain is one fused multiply-add per element in ascending order (the numeric contract): a tile's shape never
// shows in the bits.

#include <longspan/core/transpose.hpp>
#include <longspan/kernel/ahead.hpp>
#include <longspan/kernel/isa.hpp>
#include <longspan/kernel/words.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// weight[k][queries] = Σ_d key[k][d] · query[d][queries], and largest[queries] the largest of them and of itself: for
/// `keys` keys, Keys at a time (the last ones may be done twice), and Vectors vectors of queries in aligned rows of
/// kWideRows; each multiplied by the key's `scale` where words ask for that. Word d of key k is at key + k·stride + d
/// words in rows, and at key + d·stride + k words in columns; strides are in bytes. All tiles of a block in one call:
/// what a call costs is 4% of a tile.
template <class Words, int Keys, int Vectors, bool Rows>
[[gnu::noinline]] void wide_scores(const std::byte* key, Index stride, Index keys, Index dim, const float* query,
                                   float* weight, float* largest, const float* scale, Ahead& ahead) {
  constexpr Index kWord = sizeof(float);
  if constexpr (Keys > 1)
    if (keys < Keys)
      return wide_scores<Words, Keys / 2, Vectors, Rows>(key, stride, keys, dim, query, weight, largest, scale, ahead);
  Ahead next = ahead;  // a copy stays in registers
  for (Index j = 0;;) {
    typename Words::Sum a[Keys][Vectors];
    unroll<Keys>([&](auto k)
                     LONGSPAN_LAMBDA { unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { a[k][i] = Words::zero(); }); });
    const float* x0 = query;
    unroll<Words::kDigits>([&](auto digit) LONGSPAN_LAMBDA {
      if constexpr (digit > 0)
        unroll<Keys>([&](auto k) LONGSPAN_LAMBDA {
          unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { a[k][i] = Words::next_digit(a[k][i]); });
        });
      const std::byte* k0 = key + j * (Rows ? stride : kWord);
      for (Index d = 0; d < dim; ++d) {
        next.step();  // first: behind the products, clang moves these behind it, and spills what they read
        Lanes x[Vectors];
        unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { x[i] = Lanes::load_aligned(x0 + i * kLanes); });
        unroll<Keys>([&](auto k) LONGSPAN_LAMBDA {
          const Lanes b = Words::key(broadcast(k0 + k * (Rows ? stride : kWord)));
          unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { a[k][i] = Words::add_score(a[k][i], x[i], b); });
        });
        k0 += Rows ? kWord : stride;
        x0 += kWideRows;
      }
    });
    float* to = weight + j * kWideRows;
    unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA {
      Lanes top = Lanes::load_aligned(largest + i * kLanes);
      const auto term = [&](int t) LONGSPAN_LAMBDA { return Lanes::load_aligned(x0 + t * kWideRows + i * kLanes); };
      unroll<Keys>([&](auto k) LONGSPAN_LAMBDA {
        const Lanes score = Words::score(a[k][i], term, Lanes(scale[j + k]));
        score.store_aligned(to + k * kWideRows + i * kLanes);
        top = xsimd::max(top, score);
      });
      top.store_aligned(largest + i * kLanes);
    });
    if (j + Keys >= keys) break;
    j = std::min(j + Keys, keys - Keys);
  }
  ahead = next;
}

/// What a row of values becomes before a block's values are added.
enum class Start { kZero, kRescale, kKeep };

/// out[d][queries] = start(out) + Σ_j value[j][d] · weight[j][queries] over `words` rows of words, value_stride bytes
/// apart, for `dims` value dims, Dims at a time. `rescale` is a factor per query; so is `scale`, of weights that are
/// whole numbers, whose second digits stand digit_stride floats behind the first. Careful: a weight of 0 adds nothing
/// even to a value that is not finite.
template <class Words, int Dims, int Vectors, bool Careful>
[[gnu::noinline]] void wide_values(const std::byte* value, Index value_stride, Index words, Index dims,
                                   const float* weight, Index digit_stride, const float* scale, float* out, Start start,
                                   const float* rescale, Ahead& ahead) {
  constexpr Index kWord = sizeof(float);
  Ahead next = ahead;
  for (; dims >= Dims; dims -= Dims) {
    const auto each = [&](auto& sums, auto&& f) LONGSPAN_LAMBDA {
      unroll<Dims>([&](auto k)
                       LONGSPAN_LAMBDA { unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { f(sums[k][i], k, i); }); });
    };
    Lanes total[Dims][Vectors];
    const auto begin = [&]() LONGSPAN_LAMBDA {
      if (start == Start::kZero)
        each(total, [](Lanes& sum, auto, auto) LONGSPAN_LAMBDA { sum = Lanes(0.f); });
      else
        each(total, [&](Lanes& sum, auto k, auto i)
                        LONGSPAN_LAMBDA { sum = Lanes::load_aligned(out + k * kWideRows + i * kLanes); });
      if (start == Start::kRescale)
        unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA {
          const Lanes by = Lanes::load_aligned(rescale + i * kLanes);
          unroll<Dims>([&](auto k) LONGSPAN_LAMBDA { total[k][i] = total[k][i] * by; });
        });
    };
    const auto add = [&](auto& a) LONGSPAN_LAMBDA {
      unroll<Words::kDigits>([&](auto digit) LONGSPAN_LAMBDA {
        if constexpr (digit > 0) each(a, [](auto& sum, auto, auto) LONGSPAN_LAMBDA { sum = Words::next_digit(sum); });
        const std::byte* v0 = value;
        const float* x0 = weight + digit * digit_stride;
        for (Index j = 0; j < words; ++j) {
          next.step();  // first: behind the products, clang moves these behind it, and spills what they read
          Lanes x[Vectors];
          unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA { x[i] = Lanes::load_aligned(x0 + i * kLanes); });
          unroll<Dims>([&](auto k) LONGSPAN_LAMBDA {
            const Lanes b = broadcast(v0 + k * kWord);
            unroll<Vectors>([&](auto i) LONGSPAN_LAMBDA {
              a[k][i] = Careful ? Words::add_careful(a[k][i], x[i], b) : Words::add_value(a[k][i], x[i], b);
            });
          });
          v0 += value_stride;
          x0 += kWideRows;
        }
      });
    };
    if constexpr (Words::kWhole) {
      typename Words::Sum whole[Dims][Vectors];
      each(whole, [](auto& sum, auto, auto) LONGSPAN_LAMBDA { sum = Words::zero(); });
      add(whole);
      begin();
      each(total, [&](Lanes& sum, auto k, auto i) LONGSPAN_LAMBDA {
        sum = fma(Words::number(whole[k][i]), Lanes::load_aligned(scale + i * kLanes), sum);
      });
    } else {
      begin();
      add(total);
    }
    each(total,
         [&](Lanes& sum, auto k, auto i) LONGSPAN_LAMBDA { sum.store_aligned(out + k * kWideRows + i * kLanes); });
    value += Dims * kWord;
    out += Dims * kWideRows;
  }
  ahead = next;
  if constexpr (Dims > 1)
    if (dims > 0)
      wide_values<Words, Dims / 2, Vectors, Careful>(value, value_stride, words, dims, weight, digit_stride, scale, out,
                                                     start, rescale, ahead);
}

/// Of kLanes keys, where words ask for them; else `scale` may be null.
template <class Words>
LONGSPAN_INLINE Lanes scales_of(const float* scale) {
  if constexpr (Words::kScalesScores)
    return load(scale);
  else
    return Lanes(1.f);
}

/// Reads columns of keys that are words already.
template <class Words>
struct WordColumns {
  /// Calls f(begin, end, load) for the words of a key, where load(key, d, stride, j) is word d of the keys of vector j,
  /// whose columns are `stride` elements apart and begin at `key`.
  template <class F>
  LONGSPAN_INLINE void each_part(Index words, F&& f) const {
    f(0, words,
      [](const auto* key, Index d, Index stride, int) LONGSPAN_LAMBDA { return Words::load(key + d * stride); });
  }
};

/// weight[q][keys] = Σ_d query[q][d] · key[d][keys], for Queries queries and Vectors vectors of keys that lie at `key`,
/// dim_stride elements apart, and are loaded by `read` (as WordColumns are); multiplied by each key's `scale` where
/// words ask for that. `dim` counts words, as do the strides of rows of queries and of weights.
template <class Words, int Queries, int Vectors, class Read, class Element>
[[gnu::noinline]] void narrow_scores(const Read& read, const Element* const* key, Index dim_stride, Index dim,
                                     const float* query, Index query_stride, float* weight, Index weight_stride,
                                     const float* scale, Ahead& ahead) {
  Ahead next = ahead;  // a copy stays in registers
  typename Words::Sum a[Queries][Vectors];
  unroll<Queries>([&](auto q)
                      LONGSPAN_LAMBDA { unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA { a[q][j] = Words::zero(); }); });
  const Element* at[Vectors];
  unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA { at[j] = key[j]; });
  unroll<Words::kDigits>([&](auto digit) LONGSPAN_LAMBDA {
    if constexpr (digit > 0)
      unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
        unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA { a[q][j] = Words::next_digit(a[q][j]); });
      });
    read.each_part(dim, [&](Index begin, Index end, const auto& load) LONGSPAN_LAMBDA {
      for (Index d = begin; d < end; ++d) {
        Lanes x[Vectors];
        unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA { x[j] = Words::key(load(at[j], d, dim_stride, j)); });
        next.step_lines();
        unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
          const Lanes b = broadcast(query + q * query_stride + d);
          unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA { a[q][j] = Words::add_score(a[q][j], b, x[j]); });
        });
      }
    });
    query += dim;
  });
  unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
    const auto term = [&](int t) LONGSPAN_LAMBDA { return broadcast(query + q * query_stride + t); };
    unroll<Vectors>([&](auto j) LONGSPAN_LAMBDA {
      store(weight + q * weight_stride + j * kLanes, Words::score(a[q][j], term, scales_of<Words>(scale + j * kLanes)));
    });
  });
  ahead = next;
}

/// The same for kLanes keys in rows, key_stride elements apart: transposed in registers a tile at a time, which is
/// bound by the chain of fused multiply-adds for up to kIsa.row_queries queries.
template <class Words, int Queries, class Element>
[[gnu::noinline]] void narrow_scores_of_rows(const Element* key, Index key_stride, Index dim, const float* query,
                                             Index query_stride, float* weight, Index weight_stride, const float* scale,
                                             Ahead& ahead) {
  Ahead next = ahead;
  typename Words::Sum a[Queries];
  unroll<Queries>([&](auto q) LONGSPAN_LAMBDA { a[q] = Words::zero(); });
  unroll<Words::kDigits>([&](auto digit) LONGSPAN_LAMBDA {
    if constexpr (digit > 0) unroll<Queries>([&](auto q) LONGSPAN_LAMBDA { a[q] = Words::next_digit(a[q]); });
    Index d = 0;
    const auto add = [&](const Lanes& word, Index at) LONGSPAN_LAMBDA {
      const Lanes x = Words::key(word);
      unroll<Queries>(
          [&](auto q) LONGSPAN_LAMBDA { a[q] = Words::add_score(a[q], broadcast(query + q * query_stride + at), x); });
    };
    for (; d + kLanes <= dim; d += kLanes) {
      const TransposedTile tile(key + d * Words::kPer, key_stride,
                                [](const Element* p) LONGSPAN_LAMBDA { return Words::load(p); });
      unroll<kLanes>([&](auto i) LONGSPAN_LAMBDA {
        add(tile[i], d + i);
        next.step_lines();
      });
    }
    for (; d < dim; ++d) {
      alignas(64) float column[kLanes];
      for (Index j = 0; j < kLanes; ++j) Words::encode(key + j * key_stride + d * Words::kPer, Words::kPer, column + j);
      add(Lanes::load_aligned(column), d);
    }
    query += dim;
  });
  unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
    const auto term = [&](int t) LONGSPAN_LAMBDA { return broadcast(query + q * query_stride + t); };
    store(weight + q * weight_stride, Words::score(a[q], term, scales_of<Words>(scale)));
  });
  ahead = next;
}

/// Rows of words of values: value(v) is vector v of the row, next() goes to the row behind it, from(d) are the same
/// rows from dim d on.
template <class Words, class Element>
struct WordRows {
  const Element* p;
  Index stride;
  LONGSPAN_INLINE Lanes operator()(int v) const { return Words::load(p + v * kLanes * Words::kPer); }
  WordRows from(Index d) const { return {p + d * Words::kPer, stride}; }
  LONGSPAN_INLINE void next() { p += stride; }
};
/// Words of two rows each.
template <class Words, class Element>
struct ZippedRows {
  const Element* p;
  Index stride;
  LONGSPAN_INLINE Lanes operator()(int v) const { return Words::zip(p + v * kLanes, p + stride + v * kLanes); }
  ZippedRows from(Index d) const { return {p + d, stride}; }
  LONGSPAN_INLINE void next() { p += 2 * stride; }
};

/// out[q][dims] = rescale[q] · out[q][dims] + Σ_j weight[q][j] · value[j][dims], over `words` rows of words, for
/// Queries queries and Vectors vectors of value dims; without `rescale` the factor is 1. `scale` is a factor per query
/// of weights that are whole numbers, whose second digits stand kBlock / kPer words behind the first. Careful: as for
/// wide_values.
template <class Words, int Queries, int Vectors, bool Careful, class Rows>
[[gnu::noinline]] void narrow_values(Rows value, Index words, const float* weight, Index weight_stride,
                                     const float* scale, float* out, Index out_stride, const float* rescale,
                                     Ahead& ahead) {
  Ahead next = ahead;
  const auto each = [&](auto& sums, auto&& f) LONGSPAN_LAMBDA {
    unroll<Queries>([&](auto q)
                        LONGSPAN_LAMBDA { unroll<Vectors>([&](auto v) LONGSPAN_LAMBDA { f(sums[q][v], q, v); }); });
  };
  Lanes total[Queries][Vectors];
  const auto begin = [&]() LONGSPAN_LAMBDA {
    each(total, [&](Lanes& sum, auto q, auto v) LONGSPAN_LAMBDA { sum = load(out + q * out_stride + v * kLanes); });
    if (rescale)
      unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
        const Lanes by(rescale[q]);
        unroll<Vectors>([&](auto v) LONGSPAN_LAMBDA { total[q][v] = total[q][v] * by; });
      });
  };
  const auto add = [&](auto& a) LONGSPAN_LAMBDA {
    unroll<Words::kDigits>([&](auto digit) LONGSPAN_LAMBDA {
      if constexpr (digit > 0) each(a, [](auto& sum, auto, auto) LONGSPAN_LAMBDA { sum = Words::next_digit(sum); });
      Rows at = value;
      for (Index j = 0; j < words; ++j) {
        Lanes x[Vectors];
        unroll<Vectors>([&](auto v) LONGSPAN_LAMBDA { x[v] = at(v); });
        next.step_lines();
        unroll<Queries>([&](auto q) LONGSPAN_LAMBDA {
          const Lanes b = broadcast(weight + q * weight_stride + digit * kBlock / Words::kPer + j);
          unroll<Vectors>([&](auto v) LONGSPAN_LAMBDA {
            a[q][v] = Careful ? Words::add_careful(a[q][v], b, x[v]) : Words::add_value(a[q][v], b, x[v]);
          });
        });
        at.next();
      }
    });
  };
  if constexpr (Words::kWhole) {
    typename Words::Sum whole[Queries][Vectors];
    each(whole, [](auto& sum, auto, auto) LONGSPAN_LAMBDA { sum = Words::zero(); });
    add(whole);
    begin();
    each(total, [&](Lanes& sum, auto q, auto v)
                    LONGSPAN_LAMBDA { sum = fma(Words::number(whole[q][v]), Lanes(scale[q]), sum); });
  } else {
    begin();
    add(total);
  }
  each(total, [&](Lanes& sum, auto q, auto v) LONGSPAN_LAMBDA { store(out + q * out_stride + v * kLanes, sum); });
  ahead = next;
}

}  // namespace longspan::inline LONGSPAN_ISA
