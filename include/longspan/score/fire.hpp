#pragma once
// FIRE: a small network of the distance, relative to how far the query stands. Li et al., "Functional Interpolation for
// Relative Positions Improves Long Context Transformers" (2023), equation 11 and the code in its appendix.

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/position.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// score + f_head(ψ(|query − key|) / ψ(max(query, threshold))) with ψ(x) = ln(1 + c·x) and f a network of one hidden
/// layer: f_h(x) = Σ_j output[h][j] · relu(weight[j] · x + bias[j]) + output_bias[h]. The score of every pair costs one
/// logarithm and 2 · width operations.
class Fire {
 public:
  struct Parameters {
    float c = 0.1f;                             ///< > 0
    float threshold = 512;                      ///< in tokens, >= 1
    std::vector<float> weight = {}, bias = {};  ///< [width] each
    std::vector<float> output = {};             ///< [heads, width]
    std::vector<float> output_bias = {};        ///< [heads]
  };

  /// Throws std::invalid_argument unless all numbers are finite, c > 0, threshold >= 1 and sizes fit.
  explicit Fire(Parameters p) : p_(std::move(p)) {
    check(p_.c > 0 && std::isfinite(p_.c), "Fire.c", p_.c, "finite and > 0");
    check(p_.threshold >= 1 && std::isfinite(p_.threshold), "Fire.threshold", p_.threshold, "finite and >= 1");
    check(!p_.weight.empty(), "Fire.weight.size", p_.weight.size(), ">= 1");
    check(!p_.output_bias.empty(), "Fire.output_bias.size", p_.output_bias.size(), ">= 1");
    check(p_.bias.size() == p_.weight.size(), "Fire.bias.size", p_.bias.size(), p_.weight.size());
    check(p_.output.size() == p_.weight.size() * p_.output_bias.size(), "Fire.output.size", p_.output.size(),
          p_.weight.size() * p_.output_bias.size());
    const auto finite = [](const char* name, const std::vector<float>& list) {
      for (const float x : list) check(std::isfinite(x), name, x, "finite");
    };
    finite("Fire.weight", p_.weight), finite("Fire.bias", p_.bias);
    finite("Fire.output", p_.output), finite("Fire.output_bias", p_.output_bias);
  }

  /// The number of heads it is made for; a call with another number is refused.
  Index heads() const { return static_cast<Index>(p_.output_bias.size()); }

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto& key, Index head) const {
    using Origin = std::conditional_t<std::is_same_v<Score, double>, ExactPosition, Position<float>>;
    const Score distance = size(Score(query - key)), stands = Score(query - Origin{});
    const Score x = psi(distance) / (psi(larger(stands, Score(p_.threshold))) + Score(1e-6f));
    const std::size_t width = p_.weight.size(), h = static_cast<std::size_t>(head);
    Score result = score;
    for (std::size_t j = 0; j < width; ++j) {
      const Score hidden = larger(fma(Score(p_.weight[j]), x, Score(p_.bias[j])), Score(0));
      result = fma(Score(p_.output[h * width + j]), hidden, result);
    }
    return result + Score(p_.output_bias[h]);
  }

 private:
  template <class Score>
  LONGSPAN_INLINE Score psi(const Score& x) const {
    return log(fma(Score(p_.c), x, Score(1)));
  }
  static double size(double x) { return std::abs(x); }
  static LONGSPAN_INLINE Lanes size(const Lanes& x) { return xsimd::abs(x); }
  static double larger(double a, double b) { return a > b ? a : b; }
  static LONGSPAN_INLINE Lanes larger(const Lanes& a, const Lanes& b) { return xsimd::max(a, b); }

  Parameters p_;
};

}  // namespace longspan::inline LONGSPAN_ISA
