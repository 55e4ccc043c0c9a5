#pragma once
// What a page of keys can score at most: the least and the largest value of its keys in each dimension, kept beside a
// paged cache (Quest, arXiv 2406.10774).

#include <vector>

#include <longspan/core/executor_ref.hpp>
#include <longspan/core/key_columns.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/kv/paged_view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The bounds of one layer of one sequence of a PagedCache, over its keys as they are read (decoded, with their
/// scales). A value: copy it where the sequence is forked. 8 bytes for each KV head, dimension and page, against
/// (head_dim + value_dim) elements a token: with pages of 64 tokens and as many dimensions of values, 1/64 of a cache
/// of floats and 1/16 of one of eight bits.
///
/// They know nothing of the cache: after append, call update(); before the next update() after truncate, evict or
/// compact, call forget(the first token that is another than before). Caches with a window are not for this.
class PageBounds {
 public:
  /// Takes in the keys behind those that it knows, and returns how many those were: only they are read. `view` is that
  /// of the sequence, from its first token on. Throws std::invalid_argument for another shape than before, for a view
  /// that begins elsewhere, or with fewer keys than are known (see forget). O(new keys · kv_heads · head_dim); memory
  /// grows as a vector does.
  template <StoredElement T>
  Index update(const PagedView<T>& view, ExecutorRef executor = {}) {
    check(view.first_key() == 0, "PageBounds.view.first_key", view.first_key(), "0: no window");
    if (page_size_ == 0) page_size_ = view.page_size(), kv_heads_ = view.kv_heads(), dim_ = view.head_dim();
    check_shape(view);
    check(view.keys() >= keys_, "PageBounds.view.keys", view.keys(), AtLeast{keys_});
    const Interval added{keys_, view.keys()};
    if (added.empty()) return 0;
    const Interval tiles{added.begin / page_size_ / kTile, ceil_div(ceil_div(added.end, page_size_), kTile)};
    lines_.resize(static_cast<std::size_t>(tiles.end * tile_lines()));
    executor.for_each(tiles.size() * kv_heads_, [&](Index task, Index) {
      const Index first = (tiles.begin + task / kv_heads_) * kTile, kv_head = task % kv_heads_;
      for (Index page = first; page < first + kTile; ++page)
        add(view, kv_head, page, intersect(added, {page * page_size_, (page + 1) * page_size_}));
    });
    keys_ = added.end;
    return added.size();
  }
  /// Tokens from this one on are no longer what they were: the pages that hold any of them are read anew by the next
  /// update(). Throws std::invalid_argument below 0.
  void forget(Index token) {
    check(token >= 0, "PageBounds.forget", token, ">= 0");
    if (token < keys_) keys_ = token / page_size_ * page_size_;
  }

  Index keys() const { return keys_; }
  Index page_size() const { return page_size_; }
  Index kv_heads() const { return kv_heads_; }
  Index head_dim() const { return dim_; }
  Index pages() const { return keys_ == 0 ? 0 : ceil_div(keys_, page_size_); }
  /// Of a page; the newest may have fewer than page_size.
  Index keys_in(Index page) const { return std::min(page_size_, keys_ - page * page_size_); }
  /// What upper() reads.
  Index bytes() const { return ceil_div(pages(), kTile) * tile_lines() * static_cast<Index>(sizeof(Line)); }
  /// Of the keys of a page in one dimension; NaN where one of them is not finite.
  float least(Index kv_head, Index page, Index d) const { return line(kv_head, page, d).x[page % kTile]; }
  float largest(Index kv_head, Index page, Index d) const { return (&line(kv_head, page, d))[1].x[page % kTile]; }

  /// Floats of a row of upper().
  Index row_floats() const { return ceil_div(pages(), kTile) * kTile; }
  /// upper[i · row_floats() + page]: no key of the page has a larger product with query i, Σ_d max(q_d·least_d,
  /// q_d·largest_d); of `count` queries, [count, head_dim]. +inf where a key of the page, or the query, is not finite:
  /// such a page cannot be left out. In float: it is exact within rounding() times `terms`, Σ_d |q_d| · max(|least_d|,
  /// |largest_d|), laid out likewise, which may be null. O(pages · head_dim) a query; bounds are read once for each
  /// four.
  void upper(Index kv_head, const float* queries, Index count, float* to, float* terms = nullptr) const {
    Leased<Scratch, PageBounds> scratch;
    float* const parts = scratch->floats(2 * kTogether * dim_);
    for (Index i = 0; i < count; i += kTogether) {
      const Index some = std::min<Index>(kTogether, count - i);
      for (Index j = 0; j < kTogether; ++j)  // q⁺ and q⁻: the larger product is q⁺·largest + q⁻·least
        for (Index d = 0; d < dim_; ++d) {
          const float q = j < some ? queries[(i + j) * dim_ + d] : 0.f;
          parts[(d * kTogether + j) * 2] = q > 0.f ? q : 0.f;
          parts[(d * kTogether + j) * 2 + 1] = q > 0.f ? 0.f : q;
        }
      float* const terms_of = terms ? terms + i * row_floats() : nullptr;
      const auto rows = [&](auto n) {
        if (some == n()) add_up<n()>(kv_head, parts, to + i * row_floats(), terms_of);
      };
      unroll<kTogether>([&](auto n) { rows(std::integral_constant<int, n() + 1>()); });
    }
  }
  /// Of a sum of head_dim products in float, one in a fused step or two, per unit of their sizes; also of a score of
  /// the kernels' where words hold one element.
  double rounding() const { return static_cast<double>(2 * dim_ + 16) * 0x1p-24; }

  /// Throws unless they are those of this view: its shape, and all its keys.
  template <StoredElement T>
  void check_of(const PagedView<T>& view) const {
    check_shape(view);
    check(view.first_key() == 0, "PageBounds.view.first_key", view.first_key(), "0: no window");
    check(view.keys() == keys_, "PageBounds.keys", keys_, view.keys());
  }

 private:
  static constexpr Index kTile = 16;   ///< pages that stand together: lanes are pages
  static constexpr int kTogether = 4;  ///< queries
  struct alignas(64) Line {
    float x[kTile] = {};
  };

  /// [tiles][kv_heads][head_dim][least, largest].
  Index tile_lines() const { return kv_heads_ * dim_ * 2; }
  const Line& line(Index kv_head, Index page, Index d) const {
    return lines_[static_cast<std::size_t>(page / kTile * tile_lines() + (kv_head * dim_ + d) * 2)];
  }

  template <StoredElement T>
  void check_shape(const PagedView<T>& view) const {
    check(view.page_size() == page_size_, "PageBounds.view.page_size", view.page_size(), page_size_);
    check(view.kv_heads() == kv_heads_, "PageBounds.view.kv_heads", view.kv_heads(), kv_heads_);
    check(view.head_dim() == dim_, "PageBounds.view.head_dim", view.head_dim(), dim_);
  }

  template <StoredElement T>
  void add(const PagedView<T>& view, Index kv_head, Index page, Interval keys) {
    constexpr Index kPiece = 64;
    if (keys.empty()) return;
    Line* const lines = &const_cast<Line&>(line(kv_head, page, 0));
    const Index at = page % kTile;
    if (keys.begin == page * page_size_)
      for (Index d = 0; d < dim_; ++d) lines[2 * d].x[at] = -kMinusInfinity, lines[2 * d + 1].x[at] = kMinusInfinity;
    Leased<Scratch, PageBounds> scratch;
    float* const columns = scratch->floats(dim_ * kPiece);
    for (Index key = keys.begin; key < keys.end;) {
      const auto run = view.run(kv_head, key);
      const Index size = std::min({run.size, kPiece, keys.end - key});
      key_columns(run, size, dim_, columns, kPiece);
      for (Index d = 0; d < dim_; ++d) take(columns + d * kPiece, size, lines[2 * d].x[at], lines[2 * d + 1].x[at]);
      key += size;
    }
  }

  static void take(const float* keys, Index size, float& least, float& largest) {
    Lanes low(least), high(largest), zero(0.f);
    Index j = 0;
    for (; j + kLanes <= size; j += kLanes) {
      const Lanes x = load(keys + j);
      low = xsimd::min(low, x), high = xsimd::max(high, x), zero = fma(x, Lanes(0.f), zero);
    }
    float of_rest = 0;
    for (; j < size; ++j) {
      low = xsimd::min(low, Lanes(keys[j])), high = xsimd::max(high, Lanes(keys[j]));
      of_rest = fma(keys[j], 0.f, of_rest);
    }
    const bool finite = xsimd::all(zero == Lanes(0.f)) && of_rest == 0 && least == least;
    using std::max, std::min;
    least = finite ? fold(low, [](const auto& a, const auto& b) LONGSPAN_LAMBDA { return min(a, b); })
                   : std::numeric_limits<float>::quiet_NaN();
    largest = finite ? fold(high, [](const auto& a, const auto& b) LONGSPAN_LAMBDA { return max(a, b); })
                     : std::numeric_limits<float>::quiet_NaN();
  }

  /// Of Queries queries, whose parts are [head_dim][kTogether][q⁺, q⁻].
  template <int Queries>
  void add_up(Index kv_head, const float* parts, float* to, float* terms) const {
    constexpr int kVectors = static_cast<int>(kTile) / kLanes;
    const Index row = row_floats();
    for (Index page = 0; page < row; page += kTile) {
      const Line* const lines = &line(kv_head, page, 0);
      for (int v = 0; v < kVectors; ++v) {
        const float* const at = lines->x + v * kLanes;
        Lanes up[Queries], down[Queries], size[Queries];
        unroll<Queries>([&](auto i) LONGSPAN_LAMBDA { up[i] = down[i] = size[i] = Lanes(0.f); });
        const auto walk = [&](auto with_terms) LONGSPAN_LAMBDA {
          for (Index d = 0; d < dim_; ++d) {
            const Lanes low = Lanes::load_aligned(at + 2 * d * kTile),
                        high = Lanes::load_aligned(at + (2 * d + 1) * kTile);
            const float* const q = parts + d * 2 * kTogether;
            unroll<Queries>([&](auto i) LONGSPAN_LAMBDA {
              const Lanes plus(q[2 * i]), minus(q[2 * i + 1]);
              up[i] = fma(plus, high, up[i]);
              down[i] = fma(minus, low, down[i]);
              if constexpr (decltype(with_terms)::value)
                size[i] = fma(plus - minus, xsimd::max(xsimd::abs(low), xsimd::abs(high)), size[i]);
            });
          }
        };
        if (terms)
          walk(std::true_type());
        else
          walk(std::false_type());
        unroll<Queries>([&](auto i) LONGSPAN_LAMBDA {
          const Lanes sum = up[i] + down[i];
          store(to + i * row + page + v * kLanes, xsimd::select(sum == sum, sum, Lanes(-kMinusInfinity)));
          if (terms) store(terms + i * row + page + v * kLanes, size[i]);
        });
      }
    }
  }

  std::vector<Line> lines_;
  Index keys_ = 0, page_size_ = 0, kv_heads_ = 0, dim_ = 0;
};

}  // namespace longspan::inline LONGSPAN_ISA
