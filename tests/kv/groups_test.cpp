// Groups of layers that differ, windows, shared layers, where memory comes from, and how much of it.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory_resource>
#include <support/numbered.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

TEST(Groups, AWindowKeepsARing) {
  for (const Index page_size : {1, 5, 16})
    for (const Index window : {1, 7, 64}) {
      SCOPED_TRACE("pages of " + std::to_string(page_size) + ", window " + std::to_string(window));
      const PagedShape shape{.pages = 100, .page_size = page_size, .head_dim = 2, .layers = 2, .window = window};
      PagedCache<float> cache(shape);
      const SequenceId id = cache.open();
      Random random(5);
      Index most = 0;
      for (Index at = 0; at < 500;) {
        const Index size = random.between(1, page_size);
        for (Index layer : {0, 1}) {  // a layer attends before the next one is appended to
          ASSERT_EQ(append(cache, id, numbers(at, at + size), layer), Outcome::kDone);
          const auto view = cache.view(id, layer);
          ASSERT_LE(view.first_key(), std::max<Index>(0, at - window + 1));  // all that query `at` sees
          ASSERT_EQ(read(view), numbers(view.first_key(), at + size));
          ASSERT_EQ(cache.length(id, layer), at + size);
        }
        at += size;
        most = std::max(most, shape.pages - cache.free_pages());
      }
      EXPECT_LE(most, ceil_div(window, page_size) + 2);
      EXPECT_LE(most, shape.pages_for(500));
      cache.close(id);
      EXPECT_EQ(cache.free_pages(), 100);
    }
}

TEST(Groups, AWindowAt32KTokens) {
  const PagedShape shape{.pages = 18, .page_size = 64, .head_dim = 1, .window = 1024};
  PagedCache<float> cache(shape);
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.reserve(id, 32768), Outcome::kDone);
  for (Index at = 0; at < 32768; at += 64) ASSERT_EQ(append(cache, id, numbers(at, at + 64)), Outcome::kDone);
  EXPECT_LE(cache.state(id).tables[0].size() * 64, 1024 + 2 * 64);
  EXPECT_EQ(read(cache.view(id)).back(), 32767);
}

TEST(Groups, RollbackInsideAWindow) {
  PagedCache<float> cache({.pages = 20, .page_size = 4, .head_dim = 1, .window = 10});
  const SequenceId id = cache.open();
  for (Index at = 0; at < 40; at += 4) ASSERT_EQ(append(cache, id, numbers(at, at + 4)), Outcome::kDone);
  cache.truncate(id, 36);  // the last append
  EXPECT_EQ(read(cache.view(id)), numbers(cache.view(id).first_key(), 36));
  EXPECT_EQ(cache.view(id).first_key(), 24);
  EXPECT_TRUE(refused([&] { cache.truncate(id, 32); }, "truncate.tokens", 32, ">= 33"));
  EXPECT_EQ(cache.length(id), 36);
  cache.truncate(id, 33);
  ASSERT_EQ(append(cache, id, numbers(33, 35)), Outcome::kDone);
  EXPECT_EQ(read(cache.view(id)), numbers(24, 35));
  const SequenceId other = cache.fork(id);
  EXPECT_EQ(read(cache.view(other)), numbers(24, 35));
  cache.truncate(id, 0);
  ASSERT_EQ(append(cache, id, numbers(0, 3)), Outcome::kDone);
  EXPECT_EQ(cache.view(id).first_key(), 0);
  EXPECT_EQ(read(cache.view(other)), numbers(24, 35));
}

TEST(Groups, DifferAndShare) {
  // Model layers 0 and 2 see a window, 1 everything, and 3 what layer 1 wrote.
  const std::vector<PagedShape> groups{
      {.pages = 9, .page_size = 4, .kv_heads = 1, .head_dim = 3, .layers = 2, .window = 6},
      {.pages = 30, .page_size = 8, .kv_heads = 2, .head_dim = 5, .value_dim = 1}};
  PagedCache<float> cache(groups, {0, 2, 1, 2});
  EXPECT_EQ(cache.layers(), 4);
  const SequenceId id = cache.open();
  for (Index at = 0; at < 60; at += 3) {
    const Numbers fresh = numbers(at, at + 3);
    ASSERT_EQ(append(cache, id, fresh, 0, 0), Outcome::kDone);
    ASSERT_EQ(append(cache, id, fresh, 1, 1), Outcome::kDone);
    ASSERT_EQ(append(cache, id, fresh, 2, 0), Outcome::kDone);
  }
  EXPECT_EQ(read(cache.view(id, 3)), numbers(0, 60));
  EXPECT_EQ(read(cache.view(id, 1)), numbers(0, 60));
  EXPECT_EQ(read(cache.view(id, 2)), numbers(cache.view(id, 2).first_key(), 60));
  EXPECT_EQ(cache.free_pages(0), 9 - cache.state(id).tables[0].size());
  EXPECT_EQ(cache.free_pages(1), 30 - 8);
  EXPECT_TRUE(refused([&] { (void)append(cache, id, {1}, 3, 1); }, "layer", 3, "the one that others share"));
  EXPECT_TRUE(refused([&] { (void)PagedCache<float>(groups, {0, 3}); }, "PagedCache.layers", 3, "within [0, 3)"));
  EXPECT_TRUE(
      refused([&] { (void)PagedCache<float>(std::vector<PagedShape>{}); }, "PagedCache.groups.size", 0, ">= 1"));
  EXPECT_EQ(cache.reserve(id, 30 * 8 + 1), Outcome::kOutOfPages);  // the second group: nothing taken from the first
  EXPECT_EQ(cache.free_pages(1), 30 - 8);
}

/// Counts, and gives memory that is not zero.
class Counting : public std::pmr::memory_resource {
 public:
  std::size_t bytes = 0, calls = 0;

 private:
  void* do_allocate(std::size_t n, std::size_t alignment) override {
    ++calls;
    bytes += n;
    void* p = std::pmr::new_delete_resource()->allocate(n, alignment);
    std::fill_n(static_cast<unsigned char*>(p), n, static_cast<unsigned char>(0xff));
    return p;
  }
  void do_deallocate(void* p, std::size_t n, std::size_t alignment) override {
    bytes -= n;
    std::pmr::new_delete_resource()->deallocate(p, n, alignment);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

TEST(Groups, MemoryOfTheUsersTakenOnce) {
  Counting memory;
  const std::vector<PagedShape> groups{{.pages = 3, .page_size = 3, .head_dim = 3, .layers = 1},
                                       {.pages = 5, .page_size = 2, .head_dim = 7, .layers = 2}};
  {
    PagedCache<float> cache(groups, {}, &memory);
    EXPECT_EQ(memory.calls, 1u);
    EXPECT_EQ(static_cast<Index>(memory.bytes), PagedCache<float>::bytes(groups));
    EXPECT_EQ(PagedCache<float>::bytes(groups), ceil_div(3 * 3 * 6 * 4, 64) * 64 + 5 * 2 * 14 * 2 * 4);
    const SequenceId id = cache.open();
    for (Index layer : {1, 2}) ASSERT_EQ(append(cache, id, numbers(0, 9), layer, 1), Outcome::kDone);
    ASSERT_EQ(append(cache, id, numbers(0, 9), 0, 0), Outcome::kDone);
    for (Index layer : {0, 1, 2}) EXPECT_EQ(read(cache.view(id, layer)), numbers(0, 9));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(cache.page_data(1, 0)) % 64, 0u);
  }
  EXPECT_EQ(memory.bytes, 0u);
}

TEST(Capacity, IsExact) {
  PagedShape shape{.pages = 320, .page_size = 128, .kv_heads = 8, .head_dim = 128, .layers = 28};
  constexpr Index kGiB = Index{1} << 30;
  EXPECT_EQ(shape.pages * shape.page_size, 40960);
  EXPECT_EQ(PagedCache<bf16>::bytes(shape), kGiB * 35 / 8);  // 4.375 GiB
  EXPECT_EQ(PagedCache<bf16>::tokens_in(shape, 4 * kGiB), 37376);
  shape.pages = 37376 / 128;
  EXPECT_LE(PagedCache<bf16>::bytes(shape), 4 * kGiB);
  ++shape.pages;
  EXPECT_GT(PagedCache<bf16>::bytes(shape), 4 * kGiB);
}

TEST(Capacity, WasteOfHeavyTailedLengths) {  // 256 sequences, Pareto with exponent 1.2 from 64 tokens on
  Random random(9);
  std::vector<Index> lengths;
  Index tokens = 0;
  for (int i = 0; i < 256; ++i) {
    lengths.push_back(std::min<Index>(131072, std::llround(64 * std::pow(1 - random.real(0, 1), -1 / 1.2))));
    tokens += lengths.back();
  }
  PagedCache<bf16> cache({.pages = tokens / 16 + 256, .page_size = 16, .head_dim = 2});
  const std::vector<float> rows(static_cast<std::size_t>(2 * *std::max_element(lengths.begin(), lengths.end())));
  for (const Index length : lengths) {
    const auto t = TensorView<const float>{rows.data(), length, 1, 2, 2, 2};
    ASSERT_EQ(cache.append(cache.open(), t, t), Outcome::kDone);
  }
  const double taken = 16.0 * static_cast<double>(cache.shape().pages - cache.free_pages());
  const double waste = 1 - static_cast<double>(tokens) / taken;
  std::printf("waste: %.2f%% of the pages of 256 sequences, %lld tokens, longest %lld, pages of 16 (seed 9)\n",
              100 * waste, static_cast<long long>(tokens),
              static_cast<long long>(*std::max_element(lengths.begin(), lengths.end())));
  EXPECT_LT(waste, 0.04);
}

}  // namespace
}  // namespace longspan::testing
