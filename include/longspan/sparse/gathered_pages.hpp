#pragma once
// Listed keys of a paged cache, copied together into pages of their own. In a page a key's dimensions are a row of
// memory apart, so fetching one key is fetching a line for each dimension, from which its neighbours could be had, too:
// all that a page has on the list are taken in one pass over it, while the next page is asked for.

#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include <longspan/core/simd.hpp>
#include <longspan/kv/paged_view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Pages for the listed keys of one query, in memory of the caller's. Keys, values and scales stay as they are.
template <StoredElement T>
class GatheredPages {
 public:
  static constexpr Index kPageSize = 64;

  /// What the memory of `keys` keys has to hold.
  static Index bytes(const PagedView<T>& view, Index keys) {
    return ceil_div(keys, kPageSize) * view.kv_heads() * layout(view).head_bytes;
  }
  GatheredPages(const PagedView<T>& view, std::byte* memory) : from_(view), layout_(layout(view)), memory_(memory) {}

  /// One KV head of the listed keys, which ascend. KV heads may be gathered at the same time.
  void gather(Index kv_head, std::span<const Index> listed) const {
    const auto page_of = [&](std::size_t i) {
      Page page{from_.run(kv_head, listed[i]), listed[i], i, i + 1};
      while (page.end < listed.size() && listed[page.end] < listed[i] + page.run.size) ++page.end;
      return page;
    };
    if (listed.empty()) return;
    const Index steps = layout_.head_dim / layout_.key_pack;
    for (Page page = page_of(0), next = page; page.begin < listed.size(); page = next) {
      next = page.end < listed.size() ? page_of(page.end) : Page{{}, 0, page.end, page.end};
      for (std::size_t i = page.begin, ask = next.begin; i < page.end || ask < next.end; ++i, ++ask) {
        const T* const asked = ask < next.end ? next.run.key_at(listed[ask] - next.key, 0) : nullptr;
        if (asked) ask_for_value(next, listed[ask]);
        if (i >= page.end) {
          for (Index d = 0; d < steps; ++d) prefetch(asked + d * next.run.dim_stride);
          continue;
        }
        const T* const from = page.run.key_at(listed[i] - page.key, 0);
        const KeyValueRun<T> to = target(kv_head, i);
        if (layout_.key_pack == 1)
          copy_key<1>(from, page.run.dim_stride, to, steps, asked ? asked : from);
        else
          copy_key<kPack<T>>(from, page.run.dim_stride, to, steps, asked ? asked : from);
      }
      for (std::size_t i = page.begin; i < page.end; ++i)
        copy_value(page.run, listed[i] - page.key, target(kv_head, i));
    }
  }

  /// The first `keys` gathered keys; `numbers` is 0, 1, 2, … for as many pages.
  PagedView<T> view(Index keys, const Index* numbers) const {
    return {memory_, numbers, 0, keys, from_.kv_heads(), layout_};
  }

 private:
  struct Page {
    KeyValueRun<T> run;
    Index key;               ///< the first of the run
    std::size_t begin, end;  ///< in the list
  };

  static PageLayout<T> layout(const PagedView<T>& view) {
    return PageLayout<T>({.page_size = kPageSize, .head_dim = view.head_dim(), .value_dim = view.value_dim()});
  }
  /// Where key i of the list goes.
  KeyValueRun<T> target(Index kv_head, std::size_t i) const {
    const auto at = static_cast<Index>(i);
    return layout_.run(memory_ + (at / kPageSize * from_.kv_heads() + kv_head) * layout_.head_bytes, at % kPageSize, 1);
  }

  /// A key, while another, of the same layout, is asked for.
  template <Index Pack>
  static void copy_key(const T* from, Index stride, const KeyValueRun<T>& to, Index steps, const T* ask) {
    T* at = const_cast<T*>(to.key);
    for (Index d = 0; d < steps; ++d) {
      prefetch(ask);
      std::memcpy(at, from, Pack * sizeof(T));
      ask += stride, from += stride, at += to.dim_stride;
    }
  }
  void ask_for_value(const Page& page, Index key) const {
    const T* const value = page.run.value_at(key - page.key, 0);
    for (Index d = 0; d < layout_.value_dim * page.run.value_pack; d += Index{64 / sizeof(T)}) prefetch(value + d);
  }
  void copy_value(const KeyValueRun<T>& run, Index j, const KeyValueRun<T>& to) const {
    const T* const from = run.value_at(j, 0);
    T* const value = const_cast<T*>(to.value_at(0, 0));
    const Index dim = layout_.value_dim;
    if (run.value_pack == 1 && to.value_pack == 1) {
      std::memcpy(value, from, static_cast<std::size_t>(dim) * sizeof(T));
    } else if (kPack<T> == 2 && run.value_pack == 2) {
      // by words of two neighbours, of which one changes: element by element it takes three times as long
      using Word = std::conditional_t<sizeof(T) == 1, std::uint16_t, std::uint32_t>;
      constexpr int kBits = 8 * sizeof(T);
      const int from_shift = (j + run.value_first) % 2 == 0 ? 0 : kBits, to_shift = to.value_first == 0 ? 0 : kBits;
      const auto changes = static_cast<Word>(((Word{1} << kBits) - 1) << to_shift);
      const T *const pairs = from - from_shift / kBits, *const to_pairs = value - to_shift / kBits;
      for (Index d = 0; d < dim; ++d) {
        Word x, old;
        std::memcpy(&x, pairs + 2 * d, sizeof x);
        std::memcpy(&old, to_pairs + 2 * d, sizeof old);
        const auto moved = static_cast<Word>(static_cast<Word>(x >> from_shift) << to_shift);
        old = static_cast<Word>((old & static_cast<Word>(~changes)) | (moved & changes));
        std::memcpy(static_cast<void*>(const_cast<T*>(to_pairs) + 2 * d), &old, sizeof old);
      }
    } else {
      for (Index d = 0; d < dim; ++d) value[d * to.value_pack] = from[d * run.value_pack];
    }
    if constexpr (kScaled<T>) {
      const_cast<float&>(*to.key_scale) = run.key_scale[j];
      const_cast<float&>(*to.value_scale) = run.value_scale[j];
    }
  }

  PagedView<T> from_;
  PageLayout<T> layout_;
  std::byte* memory_;
};

}  // namespace longspan::inline LONGSPAN_ISA
