#pragma once
// Layers that are alike and have pages of their own: what a write to a sequence takes, and copy on write.

#include <cstdint>
#include <cstring>

#include <longspan/kv/page_layout.hpp>
#include <longspan/kv/page_pool.hpp>
#include <longspan/kv/page_table.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A token id of a model's vocabulary.
using Token = std::int32_t;

/// The outcome of what may need pages.
enum class Outcome { kDone, kOutOfPages };
using Appended = Outcome;

/// What a sequence is made of: the pages that it holds, by group, and how many tokens of each layer are in them.
struct SequenceState {
  std::vector<PageTable> tables = {};  ///< [groups]
  std::vector<Index> lengths = {};     ///< [layers of the cache]
};

template <StoredElement T>
struct LayerGroup {
  PagedShape shape;
  PageLayout<T> layout;
  PagePool pool;
  Interval layers;    ///< of the cache
  std::byte* memory;  ///< [layers][pages][kv_heads], parts as the layout says

  LayerGroup(const PagedShape& of, Interval layers_, std::byte* memory_)
      : shape(of), layout(of), pool(of.pages), layers(layers_), memory(memory_) {}

  std::byte* page(Index layer, Index page) const {
    return memory + ((layer - layers.begin) * shape.pages + page) * shape.kv_heads * layout.head_bytes;
  }

  Index longest(const SequenceState& s) const {
    return *std::max_element(s.lengths.begin() + layers.begin, s.lengths.begin() + layers.end);
  }
  Index shortest(const SequenceState& s) const {
    return *std::min_element(s.lengths.begin() + layers.begin, s.lengths.begin() + layers.end);
  }
  /// Where the block table of a sequence ends that has no page too many.
  Index entries(const SequenceState& s) const { return ceil_div(longest(s), shape.page_size); }
  /// Where it ends that has what is reserved, if it begins with `first`.
  Index reserved_entries(Index first, Index reserved) const {
    const Index all = ceil_div(reserved, shape.page_size);
    return shape.window == 0 ? all : std::min(all, first + shape.ring());
  }
  /// The part of a reserved range that is written to as it is: a window's ring is taken, but moves on.
  Interval in_ring(Interval write) const {
    if (shape.window != 0) write.end = std::min(write.end, write.begin + 1);
    return write;
  }

  /// What writing the tokens `write` takes.
  struct Needs {
    Index dropped, fresh;  ///< entries of the block table: at its beginning, at its end
    bool fits;
  };
  Needs needs(const PageTable& table, const SequenceState& s, Interval write, Index reserved) const {
    Index first = table.first();
    if (shape.window != 0) first = std::max(first, (shortest(s) - shape.window + 1) / shape.page_size);
    const Index end = std::max(ceil_div(write.end, shape.page_size), reserved_entries(first, reserved));
    const Index dropped = first - table.first(), fresh = std::max<Index>(0, end - table.end());
    Index needed = fresh;
    for (Index n = table.first(); n < first; ++n) needed -= pool.shared(table[n]) ? 0 : 1;
    for_each_shared(table, write, [&](Index) { ++needed; });
    return {dropped, fresh, needed <= pool.free_pages()};
  }

  /// Gives up what the window no longer sees, takes pages up to write.end and for what is reserved, and copies those in
  /// `write` that are shared. False: too few pages, and nothing has changed.
  bool make_writable(PageTable& table, const SequenceState& s, Interval write, Index reserved) {
    const Needs n = needs(table, s, write, reserved);
    if (!n.fits) return false;
    table.make_room(n.fresh);  // may throw: before anything has changed
    for (Index i = 0; i < n.dropped; ++i) {
      pool.release(table[table.first()]);
      table.pop_front();
    }
    for (Index i = 0; i < n.fresh; ++i) table.push_back(pool.take());
    for_each_shared(table, write, [&](Index entry) {
      const Index shared = table[entry], copy = pool.take();
      for (Index layer = layers.begin; layer < layers.end; ++layer)
        std::memcpy(page(layer, copy), page(layer, shared),
                    static_cast<std::size_t>(shape.kv_heads * layout.head_bytes));
      pool.release(shared);
      table[entry] = copy;
    });
    return true;
  }

  /// Releases what no layer needs and nothing reserves.
  void give_back(PageTable& table, const SequenceState& s, Index reserved) {
    const Index kept = std::max(entries(s), reserved_entries(table.first(), reserved));
    while (table.end() > kept) {
      pool.release(table[table.end() - 1]);
      table.pop_back();
    }
  }
  void release_all(PageTable& table) {
    for (Index n = table.end(); n > table.first(); --n) pool.release(table[n - 1]);
    table.clear();
  }

 private:
  /// Entries of the table that `write` touches and that somebody else holds, too.
  template <class F>
  void for_each_shared(const PageTable& table, Interval write, F&& f) const {
    if (write.empty()) return;
    const Index end = std::min(ceil_div(write.end, shape.page_size), table.end());
    for (Index n = write.begin / shape.page_size; n < end; ++n)
      if (pool.shared(table[n])) f(n);
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
