// However a sequence came to be in a cache, attention to it gives the same bits.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <longspan/attention.hpp>
#include <longspan/kv/prefix_index.hpp>
#include <longspan/kv/snapshot.hpp>
#include <support/near.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

template <class T>
void check_bits(Index page_size, Index window) {
  SCOPED_TRACE("pages of " + std::to_string(page_size) + ", window " + std::to_string(window) + ", seed 8");
  constexpr Index kKeys = 333, kHeads = 4, kKvHeads = 2, kDim = 24;
  Random random(8);
  const std::vector<float> q = random.gaussian(3 * kHeads * kDim), k = random.gaussian(kKeys * kKvHeads * kDim),
                           v = random.gaussian(kKeys * kKvHeads * kDim);
  const auto keys = view(k, kKeys, kKvHeads, kDim), values = view(v, kKeys, kKvHeads, kDim);
  const auto attend = [&](const auto& source, Index first_key) {
    std::vector<float> out(q.size());
    const auto call = [&](auto mask) {
      attention(mask)(view(q, 3, kHeads, kDim), source, view(out, 3, kHeads, kDim), {.first_key = first_key});
    };
    if (window == 0)
      call(Causal{});
    else
      call(Window{window});
    return out;
  };
  const auto of = [&](const PagedView<T>& view) { return attend(view, view.first_key()); };
  const auto wanted = [&] {
    if constexpr (kScaled<T>) {
      PagedCache<T> once({.pages = 6, .kv_heads = kKvHeads, .head_dim = kDim});
      const SequenceId id = once.open();
      EXPECT_EQ(once.append(id, keys, values), Outcome::kDone);
      return of(once.view(id));
    } else {
      std::vector<T> rounded_k(k.size()), rounded_v(v.size());
      convert(k.data(), std::ssize(k), rounded_k.data());
      convert(v.data(), std::ssize(v), rounded_v.data());
      return attend(Contiguous(TensorView<const T>(view(rounded_k, kKeys, kKvHeads, kDim)),
                               TensorView<const T>(view(rounded_v, kKeys, kKvHeads, kDim))),
                    0);
    }
  }();

  PagedCache<T> cache(
      {.pages = 5 * 333, .page_size = page_size, .kv_heads = kKvHeads, .head_dim = kDim, .window = window});
  const auto add = [&](SequenceId id, Interval tokens) {
    ASSERT_EQ(cache.append(id, keys.slice(tokens), values.slice(tokens)), Outcome::kDone);
  };
  const SequenceId id = cache.open();
  add(id, {0, 200});
  const SequenceId fork = cache.fork(id);
  for (Index at = 200; at < kKeys; at += 7) add(id, {at, std::min(at + 7, kKeys)});
  EXPECT_TRUE(same_bits(of(cache.view(id)), wanted)) << "paged";
  add(fork, {200, 330});
  add(fork, {100, 150});  // what is not true, and is taken back
  cache.truncate(fork, 330);
  add(fork, {330, kKeys});
  EXPECT_TRUE(same_bits(of(cache.view(fork)), wanted)) << "forked and truncated";
  EXPECT_TRUE(same_bits(of(cache.view(id)), wanted)) << "forked from";

  const std::string path = ::testing::TempDir() + "longspan_bits_" + std::to_string(::getpid());
  const std::vector<SnapshotEntry> entries{{id}, {fork}};
  save_snapshot<T>(path, cache, entries);
  const Snapshot<T> snapshot(path);
  std::remove(path.c_str());
  EXPECT_TRUE(same_bits(of(snapshot.view(1)), wanted)) << "mapped";
  PagedCache<T> again(cache.shape());
  const auto ids = snapshot.load(again);
  ASSERT_TRUE(ids.has_value());
  EXPECT_TRUE(same_bits(of(again.view(ids->at(0))), wanted)) << "loaded";
  if (window != 0) return;

  PrefixIndex<T> index(cache);
  std::vector<Token> tokens;
  for (Token t = 0; t < kKeys; ++t) tokens.push_back(t);
  index.insert(tokens, id);
  tokens.resize(250);
  const SequenceId match = index.match(tokens);
  add(match, {cache.length(match), kKeys});
  EXPECT_TRUE(same_bits(of(cache.view(match)), wanted)) << "matched";

  // Every third token stays, moved together: as if there had never been others.
  std::vector<Index> kept;
  const SequenceId alone = cache.open();
  for (Index t = 0; t < kKeys; t += 3) {
    kept.push_back(t);
    add(alone, {t, t + 1});
  }
  ASSERT_EQ(cache.compact(match, kept), Outcome::kDone);
  EXPECT_TRUE(same_bits(of(cache.view(match)), of(cache.view(alone)))) << "compacted";
}

TEST(Bits, Float) {
  for (const Index page_size : {16, 64, 100, 256, 1, 7})
    for (const Index window : {0, 90}) check_bits<float>(page_size, window);
}
TEST(Bits, Bf16) {
  for (const Index page_size : {16, 7})
    for (const Index window : {0, 90}) check_bits<bf16>(page_size, window);
}
TEST(Bits, I8) {
  for (const Index page_size : {16, 7, 100})
    for (const Index window : {0, 90}) check_bits<i8>(page_size, window);
}
TEST(Bits, I4) {
  for (const Index page_size : {16, 7, 100})
    for (const Index window : {0, 90}) check_bits<i4>(page_size, window);
}

}  // namespace
}  // namespace longspan::testing
