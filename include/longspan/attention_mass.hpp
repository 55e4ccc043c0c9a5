#pragma once
// How much attention each key got: what eviction policies choose by (kv/eviction.hpp). Flash attention never has the
// weights in memory, but it returns the LSE of each row, and with it one more pass over queries and keys makes them,
// exact and in no memory to speak of.

#include <longspan/attention.hpp>
#include <longspan/core/key_columns.hpp>
#include <longspan/core/scratch.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Which rows of a call count; empty: all. A row named twice counts twice.
struct MassRows {
  std::span<const Index> queries = {};  ///< of the call, 0 … queries − 1
  std::span<const Index> heads = {};    ///< of queries
};

namespace detail {

inline constexpr Index kMassBlock = 64;  // keys

/// Adds what the keys `keys` (of the source) get from the chosen rows of the heads that read `kv_head`.
template <class P>
void add_mass_of_block(const P& problem, Index kv_head, Interval keys, std::span<const float> lse, const MassRows& rows,
                       double* mass) {
  const Index dim = problem.source.head_dim(), heads = problem.q.heads;
  alignas(64) float weights[kMassBlock];
  Leased<Scratch, MassRows> scratch;
  float* const block = scratch->floats(dim * (kMassBlock + 1));  // [dim][keys]: lanes are keys
  float* const query = block + dim * kMassBlock;
  std::fill_n(block, dim * kMassBlock, 0.f);
  for (Index key = keys.begin; key < keys.end;) {
    const auto run = problem.source.run(kv_head, key);
    const Index size = std::min(run.size, keys.end - key);
    key_columns(run, size, dim, block + (key - keys.begin), kMassBlock);
    key += size;
  }

  const Interval at{problem.first_key + keys.begin, problem.first_key + keys.end};
  const auto add_row = [&](Index row, Index head) {
    const float of_row = lse[static_cast<std::size_t>(row * heads + head)];
    if (head / problem.group() != kv_head || of_row == kMinusInfinity) return;  // another's, or it saw nothing
    const Index position = problem.first_query + row;
    if (!(problem.mask.some({position, position + 1}, at.begin).begin < at.end)) return;
    problem.q.read(row, head, problem.score_factor(), query);
    const Position<float> from{position, 0.f};
    const Lanes denominator(of_row * kLog2e);
    constexpr int kVectors = static_cast<int>(kMassBlock) / kLanes;
    Lanes score[kVectors];  // as the kernels: one chain over d each
    unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA { score[v] = Lanes(0.f); });
    for (Index d = 0; d < dim; ++d) {
      const Lanes x(query[d]);
      const float* const of_keys = block + d * kMassBlock;
      unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA { score[v] = fma(x, load(of_keys + v * kLanes), score[v]); });
    }
    unroll<kVectors>([&](auto v) LONGSPAN_LAMBDA {
      const Position<Lanes> to{at.begin, iota() + Lanes(static_cast<float>(v * kLanes))};
      exp2(finish_scores(problem, score[v], from, to, head, false) - denominator).store_aligned(weights + v * kLanes);
    });
    for (Index j = 0; j < keys.size(); ++j) mass[j] += static_cast<double>(weights[j]);
  };
  const auto each = [](std::span<const Index> chosen, Index all, auto&& f) {
    for (const Index i : chosen) f(i);
    for (Index i = 0; i < all && chosen.empty(); ++i) f(i);
  };
  each(rows.queries, problem.q.tokens, [&](Index row) { each(rows.heads, heads, [&](Index h) { add_row(row, h); }); });
}

}  // namespace detail

/// Adds to mass, [kv_heads, keys], the attention that each key got from the chosen rows: Σ exp(score − LSE) over
/// queries and over the query heads that read the KV head. Rows of attention sum to 1 (less a learned sink's share), so
/// all of it sums to the number of rows that saw something. It adds, because heavy hitters are those of all steps:
/// begin with zeros.
///
/// q, source, options and policies are those of the call of Attention that made lse, [queries, heads] (options.lse
/// itself is not used): a mask that is the same for all heads, score functions, learned sinks. Exact but for rounding:
/// each weight within 2^-22 · max(1, |score|) relative, sums in double; where the kernels round queries to bf16, by
/// what that does to a score. The order of sums is fixed, so the bits do not depend on threads. O(queries · keys ·
/// head_dim) for what the mask shows of blocks of 64 keys; memory: a block of keys for each thread. Not for ragged
/// batches. Throws std::invalid_argument as Attention does, for lse and mass of another size, and for rows that are not
/// there, before anything is written.
template <KeyValueSource Source, class... Policies>
void attention_mass(QueryTensor q, const Source& source, std::span<const float> lse, std::span<double> mass,
                    const MassRows& rows, const Options& options, const Policies&... policies) {
  static_assert((... && (Mask<Policies> || ScoreFunction<Policies> || DenominatorLogits<Policies>)),
                "attention_mass: a policy is a mask, the same for all heads, or a score function");
  static_assert((0 + ... + (Mask<Policies> ? 1 : 0)) <= 1, "two masks: write a & b, or a | b");
  const auto masks = std::tuple_cat(detail::mask_of(policies)..., std::tuple<Full>());
  const auto scores =
      std::apply([](const auto&... f) { return ScoreChain(f...); }, std::tuple_cat(detail::score_of(policies)...));
  check(options.cumulative_queries.empty() && options.cumulative_keys.empty(), "options.cumulative_queries",
        "a ragged batch", "one sequence");
  detail::Batch batch(q.shape(), std::span<const Source>(&source, 1), options, std::get<0>(masks), scores, {});
  const Index keys = source.keys(), kv_heads = source.kv_heads();
  check(std::ssize(lse) == q.tokens * q.heads, "lse.size", lse.size(), q.tokens * q.heads);
  check(std::ssize(mass) == kv_heads * keys, "mass.size", mass.size(), kv_heads * keys);
  for (const Index row : rows.queries) check(row >= 0 && row < q.tokens, "rows.queries", row, Below{q.tokens});
  for (const Index head : rows.heads) check(head >= 0 && head < q.heads, "rows.heads", head, Below{q.heads});

  const auto problem = batch.with(q, {})[0];
  const Index blocks = ceil_div(keys, detail::kMassBlock);
  options.executor.for_each(kv_heads * blocks, [&](Index task, Index) {
    const Index kv_head = task / blocks, begin = task % blocks * detail::kMassBlock;
    detail::add_mass_of_block(problem, kv_head, {begin, std::min(begin + detail::kMassBlock, keys)}, lse, rows,
                              mass.data() + kv_head * keys + begin);
  });
}

}  // namespace longspan::inline LONGSPAN_ISA
