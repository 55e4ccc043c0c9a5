#pragma once
// The rotary embedding of a Hugging Face config.json, read by nlohmann's JSON library.

#include <fstream>
#include <longspan/position/rope_scaling.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace hf {

/// head_dim, and the RopeScaling of the model. Throws nlohmann's exceptions for a file of another kind.
struct RopeConfig {
  longspan::Index head_dim = 0;
  longspan::RopeScaling rope;
};

inline RopeConfig read_config(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json config = nlohmann::json::parse(file);
  RopeConfig out;
  longspan::RopeScaling& rope = out.rope;
  const auto take = [](const nlohmann::json& from, const char* key, auto& to) {
    if (const auto at = from.find(key); at != from.end() && !at->is_null()) to = at->get<std::decay_t<decltype(to)>>();
  };
  const auto take_optional = [](const nlohmann::json& from, const char* key, auto& to) {
    if (const auto at = from.find(key); at != from.end() && !at->is_null())
      to = at->get<typename std::decay_t<decltype(to)>::value_type>();
  };
  take(config, "max_position_embeddings", rope.max_position_embeddings);
  take_optional(config, "original_max_position_embeddings", rope.original_max_position_embeddings);  // Phi-3
  take(config, "rope_theta", rope.rope_theta);
  take(config, "partial_rotary_factor", rope.partial_rotary_factor);
  out.head_dim = config.value("head_dim", longspan::Index{0});
  if (out.head_dim == 0)
    out.head_dim =
        config.at("hidden_size").get<longspan::Index>() / config.at("num_attention_heads").get<longspan::Index>();

  const char* const key = config.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.contains(key) || config.at(key).is_null()) return out;
  const nlohmann::json& block = config.at(key);
  take(block, "type", rope.rope_type);
  take(block, "rope_type", rope.rope_type);
  take(block, "rope_theta", rope.rope_theta);
  take(block, "partial_rotary_factor", rope.partial_rotary_factor);
  take_optional(block, "original_max_position_embeddings", rope.original_max_position_embeddings);
  take_optional(block, "factor", rope.factor);
  take_optional(block, "attention_factor", rope.attention_factor);
  take(block, "beta_fast", rope.beta_fast), take(block, "beta_slow", rope.beta_slow);
  take(block, "mscale", rope.mscale), take(block, "mscale_all_dim", rope.mscale_all_dim);
  take(block, "truncate", rope.truncate);
  take(block, "short_factor", rope.short_factor), take(block, "long_factor", rope.long_factor);
  take(block, "low_freq_factor", rope.low_freq_factor), take(block, "high_freq_factor", rope.high_freq_factor);
  take(block, "mrope_section", rope.mrope_section), take(block, "mrope_interleaved", rope.mrope_interleaved);
  return out;
}

}  // namespace hf
