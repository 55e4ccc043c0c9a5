#pragma once
// Views over memory that the caller owns.

#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

struct Shape {
  Index tokens = 0;
  Index heads = 0;
  Index dim = 0;
};

/// [tokens, heads, dim] with strides in elements; the elements of a row are neighbours. Copying a view copies no data.
template <class T>
struct TensorView {
  T* data = nullptr;
  Index tokens = 0;
  Index heads = 0;
  Index dim = 0;
  Index token_stride = 0;
  Index head_stride = 0;

  T* row(Index token, Index head) const { return data + token * token_stride + head * head_stride; }
  Shape shape() const { return {tokens, heads, dim}; }
  /// The tokens [t.begin, t.end).
  TensorView slice(Interval t) const { return {row(t.begin, 0), t.size(), heads, dim, token_stride, head_stride}; }
  operator TensorView<const T>() const requires(!std::is_const_v<T>) {
    return {data, tokens, heads, dim, token_stride, head_stride};
  }
};

/// Dense [tokens, heads, dim] over a vector or span. Throws std::invalid_argument when the size is not their product.
template <class T>
TensorView<T> view(std::span<T> memory, Index tokens, Index heads, Index dim) {
  check(tokens >= 0, "view.tokens", tokens, ">= 0");
  check(heads >= 1, "view.heads", heads, ">= 1");
  check(dim >= 1, "view.dim", dim, ">= 1");
  check(heads <= kUnbounded / dim && tokens <= kUnbounded / (heads * dim), "view.tokens", tokens, "a size below 2^63");
  check(static_cast<Index>(memory.size()) == tokens * heads * dim, "view.memory.size", memory.size(),
        tokens * heads * dim);
  return {memory.data(), tokens, heads, dim, heads * dim, dim};
}
template <class T>
TensorView<T> view(std::vector<T>& memory, Index tokens, Index heads, Index dim) {
  return view(std::span<T>(memory), tokens, heads, dim);
}
template <class T>
TensorView<const T> view(const std::vector<T>& memory, Index tokens, Index heads, Index dim) {
  return view(std::span<const T>(memory), tokens, heads, dim);
}

/// The same over [heads, tokens, dim] memory.
template <class T>
TensorView<T> heads_first(std::span<T> memory, Index heads, Index tokens, Index dim) {
  TensorView<T> v = view(memory, tokens, heads, dim);
  v.token_stride = dim;
  v.head_stride = tokens * dim;
  return v;
}
template <class T>
TensorView<T> heads_first(std::vector<T>& memory, Index heads, Index tokens, Index dim) {
  return heads_first(std::span<T>(memory), heads, tokens, dim);
}
template <class T>
TensorView<const T> heads_first(const std::vector<T>& memory, Index heads, Index tokens, Index dim) {
  return heads_first(std::span<const T>(memory), heads, tokens, dim);
}

}  // namespace longspan::inline LONGSPAN_ISA
