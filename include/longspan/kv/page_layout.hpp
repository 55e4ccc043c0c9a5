#pragma once
// What a page holds, and where: the one place that knows the inside of a page.
//
// A page has a part for each KV head. There its keys stand dimension-major, [head_dim][page_size], so that decode
// scores a vector of keys with no horizontal sums, and its values token-major, [page_size][value_dim]; both are one
// contiguous run that streams. Elements with a dot product instruction stand as that wants them, where head_dim and
// page_size are multiples of their pack p (2 of 16 bits, 4 of 8): p dims of a key together, [head_dim/p][page_size][p],
// and the values of p tokens, [page_size/p][value_dim][p]. Before them, where the elements have scales, are those of
// the keys, [page_size] floats, and of the values.
//
// Latent pages hold values that are the beginning of their keys (multi-head latent attention in its absorbed form,
// DeepSeek-V2, arXiv 2405.04434, section 2.1.2) once: token-major rows, [page_size][head_dim], which both products read
// in place, and before them one scale a row. The queries that share them are many, so queries are lanes, and keys are
// read as scalars: rows are as good as columns there, and values have to be rows.

#include <algorithm>
#include <cstddef>

#include <longspan/core/bytes.hpp>
#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What a PagedCache holds, or one group of its layers: those that are alike.
struct PagedShape {
  Index pages = 0;  ///< of all sequences together
  Index page_size =
      64;  ///< tokens; multiples of 16 are read in place by every kernel, others are copied block by block
  Index kv_heads = 1;
  Index head_dim = 0;
  Index value_dim = 0;  ///< 0: head_dim
  Index layers = 1;     ///< a page holds its tokens for all layers of the group
  Index window = 0;     ///< w: queries see at most the last w tokens (Window{w}), older pages are given back; 0: all
  bool latent = false;  ///< values are the first value_dim elements of their keys, and take no memory of their own

  /// Pages that a sequence of `tokens` takes; with a window, of one that grew by at most a page at a time.
  Index pages_for(Index tokens) const {
    const Index all = ceil_div(tokens, page_size);
    return window == 0 ? all : std::min(all, ring());
  }
  /// Pages that the window takes when up to a page of tokens comes behind it.
  Index ring() const { return ceil_div(std::max<Index>(window - 2, 0), page_size) + 2; }
  bool operator==(const PagedShape&) const = default;
};

/// Where keys and values are inside the part of a page that belongs to one KV head, in bytes.
template <StoredElement T>
struct PageLayout {
  Index page_size = 0, head_dim = 0, value_dim = 0;
  bool latent = false;
  Index key_pack = 1, value_pack = 1;                      ///< elements that stand together
  Index key_stride = 0, dim_stride = 0, value_stride = 0;  ///< as in KeyValueRun
  Index value_scales = 0;                                  ///< scales before those of the values
  Index keys_begin = 0;
  Index values_begin = 0;
  Index head_bytes = 0;  ///< of the whole part, a multiple of 4 where there are scales

  PageLayout() = default;
  explicit PageLayout(const PagedShape& shape)
      : page_size(shape.page_size),
        head_dim(shape.head_dim),
        value_dim(shape.value_dim != 0 ? shape.value_dim : shape.head_dim),
        latent(shape.latent),
        key_pack(latent ? 1 : pack(head_dim)),
        value_pack(latent ? 1 : pack(page_size)),
        key_stride(latent ? head_dim : key_pack),
        dim_stride(latent ? 1 : page_size * key_pack),
        value_stride(latent ? head_dim : value_dim * value_pack),
        value_scales(latent ? 0 : page_size),
        keys_begin(kScaled<T> ? (value_scales + page_size) * kScale : 0),
        values_begin(latent ? keys_begin : keys_begin + page_size * head_dim * kSize),
        head_bytes(keys_begin + page_size * (head_dim + (latent ? 0 : value_dim)) * kSize) {
    if (kScaled<T>) head_bytes = ceil_div(head_bytes, kScale) * kScale;
  }

  /// The tokens from `at` on, of which `left` are the sequence's.
  KeyValueRun<T> run(const std::byte* head, Index at, Index left) const {
    const T* keys = reinterpret_cast<const T*>(head + keys_begin);
    const T* values = reinterpret_cast<const T*>(head + values_begin);
    const float* scales = kScaled<T> ? reinterpret_cast<const float*>(head) : nullptr;
    const Index first = at & (value_pack - 1);  // packs are powers of two
    return {.size = std::min(page_size - at, left),
            .readable = page_size - at,
            .key = keys + at * key_stride,
            .key_stride = key_stride,
            .dim_stride = dim_stride,
            .value = values + (at - first) / value_pack * value_stride,
            .value_stride = value_stride,
            .key_pack = key_pack,
            .value_pack = value_pack,
            .value_first = first,
            .key_scale = scales ? scales + at : nullptr,
            .value_scale = scales ? scales + value_scales + at : nullptr};
  }

  /// Writes token `at`, each element rounded to the nearest; with scales, to the nearest multiple of the row's own.
  /// Latent: `value` is not read.
  template <class K, class V>
  void store(std::byte* head, Index at, const K* key, const V* value) const {
    T* keys = reinterpret_cast<T*>(head + keys_begin) + at * key_stride;
    T* values = reinterpret_cast<T*>(head + values_begin) + at / value_pack * value_stride + at % value_pack;
    const auto key_at = [&](Index d) -> T& {
      return key_pack == 1 ? keys[d * dim_stride] : keys[d / key_pack * dim_stride + d % key_pack];
    };
    const auto value_at = [&](Index d) -> T& { return values[d * value_pack]; };
    if constexpr (kScaled<T>) {
      float* scales = reinterpret_cast<float*>(head);
      scales[at] = T::encode(key, head_dim, key_at);
      if (!latent) scales[value_scales + at] = T::encode(value, value_dim, value_at);
    } else {
      for (Index d = 0; d < head_dim; ++d) key_at(d) = static_cast<T>(static_cast<float>(key[d]));
      for (Index d = 0; !latent && d < value_dim; ++d) value_at(d) = static_cast<T>(static_cast<float>(value[d]));
    }
  }

  /// Writes token `at` as it stands at `from_at` of another page.
  void copy(const std::byte* from, Index from_at, std::byte* to, Index at) const {
    const auto source = run(from, from_at, 1), target = run(to, at, 1);
    for (Index d = 0; d < head_dim; ++d) const_cast<T&>(*target.key_at(0, d)) = *source.key_at(0, d);
    for (Index d = 0; d < value_dim; ++d) const_cast<T&>(*target.value_at(0, d)) = *source.value_at(0, d);
    if constexpr (kScaled<T>) {
      const_cast<float&>(*target.key_scale) = *source.key_scale;
      const_cast<float&>(*target.value_scale) = *source.value_scale;
    }
  }

 private:
  static constexpr Index kSize = static_cast<Index>(sizeof(T)), kScale = static_cast<Index>(sizeof(float));
  static constexpr Index pack(Index size) { return size % kPack<T> == 0 ? kPack<T> : 1; }
};

/// How much memory caches take, exactly.
template <StoredElement T>
struct Capacity {
  /// The shape with its value_dim, if it can be had: every size >= 1, below 2^52 bytes, and a latent group's value_dim
  /// not above its head_dim. Throws std::invalid_argument.
  static PagedShape checked(PagedShape shape) {
    check(shape.pages >= 1, "PagedCache.pages", shape.pages, ">= 1");
    check(shape.page_size >= 1, "PagedCache.page_size", shape.page_size, ">= 1");
    check(shape.kv_heads >= 1, "PagedCache.kv_heads", shape.kv_heads, ">= 1");
    check(shape.head_dim >= 1, "PagedCache.head_dim", shape.head_dim, ">= 1");
    check(shape.value_dim >= 0, "PagedCache.value_dim", shape.value_dim, ">= 0");
    check(shape.layers >= 1, "PagedCache.layers", shape.layers, ">= 1");
    check(shape.window >= 0, "PagedCache.window", shape.window, ">= 0");
    check(shape.head_dim < kPositionEnd, "PagedCache.head_dim", shape.head_dim, "below 2^52");
    check(shape.value_dim < kPositionEnd, "PagedCache.value_dim", shape.value_dim, "below 2^52");
    check(shape.window < kPositionEnd, "PagedCache.window", shape.window, "below 2^52");
    if (shape.value_dim == 0) shape.value_dim = shape.head_dim;
    if (shape.latent) check(kHeld<T> == 1, "PagedCache.latent", "pages of four bits", "elements of a byte or more");
    if (shape.latent)
      check(shape.value_dim <= shape.head_dim, "PagedCache.value_dim", shape.value_dim,
            "<= head_dim, in a latent group");
    constexpr Index kScale = static_cast<Index>(sizeof(float));
    Index size = static_cast<Index>(sizeof(T));
    for (const Index factor : {shape.layers, shape.pages, shape.page_size, shape.kv_heads,
                               shape.head_dim + (shape.latent ? 0 : shape.value_dim) + (kScaled<T> ? 3 * kScale : 0)}) {
      check(factor <= kPositionEnd / size, "PagedCache.bytes", static_cast<double>(size) * static_cast<double>(factor),
            "below 2^52");
      size *= factor;
    }
    return shape;
  }
  /// Bytes of one page: its tokens in all layers and heads. Throws as checked.
  static Index page_bytes(PagedShape shape) {
    shape.pages = 1;
    shape = checked(shape);
    return shape.layers * shape.kv_heads * PageLayout<T>(shape).head_bytes;
  }
  /// Bytes of all pages. Throws as checked.
  static Index bytes(const PagedShape& shape) { return checked(shape).pages * page_bytes(shape); }
  /// Tokens in all the pages that `budget` bytes hold (shape.pages does not count). Throws as checked, and for a budget
  /// below 0.
  static Index tokens_in(const PagedShape& shape, Index budget) {
    check(budget >= 0, "tokens_in.budget", budget, ">= 0");
    return budget / page_bytes(shape) * shape.page_size;
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
