#pragma once
// Which pages hold a sequence, in order: its block table.

#include <algorithm>
#include <span>
#include <vector>

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Entry n is the page of tokens [n · page_size, (n+1) · page_size). Entries [first, end) are there: a window gives up
/// the oldest. Adding and dropping an entry at either side is O(1), amortized.
class PageTable {
 public:
  explicit PageTable(Index first = 0) : first_(first) {}

  Index first() const { return first_; }
  Index end() const { return first_ + size(); }
  Index size() const { return static_cast<Index>(pages_.size()) - dropped_; }
  Index& operator[](Index entry) { return pages_[static_cast<std::size_t>(entry - first_ + dropped_)]; }
  Index operator[](Index entry) const { return pages_[static_cast<std::size_t>(entry - first_ + dropped_)]; }
  /// All that are there, beginning with `first`.
  std::span<const Index> pages() const { return std::span(pages_).subspan(static_cast<std::size_t>(dropped_)); }

  /// Room for `more` entries: pushing them allocates nothing. Throws std::bad_alloc.
  void make_room(Index more) {
    const std::size_t needed = pages_.size() + static_cast<std::size_t>(more);
    if (needed > pages_.capacity()) pages_.reserve(std::max(needed, 2 * pages_.capacity()));
  }
  void push_back(Index page) { pages_.push_back(page); }
  void pop_back() { pages_.pop_back(); }
  void pop_front() {
    ++first_;
    if (++dropped_ * 2 <= static_cast<Index>(pages_.size())) return;
    pages_.erase(pages_.begin(), pages_.begin() + dropped_);
    dropped_ = 0;
  }
  /// Takes out [begin, end); what was behind follows what was before.
  void erase(Interval entries) {
    const auto at = [&](Index entry) { return pages_.begin() + (entry - first_ + dropped_); };
    pages_.erase(at(entries.begin), at(entries.end));
  }
  void clear() {
    pages_.clear();
    first_ = dropped_ = 0;
  }

 private:
  std::vector<Index> pages_;
  Index first_ = 0, dropped_ = 0;
};

}  // namespace longspan::inline LONGSPAN_ISA
