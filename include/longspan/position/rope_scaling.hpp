#pragma once
// A model's rotary embedding as its config.json has it: `rope_scaling` or, since transformers 5, `rope_parameters`.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <longspan/position/by_length.hpp>
#include <longspan/position/by_parts.hpp>
#include <longspan/position/frequencies.hpp>
#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Any of the library's frequency policies, chosen at run time.
class AnyFrequencies {
 public:
  template <class Policy>
  requires(!std::same_as<Policy, AnyFrequencies>) && FrequencyPolicy<Policy>  // in this order, or it asks of itself
      AnyFrequencies(Policy policy) : policy_(std::move(policy)) {}

  /// Throw what the policy throws.
  std::vector<double> frequencies(Index rotary_dim, double base) const {
    return std::visit([&](const auto& policy) { return policy.frequencies(rotary_dim, base); }, policy_);
  }
  double attention_factor() const {
    return std::visit([](const auto& policy) { return policy.attention_factor(); }, policy_);
  }

 private:
  std::variant<Plain, Linear, Ntk, DynamicNtk, ByParts, Yarn, LongRope, Llama3> policy_;
};

/// The fields of that block by their names there, and max_position_embeddings, which stands beside it. Fill in what the
/// file has; reading JSON is left to a JSON library (examples/rope_interpolation.cpp). Where layers differ (Gemma 3) a
/// file has a block, or a rope_theta, for each kind of layer: make a RopeScaling for each.
struct RopeScaling {
  std::string rope_type = "default";  ///< `type` in older files
  double rope_theta = 10000;
  double partial_rotary_factor = 1;  ///< the share of each head that is rotated
  Index max_position_embeddings = 0;
  std::optional<Index> original_max_position_embeddings = {};  ///< default max_position_embeddings
  std::optional<double> factor = {};  ///< default max_position_embeddings / original_max_position_embeddings
  std::optional<double> attention_factor = {};
  double beta_fast = 32, beta_slow = 1;
  double mscale = 0, mscale_all_dim = 0;  ///< 0: not given
  bool truncate = true;
  std::vector<double> short_factor = {}, long_factor = {};
  double low_freq_factor = 1, high_freq_factor = 4;
  std::vector<Index> mrope_section = {};  ///< for PairAxes (multi_axis.hpp)
  bool mrope_interleaved = false;

  /// The policy of that name, for a sequence of `length` tokens where it asks for that (0: within the trained length).
  /// Names: default (mrope), linear, ntk, dynamic, by_parts, yarn, longrope (su), llama3. Throws std::invalid_argument
  /// for another name, or a negative length of the context; the policy itself throws for the others when it is asked.
  AnyFrequencies policy(Index length = 0) const {
    const Index original = original_max_position_embeddings.value_or(max_position_embeddings);
    const auto trained = [&] {
      detail::check_context("RopeScaling.original_max_position_embeddings", original);
      return original;
    };
    const auto by = [&] {
      if (factor) return *factor;
      detail::check_context("RopeScaling.max_position_embeddings", max_position_embeddings);
      return static_cast<double>(max_position_embeddings) / static_cast<double>(trained());
    };
    const std::string_view type = rope_type;
    if (type == "default" || type == "mrope") return Plain{};
    if (type == "linear") return Linear{by()};
    if (type == "ntk") return Ntk{by()};
    if (type == "dynamic") return DynamicNtk{by(), trained(), length};
    if (type == "by_parts") return ByParts{by(), trained()};
    if (type == "yarn")
      return Yarn{by(), trained(), beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor, truncate};
    if (type == "longrope" || type == "su")
      return LongRope{short_factor, long_factor, trained(), by(), length, attention_factor};
    if (type == "llama3") return Llama3{by(), trained(), low_freq_factor, high_freq_factor};
    check(false, "RopeScaling.rope_type", type,
          "default, mrope, linear, ntk, dynamic, by_parts, yarn, longrope, su or llama3");
    return Plain{};
  }

  /// How many elements of a head are rotated. Throws std::invalid_argument unless 0 < partial_rotary_factor <= 1.
  Index rotary_dim(Index head_dim) const {
    check(partial_rotary_factor > 0 && partial_rotary_factor <= 1, "RopeScaling.partial_rotary_factor",
          partial_rotary_factor, "within (0, 1]");
    return static_cast<Index>(static_cast<double>(head_dim) * partial_rotary_factor);
  }

  /// The whole embedding. Throws as policy(), rotary_dim() and Rope.
  template <PairLayout Layout = HalfSplit>
  Rope<Layout> rope(Index head_dim, Index length = 0) const {
    return {rotary_dim(head_dim), rope_theta, policy(length)};
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
