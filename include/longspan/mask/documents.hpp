#pragma once
// Masks that cut the sequence into pieces which do not see each other.

#include <memory>

#include <longspan/core/concepts.hpp>
#include <longspan/core/pairs.hpp>
#include <longspan/core/runs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A query inside a span sees the keys of that span, before and behind it; outside of all spans it sees nothing. With
/// Causal by |: images or prompts that are read in both directions in a text that is not.
/// Every reading is O(log spans), in lanes too; copies share the table.
class Spans {
 public:
  /// Throws std::invalid_argument unless spans ascend from 0 on, are disjoint and not empty.
  explicit Spans(std::span<const Interval> spans) : Spans(table({spans.begin(), spans.end()})) {
    Index end = 0;
    for (const Interval span : spans) {
      check(span.begin >= end, "Spans.begin", span.begin, AtLeast{end});
      check(!span.empty(), "Spans.end", span.end, AtLeast{span.begin + 1});
      end = span.end;
    }
  }
  /// From an id for each token: neighbours with the same id are a span, and 0 is outside of all.
  static Spans by_ids(std::span<const Index> ids) { return Spans(table(pieces(ids, false))); }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    if constexpr (kInLanes<std::decay_t<decltype(q)>>)
      return within(q, run_around(*spans_, place(k)));
    else
      return within(k, run_around(*spans_, place(q)));
  }
  Interval some(Interval q, Index k) const {
    const auto first =
        std::partition_point(spans_->begin(), spans_->end(), [&](Interval s) { return s.end <= q.begin; });
    const auto last = std::partition_point(first, spans_->end(), [&](Interval s) { return s.begin < q.end; });
    return next_run({first, last}, k);
  }
  Interval every(Interval q, Index k) const {
    const Interval span = run_around(*spans_, q.begin);
    return span.contains(q) ? run_from(k, span.begin, span.end) : kNoRun;
  }
  Index pairs(Interval q, Interval keys) const {
    Index count = 0;
    for (const Interval span : *spans_) count += pairs_of(intersect(q, span), intersect(keys, span));
    return count;
  }
  Index edge_after(Index q) const {
    const Interval next = next_run(*spans_, q);
    return next.begin > q ? next.begin : next.end;
  }

 protected:
  using Table = std::shared_ptr<const std::vector<Interval>>;

  explicit Spans(Table spans) : spans_(std::move(spans)) {}

  static Table table(std::vector<Interval> spans) {
    return std::make_shared<const std::vector<Interval>>(std::move(spans));
  }
  static std::vector<Interval> pieces(std::span<const Index> ids, bool zero_is_one) {
    std::vector<Interval> out;
    const auto size = static_cast<Index>(ids.size());
    for (Index begin = 0, end; begin < size; begin = end) {
      const Index id = ids[static_cast<std::size_t>(begin)];
      for (end = begin + 1; end < size && ids[static_cast<std::size_t>(end)] == id;) ++end;
      if (id != 0 || zero_is_one) out.push_back({begin, end});
    }
    return out;
  }

 private:
  Table spans_;
};

/// Packed sequences: a query sees the keys of its own document. With Causal by &. Positions behind the last document
/// see nothing and are seen by nobody. Every reading is O(log documents), in lanes too; copies share the table.
class Documents : public Spans {
 public:
  /// From lengths so far, 0 … total: document i is [c[i], c[i+1]).
  /// Throws std::invalid_argument unless they begin with 0 and do not descend.
  explicit Documents(std::span<const Index> cumulative_lengths) : Spans(table(between(cumulative_lengths))) {}
  /// From an id for each token: neighbours with the same id are a document.
  static Documents by_ids(std::span<const Index> ids) { return Documents(table(pieces(ids, true))); }

 private:
  explicit Documents(Table documents) : Spans(std::move(documents)) {}

  static std::vector<Interval> between(std::span<const Index> lengths) {
    check_cumulative("Documents.cumulative_lengths", lengths);
    std::vector<Interval> out;
    for (std::size_t i = 1; i < lengths.size(); ++i)
      if (lengths[i - 1] < lengths[i]) out.push_back({lengths[i - 1], lengths[i]});
    return out;
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
