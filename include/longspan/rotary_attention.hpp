#pragma once
// Attention over keys that are stored as the model made them, without positions, and rotated as they are read. The
// cache then never has to be rewritten: not when dynamic NTK changes the frequencies, nor when tokens are evicted or
// move, nor where a key's position depends on the query (rotary_schemes.hpp).

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <longspan/attention.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/rotary_schemes.hpp>
#include <longspan/rotated_keys.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Attention whose queries and keys are rotated as they are read; made by rotary_attention(…).
///
/// Calls are those of Attention (attention.hpp) with keys and queries that are not rotated yet; query i and key j are
/// rotated to where they stand, as first_query and first_key say, or to where the scheme places them. Not for ragged
/// batches. Bits: those of attention over float keys rotated by rope.blocks(); where kernels multiply bf16 (elements of
/// bf16 or eight bits with AVX512_BF16), rounded to that. So they don't depend on kernel, threads, pages or chunks;
/// with a scheme of several regions the states of its regions merge in their order. Memory: the rotated queries; where
/// there are more than a few, as many rotated keys (2048 at least), and for more keys than those, or with several
/// regions, three partial results. Not of i8 or i4, whose products are of whole numbers. Throws std::invalid_argument
/// as Attention, and for positions below 0 or beyond kRopeEnd, before anything is written.
template <class Engine, PairLayout Layout, class Regions>
class RotaryAttention {
 public:
  /// `Regions` is a tuple of detail::RegionAttention.
  RotaryAttention(const Rope<Layout>& rope, Regions regions) : angles_(rope), regions_(std::move(regions)) {}

  template <class K = const float, class V = const float>
  void operator()(QueryTensor q, TensorView<K> keys, TensorView<V> values, OutputTensor out,
                  const Options& options = {}) const {
    (*this)(q, Contiguous(keys, values), out, options);
  }
  template <KeyValueSource Source>
  void operator()(QueryTensor q, const Source& source, OutputTensor out, const Options& options = {}) const {
    static_assert(!kScaled<typename Source::Element>,
                  "rotated keys are no whole numbers: rotate before i8 or i4 are stored");
    Options part = options;
    part.first_query = options.first_query.value_or(options.first_key + source.keys() - q.tokens);
    check_call(q, source, out, part);
    Leased<std::vector<float>, RotaryAttention> queries;
    at_least(*queries, q.tokens * q.heads * q.dim);
    const TensorView<float> rows{queries->data(), q.tokens, q.heads, q.dim, q.heads * q.dim, q.dim};
    const bool in_rows = source.keys() > 0 && source.run(0, 0).dim_stride == 1;

    // Where many tasks read a key, it is rotated once, before the call; part by part, if all keys take more memory than
    // the queries. Parts end where the kernels' splits do, so a row's states merge as they do inside of one call.
    const bool once = q.tokens > kLanes;
    const bool parts = once && source.keys() * source.kv_heads() > q.tokens * q.heads;
    const Interval keys{options.first_key, options.first_key + source.keys()};
    const Interval places{*part.first_query, *part.first_query + q.tokens};
    const auto end_of = [&](Index key) { return parts ? std::min((key / kSplit + 1) * kSplit, keys.end) : keys.end; };
    const auto attend_to = [&](const auto& one, const auto& attend) {
      rotate_queries(q, one.region.query, *part.first_query, rows, options.executor);
      const detail::KeyAngles<Layout> angles(angles_, one.region.key, in_rows);
      Leased<Scratch, RotaryAttention> table;
      Index key = keys.begin;
      do {  // once if there are no keys
        const Interval some{key - keys.begin, end_of(key) - keys.begin};
        if (parts && next_some(one.region.mask, places, key).begin >= end_of(key)) continue;
        part.first_key = key;
        detail::RotatedKeys<Source, Layout> rotated(source, some, angles, key);
        if (once) rotated.make_table(table->floats(rotated.table_floats()), options.executor);
        attend(rotated);
      } while ((key = end_of(key)) < keys.end);
    };
    if (kRegions == 1 && end_of(keys.begin) == keys.end) {
      const auto& one = std::get<0>(regions_);
      return attend_to(one, [&](const auto& rotated) { one.attend(rows, rotated, out, part); });
    }
    part.lse = {};
    Partial total(q.tokens, q.heads, source.value_dim());
    each_region([&](const auto& one) {
      Partial region(q.tokens, q.heads, source.value_dim());
      attend_to(one,
                [&](const auto& rotated) { detail::merge_into(region, 0, one.attend.partial(rows, rotated, part)); });
      detail::merge_into(total, 0, region);
    });
    detail::finish_into(total, out, options.lse);
  }

 private:
  static constexpr std::size_t kRegions = std::tuple_size_v<Regions>;
  static constexpr Index kTask = 64;  // tokens

  template <class T>
  static void at_least(std::vector<T>& memory, Index size) {
    if (std::ssize(memory) < size) memory.resize(static_cast<std::size_t>(size));
  }

  template <class F>
  void each_region(F&& f) const {
    std::apply([&](const auto&... one) { (f(one), ...); }, regions_);
  }

  template <class Source>
  void check_call(QueryTensor q, const Source& source, OutputTensor out, const Options& options) const {
    const Interval places{*options.first_query, *options.first_query + q.tokens};
    check(options.cumulative_queries.empty() && options.cumulative_keys.empty(), "options.cumulative_queries",
          "a ragged batch", "one sequence");
    check(q.dim >= angles_.blocks().rotary_dim(), "q.dim", q.dim, AtLeast{angles_.blocks().rotary_dim()});
    check(places.begin >= 0 && places.end <= kRopeEnd, "options.first_query", places.begin, "queries within [0, 2^40)");
    check(options.first_key >= 0 && options.first_key + source.keys() <= kRopeEnd, "options.first_key",
          options.first_key, "keys within [0, 2^40)");
    check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
    check(out.heads == q.heads, "out.heads", out.heads, q.heads);
    check(out.dim == source.value_dim(), "out.dim", out.dim, source.value_dim());
    each_region([&](const auto& one) {  // what Attention itself asks of a call
      detail::Batch(q.shape(), std::span<const Source>(&source, 1), options, one.region.mask, one.scores, {});
    });
  }

  void rotate_queries(QueryTensor q, const PositionMap& map, Index first, TensorView<float> rows,
                      const ExecutorRef& executor) const {
    executor.for_each(ceil_div(q.tokens, kTask), [&](Index task, Index) {
      const Interval some{task * kTask, std::min((task + 1) * kTask, q.tokens)};
      Index at[kTask];
      for (Index t = some.begin; t < some.end; ++t) {
        at[t - some.begin] = map(first + t);
        for (Index h = 0; h < q.heads; ++h) q.read(t, h, 1.f, rows.row(t, h));
      }
      angles_.blocks().rotate(rows.slice(some), std::span<const Index>(at, static_cast<std::size_t>(some.size())));
    });
  }

  BlockAngles<Layout> angles_;
  Regions regions_;
};

namespace detail {
/// A region of the scheme and the caller's mask, and attention over both.
template <class M, class Scores, class Attend>
struct RegionAttention {
  Region<M> region;
  Scores scores;
  Attend attend;
};

template <class Engine, class M, class... Policies>
auto region_attention(const Region<M>& region, const Policies&... policies) {
  const auto masks = std::tuple_cat(mask_of(policies)...);
  const auto functions = std::tuple_cat(score_of(policies)...);
  const auto over = [&](const auto& mask) {
    auto scores = std::apply([](const auto&... f) { return ScoreChain(f...); }, functions);
    auto attend = std::apply([&](const auto&... f) { return attention<Engine>(mask, f...); }, functions);
    using Both = std::decay_t<decltype(mask)>;
    return RegionAttention<Both, decltype(scores), decltype(attend)>{
        {mask, region.query, region.key}, std::move(scores), std::move(attend)};
  };
  if constexpr (std::tuple_size_v<decltype(masks)> == 0)
    return over(region.mask);
  else if constexpr (std::is_same_v<M, Full>)
    return over(std::get<0>(masks));
  else
    return over(std::get<0>(masks) & region.mask);
}
}  // namespace detail

/// Attention by a rotary embedding, a scheme that places tokens (rotary_schemes.hpp) and the policies of attention(…):
/// at most one mask, and any number of score functions. Masks and score functions see true positions. Throws what the
/// scheme throws. For dynamic NTK and LongRoPE give it the Rope of the present length; it costs about a 64-token
/// rotation to make.
template <class Engine = Flash, PairLayout Layout, class Scheme, class... Policies>
auto rotary_attention(const Rope<Layout>& rope, const Scheme& scheme, const Policies&... policies) {
  static_assert((... && (Mask<Policies> || ScoreFunction<Policies>)),
                "rotary_attention(rope, scheme, policies…): a policy is a mask or a score function");
  static_assert((0 + ... + (Mask<Policies> ? 1 : 0)) <= 1, "two masks: write a & b, or a | b");
  auto regions = std::apply(
      [&](const auto&... region) { return std::tuple(detail::region_attention<Engine>(region, policies...)...); },
      scheme.regions());
  return RotaryAttention<Engine, Layout, decltype(regions)>(rope, std::move(regions));
}

}  // namespace longspan::inline LONGSPAN_ISA
