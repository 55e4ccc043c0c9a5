#pragma once
// What a kernel is given: views, policies, and a sink for finished rows. One sequence, one problem.

#include <algorithm>
#include <cmath>
#include <span>
#include <tuple>

#include <longspan/core/concepts.hpp>
#include <longspan/core/rows.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/core/view.hpp>
#include <longspan/kernel/merged.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Which of the flash engine's kernels: queries in lanes, or keys. Bits don't depend on it.
enum class Kernel { kAutomatic, kWide, kNarrow };

/// Score functions applied left to right; none at all leaves the score to the fast path.
template <class... F>
class ScoreChain {
 public:
  static constexpr bool kEmpty = sizeof...(F) == 0;

  explicit ScoreChain(F... functions) : functions_(functions...) {}

  template <class Score, class Query, class Key>
  LONGSPAN_INLINE Score operator()(Score score, const Query& query, const Key& key, Site site) const {
    std::apply([&](const F&... f) LONGSPAN_LAMBDA { ((score = one(f, score, query, key, site)), ...); }, functions_);
    return score;
  }
  /// Throws when a function that is made for a number of heads meets another.
  void check_heads(Index heads) const {
    std::apply([&](const F&... f) { (check_one(f, heads), ...); }, functions_);
  }
  /// Throws when the table of a function does not cover this sequence.
  void check_extent(const Extent& extent) const {
    std::apply([&](const F&... f) { (check_one(f, extent), ...); }, functions_);
  }

 private:
  template <class G, class Score, class Query, class Key>
  static LONGSPAN_INLINE Score one(const G& f, const Score& s, const Query& query, const Key& key, Site site) {
    if constexpr (std::is_invocable_v<const G&, Score, Query, Key, Index>)
      return f(s, query, key, site.head);
    else if constexpr (std::is_invocable_v<const G&, Score, Query, Key, Site>)
      return f(s, query, key, site);
    else
      return f(s, query, key);
  }
  template <class G>
  static void check_one(const G& f, Index heads) {
    if constexpr (requires { f.heads(); }) check(f.heads() == heads, "score function heads", f.heads(), heads);
  }
  template <class G>
  static void check_one(const G& f, const Extent& extent) {
    if constexpr (requires { f.check_extent(extent); }) f.check_extent(extent);
  }
  std::tuple<F...> functions_;
};

/// Where finished rows go: normalised with their LSE, or as states that stay open to be merged.
struct RowSink {
  OutputTensor rows;     ///< [queries, heads, value_dim]
  float* lse = nullptr;  ///< [queries, heads] or null: natural logarithm of the softmax denominator
  float* max = nullptr;  ///< [queries, heads]: not null for states, which are not normalised; in units of log 2
  float* sum = nullptr;
  std::span<const float> logits = {};  ///< [heads] or empty: a learned sink for each head, natural
  Index stride = rows.heads;           ///< from one query to the next of lse, max and sum

  /// What rows of a head are multiplied by: 1 / denominator, or 0 for a row that saw nothing.
  LONGSPAN_INLINE Lanes factor(Index head, const Lanes& row_max, const Lanes& row_sum) const {
    return factor(Lanes(logits.empty() ? 0.f : logits[static_cast<std::size_t>(head)]), row_max, row_sum);
  }
  /// … of rows of several heads, which have these sinks (that are not read where there are none).
  LONGSPAN_INLINE Lanes factor(const Lanes& sinks, const Lanes& row_max, const Lanes& row_sum) const {
    if (max) return Lanes(1.f);
    Lanes numerator(1.f), denominator = row_sum;
    if (!logits.empty()) {  // the sink is a state without a value, and enters as all states do
      const Lanes logit = fma(sinks, Lanes(kLog2e), Lanes(0.f));
      const Merged<Lanes> both(row_max, row_sum, logit, Lanes(1.f));
      numerator = both.of_a, denominator = both.sum;
    }
    return xsimd::select(row_sum == Lanes(0.f), Lanes(0.f), numerator / denominator);
  }
  void finish(Index query, Index head, double row_max, double row_sum) const {
    const Index at = query * stride + head;
    if (max) {
      max[at] = static_cast<float>(row_max);
      sum[at] = static_cast<float>(row_sum);
    }
    if (lse) lse[at] = log_sum_exp(row_max, row_sum, logit(head));
  }
  /// −inf where there is none.
  double logit(Index head) const {
    return logits.empty() ? static_cast<double>(kMinusInfinity)
                          : static_cast<double>(logits[static_cast<std::size_t>(head)]);
  }
  /// The rows of `queries`, of a batch.
  RowSink slice(Interval queries) const { return moved(rows.slice(queries), queries.begin * stride, logits); }
  /// The rows of one head.
  RowSink head(Index h) const {
    return moved(rows.head(h), h, logits.empty() ? logits : logits.subspan(static_cast<std::size_t>(h), 1));
  }
  /// Natural, of a row's state, whose maximum is in units of log 2, and a logit; -inf for a row that saw nothing.
  static float log_sum_exp(double max, double sum, double logit) {
    const double row = sum == 0 ? static_cast<double>(kMinusInfinity) : (max + std::log2(sum)) * 0.6931471805599453094;
    if (!(logit > static_cast<double>(kMinusInfinity))) return static_cast<float>(row);
    const double top = std::max(row, logit);
    return static_cast<float>(top + std::log1p(std::exp(std::min(row, logit) - top)));
  }

 private:
  RowSink moved(OutputTensor to, Index by, std::span<const float> sinks) const {
    const auto from = [by](float* p) { return p ? p + by : p; };
    return {to, from(lse), from(max), from(sum), sinks, stride};
  }
};

/// One attention call as the kernels see it. Positions are absolute: query i stands at first_query + i, key j at
/// first_key + j.
template <KeyValueSource Source_, Mask Mask_, class Scores_>
struct Problem {
  using Source = Source_;
  using Scores = Scores_;

  QueryTensor q;  ///< [queries, heads, head_dim]
  Source source;
  const Mask_& mask;
  const Scores& scores;
  RowSink sink;
  float scale;
  Index first_query;
  Index first_key;
  Work* work = nullptr;  ///< where what was done is added up, or null
  Site first = {};       ///< what policies know as head 0 of this sequence

  Index group() const { return q.heads / source.kv_heads(); }
  Interval keys() const { return {first_key, first_key + source.keys()}; }
  Interval positions(Interval rows) const { return {first_query + rows.begin, first_query + rows.end}; }
  /// What a query or, for some words, a score is multiplied by. Scores are kept in units of log 2; with score functions
  /// the change of unit has to wait until they have run.
  float score_factor() const { return Scores::kEmpty ? scale * kLog2e : scale; }
  template <class Words>
  float query_factor() const {
    return Words::kScalesScores ? 1.f : score_factor();
  }

  /// Calls f(run, position of its first key) for the pieces of `keys` that lie together in memory.
  template <class F>
  LONGSPAN_INLINE void for_each_piece(Index kv_head, Interval keys, F&& f) const {
    for (Index key = keys.begin; key < keys.end;) {
      auto run = source.run(kv_head, key - first_key);
      run.size = std::min(run.size, keys.end - key);
      f(run, key);
      key += run.size;
    }
  }

  Site site(Index head) const { return {first.head + head, first.sequence}; }
};

/// Score functions and mask on one vector of scores, query or key in lanes.
template <class P, class Query, class Key>
LONGSPAN_INLINE Lanes finish_scores(const P& problem, Lanes score, const Query& query, const Key& key, Index head,
                                    bool full) {
  // fma: a plain product may be contracted with what the caller does next, in one kernel and not in the other
  if constexpr (!P::Scores::kEmpty)
    score = fma(problem.scores(score, query, key, problem.site(head)), Lanes(kLog2e), Lanes(0.f));
  if (!full) {
    const xsimd::batch_bool<float> seen(truth(problem.mask.allows(query, key)).value);
    score = xsimd::select(seen, score, Lanes(kMinusInfinity));
  }
  return score;
}

}  // namespace longspan::inline LONGSPAN_ISA
