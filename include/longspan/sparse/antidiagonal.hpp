#pragma once
// XAttention: blocks chosen by sums over antidiagonals (Xu et al., arXiv 2503.16428), for one head.

#include <algorithm>
#include <vector>

#include <longspan/sparse/probe.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A block's scores are summed along every stride-th antidiagonal, which crosses all its rows, all its columns, and
/// every vertical line and slash in it. A softmax over these sums estimates the mass of each block; of each block of
/// queries the heaviest blocks of keys are taken until they hold `mass` of it. Throws std::invalid_argument unless
/// stride divides block and 0 < mass <= 1. O(keys² · head_dim / stride).
struct Antidiagonal {
  Index block = 64;
  Index stride = 8;
  double mass = 0.95;

  Sparsity operator()(const HeadOf& head) const {
    check(stride >= 1 && block >= 1 && block % stride == 0, "Antidiagonal.stride", stride, "a divisor of block");
    check(mass > 0 && mass <= 1, "Antidiagonal.mass", mass, "within (0, 1]");
    Index of_row = -1;
    std::vector<bool> taken;
    return detail::chosen(head, block, Probe::spread(head, detail::kMeasured), [&](Index r, Index c) {
      if (of_row != r) taken = heaviest(head, of_row = r);
      return static_cast<bool>(taken[static_cast<std::size_t>(c)]);
    });
  }

 private:
  /// The blocks of keys of one block of queries.
  std::vector<bool> heaviest(const HeadOf& head, Index r) const {
    std::vector<double> share(static_cast<std::size_t>(r) + 1);
    const Index first = std::max(r * block, head.first_query()), end = std::min((r + 1) * block, head.keys());
    for (Index q = first; q < end; q += stride) {
      const Index rows = std::min(stride, end - q);
      std::vector<float> sums(static_cast<std::size_t>(ceil_div(q + rows, stride)));
      float max = kMinusInfinity;
      for (Index g = 0; g < std::ssize(sums); ++g) {
        float sum = 0;  // query q + i meets key (g+1)·stride − 1 − i
        Index pairs = 0;
        for (Index i = 0; i < rows; ++i) {
          const Index key = (g + 1) * stride - 1 - i;
          if (key <= q + i && key < head.keys()) sum += head.score(q + i, key), ++pairs;
        }
        sums[static_cast<std::size_t>(g)] = pairs > 0 ? sum / static_cast<float>(pairs) : kMinusInfinity;
        max = std::max(max, sums[static_cast<std::size_t>(g)]);
      }
      const double total = detail::softmax_terms(sums.data(), std::ssize(sums), max);
      for (std::size_t g = 0; g < sums.size(); ++g)
        share[g * static_cast<std::size_t>(stride) / static_cast<std::size_t>(block)] +=
            static_cast<double>(sums[g]) / total;
    }
    std::vector<Index> order(share.size());
    double all = 0, held = share.back();
    for (std::size_t c = 0; c < share.size(); ++c) order[c] = static_cast<Index>(c), all += share[c];
    order.pop_back();  // the diagonal block is always taken
    std::sort(order.begin(), order.end(), [&](Index a, Index b) {
      return share[static_cast<std::size_t>(a)] > share[static_cast<std::size_t>(b)];
    });
    std::vector<bool> taken(share.size());
    for (const Index c : order) {
      if (held >= mass * all) break;
      taken[static_cast<std::size_t>(c)] = true;
      held += share[static_cast<std::size_t>(c)];
    }
    return taken;
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
