#pragma once
// Caches of numbered tokens: every element of a token's keys and values is made from its number, so that what a cache
// holds is a list of numbers, and each element of it can be checked.

#include <gtest/gtest.h>

#include <algorithm>
#include <longspan/kv/paged.hpp>
#include <numeric>
#include <vector>

namespace longspan::testing {

using Numbers = std::vector<Index>;

inline Numbers numbers(Index begin, Index end) {
  Numbers all(static_cast<std::size_t>(end - begin));
  std::iota(all.begin(), all.end(), begin);
  return all;
}

/// Element d of head h: exact for numbers below 2^19.
inline float element(Index number, Index h, Index d, bool value) {
  return static_cast<float>(number * 32 + (h * 5 + d * 3 + (value ? 17 : 0)) % 32);
}

template <class T>
Outcome append(PagedCache<T>& cache, SequenceId id, const Numbers& tokens, Index layer = 0, Index group = 0) {
  const PagedShape& shape = cache.shape(group);
  std::vector<float> keys, values;
  for (const Index n : tokens)
    for (Index h = 0; h < shape.kv_heads; ++h) {
      for (Index d = 0; d < shape.head_dim; ++d) keys.push_back(element(n, h, d, false));
      for (Index d = 0; d < shape.value_dim; ++d) values.push_back(element(n, h, d, true));
    }
  if (shape.latent) return cache.append(id, view(keys, std::ssize(tokens), shape.kv_heads, shape.head_dim), layer);
  return cache.append(id, view(keys, std::ssize(tokens), shape.kv_heads, shape.head_dim),
                      view(values, std::ssize(tokens), shape.kv_heads, shape.value_dim), layer);
}

/// The numbers of what a view holds by one head; -1 where an element is not that number's.
template <class T>
Numbers read_head(const PagedView<T>& view, Index h) {
  Numbers got;
  for (Index at = 0; at < view.keys();) {
    const auto run = view.run(h, at);
    for (Index j = 0; j < run.size; ++j, ++at) {
      const Index number = static_cast<Index>(static_cast<float>(*run.key_at(j, 0))) / 32;
      const bool latent = run.value == run.key;
      bool right = true;
      for (Index d = 0; d < view.head_dim(); ++d)
        right &= static_cast<float>(*run.key_at(j, d)) == element(number, h, d, false);
      for (Index d = 0; d < view.value_dim(); ++d)
        right &= static_cast<float>(*run.value_at(j, d)) == element(number, h, d, !latent);
      got.push_back(right ? number : -1);
    }
  }
  return got;
}

/// The numbers of what a view holds; -1 where heads differ.
template <class T>
Numbers read(const PagedView<T>& view) {
  Numbers got = read_head(view, 0);
  for (Index h = 1; h < view.kv_heads(); ++h) {
    const Numbers other = read_head(view, h);
    for (std::size_t i = 0; i < got.size(); ++i)
      if (other[i] != got[i]) got[i] = -1;
  }
  return got;
}

}  // namespace longspan::testing
