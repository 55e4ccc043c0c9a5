#pragma once
// Which pages are free, and how many hold each of the others. It knows numbers, not memory.

#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Pages 0 … pages-1, all free at first. Everything is O(1), and nothing allocates after construction. 16 bytes a page.
class PagePool {
 public:
  explicit PagePool(Index pages) : references_(static_cast<std::size_t>(pages), 0) {
    free_.reserve(references_.size());
    for (Index page = pages; page > 0; --page) free_.push_back(page - 1);
  }

  Index pages() const { return static_cast<Index>(references_.size()); }
  Index free_pages() const { return static_cast<Index>(free_.size()); }
  /// How many hold a page; 0: it is free. Throws std::invalid_argument for a page that is not one.
  Index references(Index page) const { return references_[checked(page)]; }
  /// Whether somebody else holds a page, too.
  bool shared(Index page) const { return references_[static_cast<std::size_t>(page)] > 1; }

  /// A free page, now held once. There must be one.
  Index take() {
    check(!free_.empty(), "PagePool.take", "no free page", "one");
    const Index page = free_.back();
    free_.pop_back();
    references_[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  /// Holds a page that is held already once more. Throws std::invalid_argument for a free one.
  void hold(Index page) {
    Index& references = references_[checked(page)];
    check(references >= 1, "PagePool.hold", "a free page", "one that is held");
    ++references;
  }
  /// Gives up one hold; the last one makes the page free. Throws as hold.
  void release(Index page) {
    Index& references = references_[checked(page)];
    check(references >= 1, "PagePool.release", "a free page", "one that is held");
    if (--references == 0) free_.push_back(page);
  }

 private:
  std::size_t checked(Index page) const {
    check(page >= 0 && page < pages(), "page", page, Below{pages()});
    return static_cast<std::size_t>(page);
  }

  std::vector<Index> references_;
  std::vector<Index> free_;
};

}  // namespace longspan::inline LONGSPAN_ISA
