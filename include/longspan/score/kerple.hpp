#pragma once
// KERPLE: biases that are kernels of the distance, two learned numbers a head. Chi et al., "KERPLE: Kernelized Relative
// Positional Embedding for Length Extrapolation" (2022).

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
/// r1 and r2 of each head.
class KerpleHeads {
 public:
  KerpleHeads(std::vector<float> r1, std::vector<float> r2, float most_r2) : r1_(std::move(r1)), r2_(std::move(r2)) {
    check(!r1_.empty(), "Kerple.r1.size", r1_.size(), ">= 1");
    check(r2_.size() == r1_.size(), "Kerple.r2.size", r2_.size(), r1_.size());
    for (const float r : r1_) check(r > 0 && std::isfinite(r), "Kerple.r1", r, "finite and > 0");
    for (const float r : r2_)
      check(r > 0 && r <= most_r2, "Kerple.r2", r, most_r2 == 2 ? "within (0, 2]" : "finite and > 0");
  }
  /// The number of heads it is made for; a call with another number is refused.
  Index heads() const { return static_cast<Index>(r1_.size()); }

 protected:
  template <class Score>
  LONGSPAN_INLINE Score r1(Index head) const {
    return Score(r1_[static_cast<std::size_t>(head)]);
  }
  template <class Score>
  LONGSPAN_INLINE Score r2(Index head) const {
    return Score(r2_[static_cast<std::size_t>(head)]);
  }

 private:
  std::vector<float> r1_, r2_;
};
inline double absolute(double x) { return std::abs(x); }
LONGSPAN_INLINE Lanes absolute(const Lanes& x) { return xsimd::abs(x); }
}  // namespace detail

/// score − r1 · ln(1 + r2 · |query − key|) (section 4, the logarithmic variant, which extrapolates best). Throws
/// std::invalid_argument unless both lists are of one size >= 1 and all are finite and > 0.
class KerpleLog : public detail::KerpleHeads {
 public:
  KerpleLog(std::vector<float> r1, std::vector<float> r2)
      : KerpleHeads(std::move(r1), std::move(r2), std::numeric_limits<float>::max()) {}

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto& key, Index head) const {
    const Score distance = detail::absolute(Score(query - key));
    return fma(-r1<Score>(head), log(fma(r2<Score>(head), distance, Score(1))), score);
  }
};

/// score − r1 · |query − key|^r2 (the power variant; r2 = 1 is ALiBi). Throws as KerpleLog, and where r2 > 2.
class KerplePower : public detail::KerpleHeads {
 public:
  KerplePower(std::vector<float> r1, std::vector<float> r2) : KerpleHeads(std::move(r1), std::move(r2), 2) {}

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto& key, Index head) const {
    const Score distance = detail::absolute(Score(query - key));
    if constexpr (std::is_same_v<Score, double>) {
      return fma(-r1<Score>(head), std::pow(distance, r2<Score>(head)), score);
    } else {
      // d^r = 1 / 2^(−r · log2 d); a distance below 1 is 0, and no power of it is more.
      const Score exponent = r2<Score>(head) * Score(-kLog2e);
      const Score power = Score(1) / exp2(fma(exponent, log(xsimd::max(distance, Score(1))), Score(0)));
      return fma(-r1<Score>(head), xsimd::select(distance < Score(0.5f), Score(0), power), score);
    }
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
