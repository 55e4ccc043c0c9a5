#pragma once
// Biases that depend on the distance between query and key, from a table.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/runs.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/score/t5_buckets.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// score + bias(head, key − query), the same for all distances beyond `reach` on either side.
///
/// The bias is kept by distance, so that a vector of neighbours is one load. Memory: 16 bytes for each head and
/// distance.
class RelativeBias {
 public:
  /// T5's relative attention bias (Raffel et al., arXiv 1910.10683), from its table [buckets, heads]. Throws
  /// std::invalid_argument unless buckets and max_distance leave room for both kinds, heads >= 1, the table has that
  /// size, and no entry is NaN.
  RelativeBias(const T5Buckets& to_bucket, Index heads, std::span<const float> table)
      : RelativeBias(checked(to_bucket, heads, table), to_bucket.max_distance, [&](Index head, Index key_minus_query) {
          return table[static_cast<std::size_t>(to_bucket(key_minus_query) * heads + head)];
        }) {}

  /// From a function (head, key − query) -> float, asked once for each distance from −reach to reach. Throws
  /// std::invalid_argument unless heads >= 1, reach is within [0, 2^20], and no bias is NaN.
  template <std::invocable<Index, Index> F>
  RelativeBias(Index heads, Index reach, F&& bias) : heads_(heads), reach_(reach) {
    check(heads >= 1, "RelativeBias.heads", heads, ">= 1");
    check(reach >= 0 && reach <= Index{1} << 20, "RelativeBias.reach", reach, "within [0, 2^20]");
    keys_ascend_.resize(static_cast<std::size_t>(heads * stride()));
    queries_ascend_.resize(keys_ascend_.size());
    for (Index head = 0; head < heads; ++head)
      for (Index i = 0; i < stride(); ++i) {
        const Index distance = std::clamp(i - first(), -reach, reach);
        const float key_behind = bias(head, distance);
        check(!std::isnan(key_behind), "RelativeBias.bias", key_behind, "a number");
        keys_ascend_[at(head, i)] = key_behind;
        queries_ascend_[at(head, i)] = bias(head, -distance);
      }
  }

  /// The number of heads it is made for; a call with another number is refused.
  Index heads() const { return heads_; }
  float bias(Index head, Index key_minus_query) const {
    return keys_ascend_[at(head, std::clamp(key_minus_query, -reach_, reach_) + first())];
  }

  template <class Score, class Query, class Key>
  LONGSPAN_INLINE Score operator()(const Score& score, const Query& query, const Key& key, Index head) const {
    const Index distance = place(key) - place(query);
    if constexpr (std::is_same_v<Score, double>)
      return score + static_cast<double>(bias(head, distance));
    else
      return score + (kInLanes<Query> ? from(queries_ascend_, head, -distance) : from(keys_ascend_, head, distance));
  }

 private:
  // Of a table, the distances from −reach − kLanes to reach + kLanes: a vector that lies beyond the reach on one side
  // is found there, whichever distance it begins with.
  Index first() const { return reach_ + kLanes; }
  Index stride() const { return 2 * first() + 1; }
  std::size_t at(Index head, Index i) const { return static_cast<std::size_t>(head * stride() + i); }
  LONGSPAN_INLINE Lanes from(const std::vector<float>& table, Index head, Index distance) const {
    return load(table.data() + head * stride() + first() + std::clamp(distance, -first(), reach_));
  }

  static Index checked(const T5Buckets& b, Index heads, std::span<const float> table) {
    const Index side = b.bidirectional ? 2 : 1;
    check(b.buckets >= 2 * side && b.buckets % (2 * side) == 0, "T5Buckets.buckets", b.buckets,
          b.bidirectional ? "a multiple of 4, >= 4" : "a multiple of 2, >= 2");
    check(b.max_distance > b.buckets / side / 2, "T5Buckets.max_distance", b.max_distance,
          AtLeast{b.buckets / side / 2 + 1});
    check(heads >= 1, "RelativeBias.heads", heads, ">= 1");
    check(std::ssize(table) == b.buckets * heads, "RelativeBias.table.size", table.size(), b.buckets * heads);
    return heads;
  }

  Index heads_, reach_;
  std::vector<float> keys_ascend_, queries_ascend_;  // [heads, stride()]
};

}  // namespace longspan::inline LONGSPAN_ISA
