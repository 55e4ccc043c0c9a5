#pragma once
// Which tiles of the score matrix a kernel visits: the one schedule that the kernels run and that plan() counts.

#include <atomic>
#include <utility>

#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Keys of a block: softmax statistics are updated once a block. Blocks and splits begin at absolute positions, so the
/// order of operations of a row does not depend on where a call begins (the numeric contract).
inline constexpr Index kBlock = 64;
/// Keys of a split: every row has a state of its own for each split, and splits merge in ascending order.
inline constexpr Index kSplit = kFixedOrder ? 2048 : kPositionEnd;

/// The keys of one block that some query of a range may see.
struct Tile {
  Index block = 0;    ///< the position where the block begins, a multiple of kBlock
  Interval keys;      ///< positions inside [block, block + kBlock), not empty
  bool full = false;  ///< every query of the range sees every key of the tile: no mask test is needed
};

/// What kernels did, added up over all workers; what plan() predicts.
struct Work {
  Index full_tiles = 0;
  Index partial_tiles = 0;

  void count(const Tile& tile) { ++(tile.full ? full_tiles : partial_tiles); }
  /// Safe from several threads at once.
  void add(const Work& other) {
    std::atomic_ref(full_tiles).fetch_add(other.full_tiles, std::memory_order_relaxed);
    std::atomic_ref(partial_tiles).fetch_add(other.partial_tiles, std::memory_order_relaxed);
  }
};

/// mask.some, with kNoRun for any empty answer.
template <Mask M>
LONGSPAN_INLINE Interval next_some(const M& mask, Interval queries, Index k) {
  const Interval run = mask.some(queries, k);
  return run.empty() ? kNoRun : run;
}

/// Calls f(tile, next) for every tile of `keys` (absolute positions) that some query may see, in ascending order; the
/// keys of `next` are empty behind the last one. O(runs + tiles): what no query sees is never visited.
template <Mask M, class F>
LONGSPAN_INLINE void for_each_tile(const M& mask, Interval queries, Interval keys, F&& f) {
  if (queries.empty() || keys.empty()) return;
  Interval run = next_some(mask, queries, keys.begin);
  Interval all = mask.every(queries, keys.begin);
  Tile ready;
  while (run.begin < keys.end) {
    const Index block = run.begin / kBlock * kBlock;
    const Index end = std::min(block + kBlock, keys.end);
    Tile tile{block, {run.begin, std::min(run.end, end)}, false};
    while (run.end < end) {  // further runs in the same block: one tile over all of them
      run = next_some(mask, queries, run.end);
      if (run.begin >= end) break;
      tile.keys.end = std::min(run.end, end);
    }
    if (run.begin < end) {  // the run ends with this block or goes on behind it
      run.begin = end;
      if (run.empty()) run = next_some(mask, queries, end);
    }
    if (all.end <= tile.keys.begin) all = mask.every(queries, tile.keys.begin);
    tile.full = all.contains(tile.keys);
    if (!ready.keys.empty()) f(std::as_const(ready), std::as_const(tile));
    ready = tile;
  }
  if (!ready.keys.empty()) f(std::as_const(ready), Tile{});
}

}  // namespace longspan::inline LONGSPAN_ISA
