// States of softmax rows: merge is associative and commutative up to rounding, with an exact identity; parts make the
// whole.

#include <gtest/gtest.h>

#include <limits>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

/// As a kernel might leave it; some rows have seen nothing.
Partial random_partial(Random& random, Index queries, Index heads, Index value_dim) {
  Partial p(queries, heads, value_dim);
  for (std::size_t i = 0; i < p.max.size(); ++i) {
    if (random.chance(0.2)) continue;
    p.max[i] = static_cast<float>(random.chance(0.2) ? random.real(-3e4, 3e4) : random.real(-20, 20));
    p.sum[i] = static_cast<float>(random.real(1, 100));
    for (Index d = 0; d < value_dim; ++d)
      p.values[i * static_cast<std::size_t>(value_dim) + static_cast<std::size_t>(d)] =
          p.sum[i] * static_cast<float>(random.real(-1, 1));
  }
  return p;
}

Result finished(const Partial& p) {
  Result r{nans(p.queries * p.heads * p.value_dim), nans(p.queries * p.heads)};
  p.finish(view(r.out, p.queries, p.heads, p.value_dim), r.lse);
  return r;
}

::testing::AssertionResult same_partial(const Partial& a, const Partial& b) {
  if (const auto max = same_bits(std::span(a.max), b.max); !max) return max;
  if (const auto sum = same_bits(std::span(a.sum), b.sum); !sum) return sum;
  return same_bits(std::span(a.values), b.values);
}

/// Values are in [-1, 1].
::testing::AssertionResult close(const Partial& a, const Partial& b) {
  const Result x = finished(a), y = finished(b);
  for (std::size_t i = 0; i < x.out.size(); ++i)
    if (!(error_in(x.out[i], static_cast<double>(y.out[i]), 1) <= 1e-6))
      return ::testing::AssertionFailure() << "out[" << i << "] " << x.out[i] << " and " << y.out[i];
  for (std::size_t i = 0; i < x.lse.size(); ++i)
    if (!(error_in(x.lse[i], static_cast<double>(y.lse[i]), 1 + std::abs(static_cast<double>(y.lse[i]))) <= 1e-6))
      return ::testing::AssertionFailure() << "LSE[" << i << "] " << x.lse[i] << " and " << y.lse[i];
  return ::testing::AssertionSuccess();
}

TEST(Merge, Laws) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    const Index queries = random.between(0, 5), heads = random.between(1, 4), dim = random.between(1, 40);
    const Partial a = random_partial(random, queries, heads, dim), b = random_partial(random, queries, heads, dim),
                  c = random_partial(random, queries, heads, dim), none(queries, heads, dim);
    ASSERT_TRUE(close(merge(a, b), merge(b, a))) << "seed " << seed;
    ASSERT_TRUE(close(merge(merge(a, b), c), merge(a, merge(b, c)))) << "seed " << seed;
    ASSERT_TRUE(same_partial(merge(a, none), a)) << "seed " << seed;
    ASSERT_TRUE(same_partial(merge(none, a), a)) << "seed " << seed;
    ASSERT_TRUE(same_partial(merge(none, none), none)) << "seed " << seed;
  }
}

TEST(Merge, IsTheSoftmaxOfBoth) {
  Partial a(1, 1, 2), b(1, 1, 2);  // one key each, of scores 3 and 5 in units of log 2
  a.max = {3}, a.sum = {1}, a.values = {10, -2};
  b.max = {5}, b.sum = {1}, b.values = {20, 6};
  const Result r = finished(merge(a, b));  // weights 1/5 and 4/5
  EXPECT_NEAR(r.out[0], 18, 1e-5);
  EXPECT_NEAR(r.out[1], 4.4, 1e-5);
  EXPECT_NEAR(r.lse[0], std::log(8.0 + 32.0), 1e-6);
}

TEST(Merge, FarApart) {
  Partial low(1, 1, 1), high(1, 1, 1);
  low.max = {-1e30f}, low.sum = {1}, low.values = {5};
  high.max = {1e30f}, high.sum = {2}, high.values = {7};
  EXPECT_TRUE(same_partial(merge(low, high), high));
  EXPECT_TRUE(same_partial(merge(high, low), high));
}

TEST(Merge, RefusesOtherShapes) {
  const Partial a(2, 3, 4);
  EXPECT_TRUE(refused([&] { merge(a, Partial(1, 3, 4)); }, "merge.queries", "1", "2"));
  EXPECT_TRUE(refused([&] { merge(a, Partial(2, 5, 4)); }, "merge.heads", "5", "3"));
  EXPECT_TRUE(refused([&] { merge(a, Partial(2, 3, 6)); }, "merge.value_dim", "6", "4"));
  std::vector<float> out(24, 77.f), lse(5, 77.f);
  EXPECT_TRUE(refused([&] { a.finish(view(out, 3, 2, 4)); }, "out.tokens", "3", "2"));
  EXPECT_TRUE(refused([&] { a.finish(view(out, 2, 4, 3)); }, "out.heads", "4", "3"));
  EXPECT_TRUE(refused([&] { a.finish(view(out, 2, 3, 4), lse); }, "lse.size", "5", "6"));
  std::vector<float> wide(12, 77.f);
  EXPECT_TRUE(refused([&] { a.finish(view(wide, 2, 3, 2)); }, "out.dim", "2", "4"));
  EXPECT_EQ(out, std::vector<float>(24, 77.f));
  EXPECT_TRUE(refused([&] { Partial(-1, 1, 1); }, "Partial.queries", "-1", ">= 0"));
  EXPECT_TRUE(refused([&] { Partial(1, 0, 1); }, "Partial.heads", "0", ">= 1"));
  EXPECT_TRUE(refused([&] { Partial(1, 1, 0); }, "Partial.value_dim", "0", ">= 1"));
  EXPECT_TRUE(refused([&] { Partial(view(std::as_const(out), 2, 3, 4), lse); }, "Partial.lse.size", "5", "6"));
}

/// partial() over pieces of the keys, merged left to right.
template <class Attend>
Partial merged(const Attend& attend, const cases::Tensors& t, const std::vector<Index>& cuts, Options options) {
  options.first_query = t.shape.keys - t.shape.queries;
  Partial whole(t.shape.queries, t.shape.heads, t.shape.value_dim);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    options.first_key = cuts[i];
    const Interval keys{cuts[i], cuts[i + 1]};
    whole = merge(whole, attend.partial(t.q(), t.k().slice(keys), t.v().slice(keys), options));
  }
  return whole;
}

TEST(Partials, OfSplitKeysMakeTheWhole) {
  ThreadPool two(2);
  const auto attend = attention(AnyMask::of(Window{900} | Sinks{4}), AnyScore::of(std::tuple(SoftCap{20.f})));
  for (const Index queries : {1, 60}) {
    const cases::Tensors t({queries, 5000, 4, 2, 16, 20});
    const Call call{.q = t.q(),
                    .k = t.k(),
                    .v = t.v(),
                    .mask = AnyMask::of(Window{900} | Sinks{4}),
                    .scores = AnyScore::of(std::tuple(SoftCap{20.f}))};
    const Result exact = call.by_definition();
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
      for (const bool threads : {false, true}) {
        Options options{.kernel = kernel};
        if (threads) options.executor = two;
        EXPECT_TRUE(call.close(finished(merged(attend, t, {0, 5000}, options)), exact));
        EXPECT_TRUE(call.close(finished(merged(attend, t, {0, 0, 1, 77, 4000, 4999, 5000}, options)), exact));
        // Cut where splits begin, the pieces are those that the kernels merge: not a bit differs.
        EXPECT_TRUE(same_bits(finished(merged(attend, t, {0, 2048, 4096, 5000}, options)), call.by(call.contiguous())));
      }
    EXPECT_TRUE(call.close(finished(merged(attention<Naive>(AnyMask::of(Window{900} | Sinks{4}), call.scores), t,
                                           {0, 100, 3000, 5000}, {})),
                           exact));
  }
}

TEST(Partials, OfPagesAndOfBatches) {
  const cases::Tensors t({5, 300, 4, 2, 16, 20});
  const auto attend = attention(AnyMask::of(Causal{}));
  const Partial contiguous = attend.partial(t.q(), t.k(), t.v());
  EXPECT_TRUE(same_partial(attend.partial(t.q(), Pages(t.k(), t.v(), 16).view()), contiguous));
  const std::vector<Index> queries{0, 2, 5}, keys{0, 100, 300};
  const Result batch =
      finished(attend.partial(t.q(), t.k(), t.v(), {.cumulative_queries = queries, .cumulative_keys = keys}));
  EXPECT_TRUE(same_bits(
      batch, run(attend, t.q(), Contiguous(t.k(), t.v()), {.cumulative_queries = queries, .cumulative_keys = keys})));
}

TEST(Partials, FromOutputAndLse) {
  const cases::Tensors t({3, 200, 4, 2, 16, 20});
  const Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Window{120})};
  const auto attend = attention(call.mask);
  Partial whole(3, 4, 20);
  for (const Interval keys : {Interval{0, 50}, {50, 130}, {130, 200}}) {
    Result r = run(attend, t.q(), Contiguous(t.k().slice(keys), t.v().slice(keys)),
                   {.first_query = 197, .first_key = keys.begin});
    whole = merge(Partial(view(std::as_const(r.out), 3, 4, 20), r.lse), whole);
  }
  EXPECT_TRUE(call.close(finished(whole), call.by_definition()));

  // What goes in comes out, of rows that saw nothing too.
  const std::vector<float> out{1.5f, -2.f, 0.f, 0.f, 3.f, 1e-3f}, lse{700.25f, kMinusInfinity, -0.125f};
  const Result back = finished(Partial(view(out, 3, 1, 2), lse));
  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(back.out[i], out[i], 1e-6);
  EXPECT_NEAR(back.lse[0], 700.25f, 1e-4);
  EXPECT_EQ(back.lse[1], kMinusInfinity);
  EXPECT_NEAR(back.lse[2], -0.125f, 1e-6);
}

TEST(Partials, OfNothingAreTheIdentity) {
  const cases::Tensors t({3, 0, 4, 2, 16, 20});
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
    EXPECT_TRUE(same_partial(attention(AnyMask::of(Full{})).partial(t.q(), t.k(), t.v(), {.kernel = kernel}),
                             Partial(3, 4, 20)));
  EXPECT_TRUE(same_partial(attention<Naive>(AnyMask::of(Full{})).partial(t.q(), t.k(), t.v()), Partial(3, 4, 20)));
  const Result r = finished(Partial(3, 4, 20));
  EXPECT_EQ(r.out, std::vector<float>(240, 0.f));
  EXPECT_EQ(r.lse, std::vector<float>(12, kMinusInfinity));
}

}  // namespace
}  // namespace longspan::testing
