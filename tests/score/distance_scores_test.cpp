// Score functions of the distance: KERPLE, FIRE, and T5's buckets, as their formulas and in lanes.

#include <gtest/gtest.h>

#include <iostream>
#include <longspan/core/concepts.hpp>
#include <longspan/score/fire.hpp>
#include <longspan/score/kerple.hpp>
#include <longspan/score/t5_buckets.hpp>
#include <support/golden.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

static_assert(ScoreFunction<KerpleLog> && ScoreFunction<KerplePower> && ScoreFunction<Fire>);

const float kNan = std::nanf(""), kInfinity = std::numeric_limits<float>::infinity();

TEST(Log, InLanes) {
  Random random(71);
  double worst = 0;
  const auto look = [&](float x) {
    const float got = log(Lanes(x)).get(0);
    const double wanted = std::log(static_cast<double>(x));
    worst = std::max(worst, error_in(got, wanted, std::max(float_ulp(wanted), 0x1p-25)));
  };
  for (int i = 0; i < 200000; ++i) look(static_cast<float>(std::exp2(random.real(0, 127.9))));
  for (int i = 0; i < 200000; ++i) look(static_cast<float>(1 + std::exp2(random.real(-23, 1))));
  for (int e = 0; e < 128; ++e) look(std::ldexp(1.f, e)), look(std::nextafter(std::ldexp(1.f, e), kInfinity));
  EXPECT_EQ(log(Lanes(1.f)).get(0), 0.f);
  std::cout << "largest error of log: " << worst << " (ulp, or 2^-25)\n";
  EXPECT_LE(worst, 2.0);
}

/// The two readings in lanes against the definition, |error| <= tolerance · size.
template <class F>
void lanes_agree(const F& f, Index heads, double tolerance, bool far = true) {
  std::vector<Index> places{0, 1, 5, 63, 64, 1000, 4096, 131072, 10000000};
  if (far) places.push_back(Index{1} << 40);
  for (Index head = 0; head < heads; ++head)
    for (const Index q : places)
      for (const Index k : places) {
        if (std::abs(q - k) > (Index{1} << 38) && !far) continue;
        const float score = 0.75f;
        const Lanes by_queries = f(Lanes(score), Position<Lanes>{q, iota()}, Position<float>{k, 0.f}, head);
        const Lanes by_keys = f(Lanes(score), Position<float>{q, 0.f}, Position<Lanes>{k, iota()}, head);
        for (std::size_t i = 0; i < kLanes; ++i) {
          const Index j = static_cast<Index>(i);
          const double a = f(0.75, ExactPosition{q + j}, ExactPosition{k}, head);
          const double b = f(0.75, ExactPosition{q}, ExactPosition{k + j}, head);
          ASSERT_LE(error_in(by_queries.get(i), a, 1 + std::abs(a)), tolerance) << q + j << ", " << k << ", " << head;
          ASSERT_LE(error_in(by_keys.get(i), b, 1 + std::abs(b)), tolerance) << q << ", " << k + j << ", " << head;
        }
      }
}

TEST(Kerple, IsTheFormula) {
  const KerpleLog logarithmic({1.f, 0.3f}, {1.f, 0.01f});
  EXPECT_EQ(logarithmic.heads(), 2);
  EXPECT_DOUBLE_EQ(logarithmic(3.0, ExactPosition{10}, ExactPosition{3}, 0), 3 - std::log(8.0));
  EXPECT_DOUBLE_EQ(logarithmic(3.0, ExactPosition{3}, ExactPosition{10}, 0), 3 - std::log(8.0));
  EXPECT_DOUBLE_EQ(logarithmic(0.0, ExactPosition{700}, ExactPosition{500}, 1),
                   -static_cast<double>(0.3f) * std::log(1 + static_cast<double>(0.01f) * 200));
  EXPECT_EQ(logarithmic(3.0, ExactPosition{10}, ExactPosition{10}, 1), 3.0);
  const KerplePower power({0.5f, 0.25f, 1.f}, {1.f, 2.f, 0.5f});
  EXPECT_DOUBLE_EQ(power(0.0, ExactPosition{10}, ExactPosition{3}, 0), -3.5);  // ALiBi
  EXPECT_DOUBLE_EQ(power(1.0, ExactPosition{10}, ExactPosition{4}, 1), 1 - 9.0);
  EXPECT_DOUBLE_EQ(power(0.0, ExactPosition{25}, ExactPosition{0}, 2), -5.0);
  EXPECT_EQ(power(1.0, ExactPosition{4}, ExactPosition{4}, 2), 1.0);
  lanes_agree(logarithmic, 2, 1e-6);
  lanes_agree(power, 3, 4e-6, false);
}

TEST(Kerple, BadInputIsRefused) {
  for (const float bad : {0.f, -1.f, kNan, kInfinity}) {
    EXPECT_TRUE(refused([&] { KerpleLog({bad}, {1.f}); }, "Kerple.r1", bad, "finite and > 0"));
    EXPECT_TRUE(refused([&] { KerpleLog({1.f}, {bad}); }, "Kerple.r2", bad, "finite and > 0"));
    EXPECT_TRUE(refused([&] { KerplePower({1.f}, {bad}); }, "Kerple.r2", bad, "within (0, 2]"));
  }
  EXPECT_TRUE(refused([&] { KerplePower({1.f}, {2.5f}); }, "Kerple.r2", 2.5f, "within (0, 2]"));
  EXPECT_TRUE(refused([&] { KerpleLog({}, {}); }, "Kerple.r1.size", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { KerpleLog({1.f}, {1.f, 2.f}); }, "Kerple.r2.size", 2, 1));
}

Fire::Parameters network(std::size_t width, std::size_t heads) {
  Random random(72);
  const auto draw = [&](std::size_t n) { return random.gaussian(static_cast<Index>(n)); };
  return {.c = 0.2f,
          .threshold = 64,
          .weight = draw(width),
          .bias = draw(width),
          .output = draw(width * heads),
          .output_bias = draw(heads)};
}

TEST(Fire, IsTheFormula) {
  const Fire::Parameters p = network(32, 3);
  const Fire fire(p);
  EXPECT_EQ(fire.heads(), 3);
  for (std::size_t head = 0; head < 3; ++head)
    for (const auto& [q, k] : {std::pair<Index, Index>{0, 0}, {5, 2}, {63, 0}, {64, 0}, {5000, 4990}, {5000, 0}}) {
      const auto psi = [&](double x) { return std::log(static_cast<double>(p.c) * x + 1); };
      const double x =
          psi(static_cast<double>(q - k)) / (psi(std::max(static_cast<double>(q), 64.0)) + static_cast<double>(1e-6f));
      double wanted = 2 + static_cast<double>(p.output_bias[head]);
      for (std::size_t j = 0; j < 32; ++j)
        wanted += p.output[head * 32 + j] * std::max(0.0, p.weight[j] * x + p.bias[j]);
      EXPECT_NEAR(fire(2.0, ExactPosition{q}, ExactPosition{k}, static_cast<Index>(head)), wanted, 1e-12) << q;
    }
  lanes_agree(fire, 3, 1e-5);
}

TEST(Fire, BadInputIsRefused) {
  const auto refuses = [](auto change, const char* argument, const auto& got, const auto& wanted) {
    Fire::Parameters p = network(4, 2);
    change(p);
    EXPECT_TRUE(refused([&] { Fire{p}; }, argument, got, wanted));
  };
  for (const float bad : {0.f, -1.f, kNan, kInfinity})
    refuses([&](auto& p) { p.c = bad; }, "Fire.c", bad, "finite and > 0");
  for (const float bad : {0.5f, -1.f, kNan, kInfinity})
    refuses([&](auto& p) { p.threshold = bad; }, "Fire.threshold", bad, "finite and >= 1");
  refuses([](auto& p) { p.weight.clear(); }, "Fire.weight.size", 0, ">= 1");
  refuses([](auto& p) { p.output_bias.clear(); }, "Fire.output_bias.size", 0, ">= 1");
  refuses([](auto& p) { p.bias.pop_back(); }, "Fire.bias.size", 3, 4);
  refuses([](auto& p) { p.output.pop_back(); }, "Fire.output.size", 7, 8);
  refuses([](auto& p) { p.weight[1] = kNan; }, "Fire.weight", kNan, "finite");
  refuses([](auto& p) { p.bias[1] = kInfinity; }, "Fire.bias", kInfinity, "finite");
  refuses([](auto& p) { p.output[7] = kNan; }, "Fire.output", kNan, "finite");
  refuses([](auto& p) { p.output_bias[0] = kNan; }, "Fire.output_bias", kNan, "finite");
}

TEST(T5, BucketsAscendAndEnd) {
  for (const auto& [buckets, most] :
       {std::pair<Index, Index>{32, 128}, {64, 1000}, {8, 9}, {2, 2}, {32, Index{1} << 40}}) {
    const T5Buckets bucket{buckets, most, false};
    Index before = 0;
    for (Index distance = 0; distance < 3000; ++distance) {
      const Index b = bucket(-distance);
      EXPECT_GE(b, before);
      EXPECT_LT(b, buckets);
      EXPECT_EQ(bucket(distance), 0);
      before = b;
    }
    EXPECT_EQ(bucket(-most), buckets - 1);
    EXPECT_EQ(bucket(-(kPositionEnd - 1)), buckets - 1);
  }
}

}  // namespace
}  // namespace longspan::testing
