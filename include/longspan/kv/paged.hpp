#pragma once
// A key/value cache in pages: memory is taken once, sequences grow a page at a time, none of it has to be contiguous,
// and sequences share the pages of what they have in common (PagedAttention, arXiv 2309.06180).

#include <memory_resource>
#include <utility>

#include <longspan/core/memory.hpp>
#include <longspan/core/view.hpp>
#include <longspan/kv/layer_group.hpp>
#include <longspan/kv/paged_view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A sequence of a cache. It stays invalid after close(), also when its place is used again.
struct SequenceId {
  Index slot = -1;
  Index generation = 0;
  bool operator==(const SequenceId&) const = default;
};

/// Pages and the block tables of its sequences.
///
/// Layers that are alike form a group, which has pages of its own. Layers are numbered through the groups in order. A
/// model whose layers alternate, or of which some read what others wrote, gives its own numbers: layers[m] is the cache
/// layer of model layer m; the first that names a cache layer appends to it, further ones only read.
///
/// What may run at the same time: one thread changes the cache (any member that is not const), and any number of others
/// read views, made before, of sequences that are not being changed; fork() does not change what is forked, and pages
/// that sequences share are never written. Const members may run at the same time as each other, not as a change.
///
/// append, compact: O(tokens). All else: O(pages touched). Nothing but open, fork and the growth of a block table
/// allocates. Wrong handles, layers and sizes throw std::invalid_argument, and out-of-pages is an outcome; after
/// either, nothing has changed.
template <StoredElement T>
class PagedCache {
 public:
  /// Takes all memory at once: zeroed, or from a memory resource as it is (see LargeArray). Throws
  /// std::invalid_argument for a size that is not >= 1, std::bad_alloc.
  explicit PagedCache(const PagedShape& shape, std::pmr::memory_resource* memory = nullptr)
      : PagedCache(std::vector<PagedShape>{shape}, {}, memory) {}
  explicit PagedCache(const std::vector<PagedShape>& groups, const std::vector<Index>& layers = {},
                      std::pmr::memory_resource* memory = nullptr)
      : memory_(bytes(groups), memory) {
    Index begin = 0, cache_layers = 0;
    for (const PagedShape& g : groups) {
      const PagedShape shape = Capacity<T>::checked(g);
      groups_.emplace_back(shape, Interval{cache_layers, cache_layers + shape.layers}, memory_.data() + begin);
      cache_layers += shape.layers;
      begin += aligned(Capacity<T>::bytes(shape));
    }
    std::vector<bool> written(static_cast<std::size_t>(cache_layers));
    for (Index m = 0; m < (layers.empty() ? cache_layers : static_cast<Index>(layers.size())); ++m) {
      const Index layer = layers.empty() ? m : layers[static_cast<std::size_t>(m)];
      check(layer >= 0 && layer < cache_layers, "PagedCache.layers", layer, Below{cache_layers});
      const auto at = static_cast<std::size_t>(layer);
      Index group = 0;
      while (groups_[static_cast<std::size_t>(group)].layers.end <= layer) ++group;
      layers_.push_back({group, layer, !written[at]});
      written[at] = true;
    }
  }

  /// Bytes of keys and values that a cache takes; each group begins on a cache line. Throws as the constructor. (Tables
  /// take 24 bytes a page, and 8 for every further sequence that shares it.)
  static Index bytes(const PagedShape& shape) { return Capacity<T>::bytes(shape); }
  static Index bytes(const std::vector<PagedShape>& groups) {
    check(!groups.empty(), "PagedCache.groups.size", 0, ">= 1");
    Index sum = 0;
    for (const PagedShape& shape : groups) {
      sum = aligned(sum) + Capacity<T>::bytes(shape);
      check(sum < kPositionEnd, "PagedCache.bytes", sum, "below 2^52");
    }
    return sum;
  }
  /// Tokens in all the pages that `budget` bytes hold (shape.pages does not count).
  static Index tokens_in(const PagedShape& shape, Index budget) { return Capacity<T>::tokens_in(shape, budget); }

  Index groups() const { return static_cast<Index>(groups_.size()); }
  Index layers() const { return static_cast<Index>(layers_.size()); }  ///< of the model
  Index cache_layer(Index layer) const { return place(layer).layer; }  ///< that a model's layer reads
  const PagedShape& shape(Index group = 0) const { return group_at(group).shape; }
  Index free_pages(Index group = 0) const { return group_at(group).pool.free_pages(); }
  bool open(SequenceId id) const {
    return id.slot >= 0 && id.slot < static_cast<Index>(sequences_.size()) && sequence(id.slot).open &&
           sequence(id.slot).generation == id.generation;
  }

  /// A new, empty sequence. It takes no page.
  SequenceId open() { return open(SequenceState{empty_tables(), std::vector<Index>(lengths_size(), 0)}); }

  /// A new sequence with the content of another, which shares its pages: whoever writes to a shared page first gets a
  /// copy of it. It takes no page. The copy has no pages reserved, and where both end in one page, what was reserved
  /// for the other does not cover the copy that its next append makes.
  SequenceId fork(SequenceId id) {
    SequenceState state = at(id);
    for (std::size_t g = 0; g < groups_.size(); ++g)
      for (const Index needed = groups_[g].entries(state); state.tables[g].end() > needed;) state.tables[g].pop_back();
    const SequenceId copy = open(std::move(state));
    for (std::size_t g = 0; g < groups_.size(); ++g)
      for (const Index page : sequence(copy.slot).tables[g].pages()) groups_[g].pool.hold(page);
    return copy;
  }

  /// Gives the pages back.
  void close(SequenceId id) {
    Sequence& s = at(id);
    release_all(s);
    s.open = false;
    free_slots_.push_back(id.slot);
  }

  /// Tokens that `layer` was given.
  Index length(SequenceId id, Index layer = 0) const { return at(id).lengths[place(layer).at()]; }

  /// Adds tokens to one layer of a sequence: keys [tokens, kv_heads, head_dim], values [tokens, kv_heads, value_dim],
  /// of any element type, rounded to the nearest. Every layer is appended to by itself; the first of a group to need a
  /// page takes it for all. With a window, pages that no query at or behind the (shortest layer's) end so far can see
  /// are given back first: the queries of these tokens still see all that they may. Not for a latent group.
  template <class K = const float, class V = const float>
  [[nodiscard]] Appended append(SequenceId id, TensorView<K> keys, TensorView<V> values, Index layer = 0) {
    (void)at(id);
    const PagedShape& shape = group_at(place(layer).group).shape;
    check(!shape.latent, "values", "values of their own", "keys alone: this layer's values are in its keys");
    check(values.tokens == keys.tokens, "values.tokens", values.tokens, keys.tokens);
    check(values.heads == shape.kv_heads, "values.heads", values.heads, shape.kv_heads);
    check(values.dim == shape.value_dim, "values.dim", values.dim, shape.value_dim);
    return append_rows(id, keys, values, layer);
  }
  /// The same for a latent group: the first value_dim elements of each key are its value.
  template <class K = const float>
  [[nodiscard]] Appended append(SequenceId id, TensorView<K> keys, Index layer = 0) {
    (void)at(id);
    check(group_at(place(layer).group).shape.latent, "values", "none", "values: this layer is not latent");
    return append_rows(id, keys, keys, layer);
  }

  /// Takes the pages for appends up to `tokens` in all, so that these cannot run out of pages and allocate nothing; of
  /// a group with a window, its ring (appends of up to a page at a time). They are kept until close() or truncate(id,
  /// 0).
  [[nodiscard]] Outcome reserve(SequenceId id, Index tokens) {
    check(tokens >= 0 && tokens < kPositionEnd, "reserve.tokens", tokens, "within [0, 2^52)");
    Sequence& s = at(id);
    const Index reserved = std::max(s.reserved, tokens);
    const auto write = [&](const Group& g) { return Interval{g.shortest(s), std::max(g.longest(s), tokens)}; };
    for (std::size_t i = 0; i < groups_.size(); ++i)
      if (!groups_[i].needs(s.tables[i], s, groups_[i].in_ring(write(groups_[i])), reserved).fits)
        return Outcome::kOutOfPages;
    for (std::size_t i = 0; i < groups_.size(); ++i)  // may throw: before anything has changed
      s.tables[i].make_room(groups_[i].needs(s.tables[i], s, groups_[i].in_ring(write(groups_[i])), reserved).fresh);
    for (std::size_t i = 0; i < groups_.size(); ++i)
      (void)groups_[i].make_writable(s.tables[i], s, groups_[i].in_ring(write(groups_[i])), reserved);
    s.reserved = reserved;
    return Outcome::kDone;
  }

  /// Keeps the first `tokens` of every layer that has more (rollback), and gives back the pages that no layer needs.
  /// With a window, back to where the last append began is always possible, and further as long as the keys that the
  /// window will then see are there, or to 0; otherwise std::invalid_argument: let the window be larger by what is to
  /// be rolled back.
  void truncate(SequenceId id, Index tokens) {
    check(tokens >= 0, "truncate.tokens", tokens, ">= 0");
    Sequence& s = at(id);
    if (tokens == 0) return release_all(s);
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const Group& g = groups_[i];
      const Index first = s.tables[i].first() * g.shape.page_size;
      if (first > 0 && tokens < g.longest(s))
        check(tokens - g.shape.window + 1 >= first, "truncate.tokens", tokens, AtLeast{first + g.shape.window - 1});
    }
    for (Index& length : s.lengths) length = std::min(length, tokens);
    give_back(s);
  }

  /// Takes whole pages out of the middle: tokens [begin, end) of every layer; what was behind moves up, without a copy.
  /// Throws unless begin and end are multiples of the page size of every group, every layer has `end` tokens, and no
  /// group has a window.
  void evict(SequenceId id, Interval tokens) {
    Sequence& s = at(id);
    check(tokens.begin >= 0, "evict.begin", tokens.begin, ">= 0");
    check(tokens.end >= tokens.begin, "evict.end", tokens.end, AtLeast{tokens.begin});
    for (const Group& g : groups_) {
      check(g.shape.window == 0, "evict.window", g.shape.window, "0: no window");
      check(tokens.begin % g.shape.page_size == 0, "evict.begin", tokens.begin, MultipleOf{g.shape.page_size});
      check(tokens.end % g.shape.page_size == 0, "evict.end", tokens.end, MultipleOf{g.shape.page_size});
      check(tokens.end <= g.shortest(s), "evict.end", tokens.end, Below{g.shortest(s) + 1});
    }
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const Interval pages{tokens.begin / groups_[i].shape.page_size, tokens.end / groups_[i].shape.page_size};
      for (Index n = pages.begin; n < pages.end; ++n) groups_[i].pool.release(s.tables[i][n]);
      s.tables[i].erase(pages);
    }
    for (Index& length : s.lengths) length -= tokens.size();
    s.reserved = 0;
    give_back(s);
  }

  /// Keeps some tokens of one layer, which move together to the front: kept[j] becomes token j. For every KV head a
  /// list of its own, [kv_heads][count], one after the other, or one list for all; each ascends strictly, below length.
  /// Gives back the pages that no layer needs; needs a page for every one that is written and shared. Throws for a
  /// group with a window.
  [[nodiscard]] Outcome compact(SequenceId id, std::span<const Index> kept, Index layer = 0, bool by_head = false) {
    Sequence& s = at(id);
    const Place where = place(layer);
    Group& g = group_at(where.group);
    const Index heads = g.shape.kv_heads, lists = by_head ? heads : 1, page_size = g.shape.page_size;
    const auto size = static_cast<Index>(kept.size());
    check(g.shape.window == 0, "compact.window", g.shape.window, "0: no window");
    check(where.writes, "layer", layer, "the one that others share");
    check(size % lists == 0, "compact.kept.size", size, MultipleOf{lists});
    const Index count = size / lists;
    Index& length = s.lengths[where.at()];
    Index moved = count;  // the first place where some list has another token than before
    for (Index i = 0; i < size; ++i) {
      const Index token = kept[static_cast<std::size_t>(i)], j = i % count;
      const Index least = j == 0 ? 0 : kept[static_cast<std::size_t>(i - 1)] + 1;
      check(token >= least, "compact.kept", token, AtLeast{least});
      check(token < length, "compact.kept", token, Below{length});
      if (token != j) moved = std::min(moved, j);
    }
    PageTable& table = s.tables[static_cast<std::size_t>(where.group)];
    if (!g.make_writable(table, s, {moved, count}, s.reserved)) return Outcome::kOutOfPages;
    for (Index h = 0; h < heads; ++h)
      for (Index j = moved; j < count; ++j) {
        const Index from = kept[static_cast<std::size_t>((by_head ? h * count : 0) + j)];
        g.layout.copy(g.page(where.layer, table[from / page_size]) + h * g.layout.head_bytes, from % page_size,
                      g.page(where.layer, table[j / page_size]) + h * g.layout.head_bytes, j % page_size);
      }
    length = count;
    give_back(s);
    return Outcome::kDone;
  }

  /// What `layer` holds of a sequence, for attention. O(1).
  PagedView<T> view(SequenceId id, Index layer = 0) const {
    const Sequence& s = at(id);
    const Place where = place(layer);
    const Group& g = group_at(where.group);
    const PageTable& table = s.tables[static_cast<std::size_t>(where.group)];
    const Index begin = table.first() * g.shape.page_size;
    return {page_data(where.layer, 0),     table.pages().data(), begin,
            s.lengths[where.at()] - begin, g.shape.kv_heads,     g.layout};
  }

  // ---- for what is built on pages: prefix indexes, snapshots
  // ---------------------------------------------------------

  /// The pages and lengths of a sequence. The reference is valid until the next change.
  const SequenceState& state(SequenceId id) const { return at(id); }
  /// A new sequence of pages that the caller holds (take, hold): it takes over one hold of each.
  SequenceId open(SequenceState state) {
    check(state.tables.size() == groups_.size(), "open.tables.size", state.tables.size(), groups_.size());
    check(state.lengths.size() == lengths_size(), "open.lengths.size", state.lengths.size(), lengths_size());
    for (std::size_t i = 0; i < groups_.size(); ++i)
      check(groups_[i].entries(state) <= state.tables[i].end(), "open.lengths", groups_[i].longest(state),
            Below{state.tables[i].end() * groups_[i].shape.page_size + 1});
    Index slot = static_cast<Index>(sequences_.size());
    if (!free_slots_.empty()) {
      slot = free_slots_.back();
      free_slots_.pop_back();
    } else {
      sequences_.emplace_back();
      if (free_slots_.capacity() < sequences_.size())
        free_slots_.reserve(2 * sequences_.size());  // close() cannot throw
    }
    Sequence& s = sequences_[static_cast<std::size_t>(slot)];
    static_cast<SequenceState&>(s) = std::move(state);
    s.reserved = 0;
    s.open = true;
    return {slot, ++s.generation};
  }
  const PagePool& pool(Index group = 0) const { return group_at(group).pool; }
  PagePool& pool(Index group = 0) { return group_at(group).pool; }
  /// Where a page of a cache layer (not the model's) is: kv_heads parts, one after the other, see PageLayout.
  std::byte* page_data(Index cache_layer, Index page) const {
    std::size_t i = 0;
    while (groups_[i].layers.end <= cache_layer) ++i;
    return groups_[i].page(cache_layer, page);
  }

 private:
  using Group = LayerGroup<T>;
  struct Place {
    Index group, layer;  ///< the cache's
    bool writes;
    std::size_t at() const { return static_cast<std::size_t>(layer); }
  };
  struct Sequence : SequenceState {
    Index reserved = 0;  // tokens
    Index generation = 0;
    bool open = false;
  };
  static constexpr Index kLine = 64;
  static constexpr Index aligned(Index bytes) { return ceil_div(bytes, kLine) * kLine; }

  std::size_t lengths_size() const { return static_cast<std::size_t>(groups_.back().layers.end); }
  std::vector<PageTable> empty_tables() const { return std::vector<PageTable>(groups_.size()); }
  const Sequence& sequence(Index slot) const { return sequences_[static_cast<std::size_t>(slot)]; }
  Sequence& at(SequenceId id) { return const_cast<Sequence&>(std::as_const(*this).at(id)); }
  const Sequence& at(SequenceId id) const {
    check(id.slot >= 0 && id.slot < static_cast<Index>(sequences_.size()), "sequence", id.slot, "one of this cache");
    check(open(id), "sequence", "a closed one", "one that is open");
    return sequence(id.slot);
  }
  Place place(Index layer) const {
    check(layer >= 0 && layer < layers(), "layer", layer, Below{layers()});
    return layers_[static_cast<std::size_t>(layer)];
  }
  template <class K, class V>
  Outcome append_rows(SequenceId id, TensorView<K> keys, TensorView<V> values, Index layer) {
    Sequence& s = at(id);
    const Place where = place(layer);
    Group& g = group_at(where.group);
    check(where.writes, "layer", layer, "the one that others share");
    check(keys.tokens >= 0, "keys.tokens", keys.tokens, ">= 0");
    check(keys.heads == g.shape.kv_heads, "keys.heads", keys.heads, g.shape.kv_heads);
    check(keys.dim == g.shape.head_dim, "keys.dim", keys.dim, g.shape.head_dim);
    if (keys.tokens == 0) return Outcome::kDone;

    Index& length = s.lengths[where.at()];
    PageTable& table = s.tables[static_cast<std::size_t>(where.group)];
    if (!g.make_writable(table, s, {length, length + keys.tokens}, s.reserved)) return Outcome::kOutOfPages;
    for (Index token = 0; token < keys.tokens; ++token, ++length) {
      std::byte* page = g.page(where.layer, table[length / g.shape.page_size]);
      for (Index h = 0; h < g.shape.kv_heads; ++h, page += g.layout.head_bytes)
        g.layout.store(page, length % g.shape.page_size, keys.row(token, h), values.row(token, h));
    }
    return Outcome::kDone;
  }

  Group& group_at(Index group) { return const_cast<Group&>(std::as_const(*this).group_at(group)); }
  const Group& group_at(Index group) const {
    check(group >= 0 && group < groups(), "group", group, Below{groups()});
    return groups_[static_cast<std::size_t>(group)];
  }

  /// Pages that no layer needs and nothing reserves.
  void give_back(Sequence& s) {
    for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].give_back(s.tables[i], s, s.reserved);
  }
  void release_all(Sequence& s) {
    for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].release_all(s.tables[i]);
    std::fill(s.lengths.begin(), s.lengths.end(), 0);
    s.reserved = 0;
  }

  LargeArray<std::byte> memory_;
  std::vector<Group> groups_;
  std::vector<Place> layers_;  // [the model's layers]
  std::vector<Sequence> sequences_;
  std::vector<Index> free_slots_;
};

}  // namespace longspan::inline LONGSPAN_ISA
