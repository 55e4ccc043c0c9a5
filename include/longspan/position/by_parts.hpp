#pragma once
// Scalings that look at wavelengths: a pair that turns many times within the trained context tells near positions
// apart and is left as it is; one that never finishes a turn says where in the context a token stands and is
// interpolated; between the two is a ramp.

#include <algorithm>
#include <numbers>
#include <optional>

#include <longspan/position/frequencies.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

/// The pair, as a real number, that turns `rotations` times within `context` positions: of base^(-2i/d) the i where
/// context / wavelength = rotations.
inline double pair_of(double rotations, Index rotary_dim, double base, Index context) {
  const double turns = static_cast<double>(context) / (rotations * 2 * std::numbers::pi);
  return static_cast<double>(rotary_dim) * std::log(turns) / (2 * std::log(base));
}

/// 0 up to the pair that turns `most` times within the context, 1 from the one that turns `least` times, linear in the
/// index of the pair between them. `truncate`: between whole pairs, which is wider. As transformers and the authors of
/// YaRN have it (the paper's ramp is linear in the rotations).
class Ramp {
 public:
  Ramp(double most, double least, Index rotary_dim, double base, Index context, bool truncate = true) {
    low_ = pair_of(most, rotary_dim, base, context);
    high_ = pair_of(least, rotary_dim, base, context);
    if (truncate) low_ = std::floor(low_), high_ = std::ceil(high_);
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(rotary_dim - 1));
    if (!(high_ > low_)) high_ = low_ + 0.001;  // a step; the same where all pairs are slower than `least`
  }
  double operator()(std::size_t pair) const {
    return std::clamp((static_cast<double>(pair) - low_) / (high_ - low_), 0.0, 1.0);
  }

 private:
  double low_, high_;
};

inline double mix(double a, double b, double share_of_b) { return a * (1 - share_of_b) + b * share_of_b; }

}  // namespace detail

/// NTK-by-parts: plain for pairs of more than 16 turns within the trained context, NTK-aware below 2 turns, linear
/// below 0.75, with ramps between (16 … 2 and 1.25 … 0.75). bloc97 (2023), with the constants of the code of Peng et
/// al. (github.com/jquesnelle/yarn); without the NTK-aware part it is what Yarn interpolates by.
struct ByParts {
  double factor = 1;
  Index original_context = 0;  ///< trained length, in tokens

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1, original_context >= 1 and base > 1.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("ByParts.factor", factor);
    detail::check_context("ByParts.original_context", original_context);
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    check(base > 1, "base", base, "> 1");
    const std::vector<double> ntk = Ntk{factor}.frequencies(rotary_dim, base);
    const detail::Ramp to_linear(1.25, 0.75, rotary_dim, base, original_context);
    const detail::Ramp from_plain(16, 2, rotary_dim, base, original_context);
    for (std::size_t i = 0; i < inverse.size(); ++i)
      inverse[i] = detail::mix(inverse[i], detail::mix(ntk[i], inverse[i] / factor, to_linear(i)), from_plain(i));
    return inverse;
  }
  double attention_factor() const { return 1; }
};

/// YaRN: plain for pairs of more than beta_fast turns within the trained context, linear below beta_slow turns, a ramp
/// between; scores are sharpened by the square of the attention factor. Peng et al., "YaRN" (2023), definition 2 and
/// equation 22.
struct Yarn {
  double factor = 1;
  Index original_context = 0;  ///< trained length, in tokens
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;          ///< DeepSeek's: with both, the attention factor is m(mscale) / m(mscale_all_dim), where
  double mscale_all_dim = 0;  ///< m(s) = 0.1 · s · ln(factor) + 1. 0: not given
  std::optional<double> given_attention_factor = {};  ///< default by mscale, or 0.1 · ln(factor) + 1
  bool truncate = true;                               ///< the ramp begins and ends at whole pairs (not in gpt-oss)

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1, original_context >= 1, beta_fast >
  /// beta_slow > 0 and base > 1.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("Yarn.factor", factor);
    detail::check_context("Yarn.original_context", original_context);
    detail::check_positive("Yarn.beta_slow", beta_slow);
    check(std::isfinite(beta_fast) && beta_fast > beta_slow, "Yarn.beta_fast", beta_fast, "finite and > beta_slow");
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    check(base > 1, "base", base, "> 1");
    const detail::Ramp ramp(beta_fast, beta_slow, rotary_dim, base, original_context, truncate);
    for (std::size_t i = 0; i < inverse.size(); ++i) inverse[i] = detail::mix(inverse[i], inverse[i] / factor, ramp(i));
    return inverse;
  }
  /// Throws std::invalid_argument unless factor is finite and >= 1, mscales are finite and >= 0, and a given factor is
  /// finite and > 0.
  double attention_factor() const {
    detail::check_factor("Yarn.factor", factor);
    check(std::isfinite(mscale) && mscale >= 0, "Yarn.mscale", mscale, "finite and >= 0");
    check(std::isfinite(mscale_all_dim) && mscale_all_dim >= 0, "Yarn.mscale_all_dim", mscale_all_dim,
          "finite and >= 0");
    if (given_attention_factor) {
      detail::check_positive("Yarn.given_attention_factor", *given_attention_factor);
      return *given_attention_factor;
    }
    const auto m = [&](double scale) { return 0.1 * scale * std::log(factor) + 1; };
    return mscale > 0 && mscale_all_dim > 0 ? m(mscale) / m(mscale_all_dim) : m(1);
  }
};

/// Llama 3: wavelengths below original_context / high_frequency_factor are left, those above original_context /
/// low_frequency_factor are interpolated, between them by a ramp linear in the number of turns. Grattafiori et al.,
/// "The Llama 3 Herd of Models" (2024), as its code has it (the paper only says that it was done).
struct Llama3 {
  double factor = 8;
  Index original_context = 8192;  ///< trained length, in tokens
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1, original_context >= 1 and
  /// high_frequency_factor > low_frequency_factor > 0.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("Llama3.factor", factor);
    detail::check_context("Llama3.original_context", original_context);
    detail::check_positive("Llama3.low_frequency_factor", low_frequency_factor);
    check(std::isfinite(high_frequency_factor) && high_frequency_factor > low_frequency_factor,
          "Llama3.high_frequency_factor", high_frequency_factor, "finite and > low_frequency_factor");
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    for (double& f : inverse) {
      const double turns = static_cast<double>(original_context) * f / (2 * std::numbers::pi);
      const double kept =
          std::clamp((turns - low_frequency_factor) / (high_frequency_factor - low_frequency_factor), 0.0, 1.0);
      f = detail::mix(f / factor, f, kept);
    }
    return inverse;
  }
  double attention_factor() const { return 1; }
};

}  // namespace longspan::inline LONGSPAN_ISA
