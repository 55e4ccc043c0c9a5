#pragma once
// Which of a few learned biases a distance gets in T5.

#include <algorithm>
#include <cmath>

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Half of the buckets for distances one by one, the others for ranges that grow with the logarithm, the last for all
/// from max_distance on. Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
/// Transformer" (2020), section 2.1.
struct T5Buckets {
  Index buckets = 32;
  Index max_distance = 128;
  bool bidirectional = true;  ///< half of the buckets for keys behind the query; else those fall into bucket 0

  /// The bucket of a distance key − query. O(1).
  Index operator()(Index key_minus_query) const {
    const Index side = bidirectional ? buckets / 2 : buckets, exact = side / 2;
    const Index first = bidirectional && key_minus_query > 0 ? side : 0;
    const Index distance = bidirectional ? std::abs(key_minus_query) : std::max<Index>(-key_minus_query, 0);
    if (distance < exact) return first + distance;
    const double octaves = std::log(static_cast<double>(distance) / static_cast<double>(exact)) /
                           std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
    const double wide = octaves * static_cast<double>(side - exact);
    // Where a bucket begins at a whole distance the quotient of logarithms may fall short of it by a rounding.
    return first + std::min(exact + static_cast<Index>(wide + 1e-9), side - 1);
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
