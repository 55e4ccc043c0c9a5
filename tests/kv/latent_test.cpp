// Latent pages: values that are the beginning of their keys, stored once. The cache does with them all that it does
// with others, and attention gives the bits of keys and values that are stored apart.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <longspan/kv/eviction.hpp>
#include <longspan/kv/snapshot.hpp>
#include <support/cache_model.hpp>
#include <support/calls.hpp>
#include <support/numbered.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

constexpr PagedShape kShape{
    .pages = 12, .page_size = 4, .kv_heads = 2, .head_dim = 5, .value_dim = 3, .layers = 2, .latent = true};

TEST(Latent, TakesTheMemoryOfItsKeys) {
  PagedShape shape = kShape;
  EXPECT_EQ(PagedCache<float>::bytes(shape), 12 * 2 * 2 * 4 * 5 * 4);
  EXPECT_EQ(PagedCache<bf16>::bytes(shape), 12 * 2 * 2 * 4 * 5 * 2);
  EXPECT_EQ(PagedCache<i8>::bytes(shape), 12 * 2 * 2 * 4 * (5 + 4));  // a scale a row
  EXPECT_EQ(PagedCache<bf16>::tokens_in({.page_size = 64, .head_dim = 576, .value_dim = 512, .latent = true}, 1 << 30),
            (1 << 30) / (64 * 576 * 2) * 64);
  shape.value_dim = 0;
  EXPECT_EQ(PagedCache<float>(shape).shape().value_dim, 5);
  shape.value_dim = 6;
  EXPECT_TRUE(
      refused([&] { PagedCache<float> cache(shape); }, "PagedCache.value_dim", 6, "<= head_dim, in a latent group"));
}

TEST(Latent, IsGivenKeysAlone) {
  PagedCache<float> cache({kShape, {.pages = 2, .page_size = 4, .kv_heads = 2, .head_dim = 5, .value_dim = 3}});
  const SequenceId id = cache.open();
  const std::vector<float> rows(30), beginnings(18);
  const auto keys = view(rows, 3, 2, 5), values = view(beginnings, 3, 2, 3);
  EXPECT_TRUE(refused([&] { (void)cache.append(id, keys, values, 1); }, "values", "values of their own",
                      "keys alone: this layer's values are in its keys"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, keys, 2); }, "values", "none", "values: this layer is not latent"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, values); }, "keys.dim", 3, 5));
  EXPECT_EQ(cache.length(id, 1), 0);
  EXPECT_EQ(cache.append(id, keys, 1), Outcome::kDone);
  EXPECT_EQ(cache.append(id, keys, values, 2), Outcome::kDone);
  EXPECT_EQ(cache.length(id, 1), 3);
}

TEST(Latent, RowsLieOnce) {
  PagedCache<float> cache(kShape);
  const SequenceId id = cache.open();
  ASSERT_EQ(append(cache, id, numbers(0, 6)), Outcome::kDone);
  const auto run = cache.view(id).run(1, 1);
  EXPECT_EQ(run.key, run.value);
  EXPECT_EQ(run.size, 3);
  EXPECT_EQ(run.key_stride, 5);
  EXPECT_EQ(run.value_stride, 5);
  EXPECT_EQ(run.dim_stride, 1);
  for (Index d = 0; d < 5; ++d) EXPECT_EQ(run.key[5 + d], element(2, 1, d, false));
}

TEST(Latent, ForksCompactsAndEvicts) {
  PagedCache<float> cache(kShape);
  const SequenceId a = cache.open();
  for (Index layer : {0, 1}) ASSERT_EQ(append(cache, a, numbers(0, 11), layer), Outcome::kDone);
  const SequenceId b = cache.fork(a);
  for (Index layer : {0, 1}) ASSERT_EQ(append(cache, b, numbers(90, 92), layer), Outcome::kDone);
  const Numbers by_head{0, 1, 2, 9, 3, 5, 7, 10};
  ASSERT_EQ(cache.compact(a, by_head, 1, true), Outcome::kDone);
  EXPECT_EQ(read_head(cache.view(a, 1), 0), Numbers({0, 1, 2, 9}));
  EXPECT_EQ(read_head(cache.view(a, 1), 1), Numbers({3, 5, 7, 10}));
  EXPECT_EQ(read(cache.view(a, 0)), numbers(0, 11));
  cache.evict(b, {4, 8});
  EXPECT_EQ(read(cache.view(b, 1)), Numbers({0, 1, 2, 3, 8, 9, 10, 90, 91}));
  cache.close(a);
  cache.close(b);
  EXPECT_EQ(cache.free_pages(), 12);
}

TEST(Latent, RandomLoad) { random_load(5, 8000, true); }

TEST(Latent, SnapshotsSayIt) {
  const std::string path = ::testing::TempDir() + "longspan_latent_" + std::to_string(::getpid());
  const std::vector<PagedShape> groups{
      {.pages = 9, .page_size = 4, .head_dim = 3, .window = 6},
      {.pages = 9, .page_size = 8, .kv_heads = 2, .head_dim = 6, .value_dim = 4, .latent = true}};
  const auto version = [&] {
    std::uint32_t got = 0;
    std::ifstream file(path, std::ios::binary);
    file.seekg(8);
    file.read(reinterpret_cast<char*>(&got), sizeof got);
    return got;
  };
  for (const bool latent : {false, true}) {
    std::vector<PagedShape> shapes = groups;
    shapes[1].latent = latent;
    PagedCache<bf16> cache(shapes);
    const SequenceId id = cache.open();
    for (Index at = 0; at < 7; ++at)  // numbers that bf16 holds
      for (Index layer : {0, 1}) ASSERT_EQ(append(cache, id, {at}, layer, layer), Outcome::kDone);
    const std::vector<SnapshotEntry> entries{{id}};
    save_snapshot<bf16>(path, cache, entries);
    EXPECT_EQ(version(), latent ? 2u : 1u);  // files without latent groups are read by what knew none
    const Snapshot<bf16> snapshot(path);
    PagedCache<bf16> again(shapes);
    const auto ids = snapshot.load(again);
    ASSERT_TRUE(ids.has_value());
    for (Index layer : {0, 1}) {
      EXPECT_EQ(read(snapshot.view(0, layer)), read(cache.view(id, layer)));
      EXPECT_EQ(read(again.view(ids->at(0), layer)), read(cache.view(id, layer)));
    }
    EXPECT_EQ(read(cache.view(id, 1)), numbers(0, 7));
    shapes[1].latent = !latent;
    PagedCache<bf16> other(shapes);
    EXPECT_TRUE(
        refused([&] { (void)snapshot.load(other); }, "load.cache.shape", "another shape", "that of the snapshot"));
  }
  std::remove(path.c_str());
}

/// Latent pages against the same rows in two tensors, and in pages that keep keys and values apart.
template <class T>
void check_attention(Index head_dim, Index value_dim, Index kv_heads, Index page_size) {
  constexpr Index kKeys = 333, kQueries = 3, kGroup = 5;
  SCOPED_TRACE("head_dim " + std::to_string(head_dim) + ", value_dim " + std::to_string(value_dim) + ", kv_heads " +
               std::to_string(kv_heads) + ", pages of " + std::to_string(page_size) + ", seed 11");
  Random random(11);
  const std::vector<float> q = random.gaussian(kQueries * kGroup * kv_heads * head_dim),
                           k = random.gaussian(kKeys * kv_heads * head_dim);
  PagedShape shape{.pages = ceil_div(kKeys, page_size),
                   .page_size = page_size,
                   .kv_heads = kv_heads,
                   .head_dim = head_dim,
                   .value_dim = value_dim,
                   .latent = true};
  PagedCache<T> latent(shape);
  shape.latent = false;
  PagedCache<T> apart(shape);
  const SequenceId id = latent.open(), other = apart.open();
  const TensorView<const float> keys = view(k, kKeys, kv_heads, head_dim);
  TensorView<const float> values = keys;
  values.dim = value_dim;
  ASSERT_EQ(latent.append(id, keys), Outcome::kDone);
  ASSERT_EQ(apart.append(other, keys, values), Outcome::kDone);
  const TensorView<const float> queries = view(q, kQueries, kGroup * kv_heads, head_dim);
  const auto attend = attention(Window{101} | Sinks{3});
  const Result wanted = run(attend, queries, latent.view(id), {.kernel = Kernel::kWide});
  // Dot products of bf16 round queries and weights; values are below 5.
  const float tolerance = 5 * (kPack<T> == 1 ? 2e-6f : 4 * 0x1p-9f);
  const auto close_to_definition = [&](const auto& source) {
    const Result exact = run(attention<Naive>(Window{101} | Sinks{3}), queries, source);
    for (std::size_t i = 0; i < exact.out.size(); ++i)
      if (!(std::abs(wanted.out[i] - exact.out[i]) <= tolerance))
        return ::testing::AssertionFailure() << "element " << i << ": " << wanted.out[i] << ", " << exact.out[i];
    return ::testing::AssertionSuccess();
  };
  EXPECT_TRUE(close_to_definition(latent.view(id)));
  EXPECT_TRUE(same_bits(run(attend, queries, latent.view(id), {.kernel = Kernel::kNarrow}), wanted));
  const Shortened<PagedView<T>> shortened{latent.view(id)};
  EXPECT_TRUE(same_bits(run(attend, queries, shortened, {.kernel = Kernel::kWide}), wanted));
  EXPECT_TRUE(same_bits(run(attend, queries, shortened, {.kernel = Kernel::kNarrow}), wanted));
  if constexpr (!kScaled<T>) {  // a scale of the whole row is not that of its beginning
    EXPECT_TRUE(same_bits(run(attend, queries, apart.view(other)), wanted));
  }
  if constexpr (ElementType<T>) {
    std::vector<T> rounded(k.size());
    convert(k.data(), std::ssize(k), rounded.data());
    const TensorView<const T> rows = view(rounded, kKeys, kv_heads, head_dim);
    TensorView<const T> beginnings = rows;
    beginnings.dim = value_dim;
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
      EXPECT_TRUE(same_bits(run(attend, queries, Contiguous(rows, beginnings), {.kernel = kernel}), wanted));
  }
}

template <class T>
void check_attention() {
  for (const Index page_size : {64, 16, 7}) {
    check_attention<T>(48, 32, 1, page_size);
    check_attention<T>(33, 32, 2, page_size);
    check_attention<T>(40, 17, 1, page_size);
  }
}
TEST(Latent, AttentionOfFloats) { check_attention<float>(); }
TEST(Latent, AttentionOfBf16) { check_attention<bf16>(); }
TEST(Latent, AttentionOfF16) { check_attention<f16>(); }
TEST(Latent, AttentionOfE4m3) { check_attention<e4m3>(); }
TEST(Latent, AttentionOfI8) { check_attention<i8>(); }

}  // namespace
}  // namespace longspan::testing
