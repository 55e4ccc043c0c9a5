#pragma once
// Score functions and masks for a vector of queries of the wide kernel, over the keys of a tile.

#include <longspan/core/transpose.hpp>
#include <longspan/kernel/panels.hpp>
#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Scores of the queries from `query` on, which are rows of one head, [keys of the block][Panels::kRows] at `block`.
/// Returns their largest and `max`.
template <class P>
LONGSPAN_INLINE Lanes finish_rows(const P& problem, const Tile& tile, const Panels& panels, Index query, float* block,
                                  const Lanes& max) {
  const Position<Lanes> q{problem.first_query + panels.rows().begin, iota() + Lanes(static_cast<float>(query))};
  Lanes largest = max;
  for (Index key = tile.keys.begin; key < tile.keys.end; ++key) {
    float* at = block + (key - tile.block) * Panels::kRows;
    const Position<float> k{key, 0.f};
    const Lanes score = finish_scores(problem, Lanes::load_aligned(at), q, k, panels.head(0), tile.full);
    score.store_aligned(at);
    largest = xsimd::max(largest, score);
  }
  return largest;
}

/// The same for vectors that hold several heads of a row, or rows: query by query with keys in lanes, as in the narrow
/// kernel. (With its two transpositions ALiBi takes a twentieth of the time of 128 heads over bf16.)
template <class P>
Lanes finish_queries(const P& problem, const Tile& tile, const Panels& panels, Index query, float* block,
                     const Lanes& max) {
  alignas(64) float scores[kLanes * kBlock];
  transpose(block, Panels::kRows, kBlock, kLanes, scores, kBlock);
  for (Index j = 0; j < kLanes; ++j) {
    const Index i = std::min(query + j, panels.queries() - 1);  // a lane of nobody's: anyone's
    const Position<float> q{problem.first_query + panels.row(i), 0.f};
    float* const row = scores + j * kBlock;
    for (Index at = 0; at < kBlock; at += kLanes) {
      const Position<Lanes> k{tile.block, iota() + Lanes(static_cast<float>(at))};
      finish_scores(problem, Lanes::load_aligned(row + at), q, k, panels.head(i), tile.full).store_aligned(row + at);
    }
  }
  transpose(scores, kBlock, kLanes, kBlock, block, Panels::kRows);
  Lanes largest = max;
  for (Index key = tile.keys.begin; key < tile.keys.end; ++key)
    largest = xsimd::max(largest, Lanes::load_aligned(block + (key - tile.block) * Panels::kRows));
  return largest;
}

}  // namespace longspan::inline LONGSPAN_ISA
