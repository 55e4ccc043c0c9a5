#pragma once
// Which pages of a cache a decode step reads: those that can score highest by their bounds (Quest, arXiv 2406.10774),
// or as many as leave out provably little.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include <longspan/core/rows.hpp>
#include <longspan/sparse/page_bounds.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Pages of each KV head, ascending: what attend_pages() reads. A choice that is kept from call to call keeps its
/// memory.
class ChosenPages {
 public:
  Index kv_heads() const { return std::ssize(ends_); }
  std::span<const Index> of(Index kv_head) const {
    const Index begin = kv_head == 0 ? 0 : ends_[static_cast<std::size_t>(kv_head - 1)];
    const Index end = ends_[static_cast<std::size_t>(kv_head)];
    return std::span(pages_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }
  /// Of all KV heads together: each is one KV head's part of a page.
  Index count() const { return std::ssize(pages_); }

  void clear() { pages_.clear(), ends_.clear(); }
  /// The pages of the next KV head, in any order.
  void push_back(std::span<const Index> pages) {
    pages_.insert(pages_.end(), pages.begin(), pages.end());
    std::sort(pages_.end() - std::ssize(pages), pages_.end());
    ends_.push_back(count());
  }

 private:
  std::vector<Index> pages_, ends_;
};

/// The chosen pages of one KV head as a source, read where they are: its keys are those of the pages, one after the
/// other, so positions are not the sequence's. A view: the list outlives it.
template <StoredElement T>
class PagesOfHead {
 public:
  using Element = T;

  /// `pages` ascends strictly, below the pages of the view, which begins at its sequence's first token.
  PagesOfHead(const PagedView<T>& view, Index kv_head, std::span<const Index> pages)
      : view_(view), kv_head_(kv_head), pages_(pages.data()), keys_(std::ssize(pages) * view.page_size()) {
    if (!pages.empty()) keys_ -= std::max<Index>(0, (pages.back() + 1) * view.page_size() - view.keys());
  }

  Index keys() const { return keys_; }
  static Index kv_heads() { return 1; }
  Index head_dim() const { return view_.head_dim(); }
  Index value_dim() const { return view_.value_dim(); }
  KeyValueRun<T> run(Index, Index i) const {
    const Index page_size = view_.page_size();
    return view_.run(kv_head_, pages_[i / page_size] * page_size + i % page_size);
  }

 private:
  PagedView<T> view_;
  Index kv_head_;
  const Index* pages_;
  Index keys_;
};

/// How the query heads that share a KV head agree on its pages: by the largest of their bounds, or by their sum.
enum class GroupScore { kMax, kSum };

/// For each KV head the newest page and those with the largest upper bounds on q·k, `pages` in all; of equal ones, the
/// earlier. (Quest has one KV head a query head, and in its first two layers reads everything: so should you.)
struct Quest {
  Index pages = 1;  ///< of each KV head
  GroupScore score = GroupScore::kMax;

  /// q: [1, heads, head_dim], the query that stands at the end of the keys. Throws std::invalid_argument unless pages
  /// >= 1, there is one query, and shapes agree. O(heads · pages of the sequence · head_dim), and what it reads is
  /// bounds.bytes(); no allocation after the first call of a size.
  void operator()(const PageBounds& bounds, QueryTensor q, ChosenPages& chosen, ExecutorRef executor = {}) const;
  ChosenPages operator()(const PageBounds& bounds, QueryTensor q, ExecutorRef executor = {}) const {
    ChosenPages chosen;
    (*this)(bounds, q, chosen, executor);
    return chosen;
  }
};

namespace detail {

/// Throws unless q is one row of heads over the KV heads of the bounds.
inline void check_query(const PageBounds& bounds, const QueryTensor& q) {
  check(q.tokens == 1, "q.tokens", q.tokens, "1: the newest token");
  if (bounds.kv_heads() == 0) return;
  check(q.heads >= 1 && q.heads % bounds.kv_heads() == 0, "q.heads", q.heads, MultipleOf{bounds.kv_heads()});
  check(q.dim == bounds.head_dim(), "q.dim", q.dim, bounds.head_dim());
}

/// The upper bounds of the heads of a group, [group][row_floats], and where wanted their terms; `flat`: of queries
/// whose elements are all as large as their largest.
inline void bounds_of_group(const PageBounds& bounds, const QueryTensor& q, Index kv_head, float* upper, float* terms,
                            bool flat = false) {
  const Index group = q.heads / bounds.kv_heads(), dim = bounds.head_dim();
  Leased<Scratch, QueryTensor> scratch;
  float* const rows = scratch->floats(group * dim);
  for (Index i = 0; i < group; ++i) {
    float* const row = rows + i * dim;
    q.read(0, kv_head * group + i, 1.f, row);
    if (!flat) continue;
    float largest = 0;
    for (Index d = 0; d < dim; ++d) largest = std::abs(row[d]) <= largest ? largest : std::abs(row[d]);  // NaN stays
    std::fill_n(row, dim, largest);
  }
  bounds.upper(kv_head, rows, group, upper, terms);
}

}  // namespace detail

inline void Quest::operator()(const PageBounds& bounds, QueryTensor q, ChosenPages& chosen,
                              ExecutorRef executor) const {
  check(pages >= 1, "Quest.pages", pages, ">= 1");
  detail::check_query(bounds, q);
  const Index heads = bounds.kv_heads(), all = bounds.pages(), count = std::min(pages, all);
  chosen.clear();
  Leased<std::vector<Index>, Quest> lease;
  std::vector<Index>& order = *lease;  // [kv_heads][all]
  order.resize(static_cast<std::size_t>(heads * all));
  executor.for_each(heads, [&](Index kv_head, Index) {
    const auto mine = order.begin() + kv_head * all;
    std::iota(mine, mine + all, Index{0});
    if (count == all) return;
    const Index group = q.heads / heads, row = bounds.row_floats();
    Leased<Scratch, Quest> scratch;
    float* const upper = scratch->floats(group * row);
    detail::bounds_of_group(bounds, q, kv_head, upper, nullptr);
    for (Index i = 1; i < group; ++i)
      for (Index page = 0; page < all; ++page) {
        const float x = upper[i * row + page];
        upper[page] = score == GroupScore::kSum ? upper[page] + x : std::max(upper[page], x);
      }
    for (Index page = 0; page < all; ++page)  // a sum of infinities of both signs
      if (!(upper[page] == upper[page])) upper[page] = -kMinusInfinity;
    std::swap(*mine, *(mine + all - 1));  // the newest is first, and what follows it by bounds
    std::nth_element(mine + 1, mine + count, mine + all,
                     [upper](Index a, Index b) { return upper[a] > upper[b] || (upper[a] == upper[b] && a < b); });
  });
  for (Index kv_head = 0; kv_head < heads; ++kv_head)
    chosen.push_back(
        std::span(order).subspan(static_cast<std::size_t>(kv_head * all), static_cast<std::size_t>(count)));
}

namespace detail {

/// The pages of one KV head that a certified reading has not read yet, and what they hold at most. Masses are natural
/// logarithms, in double; one for each query head of the group.
class UnreadPages {
 public:
  /// What a score of the kernels' may be off: `slack` per unit of its terms, and `flat_slack` per unit of those of a
  /// query whose elements are all as large as the largest.
  UnreadPages(const PageBounds& bounds, const QueryTensor& q, Index kv_head, double scale, double slack,
              double flat_slack)
      : group_(q.heads / bounds.kv_heads()), all_(bounds.pages()) {
    const Index row = bounds.row_floats();
    Leased<Scratch, UnreadPages> scratch;
    float* const flat = scratch->floats(3 * group_ * row);
    float* const upper = flat + group_ * row;
    float* const terms = upper + group_ * row;
    if (flat_slack > 0)
      bounds_of_group(bounds, q, kv_head, upper, flat, true);
    else
      std::fill_n(flat, group_ * row, 0.f);
    bounds_of_group(bounds, q, kv_head, upper, terms);
    most_.resize(static_cast<std::size_t>(group_ * all_));
    slack_.resize(most_.size());
    slack_of_read_.assign(static_cast<std::size_t>(group_), 0);
    for (Index i = 0; i < group_; ++i)
      for (Index page = 0; page < all_; ++page) {
        const auto at_least = [](float x) { return static_cast<double>(x) * (1 + 0x1p-10) + 0x1p-60; };
        const double size = at_least(terms[i * row + page]);
        const double score = scale * (static_cast<double>(upper[i * row + page]) + bounds.rounding() * size);
        most_[at(i, page)] = score + std::log(static_cast<double>(bounds.keys_in(page)));
        slack_[at(i, page)] = scale * (slack * size + flat_slack * at_least(flat[i * row + page]));
      }
    order_.resize(static_cast<std::size_t>(all_));
    std::iota(order_.begin(), order_.end(), Index{0});
  }

  /// The newest page, and `count` − 1 that look heaviest.
  std::span<const Index> first(Index count) {
    std::vector<double> top(static_cast<std::size_t>(group_));
    for (Index i = 0; i < group_; ++i)
      top[static_cast<std::size_t>(i)] = *std::max_element(&most_[at(i, 0)], &most_[at(i, 0)] + all_);
    std::swap(order_.front(), order_.back());
    sort_from(1, top);
    return take(std::min(count, all_));
  }
  /// What to read next, where more than epsilon of the mass may be unread: as many as are needed by what is known, but
  /// no more than were read so far, since what they hold makes the others matter less. `held`: the logarithm of what
  /// was read, of each head of the group.
  std::span<const Index> next(std::span<const double> held, double epsilon) {
    std::vector<double> least(held.begin(), held.end());
    for (std::size_t i = 0; i < least.size(); ++i) least[i] -= slack_of_read_[i];
    if (behind_.empty()) sum_up(least);
    Index more = 0;
    double worst = share(0, least);
    for (const Index end = std::min(all_ - read_, read_); more < end && !(worst <= epsilon);)
      worst = share(++more, least);
    if (more == 0) return left_out_ = worst, std::span<const Index>();
    return take(more);
  }
  double left_out() const { return left_out_; }
  std::span<const Index> read() const { return std::span(order_).first(static_cast<std::size_t>(read_)); }

 private:
  std::size_t at(Index head, Index page) const { return static_cast<std::size_t>(head * all_ + page); }

  std::span<const Index> take(Index count) {
    const auto pages = std::span(order_).subspan(static_cast<std::size_t>(read_), static_cast<std::size_t>(count));
    for (Index i = 0; i < group_; ++i)
      for (const Index page : pages) {
        double& slack = slack_of_read_[static_cast<std::size_t>(i)];
        slack = std::max(slack, slack_[at(i, page)]);
        if (std::isnan(slack_[at(i, page)])) slack = slack_[at(i, page)];
      }
    read_ += count;
    return pages;
  }

  /// By what they hold at most of the head to which they matter most; what is no number is first.
  void sort_from(Index begin, const std::vector<double>& relative_to) {
    std::vector<double> key(static_cast<std::size_t>(all_), -std::numeric_limits<double>::infinity());
    for (Index i = 0; i < group_; ++i)
      for (Index page = 0; page < all_; ++page) {
        const double x = most_[at(i, page)] - relative_to[static_cast<std::size_t>(i)];
        double& of_page = key[static_cast<std::size_t>(page)];
        of_page = std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(of_page, x);
      }
    std::sort(order_.begin() + begin, order_.end(), [&](Index a, Index b) {
      const double x = key[static_cast<std::size_t>(a)], y = key[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    });
  }

  /// Puts what is unread in order; behind_[head][n]: what is left when n more are read, relative to what is held now.
  /// From the small end: a difference of sums would be no bound.
  void sum_up(const std::vector<double>& least) {
    sort_from(read_, least);
    base_ = read_;
    reference_ = least;
    const Index left = all_ - read_;
    behind_.assign(static_cast<std::size_t>(group_ * (left + 1)), 0);
    for (Index i = 0; i < group_; ++i) {
      double* const row = &behind_[static_cast<std::size_t>(i * (left + 1))];
      for (Index n = left; n-- > 0;) {
        const Index page = order_[static_cast<std::size_t>(read_ + n)];
        row[n] = row[n + 1] + kSmallest + std::exp(most_[at(i, page)] - least[static_cast<std::size_t>(i)]);
      }
    }
  }

  /// The largest share of a head's mass that is unread when `more` pages more are read, and hold nothing.
  double share(Index more, const std::vector<double>& least) const {
    if (read_ + more == all_) return 0;
    double worst = 0;
    for (Index i = 0; i < group_; ++i) {
      const auto head = static_cast<std::size_t>(i);
      const double left = behind_[static_cast<std::size_t>(i * (all_ - base_ + 1) + read_ - base_ + more)] *
                          std::exp(reference_[head] - least[head]);
      const double share = left / (left + 1) * (1 + 1e-9);
      worst = std::max(worst, std::isnan(share) ? 1 : std::min(1., share));
    }
    return worst;
  }

  static constexpr double kSmallest = 1e-300;  ///< above what an exponential too small for a double loses
  Index group_, all_, read_ = 0, base_ = 0;
  std::vector<double> most_, slack_, slack_of_read_, behind_, reference_;
  std::vector<Index> order_;
  double left_out_ = 1;
};

}  // namespace detail

}  // namespace longspan::inline LONGSPAN_ISA
