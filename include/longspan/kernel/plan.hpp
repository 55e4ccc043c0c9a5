#pragma once
// What a call will do, counted without doing it: from the same schedule and the same tiles that the kernels walk.

#include <algorithm>
#include <sstream>
#include <string>

#include <longspan/core/int4.hpp>
#include <longspan/core/pairs.hpp>
#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What a machine can do at most, as measured by the caller (with as many threads as the call gets); 0: not known.
struct MachineLimits {
  double flops = 0;           ///< of float multiply-adds, a second (two for each)
  double read_bandwidth = 0;  ///< bytes a second
};

/// Counts are over all sequences and query heads of the call.
struct Plan {
  const char* engine = "";
  const char* kernel = "";  ///< "wide", "narrow", "wide+narrow" for a mixed batch, "definition", or "no"
  const char* isa = "";
  Index full_tiles = 0;     ///< tiles (a task's queries × at most 64 keys) that run without a mask test
  Index partial_tiles = 0;  ///< … and with one
  Index skipped_tiles = 0;  ///< … and that are never visited
  Index pairs = 0;          ///< (query, key) pairs that the mask lets see each other, exactly
  double flops = 0;         ///< of the visible pairs: 2 · pairs · (head_dim + value_dim)
  double tile_flops = 0;    ///< of what is computed: all pairs of the tiles that are visited, in whole vectors
  double bytes = 0;         ///< queries, output, and keys and values that some query may see (by the mask's runs), once
  Index scratch_bytes = 0;  ///< of each worker; a decode split over threads holds some more states of its rows
  Index shared_keys = 0;    ///< of every sequence, that are read once for all of them (plan_shared)
  Index tasks = 0;          ///< what can run at the same time (key splits of a decode not counted)

  /// The time below which no call comes on such a machine: for its arithmetic or for reading its bytes, whichever takes
  /// longer; 0 where limits are not known. (Flash reaches most of either: see the README.)
  double seconds(const MachineLimits& limits) const {
    const auto at_least = [](double amount, double rate) { return rate > 0 ? amount / rate : 0.; };
    return std::max(at_least(std::max(flops, tile_flops), limits.flops), at_least(bytes, limits.read_bandwidth));
  }

  /// A few lines of text for people; with limits also how long it takes at least.
  std::string explain(const MachineLimits& limits = {}) const {
    std::ostringstream text;
    const auto tiles = static_cast<double>(full_tiles + partial_tiles + skipped_tiles);
    const auto share = [&](Index part) { return tiles > 0 ? 100 * static_cast<double>(part) / tiles : 0.; };
    text.precision(3);
    text << engine << ", " << kernel << " kernel, " << isa << ", " << tasks << " tasks\n"
         << "tiles: " << full_tiles << " full (" << share(full_tiles) << "%), " << partial_tiles << " partial ("
         << share(partial_tiles) << "%), " << skipped_tiles << " skipped (" << share(skipped_tiles) << "%)\n"
         << "work: " << pairs << " visible pairs, " << flops / 1e9 << " GFLOP, " << bytes / 1e6 << " MB at least, "
         << scratch_bytes / 1024 << " KiB scratch a worker\n";
    if (shared_keys > 0) text << "shared: " << shared_keys << " keys of each sequence are read once for all\n";
    if (const double least = seconds(limits); least > 0) {
      const bool arithmetic = limits.flops > 0 && std::max(flops, tile_flops) / limits.flops >= least;
      text << "time: at least " << least * 1e3 << " ms, by " << (arithmetic ? "arithmetic" : "memory") << '\n';
    }
    return text.str();
  }
};

/// Bytes of some keys and their values, of all KV heads, with their scales.
template <KeyValueSource Source>
double bytes_of(const Source& source, Index keys) {
  using Element = typename Source::Element;
  if (keys == 0) return 0;
  const bool latent = values_in_keys(source.run(0, 0), source.head_dim(), source.value_dim());
  const auto elements = static_cast<double>(source.head_dim() + (latent ? 0 : source.value_dim()));
  return static_cast<double>(keys * source.kv_heads()) *
         (elements * sizeof(Element) / kHeld<Element> + (kScaled<Element> ? (latent ? 1 : 2) * sizeof(float) : 0));
}

/// Adds what one problem is, whatever engine solves it. O(queries · runs), or less where the mask has a formula.
template <class P>
void count_problem(Plan& plan, const P& problem) {
  const Interval keys = problem.keys(), queries = problem.positions({0, problem.q.tokens});
  const Index dims = problem.source.head_dim() + problem.source.value_dim(), heads = problem.q.heads;

  const Index pairs = count_pairs(problem.mask, queries, keys);
  plan.pairs += pairs * heads;
  plan.flops += 2 * static_cast<double>(pairs * heads) * static_cast<double>(dims);

  Index seen = 0;
  for (Index k = keys.begin; !queries.empty() && k < keys.end;) {
    const Interval run = intersect(problem.mask.some(queries, k), keys);
    if (run.empty()) break;
    seen += run.size();
    k = run.end;
  }
  plan.bytes += static_cast<double>(queries.size() * heads * dims) * sizeof(float) + bytes_of(problem.source, seen);
}

}  // namespace longspan::inline LONGSPAN_ISA
