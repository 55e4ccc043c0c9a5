#pragma once
// One sequence of one layer of a paged cache, as the kernels read it.

#include <bit>

#include <longspan/kv/int4_pages.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The keys [first_key, first_key + keys) of a sequence; first_key is 0 but where a window has given pages back: pass
/// it as Options::first_key, so that positions are what they were. Valid until the cache changes that sequence or is
/// destroyed.
template <StoredElement T>
class PagedView {
 public:
  using Element = T;

  /// `pages` are the entries of the block table from that of key `begin` / page_size on: key i of the view is at
  /// `begin` % page_size + i of them. `layer` is where the layer's page 0 begins.
  PagedView(const std::byte* layer, const Index* pages, Index begin, Index keys, Index kv_heads,
            const PageLayout<T>& layout)
      : layer_(layer),
        pages_(pages),
        first_key_(begin),
        offset_(begin % layout.page_size),
        keys_(keys),
        kv_heads_(kv_heads),
        layout_(layout),
        shift_(std::has_single_bit(static_cast<std::uint64_t>(layout.page_size))
                   ? std::countr_zero(static_cast<std::uint64_t>(layout.page_size))
                   : -1) {}

  Index keys() const { return keys_; }
  Index kv_heads() const { return kv_heads_; }
  Index head_dim() const { return layout_.head_dim; }
  Index value_dim() const { return layout_.value_dim; }
  Index first_key() const { return first_key_; }
  Index page_size() const { return layout_.page_size; }
  KeyValueRun<T> run(Index kv_head, Index i) const {
    // kernels ask this a dozen times for a block of one head, and a division is as long as a line from memory
    const Index place = i + offset_, page = shift_ >= 0 ? place >> shift_ : place / layout_.page_size;
    const std::byte* head = layer_ + (pages_[page] * kv_heads_ + kv_head) * layout_.head_bytes;
    return layout_.run(head, place - page * layout_.page_size, keys_ - i);
  }
  // Words that kernels multiply, made of what is no element by itself: see MakesKeys, MakesValues.
  static constexpr bool kMakesValues = kHeld<T> > 1;
  static Index key_maker_floats(Index head_dim) requires kMakesValues {
    return FourBitMaker<PagedView>::floats(head_dim);
  }
  auto key_maker(float* memory, Index kv_head) const requires kMakesValues {
    return FourBitMaker<PagedView>(*this, memory, kv_head);
  }
  template <class Words>
  void make_values(Index kv_head, Interval keys, Index place, float* to, Index stride) const requires kMakesValues {
    FourBitMaker<PagedView>::template values<Words>(*this, kv_head, keys, place, to, stride);
  }

  /// The keys [keys.begin, keys.end) of this view alone; their first_key says where they are.
  PagedView part(Interval keys) const {
    check(keys.begin >= 0, "part.keys.begin", keys.begin, ">= 0");
    check(keys.end >= keys.begin, "part.keys.end", keys.end, AtLeast{keys.begin});
    check(keys.end <= keys_, "part.keys.end", keys.end, Below{keys_ + 1});
    const Index skipped = (offset_ + keys.begin) / layout_.page_size;
    return {layer_, pages_ + skipped, first_key_ + keys.begin, keys.size(), kv_heads_, layout_};
  }

  /// How many of the first keys stand in the same pages of the same cache.
  Index shared_keys(const PagedView& other) const {
    if (layer_ != other.layer_ || first_key_ != other.first_key_ || layout_.head_bytes != other.layout_.head_bytes)
      return 0;
    const Index most = std::min(keys_, other.keys_), size = layout_.page_size;
    Index page = 0;
    while (page * size < offset_ + most && pages_[page] == other.pages_[page]) ++page;
    return std::clamp<Index>(page * size - offset_, 0, most);
  }

 private:
  const std::byte* layer_;
  const Index* pages_;
  Index first_key_, offset_, keys_, kv_heads_;
  PageLayout<T> layout_;
  int shift_;  // of page_size, where that is a power of two
};
static_assert(KeyValueSource<PagedView<float>>);

}  // namespace longspan::inline LONGSPAN_ISA
