#pragma once
// What this machine can do at most, measured in the same process and at the same time as what is compared with it.

#include <longspan/core/index.hpp>

namespace bench {

using longspan::Index;

/// What bounds a workload.
enum class Limit { kFmaPeak, kDotPeak, kReadBandwidth, kCopyBandwidth };
/// Whether it counts FLOP/s, not bytes/s.
inline bool is_arithmetic(Limit limit) { return limit == Limit::kFmaPeak || limit == Limit::kDotPeak; }

/// One brief measurement (about 10 ms) with `threads` threads at work at once: FLOP/s of fused multiply-adds on f32
/// vectors, or bytes/s read from memory far beyond the last-level cache. Each is the median of several runs.
double fma_peak(Index threads);
/// The same of dot products of bf16, where the machine has them.
double dot_peak(Index threads);
double read_bandwidth(Index threads);
/// Bytes/s read and written by memcpy, of one thread.
double copy_bandwidth();

inline double probe(Limit limit, Index threads) {
  return limit == Limit::kFmaPeak         ? fma_peak(threads)
         : limit == Limit::kDotPeak       ? dot_peak(threads)
         : limit == Limit::kReadBandwidth ? read_bandwidth(threads)
                                          : copy_bandwidth();
}

}  // namespace bench
