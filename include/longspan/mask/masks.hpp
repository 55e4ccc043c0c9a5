#pragma once
// The basic masks. Each says three things: `allows(q, k)`, the definition (on Index or on lanes); `some`, the next run
// of keys that some query of a range may see; `every`, the next run that every query of the range sees. `some` may be
// too wide and `every` too narrow, never the reverse. `pairs`, where there is a formula, counts what is seen of queries
// × keys, for plan().

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/index.hpp>
#include <longspan/core/pairs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Every query sees every key.
struct Full {
  static constexpr bool allows(const auto&, const auto&) { return true; }
  Interval some(Interval, Index k) const { return run_from(k, 0, kUnbounded); }
  Interval every(Interval, Index k) const { return run_from(k, 0, kUnbounded); }
  Index pairs(Interval q, Interval keys) const { return pairs_of(q, keys); }
};

/// k <= q.
struct Causal {
  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return k <= q; }
  Interval some(Interval q, Index k) const { return run_from(k, 0, q.end); }
  Interval every(Interval q, Index k) const { return run_from(k, 0, q.begin + 1); }
  Index pairs(Interval q, Interval keys) const { return pairs_until(q, keys, 0); }
};

/// The `width` keys q-width+1 … q, the query's own among them. (flashinfer's window_left is width - 1.)
class Window {
 public:
  /// Throws std::invalid_argument unless width >= 1.
  explicit Window(Index width) {
    check(width >= 1, "Window.width", width, ">= 1");
    left_ = std::min(width, kPositionEnd) - 1;
  }
  /// The keys q-left … q+right; kUnbounded: all that there are on that side. Throws unless both are >= 0.
  static Window between(Index left, Index right) {
    check(left >= 0, "Window.left", left, ">= 0");
    check(right >= 0, "Window.right", right, ">= 0");
    Window window(1);
    window.left_ = std::min(left, kPositionEnd);
    window.right_ = std::min(right, kPositionEnd);
    return window;
  }
  /// |q-k| <= radius.
  static Window symmetric(Index radius) {
    check(radius >= 0, "Window.radius", radius, ">= 0");
    return between(radius, radius);
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return (k <= q + right_) & (k >= q - left_); }
  Interval some(Interval q, Index k) const { return run_from(k, first(q.begin), q.end + right_); }
  Interval every(Interval q, Index k) const { return run_from(k, first(q.end - 1), q.begin + 1 + right_); }
  Index pairs(Interval q, Interval keys) const {
    return pairs_until(q, keys, right_) - pairs_until(q, keys, -left_ - 1);
  }

 private:
  Index first(Index query) const { return std::max<Index>(0, query - left_); }
  Index left_ = 0, right_ = 0;
};

/// The first `count` keys, as far as causality allows: k < count and k <= q (StreamingLLM's attention sinks,
/// arXiv 2309.17453). Throws std::invalid_argument unless count >= 0.
class Sinks {
 public:
  explicit Sinks(Index count) : count_(count) { check(count >= 0, "Sinks.count", count, ">= 0"); }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return (k < count_) & (k <= q); }
  Interval some(Interval q, Index k) const { return run_from(k, 0, std::min(count_, q.end)); }
  Interval every(Interval q, Index k) const { return run_from(k, 0, std::min(count_, q.begin + 1)); }
  Index pairs(Interval q, Interval keys) const { return pairs_until(q, intersect(keys, {0, count_}), 0); }

 private:
  Index count_;
};

/// Prefix-LM: the first `length` keys for everybody, causal behind them: k < length or k <= q.
/// Throws std::invalid_argument unless length >= 0.
class Prefix {
 public:
  explicit Prefix(Index length) : length_(length) { check(length >= 0, "Prefix.length", length, ">= 0"); }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return (k < length_) | (k <= q); }
  Interval some(Interval q, Index k) const { return run_from(k, 0, std::max(length_, q.end)); }
  Interval every(Interval q, Index k) const { return run_from(k, 0, std::max(length_, q.begin + 1)); }
  Index pairs(Interval q, Interval keys) const {
    return pairs_of(q, intersect(keys, {0, length_})) + pairs_until(q, intersect(keys, {length_, kUnbounded}), 0);
  }

 private:
  Index length_;
};

}  // namespace longspan::inline LONGSPAN_ISA
