// The lightning indexer: lists against the definition in double, on whole numbers, whose scores are exact and often
// equal.

#include <gtest/gtest.h>

#include <longspan/longspan.hpp>
#include <support/calls.hpp>
#include <support/count_allocations.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

struct Input {
  Input(Index queries_, Index keys_, Index heads_, Index dim_, std::uint64_t seed, bool whole)
      : queries(queries_), keys(keys_), heads(heads_), dim(dim_) {
    Random random(seed);
    const auto draw = [&](Index count) {
      std::vector<float> x = random.gaussian(count);
      if (whole)
        for (float& y : x) y = std::nearbyint(y);
      return x;
    };
    q = draw(queries * heads * dim), k = draw(keys * dim), w = draw(queries * heads);
  }
  QueryTensor query() const { return view(q, queries, heads, dim); }
  Contiguous<float> source() const { return {view(k, keys, 1, dim), view(k, keys, 1, dim)}; }
  double score(Index t, Index s) const {
    double sum = 0;
    for (Index h = 0; h < heads; ++h) {
      double dot = 0;
      for (Index d = 0; d < dim; ++d)
        dot += static_cast<double>(q[static_cast<std::size_t>((t * heads + h) * dim + d)]) *
               static_cast<double>(k[static_cast<std::size_t>(s * dim + d)]);
      sum += static_cast<double>(w[static_cast<std::size_t>(t * heads + h)]) * std::max(dot, 0.);
    }
    return sum;
  }
  Index queries, keys, heads, dim;
  std::vector<float> q, k, w;
};

using Lists = std::vector<std::int64_t>;

template <class Source>
Lists lists_of(const LightningIndexer& index, const Input& in, const Source& source, ExecutorRef executor = {}) {
  Lists lists(static_cast<std::size_t>(in.queries * index.count), -7);
  index(in.query(), in.w, source, lists, executor);
  return lists;
}

Lists definition(const LightningIndexer& index, const Input& in) {
  Lists lists;
  for (Index t = 0; t < in.queries; ++t) {
    std::vector<std::pair<double, Index>> order;
    const Index position = index.first_query.value_or(in.keys - in.queries) + t;
    for (Index s = 0; s < in.keys && s <= position; ++s) order.push_back({-in.score(t, s), s});
    std::sort(order.begin(), order.end());
    order.resize(std::min(order.size(), static_cast<std::size_t>(index.count)));
    Lists row;
    for (const auto& [score, s] : order) row.push_back(s);
    std::sort(row.begin(), row.end());
    row.resize(static_cast<std::size_t>(index.count), -1);
    lists.insert(lists.end(), row.begin(), row.end());
  }
  return lists;
}

TEST(LightningIndexer, ListsAreTheDefinitions) {
  ThreadPool pool(2), many(5);
  const Index shapes[][4] = {{1, 1000, 4, 32}, {40, 333, 7, 24}, {3, 64, 64, 128}, {9, 500, 1, 5},
                             {5, 5, 2, 16},    {20, 7, 3, 16},   {2, 0, 3, 16},    {0, 9, 3, 16}};
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const auto& [queries, keys, heads, dim] = shapes[seed - 1];
    const Input in(queries, keys, heads, dim, seed, true);
    for (const Index count : {1, 5, 64, 300, 2048})
      for (const std::optional<Index> first :
           {std::optional<Index>(), std::optional<Index>(0), std::optional<Index>(100)}) {
        const LightningIndexer index{count, first};
        SCOPED_TRACE("seed " + std::to_string(seed) + ", count " + std::to_string(count) + ", first " +
                     std::to_string(first.value_or(-1)));
        const Lists wanted = definition(index, in);
        ASSERT_EQ(lists_of(index, in, in.source()), wanted);
        ASSERT_EQ(lists_of(index, in, in.source(), pool), wanted);
        ASSERT_EQ(lists_of(index, in, in.source(), many), wanted);
        KeyLists(wanted, queries, keys);  // takes them
      }
  }
}

TEST(LightningIndexer, KeysOfAnySource) {
  const Input in(6, 200, 5, 32, 3, true);
  const LightningIndexer index{20, {}};
  const Lists wanted = definition(index, in);
  const auto paged = [&]<class T>(T, Index page_size) {
    PagedCache<T> cache({.pages = 80, .page_size = page_size, .kv_heads = 1, .head_dim = 32, .value_dim = 1});
    const SequenceId id = cache.open();
    const std::vector<float> none(200);
    ASSERT_EQ(cache.append(id, view(in.k, 200, 1, 32), view(none, 200, 1, 1)), Appended::kDone);
    EXPECT_EQ(lists_of(index, in, cache.view(id)), wanted) << page_size;
  };
  for (const Index page_size : {3, 16, 100}) {
    paged(float(), page_size);
    paged(bf16(), page_size);  // whole numbers as small as these are exact
    paged(f16(), page_size);
    paged(e4m3(), page_size);
  }
}

TEST(LightningIndexer, RoundingMovesOnlyWhatIsNearlyEqual) {
  const Input in(4, 3000, 16, 128, 5, false);
  const Lists lists = lists_of({100, {}}, in, in.source());
  for (Index t = 0; t < 4; ++t) {
    std::vector<bool> taken(3000);
    double worst = 1e300, best = -1e300;
    for (Index j = 0; j < 100; ++j) {
      const Index s = lists[static_cast<std::size_t>(t * 100 + j)];
      ASSERT_GE(s, 0);
      taken[static_cast<std::size_t>(s)] = true;
      worst = std::min(worst, in.score(t, s));
    }
    for (Index s = 0; s <= 2996 + t; ++s)
      if (!taken[static_cast<std::size_t>(s)]) best = std::max(best, in.score(t, s));
    ASSERT_TRUE(best <= worst + 1e-3) << best << " and " << worst << ", query " << t;
  }
}

TEST(LightningIndexer, WhatIsNoNumberIsNotListed) {
  Input in(2, 100, 3, 16, 7, true);
  in.k[40 * 16 + 3] = std::numeric_limits<float>::quiet_NaN();
  for (const Index count : {10, 100}) {
    const Lists lists = lists_of({count, {}}, in, in.source());
    EXPECT_EQ(std::count(lists.begin(), lists.end(), 40), 0);
    EXPECT_EQ(lists[static_cast<std::size_t>(count - 1)] == -1, count == 100);
  }
  in.w[0] = std::numeric_limits<float>::quiet_NaN();  // of query 0
  const Lists lists = lists_of({4, {}}, in, in.source());
  EXPECT_EQ(Lists(lists.begin(), lists.begin() + 4), (Lists{-1, -1, -1, -1}));
  EXPECT_NE(lists[7], -1);
  std::fill(in.w.begin(), in.w.end(), kMinusInfinity);
  EXPECT_EQ(lists_of({4, {}}, in, in.source()), Lists(8, -1));
}

TEST(LightningIndexer, BadInputIsRefused) {
  const Input in(2, 50, 3, 16, 1, true);
  Lists lists(2 * 4);
  const auto bad = [&](const LightningIndexer& index, const char* name, const auto& got, const auto& wanted) {
    EXPECT_TRUE(refused([&] { index(in.query(), in.w, in.source(), lists); }, name, got, wanted));
  };
  bad({0, {}}, "LightningIndexer.count", 0, "within [1, 2^52)");
  bad({4, -1}, "LightningIndexer.first_query", -1, "within [0, 2^52)");
  bad({5, {}}, "lists.size", 8, 10);
  const LightningIndexer index{4, {}};
  EXPECT_TRUE(refused([&] { index(in.query(), std::vector<float>(5), in.source(), lists); }, "weights.size", 5, 6));
  const TensorView<const float> two = view(in.k, 25, 2, 16), narrow = view(in.k, 100, 1, 8);
  EXPECT_TRUE(refused([&] { index(in.query(), in.w, Contiguous(two, two), lists); }, "keys.kv_heads", 2, 1));
  EXPECT_TRUE(refused([&] { index(in.query(), in.w, Contiguous(narrow, narrow), lists); }, "keys.head_dim", 8, 16));
  EXPECT_EQ(lists, Lists(2 * 4));
}

}  // namespace
}  // namespace longspan::testing
