// Attention over listed keys: against the definition in double, and bit by bit against the same keys copied together.

#include <gtest/gtest.h>

#include <longspan/longspan.hpp>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/count_allocations.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

using Lists = std::vector<std::int64_t>;

/// [queries, k]: of each query so many different keys, in random order, −1 in between; a quarter of them in a run.
Lists random_lists(Random& random, Index queries, Index k, Index keys) {
  Lists lists;
  for (Index q = 0; q < queries; ++q) {
    Lists all(static_cast<std::size_t>(keys));
    for (Index j = 0; j < keys; ++j) all[static_cast<std::size_t>(j)] = j;
    const Index run = random.between(0, std::min(keys, k) / 4), first = random.between(0, keys - run);
    std::rotate(all.begin(), all.begin() + first, all.begin() + first + run);
    const Index count = random.chance(0.1) ? 0 : random.between(run, std::min(keys, k));
    for (Index j = run; j < count; ++j)
      std::swap(all[static_cast<std::size_t>(j)], all[static_cast<std::size_t>(random.between(j, keys - 1))]);
    Lists row(all.begin(), all.begin() + count);
    row.resize(static_cast<std::size_t>(k), -1);
    for (Index j = k - 1; j > 0; --j)
      std::swap(row[static_cast<std::size_t>(j)], row[static_cast<std::size_t>(random.between(0, j))]);
    lists.insert(lists.end(), row.begin(), row.end());
  }
  return lists;
}

/// Softmax over the listed keys, in double.
struct Exact {
  std::vector<double> out, lse;
};
Exact exact(const cases::Tensors& t, const Lists& lists) {
  const auto q = t.q(), k = t.k(), v = t.v();
  const Index width = std::ssize(lists) / q.tokens;
  Exact e;
  for (Index i = 0; i < q.tokens; ++i)
    for (Index h = 0; h < q.heads; ++h) {
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      std::vector<double> score, row(static_cast<std::size_t>(v.dim));
      std::vector<Index> keys;
      const Index kv_head = h / (q.heads / k.heads);
      for (Index j = 0; j < width; ++j)
        if (const Index key = lists[static_cast<std::size_t>(i * width + j)]; key >= 0) {
          double s = 0;
          for (Index d = 0; d < q.dim; ++d)
            s += static_cast<double>(q.row(i, h)[d]) * static_cast<double>(k.row(key, kv_head)[d]);
          score.push_back(s * static_cast<double>(static_cast<float>(1 / std::sqrt(static_cast<double>(q.dim)))));
          keys.push_back(key);
          max = std::max(max, score.back());
        }
      for (std::size_t j = 0; j < keys.size(); ++j) {
        const double w = std::exp(score[j] - max);
        sum += w;
        for (Index d = 0; d < v.dim; ++d)
          row[static_cast<std::size_t>(d)] += w * static_cast<double>(v.row(keys[j], kv_head)[d]);
      }
      for (const double x : row) e.out.push_back(keys.empty() ? 0 : x / sum);
      e.lse.push_back(max + std::log(sum));
    }
  return e;
}

/// The listed keys of one query, ascending, copied together.
Result copied(const cases::Tensors& t, const KeyLists& lists, Index query, Kernel kernel) {
  std::vector<float> k, v;
  for (const Index key : lists.row(query)) {
    k.insert(k.end(), t.k().row(key, 0), t.k().row(key, 0) + t.k().heads * t.k().dim);
    v.insert(v.end(), t.v().row(key, 0), t.v().row(key, 0) + t.v().heads * t.v().dim);
  }
  const Index n = std::ssize(lists.row(query));
  return run(
      attention(), t.q().slice({query, query + 1}),
      Contiguous(view(std::as_const(k), n, t.k().heads, t.k().dim), view(std::as_const(v), n, t.v().heads, t.v().dim)),
      {.kernel = kernel});
}

template <class Engine = Flash, class Source>
Result listed(const cases::Tensors& t, const Source& source, const KeyLists& lists, Options options = {}) {
  const auto attend = [&](auto q, const auto& from, auto out, const Options& o) {
    attend_listed(attention<Engine>(), q, from, lists, out, o);
  };
  return run(attend, t.q(), source, options);
}

TEST(KeyLists, EverySourceAndKernelIsTheDefinition) {
  ThreadPool pool(2);
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    Random random(seed);
    const cases::Shape shapes[] = {{7, 500, 8, 2, 32, 32}, {3, 300, 3, 3, 21, 13}, {1, 9000, 4, 1, 16, 16},
                                   {5, 64, 4, 2, 64, 48},  {4, 1, 2, 2, 8, 8},     {2, 400, 9, 1, 40, 24}};
    const cases::Shape shape = shapes[seed - 1];
    const cases::Tensors t(shape);
    const Lists numbers = random_lists(random, shape.queries, seed == 3 ? 6000 : 200, shape.keys);
    const KeyLists lists(numbers, shape.queries, shape.keys);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Exact wanted = exact(t, numbers);
    const Call call{t.q(), t.k(), t.v(), AnyMask::of(Full{})};
    const auto over = [&](const char* name, const auto& source) {
      const Result first = listed(t, source, lists);
      ASSERT_TRUE(call.close(first, wanted.out, wanted.lse)) << name;
      ASSERT_TRUE(call.close(listed<Naive>(t, source, lists), wanted.out, wanted.lse)) << name;
      ASSERT_TRUE(same_bits(listed(t, source, lists, {.executor = pool}), first)) << name;
      for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
        ASSERT_TRUE(same_bits(listed(t, source, lists, {.kernel = kernel}), first)) << name;
        for (Index i = 0; i < shape.queries; ++i)
          ASSERT_TRUE(same_bits(copied(t, lists, i, kernel), rows_of(first, {i, i + 1}, shape.heads, shape.value_dim)))
              << name << ", query " << i;
      }
    };
    over("contiguous", Contiguous(t.k(), t.v()));
    over("pages of 16", Pages(t.k(), t.v(), 16).view());
    over("pages of 100", Pages(t.k(), t.v(), 100).view());
  }
}

TEST(KeyLists, OtherElementsAreReadWhereTheyAre) {
  const auto with = [&]<class T>(T) {
    const Index n = 300, heads = 2, dim = 32;
    Random random(5);
    const cases::Tensors t({6, n, 8, heads, dim, dim});
    PagedCache<T> cache({.pages = 30, .page_size = 16, .kv_heads = heads, .head_dim = dim}), copies(cache.shape());
    const SequenceId id = cache.open();
    ASSERT_EQ(cache.append(id, t.k(), t.v()), Appended::kDone);
    const Lists numbers = random_lists(random, 6, 120, n);
    const KeyLists lists(numbers, 6, n);
    const Result got = listed(t, cache.view(id), lists);
    for (Index i = 0; i < 6; ++i) {
      const SequenceId copy = copies.open();
      for (const Index key : lists.row(i))
        ASSERT_EQ(copies.append(copy, t.k().slice({key, key + 1}), t.v().slice({key, key + 1})), Appended::kDone);
      ASSERT_TRUE(
          same_bits(run(attention(), t.q().slice({i, i + 1}), copies.view(copy)), rows_of(got, {i, i + 1}, 8, dim)))
          << "query " << i;
      copies.close(copy);
    }
  };
  with(bf16());
  with(f16());
  with(e4m3());
  with(i8());
}

TEST(KeyLists, ManyQueriesOverPagesAreTheSame) {
  // what is gathered for all of them is several times what is gathered at once
  const Index queries = 60, n = 2500, heads = 4, dim = 32;
  Random random(6);
  const cases::Tensors t({queries, n, heads, 2, dim, dim});
  const KeyLists lists(random_lists(random, queries, 2400, n), queries, n);
  Index listed_keys = 0;
  for (Index i = 0; i < queries; ++i) listed_keys += std::ssize(lists.row(i));
  ASSERT_GT(listed_keys * 2 * 2 * dim * 4, Index{3} << 23);
  const Pages pages(t.k(), t.v(), 48);
  ThreadPool pool(2);
  const Result wanted = listed(t, Contiguous(t.k(), t.v()), lists);
  EXPECT_TRUE(same_bits(listed(t, pages.view(), lists), wanted));
  EXPECT_TRUE(same_bits(listed(t, pages.view(), lists, {.executor = pool}), wanted));
  const Partial partial = partial_listed(attention(), t.q(), pages.view(), lists);
  Result merged{nans(queries * heads * dim), nans(queries * heads)};
  partial.finish(view(merged.out, queries, heads, dim), merged.lse);
  EXPECT_TRUE(same_bits(merged, wanted));
}

TEST(KeyLists, OrderPaddingAndTypeDoNotMatter) {
  const cases::Tensors t({2, 100, 4, 2, 16, 16});
  const KeyLists a(Lists{5, 90, 6, 7, -1, -1, -1, -1, -1, -1}, 2, 100),
      b(Lists{-1, 90, 7, 6, 5, -1, -1, -1, -1, -1}, 2, 100);
  const std::vector<std::int32_t> narrow{6, 5, -1, 90, 7, -1, -1, -1, -1, -1};
  const Contiguous source(t.k(), t.v());
  const Result result = listed(t, source, a);
  EXPECT_TRUE(same_bits(listed(t, source, b), result));
  EXPECT_TRUE(same_bits(listed(t, source, KeyLists(narrow, 2, 100)), result));
  EXPECT_EQ(std::vector<Index>(a.row(0).begin(), a.row(0).end()), (std::vector<Index>{5, 6, 7, 90}));
  for (Index i = 4 * 16; i < 2 * 4 * 16; ++i) EXPECT_EQ(result.out[static_cast<std::size_t>(i)], 0);
  for (std::size_t i = 4; i < 8; ++i) EXPECT_EQ(result.lse[i], kMinusInfinity);
}

TEST(KeyLists, NeighboursAreOneRun) {
  const cases::Tensors t({1, 300, 2, 2, 16, 16});
  const Pages pages(t.k(), t.v(), 100);
  const KeyLists lists(Lists{0, 1, 2, 50, 98, 99, 100, 101, 102, 200, 202, 203}, 1, 300);
  const ListedKeys keys(pages.view(), lists.row(0));
  std::vector<Index> sizes;
  for (Index i = 0; i < keys.keys(); i += sizes.back()) sizes.push_back(keys.run(1, i).size);
  EXPECT_EQ(sizes, (std::vector<Index>{3, 1, 2, 3, 1, 2}));
  Lists all(300);
  for (std::size_t i = 0; i < 300; ++i) all[i] = static_cast<std::int64_t>(i);
  const KeyLists whole(all, 1, 300);
  EXPECT_EQ(ListedKeys(Contiguous(t.k(), t.v()), whole.row(0)).run(0, 7).size, 293);
  EXPECT_TRUE(same_bits(listed(t, pages.view(), whole), run(attention(), t.q(), pages.view())));
}

/// A window by position and a list of what lies before it are one softmax; so are two lists.
TEST(KeyLists, PartsMerge) {
  const Index n = 700, window = 50;
  Random random(3);
  const cases::Tensors t({4, n, 4, 2, 24, 24});
  Lists far = random_lists(random, 4, 60, n - window - 4), both = far;
  Lists all;
  for (Index i = 0; i < 4; ++i) {
    all.insert(all.end(), far.begin() + i * 60, far.begin() + (i + 1) * 60);
    for (Index j = n - 4 + i - window + 1; j <= n - 4 + i; ++j) all.push_back(j);
  }
  const Contiguous source(t.k(), t.v());
  const Partial merged = merge(attention(Window{window}).partial(t.q(), source),
                               partial_listed(attention(), t.q(), source, KeyLists(far, 4, n)));
  Result got{nans(4 * 4 * 24), nans(4 * 4)};
  merged.finish(view(got.out, 4, 4, 24), got.lse);
  const Exact wanted = exact(t, all);
  EXPECT_TRUE((Call{t.q(), t.k(), t.v(), AnyMask::of(Full{})}.close(got, wanted.out, wanted.lse)));
  const Partial none = partial_listed(attention(), t.q().slice({0, 0}), source, KeyLists(Lists{}, 0, n));
  EXPECT_EQ(none.queries, 0);
  EXPECT_EQ(none.value_dim, 24);
}

TEST(KeyLists, LearnedSinksEnterOnce) {
  const cases::Tensors t({2, 100, 2, 2, 16, 16});
  const std::vector<float> logits{0.5f, -1.f};
  const KeyLists lists(Lists{1, 50, 99, 3, -1, -1}, 2, 100);
  const auto attend = attention(SinkLogits(logits));
  const Result got =
      run([&](auto q, const auto& s, auto out, const Options& o) { attend_listed(attend, q, s, lists, out, o); }, t.q(),
          Contiguous(t.k(), t.v()));
  const Result plain = listed(t, Contiguous(t.k(), t.v()), lists);
  for (std::size_t i = 0; i < 4; ++i) {
    const double with =
        std::log(std::exp(static_cast<double>(plain.lse[i])) + std::exp(static_cast<double>(logits[i % 2])));
    EXPECT_NEAR(got.lse[i], with, 1e-5);
    for (std::size_t d = i * 16; d < (i + 1) * 16; ++d)
      EXPECT_NEAR(got.out[d], static_cast<double>(plain.out[d]) * std::exp(static_cast<double>(plain.lse[i]) - with),
                  1e-5);
  }
}

TEST(KeyLists, NothingIsAllocatedAgain) {
  const cases::Tensors t({3, 500, 4, 2, 32, 32});
  Random random(1);
  const Lists numbers = random_lists(random, 3, 100, 500);
  KeyLists lists;
  std::vector<float> out(3 * 4 * 32);
  const auto call = [&] {
    lists.assign(numbers, 3, 500);
    attend_listed(attention(), t.q(), Contiguous(t.k(), t.v()), lists, view(out, 3, 4, 32));
  };
  call();
  EXPECT_EQ(allocated(call).calls, 0);
  const Pages pages(t.k(), t.v(), 16);
  const auto paged = [&] { attend_listed(attention(), t.q(), pages.view(), lists, view(out, 3, 4, 32)); };
  paged();
  EXPECT_EQ(allocated(paged).calls, 0);
}

TEST(KeyLists, BadInputIsRefused) {
  const auto bad = [](const Lists& lists, Index queries, Index keys, const char* name, const auto& got,
                      const auto& wanted) {
    EXPECT_TRUE(refused([&] { KeyLists(lists, queries, keys); }, name, got, wanted));
  };
  bad({0, 1, 2, 10}, 2, 10, "KeyLists.lists", "key 10 of query 1", "within [0, 10)");
  bad({0, -2, 2, 1}, 2, 10, "KeyLists.lists", "key -2 of query 0", "within [0, 10)");
  bad({3, -1, 3, 1}, 1, 10, "KeyLists.lists", "key 3 of query 0", "a key once, but it is there twice");
  bad({3, 4, 3}, 2, 10, "KeyLists.lists.size", 3, "a multiple of 2");
  bad({3}, 0, 10, "KeyLists.lists.size", 1, "a multiple of 0");
  bad({}, -1, 10, "KeyLists.queries", -1, ">= 0");
  bad({}, 0, -1, "KeyLists.keys", -1, "within [0, 2^52)");
  KeyLists kept(Lists{1, 2}, 1, 10);
  EXPECT_TRUE(refused(
      [&] {
        kept.assign(Lists{1, 10}, 1, 10);
      },
      "KeyLists.lists", "key 10 of query 0", "within [0, 10)"));
  EXPECT_EQ(kept.queries(), 0);  // not half of what was refused

  const cases::Tensors t({2, 20, 2, 2, 16, 16});
  const Contiguous source(t.k(), t.v());
  std::vector<float> out(2 * 2 * 16);
  const auto call = [&](const KeyLists& lists, const Options& options) {
    attend_listed(attention(), t.q(), source, lists, view(out, 2, 2, 16), options);
  };
  EXPECT_TRUE(refused([&] { call(KeyLists(Lists{1}, 1, 20), {}); }, "lists.queries", 1, 2));
  EXPECT_TRUE(refused([&] { call(KeyLists(Lists{1, 2}, 2, 21), {}); }, "lists.keys", 21, "within [0, 21)"));
  const std::vector<Index> ends{0, 2};
  EXPECT_TRUE(refused(
      [&] {
        call(KeyLists(Lists{1, 2}, 2, 20), {.cumulative_queries = ends});
      },
      "options.cumulative_queries.size", 2, "0: each row is a sequence"));
  EXPECT_TRUE(refused(
      [&] {
        call(KeyLists(Lists{1, 2}, 2, 20), {.scale = -1.f});
      },
      "options.scale", -1, "finite and > 0"));
}

/// Latent pages, as DeepSeek's sparse attention has them: rows, which are read where they are.
template <class T>
void of_latent_pages() {
  constexpr Index kKeys = 300, kQueries = 5, kHeads = 20, kDim = 48, kValueDim = 32;
  Random random(11);
  const std::vector<float> q = random.gaussian(kQueries * kHeads * kDim), k = random.gaussian(kKeys * kDim);
  std::vector<T> rows(k.size());
  convert(k.data(), std::ssize(k), rows.data());
  PagedCache<T> cache({.pages = 20, .page_size = 16, .head_dim = kDim, .value_dim = kValueDim, .latent = true});
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, view(k, kKeys, 1, kDim)), Outcome::kDone);
  const KeyLists lists(random_lists(random, kQueries, 90, kKeys), kQueries, kKeys);
  const auto attend = [&](const auto& source) {
    std::vector<float> out(kQueries * kHeads * kValueDim);
    attend_listed(attention(), view(q, kQueries, kHeads, kDim), source, lists, view(out, kQueries, kHeads, kValueDim));
    return out;
  };
  const TensorView<const T> keys = view(std::as_const(rows), kKeys, 1, kDim);
  const TensorView<const T> values{keys.data, kKeys, 1, kValueDim, kDim, kDim};
  EXPECT_TRUE(same_bits(attend(cache.view(id)), attend(Contiguous(keys, values))));
}
TEST(KeyLists, OfLatentPages) {
  of_latent_pages<float>();
  of_latent_pages<bf16>();
}

}  // namespace
}  // namespace longspan::testing
