#pragma once
// Decode that reads a part of a cache: keys that are listed for each query, or pages that are chosen for each KV head.
//
// Both are calls with one source for each query or KV head, so kernels and contract are those of any other call: a row
// has the bits of attention over its keys alone, copied one after the other into two tensors.

#include <numeric>
#include <optional>

#include <longspan/attention.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/kernel/words.hpp>
#include <longspan/sparse/gathered_pages.hpp>
#include <longspan/sparse/key_lists.hpp>
#include <longspan/sparse/quest.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Attention that does not look at positions, which keys that are picked have lost: no mask, no score function. Learned
/// sinks it may have.
template <class Engine>
using PlainAttention = Attention<Engine, Full, ScoreChain<>>;

namespace detail {

/// Calls f(sources, options) with source(i) for each of `count` sequences of one row.
template <class Source, class Of, class F>
void with_sources(Index count, const Options& options, Of&& source, F&& f) {
  check(options.cumulative_queries.empty(), "options.cumulative_queries.size", options.cumulative_queries.size(),
        "0: each row is a sequence");
  check(options.cumulative_keys.empty(), "options.cumulative_keys.size", options.cumulative_keys.size(), 0);
  Leased<std::vector<Source>, Options> sources;
  Leased<std::vector<Index>, Options> ends;
  sources->clear(), ends->assign(1, 0);
  for (Index i = 0; i < count; ++i) sources->push_back(source(i)), ends->push_back(i + 1);
  Options each = options;
  each.cumulative_queries = *ends;
  f(std::span<const Source>(*sources), std::as_const(each));
}

/// f(queries, sources, options) with a source for each of the queries; all of them.
template <KeyValueSource Source, class F>
void with_lists_in_place(const QueryTensor& q, const Source& source, const KeyLists& lists, const Options& options,
                         F&& f) {
  with_sources<ListedKeys<Source>>(
      q.tokens, options, [&](Index query) { return ListedKeys<Source>(source, lists.row(query)); },
      [&](auto sources, const Options& each) {
        f(Interval{0, q.tokens}, sources, each);
      });
}
template <KeyValueSource Source, class F>
void with_lists(const QueryTensor& q, const Source& source, const KeyLists& lists, const Options& options, F&& f) {
  with_lists_in_place(q, source, lists, options, f);
}

/// … or as many as fit into a bounded memory, again and again, where keys are copied together first: those that do not
/// lie in rows. (Latent pages are rows.)
template <StoredElement T, class F>
void with_lists(const QueryTensor& q, const PagedView<T>& view, const KeyLists& lists, const Options& options, F&& f) {
  if (view.keys() > 0 && view.run(0, 0).dim_stride == 1) return with_lists_in_place(q, view, lists, options, f);
  constexpr Index kBytes = Index{1} << 24;
  const auto bytes = [&](Index query) { return GatheredPages<T>::bytes(view, std::ssize(lists.row(query))); };
  const Index heads = view.kv_heads();
  Leased<Scratch, KeyLists> scratch;
  Leased<std::vector<Index>, KeyLists> lease;  // numbers of pages, and then where the memory of each query begins
  for (Index first = 0, end = 0; first == 0 || first < q.tokens; first = end) {
    Index size = 0, longest = 0;
    for (; end < q.tokens && (end == first || size + bytes(end) <= kBytes); ++end) {
      size += bytes(end);
      longest = std::max(longest, ceil_div(std::ssize(lists.row(end)), GatheredPages<T>::kPageSize));
    }
    auto* const memory = reinterpret_cast<std::byte*>(scratch->floats(ceil_div(size, Index{sizeof(float)}) + 1));
    lease->resize(static_cast<std::size_t>(longest + end - first));
    std::iota(lease->begin(), lease->begin() + longest, Index{0});
    Index* const begin = lease->data() + longest;
    for (Index i = first, at = 0; i < end; at += bytes(i++)) begin[i - first] = at;
    const auto pages = [&](Index query) { return GatheredPages<T>(view, memory + begin[query - first]); };
    options.executor.for_each((end - first) * heads, [&](Index task, Index) {
      const Index query = first + task / heads;
      pages(query).gather(task % heads, lists.row(query));
    });
    Options some = options;
    if (!options.lse.empty())
      some.lse = options.lse.subspan(static_cast<std::size_t>(first * q.heads),
                                     static_cast<std::size_t>((end - first) * q.heads));
    with_sources<PagedView<T>>(
        end - first, some,
        [&](Index i) { return pages(first + i).view(std::ssize(lists.row(first + i)), lease->data()); },
        [&](auto sources, const Options& each) {
          f(Interval{first, end}, sources, each);
        });
    if (q.tokens == 0) break;
  }
}

/// What can be refused before the first of several calls.
template <KeyValueSource Source>
void check_lists(const QueryTensor& q, const Source& source, const KeyLists& lists, const Options& options) {
  check(lists.queries() == q.tokens, "lists.queries", lists.queries(), q.tokens);
  check(lists.keys() <= source.keys(), "lists.keys", lists.keys(), Below{source.keys() + 1});
  check(options.lse.empty() || std::ssize(options.lse) == q.tokens * q.heads, "options.lse.size", options.lse.size(),
        q.tokens * q.heads);
}

/// f(sources, options) for a row by the groups of its KV heads.
template <StoredElement T, class F>
void with_pages(const PagedView<T>& view, const ChosenPages& pages, const Options& options, F&& f) {
  with_sources<PagesOfHead<T>>(
      view.kv_heads(), options, [&](Index kv_head) { return PagesOfHead<T>(view, kv_head, pages.of(kv_head)); }, f);
}

template <StoredElement T>
void check_paged_row(const QueryTensor& q, const PagedView<T>& view) {
  check(q.tokens == 1, "q.tokens", q.tokens, "1: the newest token");
  check(q.heads >= 1 && q.heads % view.kv_heads() == 0, "q.heads", q.heads, MultipleOf{view.kv_heads()});
  check(view.first_key() == 0, "view.first_key", view.first_key(), "0: no window");
}
inline void check_row_out(const QueryTensor& q, const OutputTensor& out, const Options& options) {
  check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
  check(out.heads == q.heads, "out.heads", out.heads, q.heads);
  check(options.lse.empty() || std::ssize(options.lse) == q.heads, "options.lse.size", options.lse.size(), q.heads);
}

/// The groups of a row as a row of heads.
inline Partial as_row(Partial groups, const std::vector<float>& logits) {
  groups.heads *= groups.queries;
  groups.queries = 1;
  groups.logits = logits;
  return groups;
}

}  // namespace detail

/// attend over the listed keys alone of each query: q [queries, heads, head_dim], any source (one for all queries: a
/// sequence), lists of its keys by number, out [queries, heads, value_dim]. A query that has none: zeros, LSE −inf.
/// Which of them it may see, by its position, is the lists' affair. Neighbours on a list are read as they lie; keys
/// that stand alone are gathered by the kernel, once for all heads of a group. Those of a paged cache, whose pages are
/// dimension-major, are copied together before, page by page, for as many queries at a time as take 16 MiB: that reads
/// a cache line of a page for each dimension and key, so a token-major source is read faster. The bits of a row depend
/// on its query and on which keys are listed, not on their order or on other queries. Throws std::invalid_argument as
/// attend, for lists of another number of queries, and for lists made for more keys than there are. O(listed keys ·
/// heads · (head_dim + value_dim)); tasks are queries, and where those are few, heads and splits of lists; no
/// allocation after the first call of a size.
///
/// Several sources in one softmax, a window and a list say: partial_listed over the list, attend.partial over the
/// window, and merge. No key may be in both.
template <class Engine, KeyValueSource Source>
void attend_listed(const PlainAttention<Engine>& attend, QueryTensor q, const Source& source, const KeyLists& lists,
                   OutputTensor out, const Options& options = {}) {
  detail::check_lists(q, source, lists, options);
  check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
  detail::with_lists(q, source, lists, options, [&](Interval rows, auto sources, const Options& each) {
    attend(q.slice(rows), sources, out.slice(rows), each);
  });
}
template <class Engine, KeyValueSource Source>
Partial partial_listed(const PlainAttention<Engine>& attend, QueryTensor q, const Source& source, const KeyLists& lists,
                       const Options& options = {}) {
  detail::check_lists(q, source, lists, options);
  Partial result(q.tokens, q.heads, source.value_dim());
  result.logits = attend.logits();
  if (q.tokens == 0) return result;
  detail::with_lists(q, source, lists, options, [&](Interval rows, auto sources, const Options& each) {
    detail::merge_into(result, rows.begin, attend.partial(q.slice(rows), sources, each));
  });
  return result;
}

/// attend, for the newest token of a sequence, over the chosen pages of each KV head alone: q [1, heads, head_dim], out
/// [1, heads, value_dim]. Pages are read where they are. What is supported: one query, which sees every key (it stands
/// at the end of them), one sequence a call, no window, any number of pages for each KV head; learned sinks, with an
/// allocation. With all pages the bits are those of attend over the view. Throws std::invalid_argument as attend, for
/// more than one query, for pages that do not ascend or are not there. O(keys of the pages · heads · (head_dim +
/// value_dim)); tasks are KV heads, and where those are few, splits of their pages; no allocation after the first call
/// of a size.
template <class Engine, StoredElement T>
void attend_pages(const PlainAttention<Engine>& attend, QueryTensor q, const PagedView<T>& view,
                  const ChosenPages& pages, OutputTensor out, const Options& options = {}) {
  detail::check_paged_row(q, view);
  detail::check_row_out(q, out, options);
  check(attend.logits().empty() || std::ssize(attend.logits()) == q.heads, "sink logits heads", attend.logits().size(),
        q.heads);
  check(pages.kv_heads() == view.kv_heads(), "pages.kv_heads", pages.kv_heads(), view.kv_heads());
  const Index all = ceil_div(view.keys(), view.page_size());
  for (Index h = 0; h < view.kv_heads(); ++h)
    for (Index least = 0; const Index page : pages.of(h)) {
      check(page >= least, "pages", page, AtLeast{least});
      check(page < all, "pages", page, Below{all});
      least = page + 1;
    }
  const Index group = q.heads / view.kv_heads();
  detail::with_pages(view, pages, options, [&](auto sources, const Options& each) {
    if (attend.logits().empty()) return attend(q.by_group(group), sources, out.by_group(group), each);
    check(out.dim == view.value_dim(), "out.dim", out.dim, view.value_dim());
    const PlainAttention<Engine> without{Full(),
                                         ScoreChain<>()};  // a sink for each head: groups have no heads of their own
    detail::finish_into(detail::as_row(without.partial(q.by_group(group), sources, each), attend.logits()), out,
                        options.lse);
  });
}

/// What attend_certified read, and what it left out.
struct CertifiedReading {
  ChosenPages pages;    ///< that were read
  double left_out = 0;  ///< no head has a larger share of its attention mass in pages that were not read; <= epsilon
};

/// As attend_pages, over as many pages of each KV head as it takes until what is left out is proven to be at most
/// `epsilon` of each head's attention mass: |out − attention over all keys| <= 2 · left_out · max|v|, rounding aside.
/// What unread pages hold at most follows from their bounds (keys · e^(upper bound of the score)), against the computed
/// LSE of what was read, less what rounding may have added to it; both as the definition has them, of the queries and
/// the decoded keys: also where the kernels round queries to bf16. Pages are read by falling bounds, at first 1/32 of
/// them, then as many as seem needed, at most twice as many in all as before; each once, its state is merged. Where
/// bounds prove nothing, everything is read and left_out is 0; so it is where keys or queries are not finite. A learned
/// sink counts as no mass, so the bound holds with it, too. Throws std::invalid_argument unless 0 < epsilon < 1, as
/// attend_pages, and for bounds of another view. O(heads · pages · head_dim + keys read · heads · (head_dim +
/// value_dim)).
template <class Engine, StoredElement T>
CertifiedReading attend_certified(const PlainAttention<Engine>& attend, QueryTensor q, const PagedView<T>& view,
                                  const PageBounds& bounds, double epsilon, OutputTensor out,
                                  const Options& options = {}) {
  check(epsilon > 0 && epsilon < 1, "attend_certified.epsilon", epsilon, "within (0, 1)");
  detail::check_paged_row(q, view);
  detail::check_row_out(q, out, options);
  check(out.dim == view.value_dim(), "out.dim", out.dim, view.value_dim());
  check(attend.logits().empty() || std::ssize(attend.logits()) == q.heads, "sink logits heads", attend.logits().size(),
        q.heads);
  if (view.keys() > 0) bounds.check_of(view), detail::check_query(bounds, q);
  const Index kv_heads = view.kv_heads(), group = q.heads / kv_heads, all = bounds.pages();
  const double scale =
      static_cast<double>(options.scale.value_or(static_cast<float>(1 / std::sqrt(static_cast<double>(q.dim)))));

  // What the kernels' arithmetic may have added to a score, per unit of its terms, and to the logarithm of a sum.
  using Words = WordsOf<T>;
  constexpr bool rounded = Words::kPer > 1;
  const double of_score = bounds.rounding() + (rounded ? 0x1p-8 : 0);
  double of_query = 0;
  if constexpr (Words::kWhole) of_query = Words::query_error(q.dim);
  const double of_sum = (rounded ? 0x1p-7 : 0) + 0x1p-14 + static_cast<double>(view.keys()) * 0x1p-34;

  const PlainAttention<Engine> without{Full(), ScoreChain<>()};
  std::vector<std::optional<detail::UnreadPages>> unread(static_cast<std::size_t>(kv_heads));
  std::vector<std::span<const Index>> next(unread.size());
  Partial total(kv_heads, group, view.value_dim());
  if (view.keys() > 0)
    options.executor.for_each(kv_heads, [&](Index h, Index) {
      const auto at = static_cast<std::size_t>(h);
      unread[at].emplace(bounds, q, h, scale, of_score, of_query);
      next[at] = unread[at]->first(ceil_div(all, 32));
    });
  CertifiedReading result;
  for (bool more = true; more;) {
    result.pages.clear();
    for (const auto& pages : next) result.pages.push_back(pages);
    detail::with_pages(view, result.pages, options, [&](auto sources, const Options& each) {
      detail::merge_into(total, 0, without.partial(q.by_group(group), sources, each));
    });
    if (view.keys() == 0) break;
    options.executor.for_each(kv_heads, [&](Index h, Index) {
      std::vector<double> held(static_cast<std::size_t>(group));
      for (Index i = 0; i < group; ++i) {
        const auto row = static_cast<std::size_t>(h * group + i);
        const double lse = (static_cast<double>(total.max[row]) + std::log2(static_cast<double>(total.sum[row]))) *
                           0.6931471805599453094;
        held[static_cast<std::size_t>(i)] = lse - of_sum - std::abs(lse) * 0x1p-22;
      }
      next[static_cast<std::size_t>(h)] = unread[static_cast<std::size_t>(h)]->next(held, epsilon);
    });
    more = std::any_of(next.begin(), next.end(), [](std::span<const Index> pages) { return !pages.empty(); });
  }
  result.pages.clear();
  for (const auto& head : unread) {
    result.pages.push_back(head ? head->read() : std::span<const Index>());
    result.left_out = std::max(result.left_out, head ? head->left_out() : 0);
  }
  detail::finish_into(detail::as_row(std::move(total), attend.logits()), out, options.lse);
  return result;
}

}  // namespace longspan::inline LONGSPAN_ISA
