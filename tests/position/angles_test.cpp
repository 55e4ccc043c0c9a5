// Cosines and sines of far positions against an evaluation in 113 bits with exact reduction (support/quad.hpp).

#include <gtest/gtest.h>

#include <iostream>
#include <longspan/position/rope.hpp>
#include <support/near.hpp>
#include <support/quad.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

#if LONGSPAN_HAS_QUAD

TEST(ExactTurn, KnownValues) {
  const auto expect = [](Index position, double frequency, double cos, double sin) {
    const Turn t = exact_turn(position, frequency);
    EXPECT_EQ(t.cos, cos) << position << " · " << frequency;
    EXPECT_EQ(t.sin, sin) << position << " · " << frequency;
  };
  expect(0, 1.0, 1.0, 0.0);
  expect(1, 1.0, 0.54030230586813971740, 0.84147098480789650665);
  expect(2, 1.0, -0.41614683654714238700, 0.90929742682568169540);
  expect(4, 1.0, -0.65364362086361191464, -0.75680249530792825137);
  expect(5, 1.0, 0.28366218546322626447, -0.95892427466313846889);
  expect(1, 3.141592653589793, -1.0, 1.2246467991473532e-16);  // pi − fl(pi)
  expect(1, 1.5707963267948966, 6.1232339957367660e-17, 1.0);  // half of it
  const double big = std::ldexp(1.0, 39);                      // against libm, which reduces exactly too
  expect(Index{1} << 39, 1.0, std::cos(big), std::sin(big));
}

/// The largest error of cosines and sines, in ulps of float.
struct Worst {
  double ulps = 0;
  Index position = 0;
  double frequency = 0;

  void add(Index p, const std::vector<double>& frequencies) {
    const RopeTable<HalfSplit> table = Rope<HalfSplit>(frequencies).table({p, p + 1});
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const Turn exact = exact_turn(p, frequencies[i]);
      const double error =
          std::max(error_in_ulps(table.cos(p)[i], exact.cos), error_in_ulps(table.sin(p)[i], exact.sin));
      if (error > ulps) *this = {error, p, frequencies[i]};
    }
  }
  friend std::ostream& operator<<(std::ostream& text, const Worst& w) {
    return text << w.ulps << " ulp at position " << w.position << ", frequency " << std::hexfloat << w.frequency
                << std::defaultfloat;
  }
};

TEST(Angles, OfModelsUpToTwoToTheThirty) {
  Random random(31);
  Worst worst;
  for (const double base : {10000.0, 500000.0, 1e6})
    for (const Index dim : {64, 128}) {
      const std::vector<double> f = Plain{}.frequencies(dim, base);
      for (Index p = 0; p < 40; ++p) worst.add(p, f);
      for (int i = 0; i < 150; ++i) worst.add(random.between(0, Index{1} << random.between(5, 30)), f);
      for (int bit = 5; bit <= 30; ++bit) worst.add((Index{1} << bit) - 1, f), worst.add(Index{1} << bit, f);
    }
  std::cout << "largest error below 2^30: " << worst << "\n";
  EXPECT_LE(worst.ulps, 0.5 + 0x1p-20) << worst;
}

TEST(Angles, InTheWholeRange) {
  Random random(32);
  Worst worst;
  for (int i = 0; i < 400; ++i) {
    std::vector<double> f;
    for (int j = 0; j < 16; ++j) f.push_back(std::exp2(random.real(-30, 10)) * (random.chance(0.1) ? -1 : 1));
    f.push_back(kRopeFastest), f.push_back(-kRopeFastest), f.push_back(0), f.push_back(5e-324);
    worst.add(random.chance(0.1) ? kRopeEnd - 1 : random.between(0, Index{1} << random.between(1, 40)) % kRopeEnd, f);
  }
  std::cout << "largest error in the whole range: " << worst << "\n";
  EXPECT_LE(worst.ulps, 0.5 + 0x1p-14) << worst;
}

/// Frequencies made so that the angle is as near to a multiple of pi/2 as a double can bring it: only exact reduction
/// leaves any digit of the small one of the two.
TEST(Angles, NearQuarterTurns) {
  Random random(33);
  Worst below, worst;
  for (int i = 0; i < 20000; ++i) {
    const Index p = random.between(1, Index{1} << random.between(1, 39));
    const double turns = std::nearbyint(std::exp2(random.real(0, 10)) * static_cast<double>(p) * 0.6);
    const double f = turns * 1.5707963267948966 / static_cast<double>(p);
    if (!(f <= kRopeFastest)) continue;
    const std::vector<double> near{f, std::nextafter(f, 0), std::nextafter(f, kRopeFastest)};
    if (near[2] > kRopeFastest) continue;
    worst.add(p, near);
    if (turns < 0x1p30) below.add(p, near);
  }
  std::cout << "largest error near quarter turns: " << worst << "; below 2^30 turns: " << below << "\n";
  EXPECT_LE(worst.ulps, 0.5 + 0x1p-14) << worst;
  EXPECT_LE(below.ulps, 0.5 + 0x1p-20) << below;
}

/// The nearest of all: of very many products near n · pi/2, those that miss it by the least. Then both parts of the
/// product and all parts of pi/2 count.
TEST(Angles, NearestQuarterTurns) {
  Random random(35);
  Worst below, worst;
  for (int bits = 1; bits <= 47; bits += 2) {
    double nearest = 1;
    for (int i = 0; i < 40000; ++i) {
      const Index n = random.between(Index{1} << bits, (Index{2} << bits) - 1);
      const Index p = random.between(std::max<Index>(1, n >> 8), kRopeEnd - 1);
      const double f = static_cast<double>(n) * 1.5707963267948966 / static_cast<double>(p);
      if (!(f <= kRopeFastest)) continue;
      const double missed = std::abs(static_cast<double>(beyond_quarters(p, f, static_cast<Quad>(n))));
      const double relative = missed / static_cast<double>(n);
      if (relative > nearest * 4) continue;
      nearest = std::min(nearest, relative);
      worst.add(p, {f});
      if (n < (Index{1} << 30)) below.add(p, {f});
    }
    EXPECT_LT(nearest, 0x1p-60) << "no hard case among 2^" << bits << " quarter turns";
  }
  std::cout << "largest error at the nearest quarter turns: " << worst << "; below 2^30 turns: " << below << "\n";
  EXPECT_LE(worst.ulps, 0.5 + 0x1p-14) << worst;
  EXPECT_LE(below.ulps, 0.5 + 0x1p-20) << below;
}

/// Doubles that are a whole number of quarter turns as nearly as any are: convergents of pi/2 · 2^-e.
TEST(Angles, ConvergentsOfPi) {
  Worst worst;
  int cases = 0;
  for (int e = -52; e <= -4; ++e) {
    Quad x = -beyond_quarters(0, 0, 1);
    for (int i = e; i < 0; ++i) x *= 2;
    Index p0 = 1, n0 = 0, p1 = static_cast<Index>(x), n1 = 1;
    while (p1 < (Index{1} << 53) && n1 < (Index{1} << 49)) {
      for (const int shift : {0, 20, 39}) {
        const double f = std::ldexp(static_cast<double>(p1), e - shift);
        if (f <= kRopeFastest) worst.add(Index{1} << shift, {f}), ++cases;
      }
      x = 1 / (x - static_cast<Quad>(static_cast<Index>(x)));
      if (!(x < 0x1p20)) break;
      const Index a = static_cast<Index>(x), p2 = a * p1 + p0, n2 = a * n1 + n0;
      p0 = p1, n0 = n1, p1 = p2, n1 = n2;
    }
  }
  std::cout << "largest error at " << cases << " convergents: " << worst << "\n";
  EXPECT_GT(cases, 300);
  EXPECT_LE(worst.ulps, 0.5 + 0x1p-14) << worst;
}

TEST(Angles, RotatedRowsFarAway) {
  Random random(34);
  const Index dim = 64;
  const Rope<Adjacent> rope(dim, 10000.0);
  double worst = 0;
  for (int i = 0; i < 200; ++i) {
    const Index p = random.between(0, Index{1} << random.between(1, 30));
    const std::vector<float> x = random.spiky(dim, 5e4f);
    std::vector<float> y = x;
    rope.rotate(view(y, 1, 1, dim), p);
    for (std::size_t j = 0; j < x.size(); j += 2) {
      const Turn t = exact_turn(p, rope.inverse_frequencies()[j / 2]);
      const double a = x[j], b = x[j + 1], length = std::hypot(a, b);
      worst = std::max(
          {worst, error_in(y[j], a * t.cos - b * t.sin, length), error_in(y[j + 1], b * t.cos + a * t.sin, length)});
    }
  }
  std::cout << "largest error of rotated rows: " << worst * 0x1p24 << " · 2^-24 of the pair\n";
  EXPECT_LE(worst, 3 * 0x1p-24);
}

#else
TEST(Angles, NeedQuadPrecision) { GTEST_SKIP() << "no 113-bit arithmetic on this machine"; }
#endif

TEST(Angles, ZeroIsExact) {
  const RopeTable<HalfSplit> table = Rope<HalfSplit>(64, 10000.0).table({0, 1});
  for (const float c : table.cos(0)) EXPECT_EQ(c, 1.f);
  for (const float s : table.sin(0)) EXPECT_EQ(s, 0.f);
}

}  // namespace
}  // namespace longspan::testing
