#pragma once
// Queries and keys whose attention has a known structure: keys that all look at, and distances at which all look back.

#include <cmath>
#include <longspan/core/index.hpp>
#include <longspan/core/view.hpp>
#include <support/random.hpp>
#include <vector>

namespace longspan::testing {

/// [tokens, 1, dim] each. A planted pair scores `height` (at the default scale), the others about 0.
struct Planted {
  Planted(Index tokens, Index dim_, const std::vector<Index>& columns, const std::vector<Index>& distances,
          float height, std::uint64_t seed)
      : n(tokens), dim(dim_), q(static_cast<std::size_t>(tokens * dim_)), k(q.size()) {
    Random random(seed);
    // Each position has a direction of its own, which keys hold and queries look for; one more is that of the columns.
    const float length = std::sqrt(height * std::sqrt(static_cast<float>(dim)));
    const std::vector<float> noise = random.gaussian(n * dim, 0.2f);
    std::vector<float> direction = random.gaussian((n + 1) * dim);
    for (Index p = 0; p <= n; ++p) {
      float* d = &direction[static_cast<std::size_t>(p * dim)];
      float square = 0;
      for (Index i = 0; i < dim; ++i) square += d[i] * d[i];
      for (Index i = 0; i < dim; ++i) d[i] *= length / std::sqrt(square);
    }
    const auto add = [&](std::vector<float>& to, Index row, Index p) {
      for (Index i = 0; i < dim; ++i)
        to[static_cast<std::size_t>(row * dim + i)] += direction[static_cast<std::size_t>(p * dim + i)];
    };
    std::copy(noise.begin(), noise.end(), k.begin());
    for (Index p = 0; p < n; ++p) {
      add(k, p, p);
      add(q, p, n);
      for (const Index d : distances)
        if (p >= d) add(q, p, p - d);
    }
    for (const Index c : columns) add(k, c, n);
  }
  TensorView<const float> queries() const { return view(q, n, 1, dim); }
  TensorView<const float> keys() const { return view(k, n, 1, dim); }

  Index n, dim;
  std::vector<float> q, k;
};

}  // namespace longspan::testing
