// Frequency policies: their formulas, and what they refuse.

#include <gtest/gtest.h>

#include <iostream>
#include <longspan/position/rope.hpp>
#include <support/near.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

const double kNan = std::nan(""), kInfinity = std::numeric_limits<double>::infinity();

TEST(Frequencies, PlainIsAPowerSeriesWithinTwoUlp) {
  double worst = 0;
  std::string at;
  for (const Index dim : {2, 4, 6, 64, 80, 96, 128, 192, 256})
    for (const double base : {1.0, 2.0, 10000.0, 5e5, 1e6}) {
      const std::vector<double> f = Plain{}.frequencies(dim, base);
      ASSERT_EQ(std::ssize(f), dim / 2);
      EXPECT_EQ(f[0], 1.0);
      for (Index i = 0; i < dim / 2; ++i) {
        const auto exponent = -2.0L * static_cast<long double>(i) / static_cast<long double>(dim);
        const double wanted = static_cast<double>(std::pow(static_cast<long double>(base), exponent));
        const double ulp = std::ldexp(1.0, std::ilogb(wanted) - 52);
        const double error = error_in(f[static_cast<std::size_t>(i)], wanted, ulp);
        if (!(error <= worst)) {
          worst = error;
          at = "rotary_dim " + std::to_string(dim) + ", base " + std::to_string(base) + ", pair " + std::to_string(i);
        }
      }
    }
  std::cout << "largest error of frequencies: " << worst << " ulp of double, " << at << "\n";
  EXPECT_LE(worst, 2.0) << at;
}

TEST(Frequencies, LinearDividesAll) {
  const std::vector<double> plain = Plain{}.frequencies(64, 10000), linear = Linear{.factor = 4}.frequencies(64, 10000);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(linear[i], plain[i] / 4);
  EXPECT_EQ(Linear{}.frequencies(64, 10000), plain);
}

TEST(Frequencies, NtkKeepsTheFirstAndDividesTheLast) {
  for (const Index dim : {4, 64, 128})
    for (const double factor : {1.0, 2.0, 8.0, 0.5}) {
      const std::vector<double> plain = Plain{}.frequencies(dim, 10000),
                                ntk = Ntk{.factor = factor}.frequencies(dim, 10000);
      EXPECT_EQ(ntk.front(), 1.0);
      EXPECT_LE(error_in(ntk.back(), plain.back() / factor, plain.back()), 1e-14) << dim << ", " << factor;
    }
  EXPECT_EQ(Ntk{.factor = 8}.frequencies(2, 10000), (std::vector<double>{1.0}));
}

template <class Policy>
void refuses_dims_and_bases(const Policy& policy) {
  for (const Index dim : {-2, 0, 1, 3, 63})
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(dim, 10000.0, policy); }, "rotary_dim", dim, "even and >= 2"));
  for (const double base : {0.0, -1.0, kNan, kInfinity})
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, base, policy); }, "base", base, "finite and > 0"));
}

TEST(Frequencies, BadDimensionsAndBasesAreRefused) {
  refuses_dims_and_bases(Plain{});
  refuses_dims_and_bases(Linear{.factor = 2});
  refuses_dims_and_bases(Ntk{.factor = 2});
}

TEST(Frequencies, BadFactorsAreRefused) {
  for (const double factor : {0.0, -2.0, kNan, kInfinity, -kInfinity}) {
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, Linear{.factor = factor}); }, "Linear.factor", factor,
                        "finite and > 0"));
    EXPECT_TRUE(
        refused([&] { Rope<HalfSplit>(64, 1e4, Ntk{.factor = factor}); }, "Ntk.factor", factor, "finite and > 0"));
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(std::vector<double>{1.0}, factor); }, "attention_factor", factor,
                        "finite and > 0"));
  }
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(4, 1e4, Ntk{.factor = 1e300}); }, "Ntk.factor", "1e+300",
                      "one that leaves the base finite and > 0"));
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(4, 1e4, Ntk{.factor = 1e-300}); }, "Ntk.factor", "1e-300",
                      "one that leaves the base finite and > 0"));
}

TEST(Frequencies, BadListsAreRefused) {
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(std::vector<double>{}); }, "inverse_frequencies.size", "0", ">= 1"));
  for (const double f : {kNan, kInfinity, 1025.0, -1025.0})
    EXPECT_TRUE(refused(
        [&] {
          Rope<HalfSplit>(std::vector<double>{1.0, f});
        },
        "inverse_frequencies", f, "finite and at most 1024"));
  EXPECT_NO_THROW(Rope<HalfSplit>(std::vector<double>{1024.0, -1024.0, 0.0}));
  // a base far below 1 makes frequencies that are too fast, not wrong angles
  EXPECT_THROW(Rope<HalfSplit>(64, 1e-9), std::invalid_argument);
}

/// A user's own scaling, with a factor, and one that returns the wrong number of frequencies.
struct Halved {
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    std::vector<double> f = Plain{}.frequencies(rotary_dim, base);
    for (double& x : f) x /= 2;
    return f;
  }
  double attention_factor() const { return 1.5; }
};
struct TooFew {
  std::vector<double> frequencies(Index, double) const { return {1.0}; }
  double attention_factor() const { return 1; }
};
static_assert(FrequencyPolicy<Halved> && FrequencyPolicy<Plain> && FrequencyPolicy<Linear> && FrequencyPolicy<Ntk>);

TEST(Frequencies, ForeignPolicies) {
  const Rope<HalfSplit> rope(64, 10000.0, Halved{});
  EXPECT_EQ(rope.rotary_dim(), 64);
  EXPECT_EQ(rope.attention_factor(), 1.5);
  EXPECT_EQ(rope.inverse_frequencies()[0], 0.5);
  EXPECT_EQ(rope.table({0, 1}).cos(0)[0], 1.5f);
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(64, 10000.0, TooFew{}); }, "policy.frequencies.size", "1", "32"));
}

}  // namespace
}  // namespace longspan::testing
