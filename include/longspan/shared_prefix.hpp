#pragma once
// Cascade attention: what the sequences of a batch have in common, a system prompt say, is read once for all of them
// and merged with what each has of its own (Hydragen, arXiv 2402.05099; FlashInfer's cascade inference).

#include <vector>

#include <longspan/attention.hpp>
#include <longspan/kv/paged_view.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

/// Where the part ends that all sequences share, and that every query sees without asking: a split's end, so that
/// states merge in the order in which they would have been merged. first_key where there is none.
template <class Engine, class M, class Scores, StoredElement T>
Index shared_end(const Attention<Engine, M, Scores>& attend, std::span<const PagedView<T>> sources,
                 const Options& options) {
  const Index first = options.first_key;
  if constexpr (Scores::kEmpty && Mask<M>) {
    if (std::ssize(sources) < 2 || !attend.logits().empty()) return first;
    Index shared = sources[0].keys();
    for (const auto& source : sources) shared = std::min(shared, sources[0].shared_keys(source));
    const Index end = (first + shared) / kSplit * kSplit;
    if (end <= first) return first;
    const auto all = [&](Interval queries) { return attend.mask().every(queries, first).contains({first, end}); };
    Index rows = 0;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const Index size = options.cumulative_queries[i + 1] - options.cumulative_queries[i];
      const Index at = options.first_query.value_or(first + sources[i].keys() - size);
      if (size > 0 && !all({at, at + size})) return first;
      rows += size;
    }
    return all({end, end + std::max<Index>(rows, 1)}) ? end : first;  // where all of them stand in the common pass
  }
  return first;
}

}  // namespace detail

/// What attend_shared will do, from the block tables: attend.plan(…) with what is shared read once, and
/// Plan::shared_keys how much that is (0: nothing is, and attend_shared is the plain call). Throws as plan.
template <class Engine, class M, class Scores, StoredElement T>
Plan plan_shared(const Attention<Engine, M, Scores>& attend, Shape q, std::span<const PagedView<T>> sources,
                 const Options& options) {
  Plan plan = attend.plan(q, sources, options);
  plan.shared_keys = detail::shared_end(attend, sources, options) - options.first_key;
  if (plan.shared_keys > 0)
    plan.bytes -= static_cast<double>(sources.size() - 1) * bytes_of(sources[0], plan.shared_keys);
  return plan;
}

/// attend(q, sources, out, options) for sequences of one cache, the same bits; the pages that all of them share, up to
/// a multiple of 2048 keys, are read once for all. So they are where there are two sequences or more, no score
/// functions and no learned sinks, and a mask under which every query sees all of what is shared; otherwise this is the
/// plain call. Returns how many keys were read once. Throws as attend. O(visible pairs) arithmetic, and of the shared
/// keys one read instead of one a sequence: it pays while decode is bound by memory. Memory: three states of all rows,
/// [queries, heads, value_dim].
template <class Engine, class M, class Scores, StoredElement T>
Index attend_shared(const Attention<Engine, M, Scores>& attend, QueryTensor q, std::span<const PagedView<T>> sources,
                    OutputTensor out, const Options& options) {
  // The plain call's checks, before anything is read.
  const ScoreChain<> none;
  const detail::Batch batch(q.shape(), sources, options, attend.mask(), none, {});
  const Index first = options.first_key;
  const Index end = detail::shared_end(attend, sources, options);
  if (end == first) {
    attend(q, sources, out, options);
    return 0;
  }
  check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
  check(out.heads == q.heads, "out.heads", out.heads, q.heads);
  check(out.dim == batch.value_dim(), "out.dim", out.dim, batch.value_dim());

  Options part = options;
  part.lse = {};
  part.cumulative_queries = {};
  part.first_query = end;
  Partial total = attend.partial(q, sources[0].part({0, end - first}), part);

  Index last = end;
  for (const auto& source : sources) last = std::max(last, first + source.keys());
  part.cumulative_queries = options.cumulative_queries;
  std::vector<PagedView<T>> parts;
  for (Index begin = end; begin < last; begin += kSplit) {
    // Queries stand at the end of the last part of their sequence; a part that others follow would place them wrongly,
    // so where there is one, sequences are called one by one.
    bool final = !options.first_query;
    parts.clear();
    for (const auto& source : sources) {
      const Index keys = first + source.keys();
      parts.push_back(source.part({std::min(begin, keys) - first, std::min(begin + kSplit, keys) - first}));
      final = final && begin < keys && keys <= begin + kSplit;
    }
    part.first_key = begin;
    part.first_query = options.first_query;
    if (final) {
      detail::merge_into(total, 0, attend.partial(q, std::span<const PagedView<T>>(parts), part));
      continue;
    }
    Options one = part;
    one.cumulative_queries = {};
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Interval rows{options.cumulative_queries[i], options.cumulative_queries[i + 1]};
      if (parts[i].keys() == 0 || rows.empty()) continue;
      one.first_query = options.first_query.value_or(first + sources[i].keys() - rows.size());
      detail::merge_into(total, rows.begin, attend.partial(q.slice(rows), parts[i], one));
    }
  }

  detail::finish_into(total, out, options.lse);
  return end - first;
}

}  // namespace longspan::inline LONGSPAN_ISA
