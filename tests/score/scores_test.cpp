// Score functions in the definition's reading, and what they refuse. In lanes: laws/lanes_test.cpp.

#include <gtest/gtest.h>

#include <longspan/core/concepts.hpp>
#include <longspan/score/additive_bias.hpp>
#include <longspan/score/relative_bias.hpp>
#include <longspan/score/scores.hpp>
#include <longspan/score/sink_logits.hpp>
#include <longspan/score/temperature.hpp>
#include <support/archetypes.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

static_assert(ScoreFunction<SoftCap> && ScoreFunction<Alibi>);
static_assert(ScoreFunction<SymmetricAlibi> && ScoreFunction<RelativeBias> && ScoreFunction<AdditiveBias>);
static_assert(ScoreFunction<LogN> && ScoreFunction<TemperatureTuning>);
static_assert(!Mask<SoftCap> && !Mask<Alibi> && !ScoreFunction<SinkLogits> && !Mask<SinkLogits>);

const double kNan = std::nan(""), kInfinity = std::numeric_limits<double>::infinity();

TEST(SoftCap, IsTheFormula) {
  for (const float cap : {1.f, 30.f, 50.f})
    for (const double score : {-1e30, -70.0, -1.0, -1e-20, 0.0, 0.3, 29.0, 1e6})
      EXPECT_EQ(SoftCap(cap)(score, ExactPosition{1}, ExactPosition{2}), std::tanh(score / cap) * cap);
}

TEST(SoftCap, BadCapsAreRefused) {
  for (const float cap : {0.f, -50.f, std::nanf(""), std::numeric_limits<float>::infinity(), kMinusInfinity})
    EXPECT_TRUE(refused([&] { SoftCap{cap}; }, "SoftCap.cap", cap, "finite, > 0"));
}

TEST(Alibi, SlopesOfPowersOfTwo) {
  for (Index heads = 1; heads <= 256; heads *= 2) {
    const Alibi alibi(heads);
    for (Index h = 0; h < heads; ++h)
      EXPECT_DOUBLE_EQ(alibi.slope(h), std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(heads)));
  }
}

TEST(Alibi, OtherCountsExtendTheLowerPowerOfTwo) {
  for (Index heads = 1; heads <= 130; ++heads) {
    const Alibi alibi(heads);
    ASSERT_EQ(alibi.heads(), heads);
    Index low = 1;
    while (low * 2 <= heads) low *= 2;
    const Alibi lower(low), higher(2 * low);
    for (Index h = 0; h < heads; ++h)
      ASSERT_EQ(alibi.slope(h), h < low ? lower.slope(h) : higher.slope(2 * (h - low)))
          << heads << " heads, head " << h;
  }
}

TEST(Alibi, PenalisesDistance) {
  const Alibi alibi(std::vector<double>{0.5, -0.25});
  EXPECT_EQ(alibi(3.0, ExactPosition{10}, ExactPosition{4}, 0), 0.0);
  EXPECT_EQ(alibi(3.0, ExactPosition{4}, ExactPosition{10}, 0), 6.0);
  EXPECT_EQ(alibi(3.0, ExactPosition{10}, ExactPosition{4}, 1), 4.5);
  const Index far = Index{1} << 50;
  EXPECT_EQ(alibi(0.0, ExactPosition{far + 7}, ExactPosition{far}, 0), -3.5);
}

TEST(Alibi, BadInputIsRefused) {
  EXPECT_TRUE(refused([] { Alibi{Index{0}}; }, "Alibi.heads", "0", ">= 1"));
  EXPECT_TRUE(refused([] { Alibi{Index{-3}}; }, "Alibi.heads", "-3", ">= 1"));
  EXPECT_TRUE(refused([] { Alibi{std::vector<double>()}; }, "Alibi.slopes.size", "0", ">= 1"));
  for (const double slope : {kNan, kInfinity, -kInfinity})
    EXPECT_TRUE(refused([&] { Alibi(std::vector<double>{0.5, slope}); }, "Alibi.slopes", slope, "finite"));
}

TEST(SymmetricAlibi, LooksBothWays) {
  const SymmetricAlibi alibi(std::vector<double>{0.5, 0.25});
  EXPECT_EQ(alibi(3.0, ExactPosition{10}, ExactPosition{4}, 0), 0.0);
  EXPECT_EQ(alibi(3.0, ExactPosition{4}, ExactPosition{10}, 1), 1.5);
  EXPECT_EQ(SymmetricAlibi(12).slope(11), Alibi(12).slope(11));
}

TEST(RelativeBias, TableOfBucketsAndHeads) {
  const std::vector<float> table{0, 10, 1, 11, 2, 12, 3, 13};  // 4 buckets of 2 heads: distances 0, 1, 2 to 4, beyond
  const RelativeBias causal({.buckets = 4, .max_distance = 8, .bidirectional = false}, 2, table);
  const float wanted[] = {0, 1, 2, 2, 3, 3, 3, 3, 3, 3};
  for (Index d = 0; d < 10; ++d)
    for (Index head = 0; head < 2; ++head) {
      EXPECT_EQ(causal.bias(head, -d), wanted[d] + static_cast<float>(10 * head)) << d;
      EXPECT_EQ(causal(0.5, ExactPosition{20 + d}, ExactPosition{20}, head), 0.5 + causal.bias(head, -d));
    }
  EXPECT_EQ(causal.bias(1, 5), 10);  // behind the query: bucket 0
  const RelativeBias both({.buckets = 4, .max_distance = 8}, 2, table);
  EXPECT_EQ(both.bias(0, 0), 0);
  EXPECT_EQ(both.bias(0, -1), 1);
  EXPECT_EQ(both.bias(0, 1), 3);
  EXPECT_EQ(both.bias(0, -100), 1);
  EXPECT_EQ(both.bias(1, 100), 13);
  EXPECT_EQ(both.heads(), 2);
}

TEST(RelativeBias, FromAFunction) {
  const RelativeBias bias(3, 5, [](Index head, Index d) { return static_cast<float>(100 * head + d); });
  for (Index head = 0; head < 3; ++head)
    for (Index d = -40; d <= 40; ++d)
      EXPECT_EQ(bias.bias(head, d), static_cast<float>(100 * head + std::clamp<Index>(d, -5, 5)));
}

TEST(RelativeBias, BadInputIsRefused) {
  const std::vector<float> table(64, 0.f);
  const auto with = [&](T5Buckets buckets, Index heads, const char* argument, Index got, const auto& wanted) {
    EXPECT_TRUE(refused([&] { RelativeBias(buckets, heads, table); }, argument, got, wanted));
  };
  with({.buckets = 0}, 2, "T5Buckets.buckets", 0, "a multiple of 4, >= 4");
  with({.buckets = 30}, 2, "T5Buckets.buckets", 30, "a multiple of 4, >= 4");
  with({.buckets = 31, .bidirectional = false}, 2, "T5Buckets.buckets", 31, "a multiple of 2, >= 2");
  with({.max_distance = 8}, 2, "T5Buckets.max_distance", 8, ">= 9");
  with({.max_distance = 16, .bidirectional = false}, 2, "T5Buckets.max_distance", 16, ">= 17");
  with({}, 0, "RelativeBias.heads", 0, ">= 1");
  with({}, 3, "RelativeBias.table.size", 64, 96);
  const std::vector<float> bad(32, std::nanf(""));
  EXPECT_TRUE(refused([&] { RelativeBias({}, 1, bad); }, "RelativeBias.bias", std::nanf(""), "a number"));
  const auto zero = [](Index, Index) { return 0.f; };
  EXPECT_TRUE(refused([&] { RelativeBias(0, 5, zero); }, "RelativeBias.heads", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { RelativeBias(1, -1, zero); }, "RelativeBias.reach", -1, "within [0, 2^20]"));
  EXPECT_TRUE(refused([&] { RelativeBias(1, 1 << 21, zero); }, "RelativeBias.reach", 1 << 21, "within [0, 2^20]"));
}

TEST(AdditiveBias, BroadcastsWhatIsOne) {
  std::vector<float> bias(2 * 3 * 4 * 5);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  const auto at = [&](const BiasShape& s, Index sequence, Index head, Index query, Index key) {
    const auto part =
        std::span<const float>(bias).first(static_cast<std::size_t>(s.sequences * s.heads * s.queries * s.keys));
    return AdditiveBias(part, s)(0.5, ExactPosition{query}, ExactPosition{key}, Site{head, sequence});
  };
  EXPECT_EQ(at({2, 3, 4, 5}, 1, 2, 3, 4), 119.5);
  EXPECT_EQ(at({2, 3, 4, 5, 100, 1000}, 1, 0, 102, 1001), 71.5);
  EXPECT_EQ(at({1, 3, 4, 5}, 7, 1, 1, 1), 26.5);
  EXPECT_EQ(at({2, 1, 4, 5}, 1, 9, 0, 3), 23.5);
  EXPECT_EQ(at({2, 3, 1, 5}, 1, 1, 123, 2), 22.5);
  EXPECT_EQ(at({1, 1, 1, 5}, 9, 9, 9, 3), 3.5);
}

TEST(AdditiveBias, BadInputIsRefused) {
  const std::vector<float> bias(2 * 3 * 4 * 5);
  const auto with = [&](BiasShape shape, const char* argument, Index got, const auto& wanted) {
    EXPECT_TRUE(refused([&] { AdditiveBias(bias, shape); }, argument, got, wanted));
  };
  with({0, 3, 4, 5}, "BiasShape.sequences", 0, ">= 1");
  with({2, -3, 4, 5}, "BiasShape.heads", -3, ">= 1");
  with({2, 3, 0, 5}, "BiasShape.queries", 0, ">= 1");
  with({2, 3, 4}, "BiasShape.keys", 0, ">= 1");
  with({2, 3, kPositionEnd, 5}, "BiasShape.queries", kPositionEnd, "at most 2^52 numbers");
  with({2, 3, 4, 4}, "AdditiveBias.bias.size", 120, 96);
}

TEST(Temperature, IsTheFormula) {
  for (const Index position : {0, 1, 500, 4095, 4096, 100000}) {
    const double n = static_cast<double>(position + 1);
    EXPECT_DOUBLE_EQ(LogN(4096)(3.0, ExactPosition{position}, ExactPosition{0}),
                     3.0 * std::max(1.0, std::log(n) / std::log(4096.0)));
    EXPECT_DOUBLE_EQ(TemperatureTuning(4096, 0.5f)(3.0, ExactPosition{position}, ExactPosition{0}),
                     3.0 * (1 + 0.5 * std::log(1 + std::floor(n / 4096))));
  }
  EXPECT_EQ(LogN(512)(3.0, ExactPosition{-7}, ExactPosition{0}), 3.0);  // queries before the first key
  EXPECT_EQ(TemperatureTuning(512)(3.0, ExactPosition{-700}, ExactPosition{0}), 3.0);
}

TEST(Temperature, BadInputIsRefused) {
  EXPECT_TRUE(refused([] { LogN{1}; }, "LogN.trained", 1, ">= 2"));
  EXPECT_TRUE(refused([] { TemperatureTuning(63); }, "TemperatureTuning.every", 63, ">= 64"));
  for (const float strength : {-0.1f, std::nanf(""), std::numeric_limits<float>::infinity()})
    EXPECT_TRUE(
        refused([&] { TemperatureTuning(64, strength); }, "TemperatureTuning.strength", strength, "finite and >= 0"));
}

TEST(SinkLogits, BadInputIsRefused) {
  EXPECT_TRUE(refused([] { SinkLogits(std::vector<float>{}); }, "SinkLogits.size", 0, ">= 1"));
  for (const float x : {std::nanf(""), std::numeric_limits<float>::infinity()})
    EXPECT_TRUE(refused([&] { SinkLogits({0.f, x}); }, "SinkLogits", x, "finite, or -inf"));
  EXPECT_NO_THROW(SinkLogits({kMinusInfinity, -3.f}));
}

}  // namespace
}  // namespace longspan::testing
