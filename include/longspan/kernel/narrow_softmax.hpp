#pragma once
// The softmax of the narrow kernel: one query, the keys of a block in lanes.

#include <longspan/kernel/ahead.hpp>
#include <longspan/kernel/problem.hpp>
#include <longspan/kernel/state.hpp>
#include <longspan/kernel/words.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The sum of a block's weights, in the order that wide.hpp documents.
inline float block_sum(const float* w) {
  Lanes t[16 / kLanes];
  for (int j = 0; j < 16; j += kLanes)
    t[j / kLanes] = ((load(w + j) + load(w + j + 16)) + load(w + j + 32)) + load(w + j + 48);
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

/// Score functions, mask and weights of one query at position `query`: `weight` holds kBlock scores, and then words of
/// weights, multiplied by the scale of each value where the elements have scales. Updates the row's maximum and sum;
/// returns what its values are to be multiplied by before the block's are added.
template <class P>
LONGSPAN_INLINE float narrow_softmax(const P& problem, const Tile& tile, Index query, Index head, float* weight,
                                     const float* value_scale, float& max, float& sum, Ahead& ahead) {
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  constexpr int kVectors = static_cast<int>(kBlock) / kLanes;
  const Lanes from(static_cast<float>(tile.keys.begin - tile.block)),
      to(static_cast<float>(tile.keys.end - tile.block));
  const bool whole = tile.keys.size() == kBlock;
  Lanes x[kVectors], largest(max);
  unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
    const Lanes key = iota() + Lanes(static_cast<float>(v * kLanes));
    x[v] = finish_scores(problem, load(weight + v * kLanes), Position<float>{query, 0.f},
                         Position<Lanes>{tile.block, key}, head, tile.full);
    if (!whole) x[v] = xsimd::select((key >= from) & (key < to), x[v], Lanes(kMinusInfinity));
    largest = xsimd::max(largest, x[v]);
    ahead.step_lines();
  });
  const float grown = largest_lane(largest), shift = Merged<float>::finite(grown), rescale = exp2(max - shift);
  unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
    const Lanes exact = exp2(x[v] - Lanes(shift));
    store(weight + v * kLanes, kScaled<Element> ? exact : Words::weight(exact));
  });
  max = grown;
  sum = fma(sum, rescale, block_sum(weight));
  if constexpr (Words::kPer > 1 || kScaled<Element>)
    unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
      Lanes w = load(weight + v * kLanes);
      if constexpr (kScaled<Element>) w = Words::weight(scaled_weight(w, load(value_scale + v * kLanes)));
      if constexpr (Words::kPer > 1)
        Words::store_pairs(weight + v * kLanes / Words::kPer, w);
      else
        store(weight + v * kLanes, w);
    });
  return rescale;
}

}  // namespace longspan::inline LONGSPAN_ISA
