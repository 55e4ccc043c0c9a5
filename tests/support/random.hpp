#pragma once
// Seeded numbers. A test makes one generator from a constant, and prints that constant when it fails.

#include <cmath>
#include <cstdint>
#include <longspan/core/index.hpp>
#include <random>
#include <vector>

namespace longspan::testing {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// A whole number in [low, high], both possible.
  Index between(Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(engine_); }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(engine_); }
  double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }

  std::vector<float> gaussian(Index count, float sigma = 1) {
    std::normal_distribution<float> draw(0, sigma);
    return fill(count, [&] { return draw(engine_); });
  }
  std::vector<float> uniform(Index count, float low, float high) {
    std::uniform_real_distribution<float> draw(low, high);
    return fill(count, [&] { return draw(engine_); });
  }
  /// Gaussian, but a share of the numbers is ± height.
  std::vector<float> spiky(Index count, float height, double share = 0.01) {
    std::normal_distribution<float> draw(0, 1);
    return fill(count, [&] { return !chance(share) ? draw(engine_) : chance(0.5) ? height : -height; });
  }

 private:
  template <class Draw>
  static std::vector<float> fill(Index count, Draw draw) {
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& x : out) x = draw();
    return out;
  }
  std::mt19937_64 engine_;
};

}  // namespace longspan::testing
