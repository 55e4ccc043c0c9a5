#pragma once
// Score functions, applied to scale·q·k before the mask: those with a formula. (core/concepts.hpp says what one is.)

#include <cmath>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// cap·tanh(score / cap) (Gemma 2). Throws std::invalid_argument unless cap is finite and > 0.
class SoftCap {
 public:
  explicit SoftCap(float cap) : cap_(cap) { check(cap > 0 && std::isfinite(cap), "SoftCap.cap", cap, "finite, > 0"); }

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto&, const auto&) const {
    return fma(tanh(score / Score(cap_)), Score(cap_), Score(0.f));  // no product is left to be contracted
  }

 private:
  float cap_;
};

/// score − slope(head)·(query − key) (Press et al., arXiv 2108.12409). For a power of two of heads the slopes are the
/// geometric series from 2^(−8/heads); for other counts the authors' code: the series of the next lower power of two,
/// then every other one of the next higher. Throws std::invalid_argument unless heads >= 1 (or slopes are finite).
class Alibi {
 public:
  explicit Alibi(Index heads) {
    check(heads >= 1, "Alibi.heads", heads, ">= 1");
    Index low = 1;
    while (low * 2 <= heads) low *= 2;
    for (Index i = 0; i < low; ++i) slopes_.push_back(power(low, i + 1));
    for (Index i = 0; i < heads - low; ++i) slopes_.push_back(power(2 * low, 2 * i + 1));
  }
  explicit Alibi(std::vector<double> slopes) : slopes_(std::move(slopes)) {
    check(!slopes_.empty(), "Alibi.slopes.size", slopes_.size(), ">= 1");
    for (const double slope : slopes_) check(std::isfinite(slope), "Alibi.slopes", slope, "finite");
  }

  double slope(Index head) const { return slopes_[static_cast<std::size_t>(head)]; }
  /// The number of heads it is made for; a call with another number is refused.
  Index heads() const { return static_cast<Index>(slopes_.size()); }

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto& key, Index head) const {
    return penalised(score, Score(query - key), head);
  }

 protected:
  template <class Score>
  LONGSPAN_INLINE Score penalised(const Score& score, const Score& distance, Index head) const {
    using Scalar = std::conditional_t<std::is_same_v<Score, double>, double, float>;
    return fma(Score(static_cast<Scalar>(-slope(head))), distance, score);  // fused: one rounding everywhere
  }

 private:
  static double power(Index heads, Index i) {
    return std::exp2(-8.0 * static_cast<double>(i) / static_cast<double>(heads));
  }
  std::vector<double> slopes_;
};

/// The same for attention in both directions: score − slope(head)·|query − key|.
class SymmetricAlibi : public Alibi {
 public:
  using Alibi::Alibi;

  template <class Score>
  LONGSPAN_INLINE Score operator()(const Score& score, const auto& query, const auto& key, Index head) const {
    using std::abs, xsimd::abs;
    return penalised(score, Score(abs(Score(query - key))), head);
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
