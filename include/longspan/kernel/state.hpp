#pragma once
// The state of a softmax row, (max, sum, values), and its merge: split-KV, shared prefixes, ring attention and
// out-of-core decode are all this one operation (Rabe & Staats, arXiv 2112.05682; FlashAttention's rescaling, arXiv
// 2205.14135).

#include <vector>

#include <longspan/core/simd.hpp>
#include <longspan/core/view.hpp>
#include <longspan/kernel/merged.hpp>
#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// a ← merge(a, b) over one row of values. O(value_dim).
inline void merge_row(float& max, float& sum, float* values, float max_b, float sum_b, const float* values_b,
                      Index dim) {
  const Merged<float> m(max, sum, max_b, sum_b);
  Index d = 0;
  for (; d + kLanes <= dim; d += kLanes)
    store(values + d, fma(load(values_b + d), Lanes(m.of_b), load(values + d) * Lanes(m.of_a)));
  for (; d < dim; ++d) values[d] = fma(values_b[d], m.of_b, values[d] * m.of_a);
  max = m.max;
  sum = m.sum;
}

/// The result of attention over some of the keys: not normalised, ready to be merged with the result over others.
struct Partial {
  Index queries = 0;
  Index heads = 0;
  Index value_dim = 0;
  std::vector<float> max;     ///< [queries, heads], the largest score in units of log 2; -inf where nothing was seen
  std::vector<float> sum;     ///< [queries, heads]
  std::vector<float> values;  ///< [queries, heads, value_dim]
  std::vector<float> logits;  ///< [heads] or empty: learned sinks, which enter once, in finish()

  /// The identity of merge. Throws std::invalid_argument on a negative count.
  Partial(Index queries_, Index heads_, Index value_dim_) : queries(queries_), heads(heads_), value_dim(value_dim_) {
    check(queries >= 0, "Partial.queries", queries, ">= 0");
    check(heads >= 1, "Partial.heads", heads, ">= 1");
    check(value_dim >= 1, "Partial.value_dim", value_dim, ">= 1");
    const auto rows = static_cast<std::size_t>(queries * heads);
    max.assign(rows, kMinusInfinity);
    sum.assign(rows, 0.f);
    values.assign(rows * static_cast<std::size_t>(value_dim), 0.f);
  }
  /// From another engine's (output, LSE) pair; `lse` is natural, [queries, heads].
  Partial(TensorView<const float> out, std::span<const float> lse) : Partial(out.tokens, out.heads, out.dim) {
    check(lse.size() == max.size(), "Partial.lse.size", lse.size(), max.size());
    for (Index i = 0; i < queries * heads; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (lse[at] == kMinusInfinity) continue;
      const double exact = static_cast<double>(lse[at]) / 0.6931471805599453094;
      max[at] = static_cast<float>(exact);
      sum[at] = static_cast<float>(std::exp2(exact - static_cast<double>(max[at])));
      const float* row = out.row(i / heads, i % heads);
      for (Index d = 0; d < value_dim; ++d)
        values[at * static_cast<std::size_t>(value_dim) + static_cast<std::size_t>(d)] = row[d] * sum[at];
    }
  }

  /// Where a kernel leaves these states.
  RowSink sink() {
    const TensorView<float> rows{values.data(), queries, heads, value_dim, heads * value_dim, value_dim};
    return {rows, nullptr, max.data(), sum.data()};
  }

  /// Normalised rows into `out` [queries, heads, value_dim] and, where not empty, natural LSE into `lse` [queries,
  /// heads], learned sinks included. Throws std::invalid_argument on another shape.
  void finish(TensorView<float> out, std::span<float> lse = {}) const {
    check(out.tokens == queries, "out.tokens", out.tokens, queries);
    check(out.heads == heads, "out.heads", out.heads, heads);
    check(out.dim == value_dim, "out.dim", out.dim, value_dim);
    check(lse.empty() || lse.size() == max.size(), "lse.size", lse.size(), max.size());
    RowSink sinks;
    sinks.logits = logits;
    for (Index i = 0; i < queries * heads; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const float factor = sinks.factor(i % heads, Lanes(max[at]), Lanes(sum[at])).get(0);
      const float* from = values.data() + i * value_dim;
      float* to = out.row(i / heads, i % heads);
      for (Index d = 0; d < value_dim; ++d) to[d] = fma(from[d], factor, 0.f);
      if (!lse.empty())
        lse[at] =
            RowSink::log_sum_exp(static_cast<double>(max[at]), static_cast<double>(sum[at]), sinks.logit(i % heads));
    }
  }
};

namespace detail {
/// As merge, in place and without checks, into the rows [first_query, first_query + part.queries) of the total.
inline void merge_into(Partial& total, Index first_query, const Partial& part) {
  const auto dim = static_cast<std::size_t>(total.value_dim);
  for (std::size_t i = 0, t = static_cast<std::size_t>(first_query * total.heads); i < part.max.size(); ++i, ++t)
    merge_row(total.max[t], total.sum[t], &total.values[t * dim], part.max[i], part.sum[i], &part.values[i * dim],
              total.value_dim);
}

/// Normalised rows to an output of any element type. (A function of its own: inlined, g++ 12 warns of a loop that it
/// thinks endless.)
[[gnu::noinline]] inline void finish_into(const Partial& total, const OutputTensor& out, std::span<float> lse) {
  std::vector<float> rows(total.values.size());
  const TensorView<float> finished = view(rows, total.queries, total.heads, total.value_dim);
  total.finish(finished, lse);
  for (Index t = 0; t < total.queries; ++t)
    for (Index h = 0; h < total.heads; ++h) out.write(t, h, finished.row(t, h));
}
}  // namespace detail

/// The state over the keys of both. Associative and commutative up to rounding, with an exact identity. Throws
/// std::invalid_argument when the shapes differ, or learned sinks that both have. O(queries · heads · value_dim).
inline Partial merge(Partial a, const Partial& b) {
  check(a.queries == b.queries, "merge.queries", b.queries, a.queries);
  check(a.heads == b.heads, "merge.heads", b.heads, a.heads);
  check(a.value_dim == b.value_dim, "merge.value_dim", b.value_dim, a.value_dim);
  if (a.logits.empty()) a.logits = b.logits;
  check(b.logits.empty() || a.logits == b.logits, "merge.logits", "other sinks", "the same in both");
  detail::merge_into(a, 0, b);
  return a;
}

}  // namespace longspan::inline LONGSPAN_ISA
