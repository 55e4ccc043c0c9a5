// The mass that keys get, against the definition in double; and attention over what eviction left, against attention
// over everything under the mask that says the same.

#include <gtest/gtest.h>

#include <longspan/attention_mass.hpp>
#include <longspan/exec/thread_pool.hpp>
#include <longspan/kv/eviction.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/rotary_attention.hpp>
#include <longspan/score/scores.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

constexpr Index kHeads = 4, kKvHeads = 2, kDim = 16;

/// Rows of a text of `tokens` tokens; head_dim and value_dim are the same.
struct Text {
  Index tokens;
  std::vector<float> q, k, v;

  explicit Text(Index n, std::uint64_t seed = 21) : tokens(n) {
    Random random(seed);
    q = random.gaussian(n * kHeads * kDim);
    k = random.gaussian(n * kKvHeads * kDim);
    v = random.gaussian(n * kKvHeads * kDim);
  }
  auto queries(Interval t) const { return view(q, tokens, kHeads, kDim).slice(t); }
  auto keys(Interval t) const { return view(k, tokens, kKvHeads, kDim).slice(t); }
  auto values(Interval t) const { return view(v, tokens, kKvHeads, kDim).slice(t); }
  Contiguous<float> source() const { return {keys({0, tokens}), values({0, tokens})}; }

  /// [queries, heads, dim] and LSE of attention at these tokens.
  template <class Attend, class Source>
  std::pair<std::vector<float>, std::vector<float>> attend(const Attend& by, Interval t, const Source& from,
                                                           Options options = {}) const {
    std::vector<float> out(static_cast<std::size_t>(t.size() * kHeads * kDim)), lse(out.size() / kDim);
    options.lse = lse;
    by(queries(t), from, view(out, t.size(), kHeads, kDim), options);
    return {std::move(out), std::move(lse)};
  }
};

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }
::testing::AssertionResult near(const std::vector<float>& got, const std::vector<float>& wanted, double tolerance) {
  return longspan::testing::near(std::span<const float>(got), std::span<const double>(doubles(wanted)), tolerance);
}

PagedCache<float> cache_of(Index tokens, Index page_size = 16) {
  return PagedCache<float>(
      {.pages = ceil_div(tokens, page_size), .page_size = page_size, .kv_heads = kKvHeads, .head_dim = kDim});
}

// ---- mass -----------------------------------------------------------------------------------------------------------

/// Weights in double: [kv_heads, keys], summed over the queries at [first, tokens) and all heads, or those chosen.
template <class Sees, class Score>
std::vector<double> mass_by_definition(const Text& t, Index first, const MassRows& rows, const Sees& sees,
                                       const Score& score) {
  std::vector<double> mass(static_cast<std::size_t>(kKvHeads * t.tokens));
  const auto add = [&](Index row, Index head) {
    const Index query = first + row, kv_head = head / (kHeads / kKvHeads);
    std::vector<double> weight(static_cast<std::size_t>(t.tokens));
    double sum = 0;
    for (Index k = 0; k < t.tokens; ++k) {
      if (!sees(query, k)) continue;
      double dot = 0;
      for (Index d = 0; d < kDim; ++d)
        dot += static_cast<double>(t.queries({query, query + 1}).row(0, head)[d]) *
               static_cast<double>(t.keys({k, k + 1}).row(0, kv_head)[d]);
      sum += weight[static_cast<std::size_t>(k)] = std::exp(score(dot / std::sqrt(double{kDim}), query, k, head));
    }
    for (std::size_t k = 0; k < weight.size() && sum > 0; ++k)
      mass[static_cast<std::size_t>(kv_head * t.tokens) + k] += weight[k] / sum;
  };
  for (Index row = 0; row < t.tokens - first; ++row)
    for (Index head = 0; head < kHeads; ++head) {
      const auto times = [](std::span<const Index> chosen, Index i) {
        return chosen.empty() ? 1 : std::count(chosen.begin(), chosen.end(), i);
      };
      for (Index n = times(rows.queries, row) * times(rows.heads, head); n > 0; --n) add(row, head);
    }
  return mass;
}
::testing::AssertionResult near_mass(const std::vector<double>& got, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (!(std::abs(got[i] - wanted[i]) <= 1e-5 * std::max(1.0, wanted[i])))
      return ::testing::AssertionFailure() << '[' << i << "]: got " << got[i] << ", expected " << wanted[i];
  return ::testing::AssertionSuccess();
}

TEST(AttentionMass, IsTheDefinitions) {
  const Text t(150);
  const auto sees = [](Index q, Index k) { return k <= q && (q - k < 40 || k < 3); };
  const auto mask = Causal{} & (Window{40} | Sinks{3});
  const Alibi alibi(kHeads);
  const auto plain = [](double s, Index, Index, Index) { return s; };
  const auto biased = [&](double s, Index q, Index k, Index head) {
    return alibi(s, ExactPosition{q}, ExactPosition{k}, head);
  };
  const Index queries[] = {3, 69, 4, 4}, heads[] = {3, 0};
  for (const Index first : {0, 80})
    for (const MassRows& rows :
         {MassRows{}, MassRows{.queries = queries}, MassRows{.queries = queries, .heads = heads}}) {
      const auto at = [&](Interval i) { return t.queries(i); };
      const Interval i{first, t.tokens};
      const auto lse = t.attend(attention<Naive>(mask), i, t.source()).second;
      const auto lse_biased = t.attend(attention<Naive>(mask, alibi), i, t.source()).second;
      std::vector<double> mass(static_cast<std::size_t>(kKvHeads * t.tokens)), other = mass;
      attention_mass(at(i), t.source(), lse, mass, rows, {}, mask);
      EXPECT_TRUE(near_mass(mass, mass_by_definition(t, first, rows, sees, plain))) << first;
      attention_mass(at(i), t.source(), lse_biased, other, rows, {}, alibi, mask);
      EXPECT_TRUE(near_mass(other, mass_by_definition(t, first, rows, sees, biased))) << first;
    }
}

TEST(AttentionMass, SumsToTheRowsOfFlash) {
  const Text t(300);
  PagedCache<float> cache = cache_of(300, 20);
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, t.keys({0, 300}), t.values({0, 300})), Outcome::kDone);
  const Interval last{211, 300};
  const auto lse = t.attend(attention(Causal{}), last, cache.view(id)).second;
  std::vector<double> mass(kKvHeads * 300), by_three = mass, contiguous = mass;
  attention_mass(t.queries(last), cache.view(id), lse, mass, {}, {}, Causal{});
  for (Index h : {0, 1}) {
    const double sum = std::accumulate(mass.begin() + h * 300, mass.begin() + (h + 1) * 300, 0.0);
    EXPECT_TRUE(std::abs(sum - 89 * 2) <= 89 * 2 * 1e-6) << sum;  // 89 queries, two heads each
  }
  ThreadPool three(3);
  attention_mass(t.queries(last), cache.view(id), lse, by_three, {}, {.executor = three}, Causal{});
  EXPECT_EQ(by_three, mass);
  attention_mass(t.queries(last), t.source(), lse, contiguous, {}, {}, Causal{});
  EXPECT_EQ(contiguous, mass);
  attention_mass(t.queries(last), t.source(), lse, contiguous, {}, {}, Causal{});  // adds
  for (std::size_t k = 0; k < mass.size(); ++k) EXPECT_TRUE(std::abs(contiguous[k] - 2 * mass[k]) <= 1e-12 * mass[k]);
}

TEST(AttentionMass, ARowThatSeesNothingGivesNothing) {
  const Text t(20);
  const auto mask = Causal{} & !Window{5};  // the first five see nothing
  const auto lse = t.attend(attention<Naive>(mask), {0, 20}, t.source()).second;
  std::vector<double> mass(kKvHeads * 20);
  attention_mass(t.queries({0, 20}), t.source(), lse, mass, {}, {}, mask);
  EXPECT_TRUE(std::abs(std::accumulate(mass.begin(), mass.end(), 0.0) - 15 * kHeads) <= 1e-4);
}

TEST(AttentionMass, RefusesBadInput) {
  const Text t(10);
  const std::vector<float> lse(40), short_lse(39);
  std::vector<double> mass(20), short_mass(19);
  const Index rows[] = {0, 10}, heads[] = {-1}, lengths[] = {0, 10};
  const auto call = [&](const std::vector<float>& l, std::vector<double>& m, const MassRows& r, const Options& o) {
    attention_mass(t.queries({0, 10}), t.source(), l, m, r, o, Causal{});
  };
  EXPECT_TRUE(refused([&] { call(short_lse, mass, {}, {}); }, "lse.size", 39, 40));
  EXPECT_TRUE(refused([&] { call(lse, short_mass, {}, {}); }, "mass.size", 19, 20));
  EXPECT_TRUE(refused([&] { call(lse, mass, {.queries = rows}, {}); }, "rows.queries", 10, "within [0, 10)"));
  EXPECT_TRUE(refused([&] { call(lse, mass, {.heads = heads}, {}); }, "rows.heads", -1, "within [0, 4)"));
  EXPECT_TRUE(refused([&] { call(lse, mass, {}, {.scale = 0.f}); }, "options.scale", 0, "finite and > 0"));
  EXPECT_TRUE(refused([&] { call(lse, mass, {}, {.cumulative_queries = lengths}); }, "options.cumulative_queries",
                      "a ragged batch", "one sequence"));
  EXPECT_EQ(mass, std::vector<double>(20));
}

// ---- attention over what is left ------------------------------------------------------------------------------------

constexpr Index kSinks = 3, kRecent = 40;

TEST(EvictedAttention, SinksAndRecentTokensAreTheMask) {
  const Text t(200);
  const auto mask = Causal{} & (Sinks{kSinks} | Window{kRecent});
  const Alibi alibi(kHeads);
  const auto attend = attention(mask);
  const auto biased = attention(mask, alibi);
  PagedCache<float> cache = cache_of(80);
  const SequenceId id = cache.open();
  KeptTokens kept_tokens;
  for (Index at = 0; at < t.tokens; at += 8) {  // what is evicted is what no query to come sees
    const Interval chunk{at, at + 8};
    ASSERT_EQ(cache.append(id, t.keys(chunk), t.values(chunk)), Outcome::kDone);
    kept_tokens.append(8);
    const PagedView<float> left = cache.view(id);
    EXPECT_TRUE(
        near(t.attend(attend, chunk, left).first, t.attend(attend, chunk, t.source(), {.first_query = at}).first, 2e-6))
        << at;
    // scores that look at distances: by the original positions
    Partial whole(8, kHeads, kDim);
    kept_tokens.for_each_run([&](Interval keys, Index first) {
      whole = merge(whole, biased.partial(t.queries(chunk), left.part(keys), {.first_query = at, .first_key = first}));
    });
    std::vector<float> out(8 * kHeads * kDim);
    whole.finish(view(out, 8, kHeads, kDim));
    EXPECT_TRUE(near(out, t.attend(biased, chunk, t.source(), {.first_query = at}).first, 2e-6)) << at;
    const auto kept = evict_tokens(cache, id, StreamingLlm{kSinks, kRecent});
    ASSERT_TRUE(kept);
    kept_tokens.keep(*kept);
    EXPECT_EQ(cache.length(id), std::min(at + 8, kSinks + kRecent));
  }
}

TEST(EvictedAttention, PagesTooAndTheMaskHidesTheRestOfThem) {
  const Text t(200);
  const auto attend = attention(Causal{} & (Sinks{kSinks} | Window{kRecent}));
  PagedCache<float> cache = cache_of(80);
  const SequenceId id = cache.open();
  for (Index at = 0; at < t.tokens; at += 8) {
    const Interval chunk{at, at + 8};
    ASSERT_EQ(cache.append(id, t.keys(chunk), t.values(chunk)), Outcome::kDone);
    EXPECT_TRUE(near(t.attend(attend, chunk, cache.view(id)).first,
                     t.attend(attend, chunk, t.source(), {.first_query = at}).first, 2e-6))
        << at;
    (void)evict_pages(cache, id, StreamingLlm{kSinks, kRecent});
    EXPECT_LE(cache.length(id), 16 + kRecent + 16);
  }
}

/// What CachePositions says of one query and the keys of the whole text: rotated to where they are in a cache that
/// holds sinks and recent keys and nothing else, one by one.
std::vector<float> at_cache_positions(const Text& t, const Rope<HalfSplit>& rope, Index query) {
  std::vector<Index> seen;
  for (Index k = 0; k <= query; ++k)
    if (k < kSinks || k > query - kRecent) seen.push_back(k);
  const Index n = std::ssize(seen);
  std::vector<float> q(t.queries({query, query + 1}).data, t.queries({query, query + 1}).data + kHeads * kDim), k, v;
  for (const Index s : seen) {
    k.insert(k.end(), t.keys({s, s + 1}).data, t.keys({s, s + 1}).data + kKvHeads * kDim);
    v.insert(v.end(), t.values({s, s + 1}).data, t.values({s, s + 1}).data + kKvHeads * kDim);
  }
  rope.rotate(view(q, 1, kHeads, kDim), n - 1);
  rope.rotate(view(k, n, kKvHeads, kDim), 0);
  std::vector<float> out(kHeads * kDim);
  attention<Naive>()(view(q, 1, kHeads, kDim), view(k, n, kKvHeads, kDim), view(v, n, kKvHeads, kDim),
                     view(out, 1, kHeads, kDim));
  return out;
}

TEST(EvictedAttention, CachePositionsAreThoseOfACacheOfSinksAndRecent) {
  const Text t(200);
  const Rope<HalfSplit> rope(kDim, 10000);
  const auto attend = rotary_attention(rope, CachePositions{kSinks, kRecent});
  const std::vector<float> whole = t.attend(attend, {0, t.tokens}, t.source()).first;  // nothing evicted
  PagedCache<float> by_tokens = cache_of(80), by_pages = cache_of(80);
  const SequenceId a = by_tokens.open(), b = by_pages.open();
  for (Index at = 0; at < t.tokens; at += 8) {
    const Interval chunk{at, at + 8};
    std::vector<float> expected;
    for (Index i = at; i < at + 8; ++i) {
      const std::vector<float> row = at_cache_positions(t, rope, i);
      expected.insert(expected.end(), row.begin(), row.end());
    }
    ASSERT_EQ(by_tokens.append(a, t.keys(chunk), t.values(chunk)), Outcome::kDone);
    ASSERT_EQ(by_pages.append(b, t.keys(chunk), t.values(chunk)), Outcome::kDone);
    const auto begin = whole.begin() + at * kHeads * kDim;
    EXPECT_TRUE(near({begin, begin + 8 * kHeads * kDim}, expected, 4e-6)) << at;
    EXPECT_TRUE(near(t.attend(attend, chunk, by_tokens.view(a)).first, expected, 4e-6)) << at;
    EXPECT_TRUE(near(t.attend(attend, chunk, by_pages.view(b)).first, expected, 4e-6)) << at;
    ASSERT_TRUE(evict_tokens(by_tokens, a, StreamingLlm{kSinks, kRecent}));
    (void)evict_pages(by_pages, b, StreamingLlm{kSinks, kRecent});
  }
  EXPECT_TRUE(refused([] { (void)CachePositions{-1, 4}.regions(); }, "CachePositions.sinks", -1, ">= 0"));
  EXPECT_TRUE(refused([] { (void)CachePositions{1, 0}.regions(); }, "CachePositions.recent", 0, ">= 1"));
}

TEST(EvictedAttention, HeavyHittersByHeadLoseTheLeastMass) {
  const Text t(120);
  PagedCache<float> cache = cache_of(256);  // room for a fork that copies
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, t.keys({0, 120}), t.values({0, 120})), Outcome::kDone);
  const auto lse = t.attend(attention(Causal{}), {0, 120}, t.source()).second;
  std::vector<double> mass(kKvHeads * 120);
  attention_mass(t.queries({0, 120}), cache.view(id), lse, mass, {}, {}, Causal{});
  const double all = std::accumulate(mass.begin(), mass.end(), 0.0);
  const auto left = [&](const auto& policy, bool by_head) {
    const SequenceId copy = cache.fork(id);
    std::vector<double> rest = mass;
    const auto kept = evict_tokens(cache, copy, policy, {.mass = mass, .by_head = by_head});
    cache.close(copy);
    if (!kept) return -1.0;
    compact_mass(rest, kKvHeads, *kept, by_head);
    return std::accumulate(rest.begin(), rest.end(), 0.0) / all;
  };
  const double common = left(HeavyHitters{40, 8}, false), own = left(HeavyHitters{40, 8}, true),
               recent = left(StreamingLlm{0, 48}, false);
  EXPECT_GE(own, common);
  EXPECT_GT(common, recent);
}

}  // namespace
}  // namespace longspan::testing
