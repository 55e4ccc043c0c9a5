// Pages that sequences share: fork, copy on write, rollback, reservations, eviction; and nothing lost.

#include <gtest/gtest.h>

#include <support/numbered.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

constexpr PagedShape kShape{.pages = 12, .page_size = 4, .kv_heads = 2, .head_dim = 3, .value_dim = 2, .layers = 2};

Outcome append_all(PagedCache<float>& cache, SequenceId id, const Numbers& tokens) {
  for (Index layer = 0; layer < cache.layers(); ++layer)
    if (append(cache, id, tokens, layer) != Outcome::kDone) return Outcome::kOutOfPages;
  return Outcome::kDone;
}
Numbers joined(Numbers a, const Numbers& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Sharing, AForkSharesAndWritesCopies) {
  PagedCache<float> cache(kShape);
  const SequenceId a = cache.open();
  ASSERT_EQ(append_all(cache, a, numbers(0, 10)), Outcome::kDone);  // pages of 4, 4, 2
  const SequenceId b = cache.fork(a);
  EXPECT_EQ(cache.free_pages(), 9);
  for (const Index page : cache.state(a).tables[0].pages()) EXPECT_EQ(cache.pool().references(page), 2);
  const PagedView<float> before = cache.view(a, 1);

  ASSERT_EQ(append_all(cache, b, numbers(100, 105)), Outcome::kDone);  // a copy of the third page, and one more
  EXPECT_EQ(cache.free_pages(), 7);
  EXPECT_EQ(read(before), numbers(0, 10));  // a view of the other stays
  for (Index layer : {0, 1}) {
    EXPECT_EQ(read(cache.view(a, layer)), numbers(0, 10));
    EXPECT_EQ(read(cache.view(b, layer)), joined(numbers(0, 10), numbers(100, 105)));
  }
  ASSERT_EQ(append_all(cache, a, numbers(200, 201)), Outcome::kDone);  // its page is its own again: no copy
  EXPECT_EQ(cache.free_pages(), 7);
  EXPECT_EQ(read(cache.view(a)), joined(numbers(0, 10), numbers(200, 201)));

  cache.close(a);
  EXPECT_EQ(cache.free_pages(), 8);  // one page was a's alone
  EXPECT_EQ(read(cache.view(b, 1)), joined(numbers(0, 10), numbers(100, 105)));
  cache.truncate(b, 6);
  EXPECT_EQ(cache.free_pages(), 10);
  EXPECT_EQ(read(cache.view(b)), numbers(0, 6));
  cache.close(b);
  EXPECT_EQ(cache.free_pages(), 12);
}

TEST(Sharing, ACopyNeedsAPage) {
  PagedCache<float> cache({.pages = 2, .page_size = 4, .head_dim = 1});
  const SequenceId a = cache.open();
  ASSERT_EQ(append(cache, a, numbers(0, 6)), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  EXPECT_EQ(append(cache, b, numbers(10, 11)), Outcome::kOutOfPages);  // nothing changed
  EXPECT_EQ(read(cache.view(b)), numbers(0, 6));
  EXPECT_EQ(cache.pool().references(cache.state(a).tables[0][1]), 2);
  const Numbers kept{0, 2};
  EXPECT_EQ(cache.compact(b, kept), Outcome::kOutOfPages);
  EXPECT_EQ(read(cache.view(b)), numbers(0, 6));
  cache.close(a);
  EXPECT_EQ(append(cache, b, numbers(10, 11)), Outcome::kDone);
  EXPECT_EQ(read(cache.view(b)), joined(numbers(0, 6), {10}));
}

TEST(Sharing, TruncatedAndAppendedAgain) {
  PagedCache<float> cache(kShape);
  const SequenceId a = cache.open();
  ASSERT_EQ(append_all(cache, a, numbers(0, 11)), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  cache.truncate(b, 5);
  ASSERT_EQ(append_all(cache, b, numbers(50, 53)), Outcome::kDone);  // its second page is shared with a
  EXPECT_EQ(read(cache.view(a)), numbers(0, 11));
  EXPECT_EQ(read(cache.view(b)), joined(numbers(0, 5), numbers(50, 53)));
}

TEST(Sharing, WhatIsReservedCannotRunOut) {
  PagedCache<float> cache({.pages = 5, .page_size = 4, .head_dim = 1});
  const SequenceId a = cache.open(), b = cache.open();
  ASSERT_EQ(cache.reserve(a, 13), Outcome::kDone);
  EXPECT_EQ(cache.free_pages(), 1);
  EXPECT_EQ(cache.length(a), 0);
  EXPECT_EQ(cache.reserve(b, 5), Outcome::kOutOfPages);
  ASSERT_EQ(append(cache, b, numbers(0, 4)), Outcome::kDone);
  ASSERT_EQ(append(cache, a, numbers(0, 16)), Outcome::kDone);
  EXPECT_EQ(append(cache, a, numbers(0, 1)), Outcome::kOutOfPages);
  cache.truncate(a, 2);  // reserved pages stay
  EXPECT_EQ(cache.free_pages(), 0);
  const SequenceId c = cache.fork(a);  // of one page
  EXPECT_EQ(append(cache, a, numbers(2, 3)), Outcome::kOutOfPages);
  cache.close(c);
  ASSERT_EQ(append(cache, a, numbers(2, 16)), Outcome::kDone);
  EXPECT_EQ(read(cache.view(a)), numbers(0, 16));
  cache.truncate(a, 0);
  EXPECT_EQ(cache.free_pages(), 4);
  EXPECT_TRUE(refused([&] { (void)cache.reserve(a, -1); }, "reserve.tokens", -1, "within [0, 2^52)"));
}

TEST(Sharing, PagesAreEvictedWhole) {
  PagedCache<float> cache(kShape);
  const SequenceId a = cache.open();
  ASSERT_EQ(append_all(cache, a, numbers(0, 21)), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  cache.evict(a, {4, 12});
  EXPECT_EQ(read(cache.view(a, 1)), joined(numbers(0, 4), numbers(12, 21)));
  EXPECT_EQ(read(cache.view(b, 1)), numbers(0, 21));
  ASSERT_EQ(append_all(cache, a, numbers(21, 25)), Outcome::kDone);
  EXPECT_EQ(read(cache.view(a)), joined(numbers(0, 4), numbers(12, 25)));
  EXPECT_EQ(read(cache.view(a).part({3, 9})), joined({3}, numbers(12, 17)));
  EXPECT_EQ(cache.view(a).part({3, 9}).first_key(), 3);
  EXPECT_TRUE(refused([&] { cache.evict(a, {3, 8}); }, "evict.begin", 3, "a multiple of 4"));
  EXPECT_TRUE(refused([&] { cache.evict(a, {4, 9}); }, "evict.end", 9, "a multiple of 4"));
  EXPECT_TRUE(refused([&] { cache.evict(a, {4, 20}); }, "evict.end", 20, "within [0, 18)"));
  EXPECT_TRUE(refused([&] { (void)cache.view(a).part({3, 18}); }, "part.keys.end", 18, "within [0, 18)"));
  cache.close(b);
  cache.close(a);
  EXPECT_EQ(cache.free_pages(), 12);
}

TEST(Sharing, TokensAreKeptByHead) {
  PagedCache<float> cache(kShape);
  const SequenceId a = cache.open();
  ASSERT_EQ(append_all(cache, a, numbers(0, 11)), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  const Numbers common{0, 1, 2, 6, 10}, by_head{0, 1, 2, 9, 3, 5, 7, 10};
  ASSERT_EQ(cache.compact(a, common, 0), Outcome::kDone);
  EXPECT_EQ(cache.free_pages(), 12 - 3 - 2);  // copies of two pages; the other layer still needs the third
  ASSERT_EQ(cache.compact(a, by_head, 1, true), Outcome::kDone);
  EXPECT_EQ(read(cache.view(a, 0)), common);
  EXPECT_EQ(read_head(cache.view(a, 1), 0), Numbers({0, 1, 2, 9}));
  EXPECT_EQ(read_head(cache.view(a, 1), 1), Numbers({3, 5, 7, 10}));
  for (Index layer : {0, 1}) EXPECT_EQ(read(cache.view(b, layer)), numbers(0, 11));
  cache.close(b);
  EXPECT_EQ(cache.free_pages(), 10);
  const Numbers twice{1, 1}, far{1, 5};
  EXPECT_TRUE(refused([&] { (void)cache.compact(a, twice); }, "compact.kept", 1, ">= 2"));
  EXPECT_TRUE(refused([&] { (void)cache.compact(a, far); }, "compact.kept", 5, "within [0, 5)"));
}

}  // namespace
}  // namespace longspan::testing
