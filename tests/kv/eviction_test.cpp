// Which tokens eviction policies keep, by brute force from their definitions; and that cache, positions and mass are
// thinned out in step. What attention makes of it: eviction_attention_test.cpp.

#include <longspan/kv/eviction.hpp>
#include <support/numbered.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

/// A mass of few different values, so that many are equal.
std::vector<double> coarse_mass(Random& random, Index size) {
  std::vector<double> mass;
  for (; size > 0; --size) mass.push_back(static_cast<double>(random.between(0, 4)) / 4);
  return mass;
}

/// The keys at or behind `first` that stay anyway, and of those before it the `keep` that `precedes` puts first.
template <class Precedes>
Numbers by_definition(Index keys, Index first, Index keep, const Precedes& precedes) {
  Numbers kept;
  for (Index k = 0; k < keys; ++k) {
    Index rank = 0;
    for (Index other = 0; other < first; ++other) rank += other != k && precedes(other, k);
    if (k >= first || rank < keep) kept.push_back(k);
  }
  return kept;
}

TEST(Eviction, StreamingLlmKeepsSinksAndRecent) {
  for (Index keys = 0; keys <= 20; ++keys)
    for (Index sinks = 0; sinks <= 5; ++sinks)
      for (Index recent = 1; recent <= 8; ++recent) {
        Numbers expected;
        for (Index k = 0; k < keys; ++k)
          if (k < sinks || k >= keys - recent) expected.push_back(k);
        EXPECT_EQ((StreamingLlm{sinks, recent}(keys)), expected) << keys << ' ' << sinks << ' ' << recent;
      }
}

TEST(Eviction, HeavyHittersKeepTheMostMass) {
  Random random(11);
  for (int round = 0; round < 500; ++round) {
    const Index keys = random.between(0, 24), keep = random.between(0, 8), recent = random.between(0, 8);
    const std::vector<double> mass = coarse_mass(random, keys);
    const auto of = [&](Index k) { return mass[static_cast<std::size_t>(k)]; };
    const auto precedes = [&](Index a, Index b) { return of(a) > of(b) || (of(a) == of(b) && a < b); };
    EXPECT_EQ((HeavyHitters{keep, recent}(keys, mass)),
              by_definition(keys, std::max<Index>(0, keys - recent), keep, precedes))
        << round << ": " << keys << ' ' << keep << ' ' << recent;
  }
}

TEST(Eviction, SnapKvKeepsWhatStandsBesideTheMostMass) {
  Random random(12);
  for (int round = 0; round < 500; ++round) {
    const Index keys = random.between(0, 30), keep = random.between(0, 8), window = random.between(1, 6),
                pool = 2 * random.between(0, 4) + 1, prefix = std::max<Index>(0, keys - window);
    const std::vector<double> mass = coarse_mass(random, keys);
    const auto of = [&](Index k) { return mass[static_cast<std::size_t>(k)]; };
    const auto around = [&](Index k) {
      double most = 0;
      for (Index j = 0; j < prefix; ++j)
        if (std::abs(j - k) <= pool / 2) most = std::max(most, of(j));
      return most;
    };
    const auto precedes = [&](Index a, Index b) {
      return std::tuple(-around(a), -of(a), a) < std::tuple(-around(b), -of(b), b);
    };
    EXPECT_EQ((SnapKv{keep, window, pool}(keys, mass)), by_definition(keys, prefix, keep, precedes))
        << round << ": " << keys << ' ' << keep << ' ' << window << ' ' << pool;
  }
}

constexpr PagedShape kShape{.pages = 40, .page_size = 4, .kv_heads = 2, .head_dim = 3, .value_dim = 2, .layers = 2};

/// One layer of a sequence, whose tokens have their positions as numbers, and what is kept in step with it.
struct Layer {
  Index layer;
  KeptTokens tokens{2};
  std::vector<double> mass = {};  ///< [kv_heads, keys]: head · 1000 + position

  void is_in_step(const PagedCache<float>& cache, SequenceId id) const {
    ASSERT_EQ(tokens.keys(), cache.length(id, layer));
    ASSERT_EQ(std::ssize(mass), 2 * tokens.keys());
    for (Index h : {0, 1}) {
      const Numbers positions(tokens.positions(h).begin(), tokens.positions(h).end());
      EXPECT_EQ(read_head(cache.view(id, layer), h), positions);
      for (std::size_t j = 0; j < positions.size(); ++j)
        EXPECT_EQ(mass[static_cast<std::size_t>(h) * positions.size() + j],
                  static_cast<double>(h * 1000 + positions[j]));
      Numbers from_runs;
      tokens.for_each_run(
          [&](Interval keys, Index first) {
            EXPECT_EQ(keys.begin, std::ssize(from_runs));
            for (Index j = 0; j < keys.size(); ++j) from_runs.push_back(first + j);
          },
          h);
      EXPECT_EQ(from_runs, positions);
    }
  }
  void append_some(PagedCache<float>& cache, SequenceId id, Index count) {
    ASSERT_EQ(append(cache, id, numbers(tokens.next(), tokens.next() + count), layer), Outcome::kDone);
    tokens.append(count);
    renew_mass();
  }
  void renew_mass() {
    mass.clear();
    for (Index h : {0, 1})
      for (const Index p : tokens.positions(h)) mass.push_back(static_cast<double>(h * 1000 + p));
  }
  void thin_out(const std::vector<Index>& kept, bool by_head) {
    tokens.keep(kept, by_head);
    compact_mass(mass, 2, kept, by_head);
  }
};

TEST(Eviction, PositionsAndMassStayInStep) {
  Random random(13);
  for (int round = 0; round < 20; ++round) {
    PagedCache<float> cache(kShape);
    const SequenceId id = cache.open();
    Layer layers[] = {{0}, {1}};
    for (int step = 0; step < 30; ++step) {
      Layer& layer = layers[random.between(0, 1)];
      const Index keys = layer.tokens.keys();
      if (const Index action = random.between(0, 3); action == 0 || keys == 0) {
        if (keys < 60) layer.append_some(cache, id, random.between(1, 9));
      } else if (action == 1) {  // an arbitrary choice for each head, of a size that is common
        const bool by_head = random.chance(0.5);
        const Index count = random.between(0, keys);
        const auto policy = [&](Index n, std::span<const double>) {
          Numbers all = numbers(0, n);
          while (std::ssize(all) > count) all.erase(all.begin() + random.between(0, std::ssize(all) - 1));
          return all;
        };
        const auto kept = evict_tokens(cache, id, policy, {.layer = layer.layer, .by_head = by_head});
        ASSERT_TRUE(kept);
        layer.thin_out(*kept, by_head);
      } else if (action == 2) {
        const bool by_head = random.chance(0.5);
        const std::vector<double> mass = coarse_mass(random, 2 * keys);
        const HeavyHitters policy{random.between(0, 10), random.between(1, 10)};
        const Numbers before = read_head(cache.view(id, layer.layer), 1);
        const auto kept = evict_tokens(cache, id, policy, {.layer = layer.layer, .mass = mass, .by_head = by_head});
        ASSERT_TRUE(kept);
        std::vector<double> of_head(mass.begin() + keys, mass.end());  // of head 1
        for (std::size_t k = 0; !by_head && k < of_head.size(); ++k) of_head[k] += mass[k];
        Numbers expected;
        for (const Index k : policy(keys, of_head)) expected.push_back(before[static_cast<std::size_t>(k)]);
        EXPECT_EQ(read_head(cache.view(id, layer.layer), 1), expected);
        layer.thin_out(*kept, by_head);
      } else {
        const Index left = std::max<Index>(1, keys - random.between(0, 3));
        if (left < keys) {
          const auto at = static_cast<std::size_t>(left);
          if (layer.tokens.positions(0)[at] != layer.tokens.positions(1)[at]) continue;
        }
        Layer& other = layers[1 - layer.layer];
        if (other.tokens.keys() > left) continue;  // both layers are rolled back
        cache.truncate(id, left);
        const Index next = left < keys ? layer.tokens.positions()[static_cast<std::size_t>(left)] : layer.tokens.next();
        layer.tokens.truncate(left);
        EXPECT_EQ(layer.tokens.next(), next);
        layer.renew_mass();
      }
      for (const Layer& l : layers) l.is_in_step(cache, id);
      if (HasFatalFailure()) FAIL() << "round " << round << " step " << step;
    }
  }
}

TEST(Eviction, PagesGoThatHoldNothingKept) {
  Random random(14);
  for (int round = 0; round < 100; ++round) {
    PagedCache<float> cache(kShape);
    const SequenceId id = cache.open();
    const Index keys = random.between(0, 60);
    for (Index layer : {0, 1}) ASSERT_EQ(append(cache, id, numbers(0, keys), layer), Outcome::kDone);
    Numbers chosen, expected;
    for (Index k = 0; k < keys; ++k)
      if (random.chance(0.15)) chosen.push_back(k);
    for (Index k = 0; k < keys; ++k) {
      bool stays = k / 4 * 4 + 4 > keys;  // the last page, which is not full
      for (const Index c : chosen) stays |= c / 4 == k / 4;
      if (stays) expected.push_back(k);
    }
    const auto kept = evict_pages(cache, id, [&](Index, std::span<const double>) { return chosen; });
    EXPECT_EQ(kept, expected);
    for (Index layer : {0, 1}) EXPECT_EQ(read(cache.view(id, layer)), expected);
    EXPECT_EQ(cache.free_pages(), 40 - ceil_div(std::ssize(expected), 4));
  }
}

TEST(Eviction, OfGroupsThatDifferWhatIsWholePagesInAll) {
  PagedCache<float> cache(std::vector<PagedShape>{{.pages = 20, .page_size = 4, .head_dim = 1},
                                                  {.pages = 20, .page_size = 6, .head_dim = 1}});
  const SequenceId id = cache.open();
  for (Index layer : {0, 1}) ASSERT_EQ(append(cache, id, numbers(0, 41), layer, layer), Outcome::kDone);
  Numbers expected = numbers(0, 12);
  for (const Index k : numbers(36, 41)) expected.push_back(k);
  EXPECT_EQ(evict_pages(cache, id, StreamingLlm{2, 5}), expected);
  for (Index layer : {0, 1}) EXPECT_EQ(read(cache.view(id, layer)), expected);
}

TEST(Eviction, TooFewPagesChangeNothing) {
  PagedCache<float> cache({.pages = 2, .page_size = 4, .head_dim = 1});
  const SequenceId a = cache.open();
  ASSERT_EQ(append(cache, a, numbers(0, 8)), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  EXPECT_FALSE(evict_tokens(cache, b, StreamingLlm{1, 3}));
  EXPECT_EQ(read(cache.view(b)), numbers(0, 8));
}

TEST(Eviction, RefusesBadInput) {
  const std::vector<double> mass{1, 2, 3, 4}, negative{1, -1, 3, 4}, nan{1, 2, NAN, 4};
  EXPECT_TRUE(refused([] { StreamingLlm{-1, 3}(4); }, "StreamingLlm.sinks", -1, ">= 0"));
  EXPECT_TRUE(refused([] { StreamingLlm{1, 0}(4); }, "StreamingLlm.recent", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { HeavyHitters{-1, 3}(4, mass); }, "HeavyHitters.keep", -1, ">= 0"));
  EXPECT_TRUE(refused([&] { HeavyHitters{1, -2}(4, mass); }, "HeavyHitters.recent", -2, ">= 0"));
  EXPECT_TRUE(refused([&] { HeavyHitters{1, 1}(5, mass); }, "mass.size", 4, 5));
  EXPECT_TRUE(refused([&] { HeavyHitters{1, 1}(4, negative); }, "mass", -1, "finite and >= 0"));
  EXPECT_TRUE(refused([&] { SnapKv{-1, 1, 1}(4, mass); }, "SnapKv.keep", -1, ">= 0"));
  EXPECT_TRUE(refused([&] { SnapKv{1, 0, 1}(4, mass); }, "SnapKv.window", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { SnapKv{1, 1, 2}(4, mass); }, "SnapKv.pool", 2, "odd and >= 1"));
  EXPECT_TRUE(refused([&] { SnapKv{1, 1, 1}(4, nan); }, "mass", NAN, "finite and >= 0"));
  EXPECT_TRUE(refused([&] { SnapKv{1, 1, 1}(3, mass); }, "mass.size", 4, 3));

  PagedCache<float> cache(kShape);
  const SequenceId id = cache.open();
  ASSERT_EQ(append(cache, id, numbers(0, 9), 0), Outcome::kDone);
  EXPECT_TRUE(refused(
      [&] {
        (void)evict_tokens(cache, id, HeavyHitters{1, 1}, {.mass = mass});
      },
      "eviction.mass.size", 4, 18));
  EXPECT_TRUE(refused([&] { (void)evict_tokens(cache, id, HeavyHitters{1, 1}); }, "mass.size", 0, 9));
  Index asked = 0;
  const auto uneven = [&](Index, std::span<const double>) { return numbers(0, ++asked); };
  EXPECT_TRUE(refused([&] { (void)evict_tokens(cache, id, uneven, {.by_head = true}); }, "policy.kept.size", 2, 1));
  EXPECT_TRUE(refused([&] { evict_pages(cache, id, StreamingLlm{1, 1}); }, "evict_pages.length", 0, 9));
  ASSERT_EQ(append(cache, id, numbers(0, 9), 1), Outcome::kDone);
  const auto keeps = [](Numbers kept) { return [kept](Index, std::span<const double>) { return kept; }; };
  EXPECT_TRUE(refused([&] { evict_pages(cache, id, keeps({3, 3})); }, "policy.kept", 3, ">= 4"));
  EXPECT_TRUE(refused([&] { evict_pages(cache, id, keeps({3, 9})); }, "policy.kept", 9, "within [0, 9)"));
  for (Index layer : {0, 1}) EXPECT_EQ(read(cache.view(id, layer)), numbers(0, 9));
  PagedCache<float> ring({.pages = 8, .page_size = 4, .head_dim = 1, .window = 4});
  EXPECT_TRUE(refused([&] { evict_pages(ring, ring.open(), StreamingLlm{1, 1}); }, "evict.window", 4, "0: no window"));

  std::vector<double> some = mass;
  const Numbers far{4}, three{0, 1, 2}, twice{1, 1};
  EXPECT_TRUE(refused([&] { compact_mass(some, 0, far); }, "compact_mass.kv_heads", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { compact_mass(some, 3, far); }, "compact_mass.mass.size", 4, "a multiple of 3"));
  EXPECT_TRUE(refused([&] { compact_mass(some, 1, far); }, "compact_mass.kept", 4, "within [0, 4)"));
  EXPECT_TRUE(refused([&] { compact_mass(some, 2, three, true); }, "compact_mass.kept.size", 3, "a multiple of 2"));
  EXPECT_EQ(some, mass);

  KeptTokens tokens(2);
  tokens.append(3);
  EXPECT_TRUE(refused([&] { KeptTokens(0); }, "KeptTokens.kv_heads", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { tokens.append(-1); }, "KeptTokens.tokens", -1, Below{kPositionEnd - 3}));
  EXPECT_TRUE(refused([&] { tokens.keep(far); }, "KeptTokens.kept", 4, "within [0, 3)"));
  EXPECT_TRUE(refused([&] { tokens.keep(twice); }, "KeptTokens.kept", 1, ">= 2"));
  EXPECT_TRUE(refused([&] { tokens.keep(three, true); }, "KeptTokens.kept.size", 3, "a multiple of 2"));
  EXPECT_TRUE(refused([&] { tokens.truncate(-1); }, "KeptTokens.keys", -1, ">= 0"));
  EXPECT_TRUE(refused([&] { (void)tokens.positions(2); }, "KeptTokens.kv_head", 2, "within [0, 2)"));
  const Numbers by_head{0, 1};
  tokens.keep(by_head, true);
  EXPECT_TRUE(refused([&] { tokens.truncate(0); }, "KeptTokens.keys", 0, "a key that is one token for all heads"));
  EXPECT_EQ(tokens.next(), 3);
}

}  // namespace
}  // namespace longspan::testing
