#pragma once
// Where the angles of a rotary embedding come from: one inverse frequency per pair of elements, chosen by a policy. A
// further scaling is one more file with one more policy; Rope asks a policy once, at construction, and forgets it, so a
// scaling never becomes part of a type. What a scaling depends on (its factor, the trained context, the current length)
// are the policy's own fields. Here: those that treat all pairs alike. Those that look at wavelengths: by_parts.hpp;
// those that look at the length of the sequence: by_length.hpp; all of them by their names in a file: rope_scaling.hpp.
//
// Rotating a part of each head is Rope's own rotary_dim; bases by layer (Gemma 3) are two Ropes.

#include <cmath>
#include <concepts>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A small value that maps (rotary_dim, base) to angles.
/// `frequencies`: inv_freq[rotary_dim / 2], in radians per position, in double; throws std::invalid_argument.
/// `attention_factor`: what cosines and sines are multiplied by (so scores by its square); 1 for most.
template <class P>
concept FrequencyPolicy = std::copyable<P> && requires(const P& policy, Index rotary_dim, double base) {
  { policy.frequencies(rotary_dim, base) } -> std::same_as<std::vector<double>>;
  { policy.attention_factor() } -> std::same_as<double>;
};

namespace detail {
/// For what multiplies: "<argument>: got <factor>, expected finite and > 0".
inline void check_positive(const char* argument, double factor) {
  check(std::isfinite(factor) && factor > 0, argument, factor, "finite and > 0");
}
/// For how much longer a context becomes: a model is never made to see less than it can.
inline void check_factor(const char* argument, double factor) {
  check(std::isfinite(factor) && factor >= 1, argument, factor, "finite and >= 1");
}
/// For a number of tokens.
inline void check_context(const char* argument, Index tokens) {
  check(tokens >= 1 && tokens < kPositionEnd, argument, tokens, "within [1, 2^52)");
}
}  // namespace detail

/// inv_freq[i] = base^(-2i / rotary_dim). Su et al., "RoFormer" (2021), section 3.2.2.
struct Plain {
  /// Within 2 ulp of double. Throws std::invalid_argument for an odd or non-positive rotary_dim, or a base that is not
  /// finite and > 0. O(rotary_dim) powers.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    check(rotary_dim >= 2 && rotary_dim % 2 == 0, "rotary_dim", rotary_dim, "even and >= 2");
    check(std::isfinite(base) && base > 0, "base", base, "finite and > 0");
    std::vector<double> inverse;
    inverse.reserve(static_cast<std::size_t>(rotary_dim / 2));
    const double d = static_cast<double>(rotary_dim), log_base = std::log(base);
    for (Index i = 0; i < rotary_dim; i += 2) {
      // The exponent i/d is rounded unless d is a power of two; `rest` is what that leaves out.
      const double n = static_cast<double>(i), exponent = n / d, rest = std::fma(-exponent, d, n) / d;
      const double frequency = 1 / std::pow(base, exponent);
      inverse.push_back(frequency - frequency * (rest * log_base));
    }
    return inverse;
  }
  double attention_factor() const { return 1; }
};

/// Position interpolation: positions divided by `factor`. Chen et al., "Extending Context Window of Large Language
/// Models via Positional Interpolation" (2023), equation 4.
struct Linear {
  double factor = 1;

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("Linear.factor", factor);
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    for (double& f : inverse) f /= factor;
    return inverse;
  }
  double attention_factor() const { return 1; }
};

/// NTK-aware: base' = base · factor^(d / (d − 2)), which keeps the first frequency and divides the last by `factor`.
/// bloc97 (2023); written down in Peng et al., "YaRN" (2023), definition 1. One pair alone is a first frequency, so
/// rotary_dim 2 is left as it is.
struct Ntk {
  double factor = 1;

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1 and the new base is finite.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("Ntk.factor", factor);
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);  // refuses a bad dim or base by its own name
    if (rotary_dim == 2) return inverse;
    const double stretched = stretched_base(rotary_dim, base, factor);
    check(std::isfinite(stretched), "Ntk.factor", factor, "one that leaves the base finite");
    return Plain{}.frequencies(rotary_dim, stretched);
  }
  double attention_factor() const { return 1; }

  static double stretched_base(Index rotary_dim, double base, double factor) {
    const double d = static_cast<double>(rotary_dim);
    return base * std::pow(factor, d / (d - 2));
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
