#pragma once
// Scalings that depend on how long the sequence is: make a Rope of such a policy anew when the length changes. Keys
// that were rotated before by another one don't fit: keep them un-rotated (rotary_attention.hpp), or rotate them back
// with the Rope that they were rotated with and again with the new one.

#include <optional>

#include <longspan/position/frequencies.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Dynamic NTK: plain up to the trained length; beyond it NTK-aware, by a factor that grows with the length so that it
/// begins at 1: base' = base · (factor · length / original_context − (factor − 1))^(d / (d − 2)). emozilla (2023), as
/// transformers has it.
struct DynamicNtk {
  double factor = 1;
  Index original_context = 0;  ///< trained length, in tokens
  Index length = 0;            ///< of the sequence now, in tokens

  /// As Plain; also throws std::invalid_argument unless factor is finite and >= 1, original_context >= 1, length >= 0
  /// and the new base is finite.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    detail::check_factor("DynamicNtk.factor", factor);
    detail::check_context("DynamicNtk.original_context", original_context);
    check(length >= 0, "DynamicNtk.length", length, ">= 0");
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    if (length <= original_context || rotary_dim == 2) return inverse;
    const double ratio = static_cast<double>(length) / static_cast<double>(original_context);
    const double stretched = Ntk::stretched_base(rotary_dim, base, factor * ratio - (factor - 1));
    check(std::isfinite(stretched), "DynamicNtk.factor", factor, "one that leaves the base finite");
    return Plain{}.frequencies(rotary_dim, stretched);
  }
  double attention_factor() const { return 1; }
};

/// LongRoPE: a factor of its own for each pair, found by search: `short_factor` while the sequence fits the trained
/// length, `long_factor` beyond it. Ding et al., "LongRoPE" (2024), equation 3; attention factor and the two lists as
/// in Phi-3.
struct LongRope {
  std::vector<double> short_factor = {}, long_factor = {};  ///< [rotary_dim / 2] each
  Index original_context = 0;                               ///< trained length, in tokens
  double factor = 1;                                        ///< target length / trained length
  Index length = 0;                                         ///< of the sequence now, in tokens
  std::optional<double> given_attention_factor = {};        ///< default sqrt(1 + ln(factor) / ln(original_context))

  /// As Plain; also throws std::invalid_argument unless both lists have rotary_dim / 2 elements that are finite and >
  /// 0, original_context >= 1 and length >= 0.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    std::vector<double> inverse = Plain{}.frequencies(rotary_dim, base);
    detail::check_context("LongRope.original_context", original_context);
    check(length >= 0, "LongRope.length", length, ">= 0");
    check_list("LongRope.short_factor", "LongRope.short_factor.size", short_factor, inverse.size());
    check_list("LongRope.long_factor", "LongRope.long_factor.size", long_factor, inverse.size());
    const std::vector<double>& factors = length > original_context ? long_factor : short_factor;
    for (std::size_t i = 0; i < inverse.size(); ++i) inverse[i] /= factors[i];
    return inverse;
  }
  /// Throws std::invalid_argument unless factor is finite and >= 1, or a given one finite and > 0.
  double attention_factor() const {
    if (given_attention_factor) {
      detail::check_positive("LongRope.given_attention_factor", *given_attention_factor);
      return *given_attention_factor;
    }
    detail::check_factor("LongRope.factor", factor);
    detail::check_context("LongRope.original_context", original_context);
    if (factor == 1) return 1;
    check(original_context >= 2, "LongRope.original_context", original_context, ">= 2");
    return std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original_context)));
  }

 private:
  static void check_list(const char* argument, const char* its_size, const std::vector<double>& list,
                         std::size_t size) {
    check(list.size() == size, its_size, list.size(), size);
    for (const double f : list) detail::check_positive(argument, f);
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
