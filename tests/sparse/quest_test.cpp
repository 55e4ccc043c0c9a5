// Bounds of pages, what is chosen by them, and certificates against the true mass on inputs made to break them.

#include <gtest/gtest.h>

#include <longspan/longspan.hpp>
#include <numeric>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/count_allocations.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

constexpr Index kHeads = 2, kDim = 32;

template <class T>
PagedCache<T> cache_of(Index page_size, Index tokens, Index dim = kDim) {
  return PagedCache<T>({.pages = ceil_div(tokens, page_size) + 4,
                        .page_size = page_size,
                        .kv_heads = kHeads,
                        .head_dim = dim,
                        .value_dim = kDim});
}

/// Keys as they are read: decoded.
template <class T>
double decoded(const PagedView<T>& view, Index kv_head, Index key, Index d) {
  const auto run = view.run(kv_head, key);
  return static_cast<double>(static_cast<float>(*run.key_at(0, d)) * run.scale_of_key(0));
}

template <class T>
::testing::AssertionResult bounds_are_exact(const PageBounds& bounds, const PagedView<T>& view) {
  if (bounds.keys() != view.keys()) return ::testing::AssertionFailure() << bounds.keys() << " keys";
  for (Index h = 0; h < view.kv_heads(); ++h)
    for (Index page = 0; page < bounds.pages(); ++page)
      for (Index d = 0; d < view.head_dim(); ++d) {
        double least = 1e300, largest = -1e300;
        for (Index j = 0; j < bounds.keys_in(page); ++j) {
          least = std::min(least, decoded(view, h, page * view.page_size() + j, d));
          largest = std::max(largest, decoded(view, h, page * view.page_size() + j, d));
        }
        if (!(static_cast<double>(bounds.least(h, page, d)) == least &&
              static_cast<double>(bounds.largest(h, page, d)) == largest))
          return ::testing::AssertionFailure()
                 << "head " << h << ", page " << page << ", dim " << d << ": " << bounds.least(h, page, d) << " … "
                 << bounds.largest(h, page, d) << ", expected " << least << " … " << largest;
      }
  return ::testing::AssertionSuccess();
}

template <class T>
void appended_piece_by_piece(Index page_size, Index dim) {
  SCOPED_TRACE("pages of " + std::to_string(page_size) + ", dim " + std::to_string(dim));
  Random random(static_cast<std::uint64_t>(page_size));
  const Index n = 40 * page_size / 3 + 21;
  const std::vector<float> k = random.gaussian(n * kHeads * dim), v = random.gaussian(n * kHeads * kDim);
  PagedCache<T> cache = cache_of<T>(page_size, n, dim);
  const SequenceId id = cache.open();
  PageBounds bounds;
  ThreadPool pool(2);
  const auto append = [&](Interval tokens) {
    ASSERT_EQ(cache.append(id, view(k, n, kHeads, dim).slice(tokens), view(v, n, kHeads, kDim).slice(tokens)),
              Appended::kDone);
    ASSERT_EQ(bounds.update(cache.view(id), pool), tokens.size());  // nothing else is read
    ASSERT_TRUE(bounds_are_exact(bounds, cache.view(id)));
  };
  for (Index at = 0; at < n;) {
    const Index size = std::min(n - at, random.chance(0.5) ? 1 : random.between(1, 3 * page_size));
    append({at, at + size});
    at += size;
  }
  EXPECT_EQ(bounds.update(cache.view(id)), 0);
  // Taken back, into the middle of a page, and other tokens appended.
  const Index kept = n / 2 + 1;
  cache.truncate(id, kept);
  bounds.forget(kept);
  EXPECT_EQ(bounds.keys(), kept / page_size * page_size);
  ASSERT_EQ(cache.append(id, view(k, n, kHeads, dim).slice({0, 9}), view(v, n, kHeads, kDim).slice({0, 9})),
            Appended::kDone);
  EXPECT_EQ(bounds.update(cache.view(id)), kept % page_size + 9);
  EXPECT_TRUE(bounds_are_exact(bounds, cache.view(id)));
  // Pages taken out of the middle.
  cache.evict(id, {page_size, 3 * page_size});
  bounds.forget(page_size);
  bounds.update(cache.view(id));
  EXPECT_TRUE(bounds_are_exact(bounds, cache.view(id)));
}

TEST(PageBounds, AreThoseOfTheDecodedKeys) {
  for (const Index page_size : {3, 16, 100}) {
    appended_piece_by_piece<float>(page_size, 24);
    appended_piece_by_piece<bf16>(page_size, 24);
    appended_piece_by_piece<bf16>(page_size, 13);
    appended_piece_by_piece<f16>(page_size, 24);
    appended_piece_by_piece<e4m3>(page_size, 24);
    appended_piece_by_piece<i8>(page_size, 24);
  }
}

TEST(PageBounds, UpperIsNotBelowAnyProduct) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    Random random(seed);
    const Index n = 700, page_size = 16, count = 5;
    const std::vector<float> k = random.spiky(n * kHeads * kDim, 50), q = random.spiky(count * kDim, 50);
    PagedCache<float> cache = cache_of<float>(page_size, n);
    const SequenceId id = cache.open();
    ASSERT_EQ(cache.append(id, view(k, n, kHeads, kDim), view(k, n, kHeads, kDim)), Appended::kDone);
    PageBounds bounds;
    bounds.update(cache.view(id));
    const auto row = static_cast<std::size_t>(bounds.row_floats());
    for (Index h = 0; h < kHeads; ++h) {
      std::vector<float> upper(count * row), terms(upper.size()), alone(upper.size());
      bounds.upper(h, q.data(), count, upper.data(), terms.data());
      bounds.upper(h, q.data(), count, alone.data());
      EXPECT_EQ(upper, alone);
      for (Index i = 0; i < count; ++i)
        for (Index page = 0; page < bounds.pages(); ++page) {
          double wanted = 0, size = 0;
          for (Index d = 0; d < kDim; ++d) {
            const double x = static_cast<double>(q[static_cast<std::size_t>(i * kDim + d)]);
            const auto least = static_cast<double>(bounds.least(h, page, d)),
                       largest = static_cast<double>(bounds.largest(h, page, d));
            wanted += std::max(x * least, x * largest);
            size += std::abs(x) * std::max(std::abs(least), std::abs(largest));
          }
          const std::size_t at = static_cast<std::size_t>(i) * row + static_cast<std::size_t>(page);
          ASSERT_TRUE(std::abs(static_cast<double>(upper[at]) - wanted) <= bounds.rounding() * size)
              << i << " " << page;
          ASSERT_NEAR(terms[at], size, size * 1e-5) << i << " " << page;
          for (Index j = 0; j < bounds.keys_in(page); ++j) {
            double product = 0;
            for (Index d = 0; d < kDim; ++d)
              product += static_cast<double>(q[static_cast<std::size_t>(i * kDim + d)]) *
                         decoded(cache.view(id), h, page * page_size + j, d);
            ASSERT_LE(product, static_cast<double>(upper[at]) + bounds.rounding() * size) << i << " " << page;
          }
        }
    }
  }
}

/// A cache with keys of `k` and a query; and what the definition says.
template <class T>
struct Sequence {
  Sequence(const std::vector<float>& k, const std::vector<float>& v, Index page_size)
      : n(std::ssize(k) / (kHeads * kDim)), cache(cache_of<T>(page_size, n)), id(cache.open()) {
    if (cache.append(id, longspan::view(k, n, kHeads, kDim), longspan::view(v, n, kHeads, kDim)) != Appended::kDone)
      throw std::logic_error("too few pages");
    bounds.update(cache.view(id));
  }
  PagedView<T> view() const { return cache.view(id); }
  Index n;
  PagedCache<T> cache;
  SequenceId id;
  PageBounds bounds;
};

template <class T, class Engine = Flash>
Result over(const Sequence<T>& s, TensorView<const float> q, const ChosenPages& pages, const Options& options = {}) {
  const auto attend = [&](auto queries, const auto& source, auto out, const Options& o) {
    attend_pages(attention<Engine>(), queries, source, pages, out, o);
  };
  return run(attend, q, s.view(), options);
}

TEST(Quest, ReadsThePagesWithTheLargestBounds) {
  Random random(4);
  const Index n = 1000, heads = 6;
  const std::vector<float> k = random.gaussian(n * kHeads * kDim), q = random.gaussian(heads * kDim);
  const Sequence<float> s(k, k, 16);
  const TensorView<const float> query = view(q, 1, heads, kDim);
  for (const GroupScore score : {GroupScore::kMax, GroupScore::kSum})
    for (const Index count : {1, 2, 7, 62, 63, 100}) {
      const ChosenPages chosen = Quest{count, score}(s.bounds, query);
      ASSERT_EQ(chosen.kv_heads(), kHeads);
      for (Index h = 0; h < kHeads; ++h) {
        std::vector<float> upper(static_cast<std::size_t>(3 * s.bounds.row_floats()));
        s.bounds.upper(h, q.data() + h * 3 * kDim, 3, upper.data());
        std::vector<std::pair<float, Index>> order;
        for (Index page = 0; page < 62; ++page) {
          const auto x = [&](Index i) { return upper[static_cast<std::size_t>(i * s.bounds.row_floats() + page)]; };
          order.push_back({score == GroupScore::kMax ? -std::max({x(0), x(1), x(2)}) : -(x(0) + x(1) + x(2)), page});
        }
        std::sort(order.begin(), order.end());
        std::vector<Index> wanted{62};
        for (Index i = 1; i < std::min<Index>(count, 63); ++i)
          wanted.push_back(order[static_cast<std::size_t>(i - 1)].second);
        std::sort(wanted.begin(), wanted.end());
        EXPECT_EQ(std::vector<Index>(chosen.of(h).begin(), chosen.of(h).end()), wanted)
            << count << " pages, head " << h;
      }
    }
}

TEST(Quest, EqualPagesAreTakenInOrder) {
  const std::vector<float> k(200 * kHeads * kDim, 0.5f), q(2 * kDim, 1.f);
  const Sequence<float> s(k, k, 16);
  const ChosenPages chosen = Quest{4}(s.bounds, view(q, 1, 2, kDim));
  EXPECT_EQ(std::vector<Index>(chosen.of(1).begin(), chosen.of(1).end()), (std::vector<Index>{0, 1, 2, 12}));
}

template <class T>
void bits_are_those_of_the_keys_alone(Index page_size) {
  SCOPED_TRACE("pages of " + std::to_string(page_size));
  Random random(9);
  const Index n = page_size * 21 + 5, heads = 6;
  const std::vector<float> k = random.gaussian(n * kHeads * kDim), v = random.gaussian(n * kHeads * kDim),
                           q = random.gaussian(heads * kDim);
  const Sequence<T> s(k, v, page_size);
  const TensorView<const float> query = view(q, 1, heads, kDim);
  ThreadPool pool(2);
  // Every page: the dense call.
  const Result dense = run(attention(), query, s.view());
  EXPECT_TRUE(same_bits(over(s, query, Quest{1000}(s.bounds, query)), dense));
  EXPECT_TRUE(same_bits(over(s, query, Quest{1000}(s.bounds, query), {.executor = pool}), dense));
  // Some, other ones for each KV head; for one of them the newest is not among them.
  ChosenPages some;
  const std::vector<Index> first{21, 3, 4, 17}, second{20, 0, 9};
  some.push_back(first);
  some.push_back(second);
  const Result got = over(s, query, some);
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
    EXPECT_TRUE(same_bits(over(s, query, some, {.executor = pool, .kernel = kernel}), got));
  const Result exact = over<T, Naive>(s, query, some);
  const double tolerance = WordsOf<T>::kPer > 1 ? 3e-2 : 1e-5;
  for (std::size_t i = 0; i < got.out.size(); ++i) ASSERT_NEAR(got.out[i], exact.out[i], tolerance) << i;
  for (Index h = 0; h < kHeads; ++h) {
    PagedCache<T> copies = cache_of<T>(page_size, n);
    const SequenceId copy = copies.open();
    for (const Index page : some.of(h)) {
      const Interval tokens{page * page_size, std::min((page + 1) * page_size, n)};
      ASSERT_EQ(copies.append(copy, view(k, n, kHeads, kDim).slice(tokens), view(v, n, kHeads, kDim).slice(tokens)),
                Appended::kDone);
    }
    const Result alone = run(attention(), query, copies.view(copy));
    for (Index i = h * 3; i < (h + 1) * 3; ++i) {
      ASSERT_EQ(got.lse[static_cast<std::size_t>(i)], alone.lse[static_cast<std::size_t>(i)]);
      for (Index d = i * kDim; d < (i + 1) * kDim; ++d)
        ASSERT_EQ(got.out[static_cast<std::size_t>(d)], alone.out[static_cast<std::size_t>(d)]) << "head " << i;
    }
  }
}

TEST(AttendPages, BitsAreThoseOfTheKeysAlone) {
  for (const Index page_size : {16, 64, 100}) {
    bits_are_those_of_the_keys_alone<float>(page_size);
    bits_are_those_of_the_keys_alone<bf16>(page_size);
    bits_are_those_of_the_keys_alone<f16>(page_size);
    bits_are_those_of_the_keys_alone<e4m3>(page_size);
    bits_are_those_of_the_keys_alone<i8>(page_size);
  }
}

TEST(AttendPages, NoPagesNoKeysAndSinks) {
  Random random(2);
  const std::vector<float> k = random.gaussian(50 * kHeads * kDim), q = random.gaussian(4 * kDim);
  const Sequence<float> s(k, k, 16);
  const TensorView<const float> query = view(q, 1, 4, kDim);
  ChosenPages none;
  none.push_back({});
  none.push_back(std::vector<Index>{1});
  const Result r = over(s, query, none);
  for (std::size_t i = 0; i < 2 * kDim; ++i) ASSERT_EQ(r.out[i], 0);
  EXPECT_EQ(r.lse[0], kMinusInfinity);
  EXPECT_GT(r.lse[2], kMinusInfinity);

  const std::vector<float> logits{0.5f, -1.f, 2.f, 3.f};
  const auto attend = attention(SinkLogits(logits));
  const ChosenPages all = Quest{100}(s.bounds, query);
  const Result wanted = run(attend, query, s.view());
  const auto by_pages = [&](auto queries, const auto& source, auto out, const Options& o) {
    attend_pages(attend, queries, source, all, out, o);
  };
  EXPECT_TRUE(same_bits(run(by_pages, query, s.view()), wanted));
  double left_out = 1;
  const auto certified = [&](auto queries, const auto& source, auto out, const Options& o) {
    left_out = attend_certified(attend, queries, source, s.bounds, 1e-9, out, o).left_out;
  };
  const Result c = run(certified, query, s.view());
  for (std::size_t i = 0; i < wanted.out.size(); ++i) ASSERT_NEAR(c.out[i], wanted.out[i], 4e-6);
  for (std::size_t i = 0; i < wanted.lse.size(); ++i) ASSERT_NEAR(c.lse[i], wanted.lse[i], 4e-6);
  EXPECT_LE(left_out, 1e-9);

  PagedCache<float> cache = cache_of<float>(16, 16);
  const SequenceId id = cache.open();
  PageBounds bounds;
  EXPECT_EQ(bounds.update(cache.view(id)), 0);
  const ChosenPages nothing = Quest{3}(bounds, query);
  EXPECT_EQ(nothing.count(), 0);
  const Result zero = run(
      [&](auto queries, const auto& source, auto out, const Options& o) {
        EXPECT_EQ(attend_certified(attention(), queries, source, bounds, 0.1, out, o).left_out, 0);
      },
      query, cache.view(id));
  for (const float x : zero.out) ASSERT_EQ(x, 0);
  for (const float x : zero.lse) ASSERT_EQ(x, kMinusInfinity);
}

TEST(AttendPages, NothingIsAllocatedAgain) {
  Random random(2);
  const std::vector<float> k = random.gaussian(500 * kHeads * kDim), q = random.gaussian(4 * kDim);
  const Sequence<float> s(k, k, 16);
  ChosenPages chosen;
  std::vector<float> out(4 * kDim);
  const auto call = [&] {
    Quest{5}(s.bounds, view(q, 1, 4, kDim), chosen);
    attend_pages(attention(), view(q, 1, 4, kDim), s.view(), chosen, view(out, 1, 4, kDim));
  };
  call();
  EXPECT_EQ(allocated(call).calls, 0);
}

// ---- certificates

struct Adversary {
  std::string name;
  std::vector<float> q, k;  // [4, kDim], [n, kHeads, kDim]
};

std::vector<Adversary> adversaries(Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<Adversary> all;
  const Index size = n * kHeads * kDim;
  const auto query = [&](float sigma = 1) { return random.gaussian(4 * kDim, sigma); };
  const auto at = [](Index key, Index h, Index d) { return static_cast<std::size_t>((key * kHeads + h) * kDim + d); };
  all.push_back({"gaussian", query(), random.gaussian(size)});
  all.push_back({"large", query(30), random.gaussian(size, 30)});
  all.push_back({"tiny", query(1e-20f), random.gaussian(size, 1e-20f)});
  all.push_back(
      {"equal", std::vector<float>(4 * kDim, 0.5f), std::vector<float>(static_cast<std::size_t>(size), 0.5f)});
  all.push_back({"spiky", random.spiky(4 * kDim, 100), random.spiky(size, 100)});
  std::vector<float> needle = random.gaussian(size, 0.1f);  // one key of one head outweighs all
  for (Index d = 0; d < kDim; ++d) needle[at(n / 3, 1, d)] = 4;
  all.push_back({"needle", random.uniform(4 * kDim, 0.5f, 1.5f), needle});
  std::vector<float> even = random.gaussian(size, 0.01f);  // signs in turn: bounds of a page are far from its keys
  for (Index j = 0; j < n; ++j)
    for (Index h = 0; h < kHeads; ++h)
      for (Index d = 0; d < kDim; ++d) even[at(j, h, d)] += (j + d) % 2 ? 1.f : -1.f;
  all.push_back({"alternating", query(), even});
  std::vector<float> local = random.gaussian(size, 0.3f), looks = query(0.3f);  // pages far back hardly matter
  for (Index j = 0; j < n; ++j)
    for (Index h = 0; h < kHeads; ++h) local[at(j, h, 0)] = static_cast<float>(j) * 0.15f;
  for (Index i = 0; i < 4; ++i) looks[static_cast<std::size_t>(i * kDim)] = 3;
  all.push_back({"local", looks, local});
  std::vector<float> decoy = random.gaussian(size, 0.05f);  // pages with large bounds hold nothing, one without all
  for (Index j = 0; j < n; ++j)
    for (Index h = 0; h < kHeads; ++h)
      for (Index d = 0; d < kDim; ++d)
        if (j / 16 % 5 == 0) decoy[at(j, h, d)] = j % kDim == d ? 8.f : -1.f;
  for (Index d = 0; d < kDim; ++d) decoy[at(n / 2 + 3, 0, d)] = 1.9f;
  all.push_back({"decoys", std::vector<float>(4 * kDim, 1.f), decoy});
  std::vector<float> planted = random.gaussian(size, 0.2f), seeks = query(1);
  for (const Index key : {Index{7}, n / 2, n - 40})
    for (Index d = 0; d < kDim; ++d) planted[at(key, 0, d)] += 3 * seeks[static_cast<std::size_t>(d)];
  all.push_back({"planted", seeks, planted});
  return all;
}

/// Shares of the true mass, in double, of the pages that were not read; and the true output.
struct Truth {
  std::vector<double> left_out, out;
};
template <class T>
Truth truth(const Sequence<T>& s, TensorView<const float> q, const ChosenPages& read) {
  Truth t;
  const PagedView<T> view = s.view();
  for (Index i = 0; i < q.heads; ++i) {
    const Index h = i / (q.heads / kHeads);
    std::vector<double> score(static_cast<std::size_t>(s.n));
    double max = -1e300, all = 0, left = 0;
    for (Index j = 0; j < s.n; ++j) {
      double x = 0;
      for (Index d = 0; d < kDim; ++d) x += static_cast<double>(q.row(0, i)[d]) * decoded(view, h, j, d);
      max = std::max(max, score[static_cast<std::size_t>(j)] = x / std::sqrt(static_cast<double>(kDim)));
    }
    std::vector<double> row(kDim);
    for (Index j = 0; j < s.n; ++j) {
      const double w = std::exp(score[static_cast<std::size_t>(j)] - max);
      all += w;
      const auto pages = read.of(h);
      if (!std::binary_search(pages.begin(), pages.end(), j / view.page_size())) left += w;
      const auto run = view.run(h, j);
      for (Index d = 0; d < kDim; ++d)
        row[static_cast<std::size_t>(d)] +=
            w * static_cast<double>(static_cast<float>(*run.value_at(0, d)) * run.scale_of_value(0));
    }
    t.left_out.push_back(left / all);
    for (const double x : row) t.out.push_back(x / all);
  }
  return t;
}

template <class T>
void never_exceeded(std::uint64_t seed, Index page_size, int& sparse) {
  const Index n = 50 * page_size - 5;
  const bool rounded = WordsOf<T>::kPer > 1;
  for (const Adversary& a : adversaries(n, seed)) {
    const std::vector<float> v = Random(seed + 100).uniform(n * kHeads * kDim, -1, 1);
    const Sequence<T> s(a.k, v, page_size);
    const TensorView<const float> q = view(a.q, 1, 4, kDim);
    for (const double epsilon : {0.5, 0.05, 1e-3, 1e-6}) {
      SCOPED_TRACE(a.name + ", seed " + std::to_string(seed) + ", pages of " + std::to_string(page_size) +
                   ", epsilon " + std::to_string(epsilon));
      CertifiedReading reading;
      const Result got = run(
          [&](auto queries, const auto& source, auto out, const Options& o) {
            reading = attend_certified(attention(), queries, source, s.bounds, epsilon, out, o);
          },
          q, s.view());
      ASSERT_LE(reading.left_out, epsilon);
      for (Index h = 0; h < kHeads; ++h) ASSERT_EQ(reading.pages.of(h).back(), 49);
      const Truth t = truth(s, q, reading.pages);
      for (const double left : t.left_out) ASSERT_LE(left, reading.left_out);
      if (reading.pages.count() == 50 * kHeads) {
        ASSERT_EQ(reading.left_out, 0);
      } else {
        ++sparse;
      }
      // rounding: as of any call; where queries are rounded to bf16, scores of these inputs may be far off
      if (rounded && (a.name == "large" || a.name == "spiky")) continue;
      for (std::size_t i = 0; i < got.out.size(); ++i)
        ASSERT_TRUE(std::abs(static_cast<double>(got.out[i]) - t.out[i]) <=
                    2 * reading.left_out + (rounded ? 0.1 : 2e-3))
            << i << ": " << got.out[i] << ", expected " << t.out[i];
    }
  }
}

TEST(AttendCertified, NeverExceeded) {
  int floats = 0, others = 0;
  for (std::uint64_t seed = 1; seed <= 2; ++seed)
    for (const Index page_size : {16, 21}) {
      never_exceeded<float>(seed, page_size, floats);
      never_exceeded<bf16>(seed, page_size, others);
      never_exceeded<i8>(seed, page_size, others);
    }
  EXPECT_GT(floats, 30);  // it is not kept by reading everything
  EXPECT_GT(others, 40);
}

/// A query whose elements all round up to bf16 by as much as can be: what is read looks heavier than it is.
TEST(AttendCertified, CountsTheRoundingOfQueries) {
  const Index n = 50 * 16;
  std::vector<float> k(n * kHeads * kDim, 16.5f);
  std::fill_n(k.begin() + 20 * 16 * kHeads * kDim, 16 * kHeads * kDim, 17.5f);
  const std::vector<float> q(4 * kDim, 1 + 0x1p-8f + 0x1p-13f);
  const Sequence<bf16> s(k, k, 16);
  std::vector<float> out(4 * kDim);
  const TensorView<const float> query = view(q, 1, 4, kDim);
  const CertifiedReading r = attend_certified(attention(), query, s.view(), s.bounds, 0.5, view(out, 1, 4, kDim));
  EXPECT_LT(r.pages.count(), 10);
  for (const double left : truth(s, query, r.pages).left_out) {
    EXPECT_GT(left, 0.1);
    EXPECT_LE(left, r.left_out);
    EXPECT_LE(r.left_out, 1.6 * left);
  }
}

/// The same for whole numbers of 16 bits, where small elements beside a large one are rounded by twice what they are.
TEST(AttendCertified, CountsTheRoundingToWholeNumbers) {
  const Index n = 50 * 16;
  std::vector<float> k(n * kHeads * kDim, 2.f), q(4 * kDim, 29000 * 0.51f / 32639);
  std::fill_n(k.begin() + 20 * 16 * kHeads * kDim, 16 * kHeads * kDim, 2.1f);
  for (std::size_t i = 0; i < k.size(); i += kDim) k[i] = 0;
  for (std::size_t i = 0; i < q.size(); i += kDim) q[i] = 29000;
  const Sequence<i8> s(k, k, 16);
  std::vector<float> out(4 * kDim);
  const TensorView<const float> query = view(q, 1, 4, kDim);
  const CertifiedReading r = attend_certified(attention(), query, s.view(), s.bounds, 0.5, view(out, 1, 4, kDim));
  for (const double left : truth(s, query, r.pages).left_out) EXPECT_LE(left, r.left_out);
}

TEST(AttendCertified, ReadsAllThatIsNotFinite) {
  Random random(8);
  const Index n = 50 * 16;
  std::vector<float> k = random.gaussian(n * kHeads * kDim, 0.1f);
  const std::vector<float> q = random.gaussian(4 * kDim);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -kMinusInfinity, kMinusInfinity}) {
    k[static_cast<std::size_t>(300 * kHeads * kDim + 5)] = bad;  // of KV head 0
    const Sequence<float> s(k, k, 16);
    EXPECT_TRUE(std::isnan(s.bounds.least(0, 300 / 16, 5)));
    const ChosenPages chosen = Quest{2}(s.bounds, view(q, 1, 4, kDim));
    EXPECT_EQ(chosen.of(0).front(), 300 / 16);
    std::vector<float> out(4 * kDim);
    const CertifiedReading r =
        attend_certified(attention(), view(q, 1, 4, kDim), s.view(), s.bounds, 0.9, view(out, 1, 4, kDim));
    EXPECT_EQ(std::ssize(r.pages.of(0)), std::isnan(bad) ? 50 : std::ssize(r.pages.of(0)));
    EXPECT_LT(std::ssize(r.pages.of(1)), 50);
    EXPECT_TRUE(std::binary_search(r.pages.of(0).begin(), r.pages.of(0).end(), 300 / 16));
  }
}

TEST(AttendPages, BadInputIsRefused) {
  const std::vector<float> k(100 * kHeads * kDim, 0.5f), q(4 * kDim, 1.f);
  const Sequence<float> s(k, k, 16);
  const TensorView<const float> query = view(q, 1, 4, kDim);
  std::vector<float> out(4 * kDim);
  const auto call = [&](const std::vector<Index>& pages) {
    ChosenPages chosen;
    chosen.push_back(pages);
    chosen.push_back(pages);
    attend_pages(attention(), query, s.view(), chosen, view(out, 1, 4, kDim));
  };
  EXPECT_TRUE(refused([&] { call({0, 7}); }, "pages", 7, "within [0, 7)"));
  EXPECT_TRUE(refused([&] { call({-1, 3}); }, "pages", -1, ">= 0"));
  EXPECT_TRUE(refused([&] { call({3, 3}); }, "pages", 3, ">= 4"));
  EXPECT_TRUE(refused([&] { attend_pages(attention(), query, s.view(), ChosenPages(), view(out, 1, 4, kDim)); },
                      "pages.kv_heads", 0, 2));
  EXPECT_TRUE(refused([&] { Quest{0}(s.bounds, query); }, "Quest.pages", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { Quest{1}(s.bounds, view(q, 2, 2, kDim)); }, "q.tokens", 2, "1: the newest token"));
  EXPECT_TRUE(refused([&] { Quest{1}(s.bounds, view(q, 1, 1, 4 * kDim)); }, "q.heads", 1, "a multiple of 2"));
  EXPECT_TRUE(refused([&] { Quest{1}(s.bounds, view(q, 1, 8, 16)); }, "q.dim", 16, 32));
  const auto certified = [&](const PageBounds& bounds, double epsilon) {
    attend_certified(attention(), query, s.view(), bounds, epsilon, view(out, 1, 4, kDim));
  };
  EXPECT_TRUE(refused([&] { certified(s.bounds, 0); }, "attend_certified.epsilon", 0, "within (0, 1)"));
  EXPECT_TRUE(
      refused([&] { certified(s.bounds, std::nan("")); }, "attend_certified.epsilon", std::nan(""), "within (0, 1)"));
  PageBounds old = s.bounds;
  old.forget(90);
  EXPECT_TRUE(refused([&] { certified(old, 0.1); }, "PageBounds.keys", 80, 100));
  EXPECT_TRUE(refused([&] { old.forget(-1); }, "PageBounds.forget", -1, ">= 0"));
  const Sequence<float> other(std::vector<float>(40 * kHeads * kDim), std::vector<float>(40 * kHeads * kDim), 16),
      larger(k, k, 20);
  EXPECT_TRUE(refused([&] { old.update(other.view()); }, "PageBounds.view.keys", 40, ">= 80"));
  EXPECT_TRUE(refused([&] { old.update(larger.view()); }, "PageBounds.view.page_size", 20, 16));
  EXPECT_TRUE(refused([&] { old.update(s.view().part({16, 90})); }, "PageBounds.view.first_key", 16, "0: no window"));
}

}  // namespace
}  // namespace longspan::testing
