#pragma once
// Each query its own keys, by their numbers: what a learned indexer chooses (DeepSeek Sparse Attention, DeepSeek-V3.2,
// arXiv 2512.02556).

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
/// What was wrong, for `check`.
struct ListedKey {
  Index key, query;
  friend std::ostream& operator<<(std::ostream& text, const ListedKey& k) {
    return text << "key " << k.key << " of query " << k.query;
  }
};
}  // namespace detail

/// The keys of each query, ascending, whatever their order was: the bits of attention over them depend on which they
/// are alone. Memory is kept from one assign to the next.
class KeyLists {
 public:
  KeyLists() = default;
  /// `lists` is [queries, k]: numbers of keys from the source's first on, each below `keys`, in any order; −1 anywhere
  /// is no key. Throws std::invalid_argument for a size that is not a multiple of queries, for another number (naming
  /// it and its query), and for a key that a query has twice: its weight would count twice. O(queries · k), or · log k
  /// where a list does not ascend.
  KeyLists(std::span<const std::int64_t> lists, Index queries, Index keys) { assign(lists, queries, keys); }
  KeyLists(std::span<const std::int32_t> lists, Index queries, Index keys) { assign(lists, queries, keys); }
  void assign(std::span<const std::int64_t> lists, Index queries, Index keys) { take(lists, queries, keys); }
  void assign(std::span<const std::int32_t> lists, Index queries, Index keys) { take(lists, queries, keys); }

  Index queries() const { return std::ssize(ends_); }
  /// Below which all of them are.
  Index keys() const { return keys_; }
  /// The keys of one query.
  std::span<const Index> row(Index query) const {
    const auto at = static_cast<std::size_t>(query);
    const Index begin = query == 0 ? 0 : ends_[at - 1];
    return std::span(listed_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(ends_[at] - begin));
  }

 private:
  template <class I>
  void take(std::span<const I> lists, Index queries, Index keys) {
    ends_.clear(), listed_.clear(), keys_ = 0;  // nothing, where something is refused
    check(queries >= 0, "KeyLists.queries", queries, ">= 0");
    check(keys >= 0 && keys < kPositionEnd, "KeyLists.keys", keys, "within [0, 2^52)");
    const Index size = std::ssize(lists), k = queries == 0 ? 0 : size / queries;
    check(size == k * queries, "KeyLists.lists.size", size, MultipleOf{queries});
    std::vector<Index> listed = std::move(listed_), ends = std::move(ends_);
    for (Index query = 0; query < queries; ++query) {
      const Index begin = std::ssize(listed);
      for (Index j = 0; j < k; ++j) {
        const auto key = static_cast<Index>(lists[static_cast<std::size_t>(query * k + j)]);
        if (key == -1) continue;
        check(key >= 0 && key < keys, "KeyLists.lists", detail::ListedKey{key, query}, Below{keys});
        listed.push_back(key);
      }
      const auto row = listed.begin() + begin;
      if (!std::is_sorted(row, listed.end())) std::sort(row, listed.end());
      const auto twice = std::adjacent_find(row, listed.end());
      if (twice != listed.end())
        check(false, "KeyLists.lists", detail::ListedKey{*twice, query}, "a key once, but it is there twice");
      ends.push_back(std::ssize(listed));
    }
    listed_ = std::move(listed), ends_ = std::move(ends), keys_ = keys;
  }

  std::vector<Index> listed_, ends_;
  Index keys_ = 0;
};

/// Some keys of a source, as a source: key i is keys[i] of it, read where it is; neighbours are one run. Its positions
/// are those in the list. A view: the list outlives it.
template <KeyValueSource Source>
class ListedKeys {
 public:
  using Element = typename Source::Element;

  /// `keys` ascends strictly, below source.keys(), as a row of KeyLists.
  ListedKeys(const Source& source, std::span<const Index> keys)
      : source_(source), listed_(keys.data()), keys_(std::ssize(keys)) {}

  Index keys() const { return keys_; }
  Index kv_heads() const { return source_.kv_heads(); }
  Index head_dim() const { return source_.head_dim(); }
  Index value_dim() const { return source_.value_dim(); }
  KeyValueRun<Element> run(Index kv_head, Index i) const {
    const Index* const first = listed_ + i;
    auto run = source_.run(kv_head, *first);
    // In a list that ascends strictly, key j follows the first without a gap exactly where it is j more. Most are
    // alone.
    const Index most = std::min(run.size, keys_ - i);
    const auto together = [&](Index j) { return first[j] == *first + j; };
    Index low = 1, high = most;  // the run ends in [low, high]
    if (most > 1 && !together(1)) high = 1;
    while (low < high) {
      const Index middle = (low + high + 1) / 2;
      if (together(middle - 1))
        low = middle;
      else
        high = middle - 1;
    }
    run.size = low;
    return run;
  }

 private:
  Source source_;
  const Index* listed_;
  Index keys_;
};

}  // namespace longspan::inline LONGSPAN_ISA
