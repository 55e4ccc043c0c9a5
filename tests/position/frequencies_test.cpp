// Frequency policies: their formulas, and what they refuse.

#include <gtest/gtest.h>

#include <iostream>
#include <longspan/position/rope_scaling.hpp>
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
    for (const double factor : {1.0, 2.0, 8.0}) {
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

/// The policies that stretch a context of 4096 by a factor.
ByParts by_parts(double factor) { return {.factor = factor, .original_context = 4096}; }
Yarn yarn(double factor) { return {.factor = factor, .original_context = 4096}; }
Llama3 llama3(double factor) { return {.factor = factor, .original_context = 4096}; }
DynamicNtk dynamic(double factor, Index length) {
  return {.factor = factor, .original_context = 4096, .length = length};
}
LongRope longrope(Index length, std::size_t pairs = 32) {
  return {.short_factor = std::vector<double>(pairs, 2),
          .long_factor = std::vector<double>(pairs, 8),
          .original_context = 4096,
          .factor = 8,
          .length = length};
}

TEST(Frequencies, AFactorOfOneChangesNothing) {
  for (const Index dim : {2, 8, 64, 96, 128}) {
    const std::vector<double> plain = Plain{}.frequencies(dim, 10000);
    EXPECT_EQ(Ntk{}.frequencies(dim, 10000), plain);
    EXPECT_EQ(dynamic(1, 4096).frequencies(dim, 10000), plain);
    for (const AnyFrequencies& policy :
         {AnyFrequencies(by_parts(1)), AnyFrequencies(yarn(1)), AnyFrequencies(llama3(1))}) {
      const std::vector<double> same = policy.frequencies(dim, 10000);
      for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_LE(error_in(same[i], plain[i], plain[i]), 4e-16);
    }
  }
  EXPECT_EQ(yarn(1).attention_factor(), 1);
}

/// Fast pairs stay, slow ones are interpolated, between them frequencies descend.
TEST(Frequencies, PartsMeet) {
  for (const double base : {10000.0, 500000.0})
    for (const double factor : {2.0, 8.0, 32.0}) {
      const std::vector<double> plain = Plain{}.frequencies(128, base);
      for (const AnyFrequencies& policy :
           {AnyFrequencies(by_parts(factor)), AnyFrequencies(yarn(factor)), AnyFrequencies(llama3(factor))}) {
        const std::vector<double> f = policy.frequencies(128, base);
        EXPECT_EQ(f.front(), plain.front());
        EXPECT_LE(error_in(f.back(), plain.back() / factor, plain.back()), 1e-15);
        for (std::size_t i = 1; i < f.size(); ++i) {
          EXPECT_LT(f[i], f[i - 1]);
          EXPECT_LE(f[i], plain[i]);
          EXPECT_GE(f[i], plain[i] / factor * (1 - 1e-15));
        }
      }
    }
}

/// All pairs slower than beta_slow: nothing is left to extrapolate but the first, where the ramp begins.
TEST(Frequencies, ATinyContextIsInterpolated) {
  const std::vector<double> plain = Plain{}.frequencies(64, 10000);
  const std::vector<double> f = Yarn{.factor = 4, .original_context = 2}.frequencies(64, 10000);
  for (std::size_t i = 1; i < f.size(); ++i) EXPECT_EQ(f[i], plain[i] / 4);
}

TEST(Frequencies, DynamicNtkGrowsFromPlain) {
  const std::vector<double> plain = Plain{}.frequencies(64, 10000);
  for (const Index length : {0, 1, 4096}) EXPECT_EQ(dynamic(4, length).frequencies(64, 10000), plain) << length;
  std::vector<double> before = plain;
  for (const Index length : {4097, 5000, 8192, 65536}) {
    const std::vector<double> f = dynamic(4, length).frequencies(64, 10000);
    EXPECT_EQ(f.front(), 1.0);
    for (std::size_t i = 1; i < f.size(); ++i) EXPECT_LT(f[i], before[i]) << length;
    before = f;
  }
  // At length = original · (1 + (s−1)/factor) it is NTK-aware by s.
  const std::vector<double> twice = dynamic(4, 4096 + 1024).frequencies(64, 10000);
  EXPECT_EQ(twice, (Ntk{.factor = 2}.frequencies(64, 10000)));
}

TEST(Frequencies, LongRopeChoosesByLength) {
  const std::vector<double> plain = Plain{}.frequencies(64, 10000);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(longrope(0).frequencies(64, 10000)[i], plain[i] / 2);
    EXPECT_EQ(longrope(4096).frequencies(64, 10000)[i], plain[i] / 2);
    EXPECT_EQ(longrope(4097).frequencies(64, 10000)[i], plain[i] / 8);
  }
  EXPECT_DOUBLE_EQ(longrope(0).attention_factor(), std::sqrt(1 + 3.0 / 12));
}

TEST(Frequencies, ABlockOfAConfigFile) {
  const RopeScaling gpt_neox{.partial_rotary_factor = 0.25};
  EXPECT_EQ(gpt_neox.rotary_dim(96), 24);
  EXPECT_EQ(gpt_neox.rope<HalfSplit>(96).rotary_dim(), 24);
  // Gemma 3: a block for each kind of layer
  const RopeScaling global{.rope_type = "linear", .rope_theta = 1e6, .factor = 8}, local{.rope_theta = 1e4};
  const Rope<HalfSplit> far = global.rope(256), near = local.rope(256);
  EXPECT_EQ(far.inverse_frequencies()[0], 0.125);
  EXPECT_EQ(near.inverse_frequencies()[0], 1.0);
  RopeScaling phi{.rope_type = "su", .max_position_embeddings = 131072, .original_max_position_embeddings = 4096};
  phi.short_factor = phi.long_factor = std::vector<double>(32, 1.5);
  EXPECT_DOUBLE_EQ(phi.policy().attention_factor(), std::sqrt(1 + 5.0 / 12));

  RopeScaling bad{.rope_type = "magic"};
  EXPECT_TRUE(refused([&] { bad.policy(); }, "RopeScaling.rope_type", "magic",
                      "default, mrope, linear, ntk, dynamic, by_parts, yarn, longrope, su or llama3"));
  bad = {.rope_type = "yarn", .original_max_position_embeddings = -4096, .factor = 2};
  EXPECT_TRUE(
      refused([&] { bad.policy(); }, "RopeScaling.original_max_position_embeddings", "-4096", "within [1, 2^52)"));
  bad = {.rope_type = "linear"};
  EXPECT_TRUE(refused([&] { bad.policy(); }, "RopeScaling.max_position_embeddings", "0", "within [1, 2^52)"));
  for (const double share : {0.0, -0.5, 1.5, kNan}) {
    bad = {.partial_rotary_factor = share};
    EXPECT_TRUE(refused([&] { bad.rotary_dim(64); }, "RopeScaling.partial_rotary_factor", share, "within (0, 1]"));
  }
  bad = {.partial_rotary_factor = 0.3};
  EXPECT_TRUE(refused([&] { bad.rope(64); }, "rotary_dim", "19", "even and >= 2"));
}

TEST(Frequencies, BadDimensionsAndBasesAreRefused) {
  refuses_dims_and_bases(Plain{});
  refuses_dims_and_bases(Linear{.factor = 2});
  refuses_dims_and_bases(Ntk{.factor = 2});
  refuses_dims_and_bases(by_parts(2));
  refuses_dims_and_bases(yarn(2));
  refuses_dims_and_bases(llama3(2));
  refuses_dims_and_bases(dynamic(2, 8192));
  refuses_dims_and_bases(longrope(0));
  for (const double base : {1.0, 0.5}) {  // wavelengths that don't grow have no parts
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(8, base, yarn(2)); }, "base", base, "> 1"));
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(8, base, by_parts(2)); }, "base", base, "> 1"));
  }
}

template <class Make>
void refuses_factors(const char* argument, Make make) {
  for (const double factor : {0.0, 0.5, 0x1.fffffffffffffp-1, -2.0, kNan, kInfinity, -kInfinity})
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, make(factor)); }, argument, factor, "finite and >= 1"));
}

TEST(Frequencies, BadFactorsAreRefused) {
  refuses_factors("Linear.factor", [](double f) { return Linear{.factor = f}; });
  refuses_factors("Ntk.factor", [](double f) { return Ntk{.factor = f}; });
  refuses_factors("ByParts.factor", by_parts);
  refuses_factors("Yarn.factor", yarn);
  refuses_factors("Llama3.factor", llama3);
  refuses_factors("DynamicNtk.factor", [](double f) { return dynamic(f, 8192); });
  refuses_factors("LongRope.factor", [](double f) {
    LongRope policy = longrope(0);
    policy.factor = f;
    return policy;
  });
  for (const double factor : {0.0, -2.0, kNan, kInfinity, -kInfinity}) {
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(std::vector<double>{1.0}, factor); }, "attention_factor", factor,
                        "finite and > 0"));
    const auto with = [&](auto policy) { return policy.given_attention_factor = factor, policy; };
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, with(yarn(2))); }, "Yarn.given_attention_factor", factor,
                        "finite and > 0"));
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, with(longrope(0))); }, "LongRope.given_attention_factor", factor,
                        "finite and > 0"));
  }
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(4, 1e4, Ntk{.factor = 1e300}); }, "Ntk.factor", "1e+300",
                      "one that leaves the base finite"));
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(4, 1e4, dynamic(1e300, 5000)); }, "DynamicNtk.factor", "1e+300",
                      "one that leaves the base finite"));
}

TEST(Frequencies, BadContextsAreRefused) {
  const auto refuses = [](const char* argument, auto policy) {
    for (const Index context : {Index{0}, Index{-1}, Index{-4096}, kPositionEnd}) {
      policy.original_context = context;
      EXPECT_TRUE(refused([&] { policy.frequencies(64, 1e4); }, argument, context, "within [1, 2^52)"));
    }
  };
  refuses("ByParts.original_context", by_parts(2));
  refuses("Yarn.original_context", yarn(2));
  refuses("Llama3.original_context", llama3(2));
  refuses("DynamicNtk.original_context", dynamic(2, 0));
  refuses("LongRope.original_context", longrope(0));
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(64, 1e4, dynamic(2, -1)); }, "DynamicNtk.length", "-1", ">= 0"));
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(64, 1e4, longrope(-1)); }, "LongRope.length", "-1", ">= 0"));
}

TEST(Frequencies, BadRampsAndListsOfFactorsAreRefused) {
  for (const double bad : {0.0, -1.0, kNan, kInfinity}) {
    Yarn slow = yarn(2);
    slow.beta_slow = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, slow); }, "Yarn.beta_slow", bad, "finite and > 0"));
    Llama3 low = llama3(2);
    low.low_frequency_factor = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, low); }, "Llama3.low_frequency_factor", bad, "finite and > 0"));
    LongRope list = longrope(0);
    list.short_factor[31] = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, list); }, "LongRope.short_factor", bad, "finite and > 0"));
    list = longrope(0), list.long_factor[0] = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, list); }, "LongRope.long_factor", bad, "finite and > 0"));
  }
  for (const double bad : {1.0, 0.5, -1.0, kNan, kInfinity}) {
    Yarn fast = yarn(2);
    fast.beta_fast = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, fast); }, "Yarn.beta_fast", bad, "finite and > beta_slow"));
    Llama3 high = llama3(2);
    high.high_frequency_factor = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, high); }, "Llama3.high_frequency_factor", bad,
                        "finite and > low_frequency_factor"));
  }
  for (const double bad : {-1.0, kNan, kInfinity}) {
    Yarn scales = yarn(2);
    scales.mscale = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, scales); }, "Yarn.mscale", bad, "finite and >= 0"));
    scales.mscale = 1, scales.mscale_all_dim = bad;
    EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, scales); }, "Yarn.mscale_all_dim", bad, "finite and >= 0"));
  }
  EXPECT_TRUE(refused([] { Rope<HalfSplit>(64, 1e4, longrope(0, 31)); }, "LongRope.short_factor.size", "31", "32"));
  LongRope one_long = longrope(0);
  one_long.long_factor.push_back(1);
  EXPECT_TRUE(refused([&] { Rope<HalfSplit>(64, 1e4, one_long); }, "LongRope.long_factor.size", "33", "32"));
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
