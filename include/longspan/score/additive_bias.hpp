#pragma once
// A bias for each pair, in the caller's memory.

#include <algorithm>
#include <span>

#include <longspan/core/check.hpp>
#include <longspan/core/runs.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// [sequences, heads, queries, keys]; 1 sequence, head or query serves all. Row 0 is for the query at position
/// first_query, column 0 for the key at position first_key.
struct BiasShape {
  Index sequences = 1;
  Index heads = 1;
  Index queries = 1;
  Index keys = 0;
  Index first_query = 0;
  Index first_key = 0;
};

/// score + bias[sequence][head][query][key], a dense tensor of floats (SDPA's attn_mask of floats, ONNX Attention's
/// attn_mask). An entry of −inf hides the key; a mask that knows what is hidden saves that work. Costs a load a vector
/// where keys are lanes (decode) and one load a pair where queries are (prefill).
class AdditiveBias {
 public:
  /// The memory is the caller's, and outlives this. Throws std::invalid_argument where a size is not positive or their
  /// product is not the size of `bias`. A call throws where the bias doesn't cover its sequences, heads, or positions.
  AdditiveBias(std::span<const float> bias, const BiasShape& shape) : bias_(bias.data()), shape_(shape) {
    Index size = 1;
    const auto side = [&](const char* name, Index count) {
      check(count >= 1, name, count, ">= 1");
      check(count <= kPositionEnd / size, name, count, "at most 2^52 numbers");
      size *= count;
    };
    side("BiasShape.sequences", shape.sequences);
    side("BiasShape.heads", shape.heads);
    side("BiasShape.queries", shape.queries);
    side("BiasShape.keys", shape.keys);
    check(std::ssize(bias) == size, "AdditiveBias.bias.size", bias.size(), size);
  }

  void check_extent(const Extent& call) const {
    check(shape_.heads == 1 || shape_.heads == call.heads, "BiasShape.heads", shape_.heads, call.heads);
    check(shape_.sequences == 1 || call.sequence < shape_.sequences, "BiasShape.sequences", shape_.sequences,
          AtLeast{call.sequence + 1});
    const auto within = [](const char* begin, Index first, const char* size, Index count, Interval positions) {
      if (positions.empty()) return;
      check(first <= positions.begin, begin, first, Below{positions.begin + 1});
      check(first + count >= positions.end, size, count, AtLeast{positions.end - first});
    };
    if (shape_.queries > 1)
      within("BiasShape.first_query", shape_.first_query, "BiasShape.queries", shape_.queries, call.queries);
    within("BiasShape.first_key", shape_.first_key, "BiasShape.keys", shape_.keys, call.keys);
  }

  template <class Score, class Query, class Key>
  LONGSPAN_INLINE Score operator()(const Score& score, const Query& query, const Key& key, Site site) const {
    const Index row = shape_.queries == 1 ? 0 : place(query) - shape_.first_query,
                column = place(key) - shape_.first_key;
    const Index sequence = shape_.sequences == 1 ? 0 : site.sequence, head = shape_.heads == 1 ? 0 : site.head;
    const float* rows = bias_ + (sequence * shape_.heads + head) * shape_.queries * shape_.keys;
    if constexpr (std::is_same_v<Score, double>)
      return score + static_cast<double>(rows[row * shape_.keys + column]);
    else if constexpr (kInLanes<Query>)
      return score + (shape_.queries == 1 ? Lanes(rows[column]) : down(rows, row, column));
    else
      return score + across(rows + row * shape_.keys, column);
  }

 private:
  // Lanes that belong to nobody read what is nearest to them.
  LONGSPAN_INLINE Lanes across(const float* row, Index column) const {
    if (column >= 0 && column + kLanes <= shape_.keys) return load(row + column);
    alignas(64) float x[kLanes];
    for (Index i = 0; i < kLanes; ++i) x[i] = row[std::clamp<Index>(column + i, 0, shape_.keys - 1)];
    return Lanes::load_aligned(x);
  }
  LONGSPAN_INLINE Lanes down(const float* rows, Index row, Index column) const {
    alignas(64) float x[kLanes];
    for (Index i = 0; i < kLanes; ++i)
      x[i] = rows[std::clamp<Index>(row + i, 0, shape_.queries - 1) * shape_.keys + column];
    return Lanes::load_aligned(x);
  }

  const float* bias_;
  BiasShape shape_;
};

}  // namespace longspan::inline LONGSPAN_ISA
