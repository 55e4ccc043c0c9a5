// Score functions in the definition's reading, and what they refuse. In lanes: laws/lanes_test.cpp.

#include <gtest/gtest.h>

#include <longspan/core/concepts.hpp>
#include <longspan/score/scores.hpp>
#include <support/archetypes.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

static_assert(ScoreFunction<SoftCap> && ScoreFunction<Alibi>);
static_assert(!Mask<SoftCap> && !Mask<Alibi>);

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

}  // namespace
}  // namespace longspan::testing
