#pragma once
// The softmax of the narrow kernel: one query, the keys of a block in lanes.

#include <longspan/kernel/ahead.hpp>
#include <longspan/kernel/problem.hpp>
#include <longspan/kernel/state.hpp>
#include <longspan/kernel/words.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The sum of a block's weights, in the order that wide.hpp documents.
template <int Vectors>
LONGSPAN_INLINE float block_sum(const Lanes (&w)[Vectors]) {
  Lanes t[16 / kLanes];
  constexpr int kQuarter = Vectors / 4;  // vectors of 16 keys
  unroll<kQuarter>(
      [&](auto j) LONGSPAN_LAMBDA { t[j] = ((w[j] + w[j + kQuarter]) + w[j + 2 * kQuarter]) + w[j + 3 * kQuarter]; });
  for (int half = 8 / kLanes; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) t[j] = t[j] + t[j + half];
  return fold(t[0], [](const auto& a, const auto& b) LONGSPAN_LAMBDA { return a + b; });
}

/// The largest lane. With a NaN among them it may be any: weights then are NaN whatever the maximum is.
inline float largest_lane(const Lanes& x) {
  return fold(x, [](const auto& a, const auto& b) LONGSPAN_LAMBDA {
    using std::max;
    return max(a, b);
  });
}

/// Queries whose chains of dependent operations run side by side: one alone waits for three horizontal reductions.
inline constexpr int kSoftmaxQueries = kLanes == 16 ? 2 : 1;

/// Score functions, mask and weights of some queries at the positions `query`: each row of kBlock floats at `weight`
/// holds scores, and then words of weights, multiplied by the scale of each value where the elements have scales.
/// Updates the rows' maxima and sums, and weight_scale where words are whole numbers; `rescale` is what values are to
/// be multiplied by before the block's are added.
template <class P, std::size_t Queries>
LONGSPAN_INLINE void narrow_softmax(const P& problem, const Tile& tile, const Index (&query)[Queries],
                                    const Index (&head)[Queries], float* weight, const float* value_scale, float* max,
                                    float* sum, float* weight_scale, float* rescale, Ahead& ahead) {
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  constexpr int kVectors = static_cast<int>(kBlock) / kLanes, kQueries = static_cast<int>(Queries);
  const Lanes from(static_cast<float>(tile.keys.begin - tile.block)),
      to(static_cast<float>(tile.keys.end - tile.block));
  const bool whole = tile.keys.size() == kBlock;
  Lanes x[kQueries][kVectors], largest[kQueries];
  unroll<kQueries>([&](auto q) LONGSPAN_LAMBDA {
    largest[q] = Lanes(max[q]);
    unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
      const Lanes key = iota() + Lanes(static_cast<float>(v * kLanes));
      x[q][v] = finish_scores(problem, load(weight + q * kBlock + v * kLanes), Position<float>{query[q], 0.f},
                              Position<Lanes>{tile.block, key}, head[q], tile.full);
      if (!whole) x[q][v] = xsimd::select((key >= from) & (key < to), x[q][v], Lanes(kMinusInfinity));
      largest[q] = xsimd::max(largest[q], x[q][v]);
      ahead.step_lines();
    });
  });
  unroll<kQueries>([&](auto q) LONGSPAN_LAMBDA {
    const float grown = largest_lane(largest[q]), shift = Merged<float>::finite(grown);
    rescale[q] = exp2(max[q] - shift);
    max[q] = grown;
    unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
      x[q][v] = exp2(x[q][v] - Lanes(shift));
      if constexpr (!kScaled<Element>) x[q][v] = Words::weight(x[q][v]);
    });
  });
  unroll<kQueries>([&](auto q) LONGSPAN_LAMBDA {
    float* const words = weight + q * kBlock;
    sum[q] = fma(sum[q], rescale[q], block_sum(x[q]));
    if constexpr (kScaled<Element>)
      unroll<kVectors>([&](auto v)
                           LONGSPAN_LAMBDA { x[q][v] = scaled_weight(x[q][v], load(value_scale + v * kLanes)); });
    if constexpr (Words::kWhole)
      weight_scale[q] = Words::store_weights(words, x[q]);
    else if constexpr (Words::kPer > 1)
      unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA { Words::store_pairs(words + v * kLanes / Words::kPer, x[q][v]); });
    else
      unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA { store(words + v * kLanes, x[q][v]); });
  });
}

}  // namespace longspan::inline LONGSPAN_ISA
