#pragma once
// What a call will do, counted without doing it: from the same schedule and the same tiles that the kernels walk.

#include <sstream>
#include <string>

#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

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
  double bytes = 0;         ///< queries, output, and keys and values that some query may see (by the mask's runs), once
  Index scratch_bytes = 0;  ///< of each worker; a decode split over threads holds some more states of its rows
  Index tasks = 0;          ///< what can run at the same time (key splits of a decode not counted)

  /// A few lines of text for people.
  std::string explain() const {
    std::ostringstream text;
    const auto tiles = static_cast<double>(full_tiles + partial_tiles + skipped_tiles);
    const auto share = [&](Index part) { return tiles > 0 ? 100 * static_cast<double>(part) / tiles : 0.; };
    text.precision(3);
    text << engine << ", " << kernel << " kernel, " << isa << ", " << tasks << " tasks\n"
         << "tiles: " << full_tiles << " full (" << share(full_tiles) << "%), " << partial_tiles << " partial ("
         << share(partial_tiles) << "%), " << skipped_tiles << " skipped (" << share(skipped_tiles) << "%)\n"
         << "work: " << pairs << " visible pairs, " << flops / 1e9 << " GFLOP, " << bytes / 1e6 << " MB at least, "
         << scratch_bytes / 1024 << " KiB scratch a worker\n";
    return text.str();
  }
};

/// Exactly how many keys of `keys` the query at `position` sees. O(runs) where the mask's readings agree.
template <Mask M>
Index count_visible(const M& mask, Index position, Interval keys) {
  const Interval query{position, position + 1};
  Index count = 0;
  for (Index k = keys.begin; k < keys.end;) {
    const Interval some = intersect(mask.some(query, k), keys), every = intersect(mask.every(query, k), keys);
    if (some.empty()) break;
    const Index doubtful = every.empty() ? some.end : std::min(some.end, every.begin);
    for (k = some.begin; k < doubtful; ++k) count += mask.allows(position, k) ? 1 : 0;
    if (k == every.begin && !every.empty()) {
      count += every.size();
      k = every.end;
    }
  }
  return count;
}

/// Adds what one problem is, whatever engine solves it. O(queries · runs).
template <class P>
void count_problem(Plan& plan, const P& problem) {
  const Interval keys = problem.keys(), queries = problem.positions({0, problem.q.tokens});
  const Index dims = problem.source.head_dim() + problem.source.value_dim(), heads = problem.q.heads;

  Index pairs = 0;
  for (Index q = queries.begin; q < queries.end; ++q) pairs += count_visible(problem.mask, q, keys);
  plan.pairs += pairs * heads;
  plan.flops += 2 * static_cast<double>(pairs * heads) * static_cast<double>(dims);

  Index seen = 0;
  for (Index k = keys.begin; !queries.empty() && k < keys.end;) {
    const Interval run = intersect(problem.mask.some(queries, k), keys);
    if (run.empty()) break;
    seen += run.size();
    k = run.end;
  }
  using Element = typename P::Source::Element;
  plan.bytes += static_cast<double>(queries.size() * heads * dims) * sizeof(float) +
                static_cast<double>(seen * problem.source.kv_heads() * dims) * sizeof(Element);
}

}  // namespace longspan::inline LONGSPAN_ISA
