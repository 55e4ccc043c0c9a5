#pragma once
// Which of a few learned biases a distance gets in T5.

#include <algorithm>
#include <cmath>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Half of the buckets for distances one by one, the others for ranges that grow with the logarithm, the last for all
/// from max_distance on. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
/// Transformer" (2020), section 2.1. Throws std::invalid_argument for numbers that leave no range.
class T5Buckets {
 public:
  T5Buckets(Index buckets, Index max_distance, bool bidirectional)
      : one_way_(bidirectional ? buckets / 2 : buckets), max_distance_(max_distance), bidirectional_(bidirectional) {
    check(buckets >= (bidirectional ? 4 : 2) && buckets % (bidirectional ? 4 : 2) == 0 && buckets <= (Index{1} << 30),
          "T5Buckets.buckets", buckets, MultipleOf{bidirectional ? 4 : 2});
    check(max_distance > exact() && max_distance < kPositionEnd, "T5Buckets.max_distance", max_distance,
          AtLeast{exact() + 1});
  }

  Index buckets() const { return bidirectional_ ? 2 * one_way_ : one_way_; }

  /// The bucket of key − query, in [0, buckets()). Both ways: keys behind the query have the upper half; otherwise they
  /// have bucket 0. O(1).
  Index operator()(Index key_minus_query) const {
    const Index upper = bidirectional_ && key_minus_query > 0 ? one_way_ : 0;
    const Index distance = bidirectional_ ? std::abs(key_minus_query) : std::max<Index>(-key_minus_query, 0);
    if (distance < exact()) return upper + distance;
    const double first = static_cast<double>(exact());
    const double range = std::log(static_cast<double>(distance) / first) /
                         std::log(static_cast<double>(max_distance_) / first) * static_cast<double>(one_way_ - exact());
    // Where a range begins exactly, the quotient of two logarithms may miss the whole number by its rounding.
    const Index logarithmic = exact() + static_cast<Index>(range + 1e-9);
    return upper + std::min(logarithmic, one_way_ - 1);
  }

 private:
  Index exact() const { return one_way_ / 2; }
  Index one_way_, max_distance_;
  bool bidirectional_;
};

}  // namespace longspan::inline LONGSPAN_ISA
