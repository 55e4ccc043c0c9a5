#pragma once
// What the kernels need to know about an instruction set: its name and the register tiles that don't spill on it.

#include <bit>
#include <type_traits>

#include <longspan/core/index.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

struct IsaTiles {
  const char* name;
  int wide_keys;       ///< wide kernel: keys (or value dims) × wide_vectors accumulators, plus vectors and a broadcast
  int wide_vectors;    ///< vectors of queries
  int narrow_queries;  ///< narrow kernel: queries × narrow_vectors accumulators
  int narrow_vectors;  ///< vectors of keys (or value dims)
  int tall_queries;    ///< the same for some queries more, so that all of a group share what is loaded (and decoded)
  int tall_vectors;
  int row_queries;  ///< … from token-major keys: accumulators, beside a tile of kLanes vectors and what transposes it
};

#if defined(LONGSPAN_SMALL_TILES)  // the least of everything: for sanitizers, whose checks of unrolled code take
                                   // minutes
inline constexpr IsaTiles kIsa{"small", 2, 2, 2, 2, 4, 1, 2};
#elif defined(__AVX512F__)                   // 32 registers
inline constexpr IsaTiles kIsa{"avx512", 8, 3, 6, 4, 8, 2, 8};
#elif defined(__aarch64__)                   // 32 registers
inline constexpr IsaTiles kIsa{"neon64", 8, 3, 6, 4, 8, 2, 8};
#elif defined(__AVX2__) && defined(__FMA__)  // 16 registers: an 8×3 tile spills
inline constexpr IsaTiles kIsa{"avx2", 4, 3, 6, 2, 8, 1, 4};
#else
inline constexpr IsaTiles kIsa{"baseline", 4, 3, 4, 2, 8, 1, 4};
#endif

inline constexpr int kTileKeys = kIsa.wide_keys;
inline constexpr int kTileVectors = kIsa.wide_vectors;
inline constexpr Index kWideRows = kTileVectors * kLanes;  ///< the most queries that the wide kernel computes at a time

/// Least, see below, for a register tile of queries × vectors: usual tiles are for groups of every size, the tall one
/// for those of 7 and 8.
constexpr int least_queries(int queries, int vectors) {
  if (queries == kIsa.tall_queries) return vectors == kIsa.tall_vectors ? queries - 1 : queries;
  return vectors == kIsa.narrow_vectors ? 1 : queries;
}

/// Calls f(integral_constant n, i) for the parts [i, i + n) of a range: of Tile, then smaller ones for the rest. Each n
/// is code of its own: there are all down to Least, and below it powers of two.
template <int Tile, int Least, class F>
LONGSPAN_INLINE void in_tiles(Index i, Index end, F&& f) {
  for (; i + Tile <= end; i += Tile) f(std::integral_constant<int, Tile>{}, i);
  if constexpr (Tile > 1) {
    constexpr int kPower = static_cast<int>(std::bit_floor(static_cast<unsigned>(Tile - 1)));
    in_tiles<(Tile > Least ? Tile - 1 : kPower), Least>(i, end, f);
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
