// The prefix index: what matches, what is shared, what goes first, and how long it takes.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <longspan/kv/prefix_index.hpp>
#include <support/numbered.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

using Tokens = std::vector<Token>;

struct Prefixes : ::testing::Test {
  PagedCache<float> cache{PagedShape{.pages = 40, .page_size = 4, .kv_heads = 2, .head_dim = 2}};
  PrefixIndex<float> index{cache};

  static Numbers content(const Tokens& tokens) { return Numbers(tokens.begin(), tokens.end()); }
  SequenceId filled(const Tokens& tokens) {
    const SequenceId id = cache.open();
    EXPECT_EQ(append(cache, id, content(tokens)), Outcome::kDone);
    return id;
  }
  static Tokens range(Token begin, Token end) {
    Tokens t;
    while (begin < end) t.push_back(begin++);
    return t;
  }
  static Tokens joined(Tokens a, const Tokens& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  Index matched(const Tokens& tokens) {
    const SequenceId id = index.match(tokens);
    const Index length = cache.length(id);
    EXPECT_EQ(read(cache.view(id)), content({tokens.begin(), tokens.begin() + length}));
    EXPECT_EQ(index.known(tokens), length);
    cache.close(id);
    return length;
  }
};

TEST_F(Prefixes, SharePagesAndCopyParts) {
  const SequenceId a = filled(range(0, 14));
  EXPECT_EQ(index.insert(range(0, 14), a), 12);
  EXPECT_EQ(index.pages(), 3);
  cache.close(a);
  EXPECT_EQ(cache.free_pages(), 37);
  const Tokens question = joined(range(0, 10), {90, 91});
  const SequenceId b = index.match(question);
  EXPECT_EQ(cache.length(b), 10);
  EXPECT_EQ(cache.free_pages(), 37);
  ASSERT_EQ(append(cache, b, {90, 91}), Outcome::kDone);  // a copy of the page where they part
  EXPECT_EQ(cache.free_pages(), 36);
  EXPECT_EQ(read(cache.view(b)), content(question));
  EXPECT_EQ(index.insert(question, b), 12);  // splits the edge
  EXPECT_EQ(index.pages(), 4);
  EXPECT_EQ(matched(range(0, 20)), 12);
  EXPECT_EQ(matched(joined(question, {1})), 12);
  EXPECT_EQ(matched(joined(range(0, 9), {90, 91})), 9);
  EXPECT_EQ(matched({0, 1}), 2);
  EXPECT_EQ(matched({1}), 0);
  EXPECT_EQ(matched({}), 0);
  EXPECT_EQ(index.statistics().matches, 7);
  EXPECT_EQ(index.statistics().asked_tokens, 12 + 20 + 13 + 11 + 2 + 1);
  EXPECT_EQ(index.statistics().matched_tokens, 10 + 12 + 12 + 9 + 2);
  cache.close(b);
  index.clear();
  EXPECT_EQ(cache.free_pages(), 40);
  EXPECT_TRUE(
      refused([&] { (void)index.insert(range(0, 4), cache.open()); }, "insert.tokens.size", 4, "within [0, 1)"));
}

TEST_F(Prefixes, TheLeastRecentlyUsedGoesFirst) {
  for (const Token first : {100, 200, 300}) {
    const Tokens t = joined(range(0, 4), range(first, first + 8));
    const SequenceId id = filled(t);
    index.insert(t, id);
    cache.close(id);
  }
  EXPECT_EQ(index.pages(), 7);
  EXPECT_EQ(matched(joined(range(0, 4), range(100, 108))), 12);  // now 200 is the oldest
  EXPECT_EQ(index.evict(1), 1);
  EXPECT_EQ(index.known(joined(range(0, 4), range(200, 208))), 8);
  const SequenceId user = index.match(joined(range(0, 4), range(200, 208)));  // newest again, and referenced
  EXPECT_EQ(index.pin(joined(range(0, 4), range(300, 304))), 8);
  EXPECT_EQ(index.evict(100), 2 + 1);  // all of 100, the end of 300
  EXPECT_EQ(index.known(joined(range(0, 4), range(100, 108))), 4);
  EXPECT_EQ(index.known(joined(range(0, 4), range(200, 208))), 8);
  EXPECT_EQ(index.known(joined(range(0, 4), range(300, 308))), 8);
  EXPECT_EQ(index.evict(100), 0);
  cache.close(user);
  EXPECT_EQ(index.evict(100), 1);
  index.unpin(joined(range(0, 4), range(300, 304)));
  EXPECT_TRUE(refused([&] { index.unpin(joined(range(0, 4), range(300, 304))); }, "unpin.tokens",
                      "tokens that are not pinned", "what pin returned"));
  EXPECT_TRUE(refused([&] { (void)index.pin(range(7, 11)); }, "pin.tokens", "no page that is known", "one"));
  EXPECT_EQ(index.evict(100), 2);
  EXPECT_EQ(cache.free_pages(), 40);
}

TEST_F(Prefixes, NeedPagesOfOneSizeAndNoWindow) {
  PagedCache<float> sizes(std::vector<PagedShape>{{.pages = 1, .page_size = 4, .head_dim = 1},
                                                  {.pages = 1, .page_size = 8, .head_dim = 1}});
  PagedCache<float> window({.pages = 1, .page_size = 4, .head_dim = 1, .window = 3});
  EXPECT_TRUE(refused([&] { PrefixIndex<float> bad(sizes); }, "PrefixIndex.page_size", 8, 4));
  EXPECT_TRUE(refused([&] { PrefixIndex<float> bad(window); }, "PrefixIndex.window", 3, "0: no window"));
}

TEST(PrefixTime, AHundredThousandTokens) {
  PagedCache<bf16> cache({.pages = 2 * 6250, .page_size = 16, .head_dim = 2});
  PrefixIndex<bf16> index(cache);
  Random random(4);
  Tokens tokens;
  for (int i = 0; i < 100000; ++i) tokens.push_back(static_cast<Token>(random.between(0, 31999)));
  const std::vector<float> rows(200000);
  const auto all = view(rows, 100000, 1, 2);
  Tokens other = tokens;  // 500 conversations that part somewhere
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, all, all), Outcome::kDone);
  index.insert(tokens, id);
  for (int i = 0; i < 500; ++i) {
    const Index part = random.between(0, 6000) * 16;
    const SequenceId fork = index.match(std::span(tokens).first(static_cast<std::size_t>(part)));
    ASSERT_EQ(cache.append(fork, all.slice({0, 16}), all.slice({0, 16})), Outcome::kDone);
    Tokens t(tokens.begin(), tokens.begin() + part);
    for (int j = 0; j < 16; ++j) t.push_back(static_cast<Token>(random.between(0, 31999)));
    index.insert(t, fork);
    cache.close(fork);
  }
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const SequenceId match = index.match(tokens);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    ASSERT_EQ(cache.length(match), 100000);
    cache.close(match);
  }
  std::printf("match of 100000 tokens, pages of 16, 500 branches: %.3f ms\n", 1e3 * best);
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
  EXPECT_LE(best, 1e-3);
#endif
}

}  // namespace
}  // namespace longspan::testing
