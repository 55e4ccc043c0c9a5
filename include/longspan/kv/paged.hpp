#pragma once
// A key/value cache in pages: memory is taken once, sequences grow a page at a time, and none of it has to be
// contiguous (PagedAttention, arXiv 2309.06180).
//
// Inside a page each KV head's keys stand dimension-major, [head_dim][page_size], so that decode scores a vector of
// keys with no horizontal sums, and its values token-major, [page_size][value_dim]; both are one contiguous run that
// streams. Elements with a dot product instruction stand as that wants them, where head_dim and page_size are even:
// two dims of a key together, [head_dim/2][page_size][2], and the values of two tokens, [page_size/2][value_dim][2].

#include <algorithm>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/elements.hpp>
#include <longspan/core/memory.hpp>
#include <longspan/core/view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What a PagedCache holds.
struct PagedShape {
  Index pages = 0;  ///< of all sequences together
  Index page_size =
      64;  ///< tokens; multiples of 16 are read in place by every kernel, others are copied block by block
  Index kv_heads = 1;
  Index head_dim = 0;
  Index value_dim = 0;  ///< 0: head_dim
  Index layers = 1;     ///< a page holds its tokens for all layers

  /// Elements that stand together where there are `size` of them.
  template <class T>
  static constexpr Index pack(Index size) {
    return size % kPack<T> == 0 ? kPack<T> : 1;
  }
};

/// A sequence of a cache. It stays invalid after close(), also when its place is used again.
struct SequenceId {
  Index slot = -1;
  Index generation = 0;
};

/// The outcome of append.
enum class Appended { kDone, kOutOfPages };

/// One sequence of one layer, as the kernels read it. Valid until the cache changes that sequence or is destroyed.
template <ElementType T>
class PagedView {
 public:
  using Element = T;

  PagedView(const T* layer, const Index* pages, Index keys, const PagedShape& shape)
      : layer_(layer), pages_(pages), keys_(keys), shape_(shape) {}

  Index keys() const { return keys_; }
  Index kv_heads() const { return shape_.kv_heads; }
  Index head_dim() const { return shape_.head_dim; }
  Index value_dim() const { return shape_.value_dim; }
  KeyValueRun<T> run(Index kv_head, Index i) const {
    const Index page_size = shape_.page_size, at = i % page_size;
    const Index head_size = page_size * (shape_.head_dim + shape_.value_dim);
    const T* head = layer_ + (pages_[i / page_size] * shape_.kv_heads + kv_head) * head_size;
    const T* values = head + page_size * shape_.head_dim;
    const Index key_pack = PagedShape::pack<T>(shape_.head_dim), value_pack = PagedShape::pack<T>(page_size);
    return {.size = std::min(page_size - at, keys_ - i),
            .readable = page_size - at,
            .key = head + at * key_pack,
            .key_stride = key_pack,
            .dim_stride = page_size * key_pack,
            .value = values + at / value_pack * value_pack * shape_.value_dim,
            .value_stride = shape_.value_dim * value_pack,
            .key_pack = key_pack,
            .value_pack = value_pack,
            .value_first = at % value_pack};
  }

 private:
  const T* layer_;
  const Index* pages_;
  Index keys_;
  PagedShape shape_;
};
static_assert(KeyValueSource<PagedView<float>>);

/// Pages and the block tables of its sequences. One writer at a time; any number of threads may read views of sequences
/// that are not being changed. Memory: exactly bytes(shape) for keys and values, and 8 bytes a page for tables.
template <ElementType T>
class PagedCache {
 public:
  /// Takes all memory at once, zeroed. Throws std::invalid_argument for a size that is not >= 1, std::bad_alloc.
  explicit PagedCache(PagedShape shape)
      : shape_(checked(shape)), memory_(bytes(shape_) / static_cast<Index>(sizeof(T))) {
    free_.reserve(static_cast<std::size_t>(shape_.pages));
    for (Index page = shape_.pages; page > 0; --page) free_.push_back(page - 1);
  }

  /// Bytes of keys and values that a cache of this shape takes. Throws as the constructor.
  static Index bytes(PagedShape shape) {
    checked(shape);
    const Index value_dim = shape.value_dim ? shape.value_dim : shape.head_dim;
    return shape.layers * shape.pages * shape.page_size * shape.kv_heads * (shape.head_dim + value_dim) *
           static_cast<Index>(sizeof(T));
  }

  const PagedShape& shape() const { return shape_; }
  Index free_pages() const { return static_cast<Index>(free_.size()); }

  /// A new, empty sequence. It takes no page. O(sequences).
  SequenceId open() {
    Index slot = 0;
    while (slot < static_cast<Index>(sequences_.size()) && sequences_[static_cast<std::size_t>(slot)].open) ++slot;
    if (slot == static_cast<Index>(sequences_.size())) sequences_.emplace_back();
    Sequence& s = sequences_[static_cast<std::size_t>(slot)];
    s.open = true;
    s.lengths.assign(static_cast<std::size_t>(shape_.layers), 0);
    return {slot, ++s.generation};
  }

  /// Gives the pages back. O(pages).
  void close(SequenceId id) {
    truncate(id, 0);
    at(id).open = false;
  }

  /// Tokens that `layer` holds.
  Index length(SequenceId id, Index layer = 0) const { return at(id).lengths[checked_layer(layer)]; }

  /// Adds tokens to one layer of a sequence: keys [tokens, kv_heads, head_dim], values [tokens, kv_heads, value_dim],
  /// of any element type, rounded to the nearest. Every layer is appended to by itself; the first to need a page takes
  /// it for all. When pages do not suffice the outcome is kOutOfPages, and nothing has changed. Throws
  /// std::invalid_argument for other shapes or a sequence that is not open. O(tokens), no allocation but for the growth
  /// of the block table.
  template <class K = const float, class V = const float>
  [[nodiscard]] Appended append(SequenceId id, TensorView<K> keys, TensorView<V> values, Index layer = 0) {
    Sequence& s = at(id);
    Index& length = s.lengths[checked_layer(layer)];
    check(keys.tokens >= 0, "keys.tokens", keys.tokens, ">= 0");
    check(keys.heads == shape_.kv_heads, "keys.heads", keys.heads, shape_.kv_heads);
    check(keys.dim == shape_.head_dim, "keys.dim", keys.dim, shape_.head_dim);
    check(values.tokens == keys.tokens, "values.tokens", values.tokens, keys.tokens);
    check(values.heads == shape_.kv_heads, "values.heads", values.heads, shape_.kv_heads);
    check(values.dim == shape_.value_dim, "values.dim", values.dim, shape_.value_dim);

    const Index more = ceil_div(length + keys.tokens, shape_.page_size) - static_cast<Index>(s.pages.size());
    if (more > free_pages()) return Appended::kOutOfPages;
    if (more > 0) {
      s.pages.insert(s.pages.end(), free_.rbegin(), free_.rbegin() + more);  // may throw: before anything has changed
      free_.resize(free_.size() - static_cast<std::size_t>(more));
    }
    for (Index token = 0; token < keys.tokens; ++token, ++length) store(s, layer, length, token, keys, values);
    return Appended::kDone;
  }

  /// Keeps the first `tokens` of every layer that has more, and gives back the pages that no layer needs. Throws
  /// std::invalid_argument when tokens < 0. O(pages).
  void truncate(SequenceId id, Index tokens) {
    check(tokens >= 0, "truncate.tokens", tokens, ">= 0");
    Sequence& s = at(id);
    Index longest = 0;
    for (Index& length : s.lengths) longest = std::max(longest, length = std::min(length, tokens));
    for (const Index needed = ceil_div(longest, shape_.page_size); static_cast<Index>(s.pages.size()) > needed;) {
      free_.push_back(s.pages.back());
      s.pages.pop_back();
    }
  }

  /// What `layer` holds of a sequence, for attention. O(1).
  PagedView<T> view(SequenceId id, Index layer = 0) const {
    const Sequence& s = at(id);
    return {layer_data(layer), s.pages.data(), s.lengths[checked_layer(layer)], shape_};
  }

 private:
  struct Sequence {
    std::vector<Index> pages;    // block table
    std::vector<Index> lengths;  // [layers]
    Index generation = 0;
    bool open = false;
  };

  static PagedShape checked(PagedShape shape) {
    check(shape.pages >= 1, "PagedCache.pages", shape.pages, ">= 1");
    check(shape.page_size >= 1, "PagedCache.page_size", shape.page_size, ">= 1");
    check(shape.kv_heads >= 1, "PagedCache.kv_heads", shape.kv_heads, ">= 1");
    check(shape.head_dim >= 1, "PagedCache.head_dim", shape.head_dim, ">= 1");
    check(shape.value_dim >= 0, "PagedCache.value_dim", shape.value_dim, ">= 0");
    check(shape.layers >= 1, "PagedCache.layers", shape.layers, ">= 1");
    check(shape.head_dim < kPositionEnd, "PagedCache.head_dim", shape.head_dim, "below 2^52");
    check(shape.value_dim < kPositionEnd, "PagedCache.value_dim", shape.value_dim, "below 2^52");
    if (shape.value_dim == 0) shape.value_dim = shape.head_dim;
    Index size = static_cast<Index>(sizeof(T));
    for (const Index factor :
         {shape.layers, shape.pages, shape.page_size, shape.kv_heads, shape.head_dim + shape.value_dim}) {
      check(factor <= kPositionEnd / size, "PagedCache.bytes", static_cast<double>(size) * static_cast<double>(factor),
            "below 2^52");
      size *= factor;
    }
    return shape;
  }

  Sequence& at(SequenceId id) { return const_cast<Sequence&>(std::as_const(*this).at(id)); }
  const Sequence& at(SequenceId id) const {
    check(id.slot >= 0 && id.slot < static_cast<Index>(sequences_.size()), "sequence", id.slot, "one of this cache");
    const Sequence& s = sequences_[static_cast<std::size_t>(id.slot)];
    check(s.open && s.generation == id.generation, "sequence", "a closed one", "one that is open");
    return s;
  }
  std::size_t checked_layer(Index layer) const {
    check(layer >= 0 && layer < shape_.layers, "layer", layer, Below{shape_.layers});
    return static_cast<std::size_t>(layer);
  }
  T* layer_data(Index layer) const {
    const Index of_layer = bytes(shape_) / static_cast<Index>(sizeof(T)) / shape_.layers;
    return memory_.data() + of_layer * layer;
  }

  template <class K, class V>
  void store(const Sequence& s, Index layer, Index position, Index token, TensorView<K> keys, TensorView<V> values) {
    const Index page_size = shape_.page_size, at = position % page_size;
    const Index page = s.pages[static_cast<std::size_t>(position / page_size)];
    const Index head_size = page_size * (shape_.head_dim + shape_.value_dim);
    for (Index h = 0; h < shape_.kv_heads; ++h) {
      T* head = layer_data(layer) + (page * shape_.kv_heads + h) * head_size;
      const auto put = [](const auto* row, Index dim, T* to, Index pack, Index pack_stride) {
        if (pack == 1)
          for (Index d = 0; d < dim; ++d) to[d * pack_stride] = static_cast<T>(static_cast<float>(row[d]));
        else
          for (Index d = 0; d < dim; ++d)
            to[d / pack * pack_stride + d % pack] = static_cast<T>(static_cast<float>(row[d]));
      };
      const Index key_pack = PagedShape::pack<T>(shape_.head_dim), value_pack = PagedShape::pack<T>(page_size);
      put(keys.row(token, h), shape_.head_dim, head + at * key_pack, key_pack, page_size * key_pack);
      T* const values_at = head + page_size * shape_.head_dim + at / value_pack * value_pack * shape_.value_dim;
      put(values.row(token, h), shape_.value_dim, values_at + at % value_pack, 1, value_pack);
    }
  }

  PagedShape shape_;
  LargeArray<T> memory_;
  std::vector<Index> free_;
  std::vector<Sequence> sequences_;
};

}  // namespace longspan::inline LONGSPAN_ISA
