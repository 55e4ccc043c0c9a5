#pragma once
// Temperatures that grow with the number of keys that a query may see: attention that was trained on short contexts
// spreads out over long ones, and is sharpened again by a factor of the score.

#include <cmath>

#include <longspan/core/check.hpp>
#include <longspan/core/periodic.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
/// How many tokens there are up to this one, itself included, as the kernel's scalar or lanes, or in double.
LONGSPAN_INLINE double tokens_until(ExactPosition at) { return at - ExactPosition{-1}; }
template <class Offset>
LONGSPAN_INLINE auto tokens_until(const Position<Offset>& at) {
  return at - Position<float>{-1, 0.f};
}

template <class Score>
LONGSPAN_INLINE Score at_least_1(const Score& x) {
  using std::max, xsimd::max;
  return max(Score(1.f), x);
}
}  // namespace detail

/// score · max(1, log n / log trained) for a query with n = position + 1 tokens up to its own: log-n scaling (Chiang
/// and Cholak, arXiv 2202.12172; as Qwen uses it). Throws std::invalid_argument unless trained >= 2.
class LogN {
 public:
  explicit LogN(Index trained) {
    check(trained >= 2, "LogN.trained", trained, ">= 2");
    per_log_ = 1 / std::log(static_cast<double>(trained));
  }

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto&) const {
    using Scalar = std::conditional_t<std::is_same_v<Score, double>, double, float>;
    const Score tokens = detail::at_least_1(Score(detail::tokens_until(query)));
    const Score factor = fma(log(tokens), Score(static_cast<Scalar>(per_log_)), Score(0.f));
    return fma(score, detail::at_least_1(factor), Score(0.f));
  }

 private:
  double per_log_;
};

/// score · (1 + strength · log(1 + floor((position + 1) / every))): the temperature tuning of Llama 4's layers without
/// positions. Throws std::invalid_argument unless every >= 64 and strength is finite and >= 0.
class TemperatureTuning {
 public:
  explicit TemperatureTuning(Index every = 8192, float strength = 0.1f) : every_(every), strength_(strength) {
    check(every >= 64, "TemperatureTuning.every", every, ">= 64");
    check(strength >= 0 && std::isfinite(strength), "TemperatureTuning.strength", strength, "finite and >= 0");
  }

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto&) const {
    const Score steps = detail::at_least_1(Score(next_step<Score>(query)));
    return fma(score, fma(log(steps), Score(strength_), Score(1.f)), Score(0.f));
  }

 private:
  /// Whole steps up to the query, and one. Lanes are neighbours, so of their queries some may have taken one step more.
  template <class Score, class Place>
  LONGSPAN_INLINE Score next_step(const Place& query) const {
    using Scalar = std::conditional_t<std::is_same_v<Score, double>, double, float>;
    const Index next = floor_div(place(query) + 1, every_) + 1;
    const Score before(static_cast<Scalar>(next));
    if constexpr (kInLanes<Place>)
      return xsimd::select((query >= next * every_ - 1).value, Score(static_cast<Scalar>(next + 1)), before);
    else
      return before;
  }
  Index every_;
  float strength_;
};

}  // namespace longspan::inline LONGSPAN_ISA
