#pragma once
// Keys and values as two tensors in the caller's memory.

#include <longspan/core/bytes.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// [keys, kv_heads, head_dim] and [keys, kv_heads, value_dim] with any strides between rows. Throws
/// std::invalid_argument when tokens or heads differ.
template <StoredElement T = float>
requires(!kScaled<T>) class Contiguous {
 public:
  using Element = T;

  Contiguous(TensorView<const T> keys, TensorView<const T> values) : keys_(keys), values_(values) {
    check(keys.tokens == values.tokens, "values.tokens", values.tokens, keys.tokens);
    check(keys.heads == values.heads, "values.heads", values.heads, keys.heads);
  }

  Index keys() const { return keys_.tokens; }
  Index kv_heads() const { return keys_.heads; }
  Index head_dim() const { return keys_.dim; }
  Index value_dim() const { return values_.dim; }
  /// The keys [keys.begin, keys.end) alone.
  Contiguous slice(Interval keys) const { return {keys_.slice(keys), values_.slice(keys)}; }
  KeyValueRun<T> run(Index kv_head, Index i) const {
    return {keys_.tokens - i,        keys_.tokens - i,    keys_.row(i, kv_head), keys_.token_stride, 1,
            values_.row(i, kv_head), values_.token_stride};
  }

 private:
  TensorView<const T> keys_, values_;
};
template <class K, class V>
Contiguous(TensorView<K>, TensorView<V>) -> Contiguous<std::remove_const_t<K>>;

static_assert(KeyValueSource<Contiguous<>>);

}  // namespace longspan::inline LONGSPAN_ISA
