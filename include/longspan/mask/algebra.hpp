#pragma once
// a & b, a | b, !a over masks. What some query sees of !a is what not every query sees of a, and the other way round:
// that duality is why a mask has both readings, and De Morgan then holds on verdicts too.
//
// What some query sees of a & b lies in what some query sees of each, but a and b may each have another query in mind;
// it is no more than that where all queries see the same by one of them. So a mask may say, beyond what it must,
//   same_until(q)   a query up to which [q, …) all see the same keys; q: it cannot say
// and a range of queries is then read in pieces. Masks by blocks and documents say so, and what is made of them.

#include <array>
#include <utility>

#include <longspan/core/concepts.hpp>
#include <longspan/core/interval_algebra.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
template <Mask M>
auto some_of(const M& mask, Interval q) {
  return [&mask, q](Index k) { return mask.some(q, k); };
}
template <Mask M>
auto every_of(const M& mask, Interval q) {
  return [&mask, q](Index k) { return mask.every(q, k); };
}

template <Mask M>
Index same_until(const M& mask, Index q) {
  if constexpr (requires { mask.same_until(q); })
    return mask.same_until(q);
  else
    return q;
}

/// A range of queries in pieces in which all see the same by a, or else by b; in one where these can't say or are many.
class Pieces {
 public:
  template <Mask A, Mask B>
  Pieces(const A& a, const B& b, Interval q) {
    if (!cut(a, q) && !cut(b, q)) pieces_[0] = q, count_ = 1;
  }
  Interval all() const { return {0, count_}; }
  Interval operator[](Index i) const { return pieces_[static_cast<std::size_t>(i)]; }

 private:
  static constexpr Index kMost = 8;

  template <Mask M>
  bool cut(const M& mask, Interval q) {
    for (count_ = 0; !q.empty() && count_ < kMost; ++count_) {
      const Index end = std::min(same_until(mask, q.begin), q.end);
      if (end <= q.begin) return false;
      pieces_[static_cast<std::size_t>(count_)] = {std::exchange(q.begin, end), end};
    }
    return q.empty();
  }

  std::array<Interval, kMost> pieces_;
  Index count_ = 0;
};
}  // namespace detail

template <Mask A, Mask B>
struct And {
  A a;
  B b;
  And(A x, B y) : a(x), b(y) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return truth(a.allows(q, k)) & truth(b.allows(q, k));
  }
  Interval some(Interval q, Index k) const {
    const detail::Pieces pieces(a, b, q);
    const auto both = [&](Index i, Index at) {
      return next_of_intersection(detail::some_of(a, pieces[i]), detail::some_of(b, pieces[i]), at);
    };
    return next_of_any(pieces.all(), both, k);
  }
  Interval every(Interval q, Index k) const {
    return next_of_intersection(detail::every_of(a, q), detail::every_of(b, q), k);
  }
  Index same_until(Index q) const { return std::min(detail::same_until(a, q), detail::same_until(b, q)); }
};

template <Mask A, Mask B>
struct Or {
  A a;
  B b;
  Or(A x, B y) : a(x), b(y) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return truth(a.allows(q, k)) | truth(b.allows(q, k));
  }
  Interval some(Interval q, Index k) const { return next_of_union(detail::some_of(a, q), detail::some_of(b, q), k); }
  Interval every(Interval q, Index k) const {
    const detail::Pieces pieces(a, b, q);
    const auto either = [&](Index i, Index at) {
      return next_of_union(detail::every_of(a, pieces[i]), detail::every_of(b, pieces[i]), at);
    };
    return next_of_all(pieces.all(), either, k);
  }
  Index same_until(Index q) const { return std::min(detail::same_until(a, q), detail::same_until(b, q)); }
};

template <Mask M>
struct Not {
  M mask;
  explicit Not(M m) : mask(m) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return !truth(mask.allows(q, k)); }
  Interval some(Interval q, Index k) const { return next_of_complement(detail::every_of(mask, q), k); }
  Interval every(Interval q, Index k) const { return next_of_complement(detail::some_of(mask, q), k); }
  Index same_until(Index q) const { return detail::same_until(mask, q); }
};

template <Mask A, Mask B>
And<A, B> operator&(A a, B b) {
  return {a, b};
}
template <Mask A, Mask B>
Or<A, B> operator|(A a, B b) {
  return {a, b};
}
template <Mask M>
Not<M> operator!(M m) {
  return Not<M>(m);
}

}  // namespace longspan::inline LONGSPAN_ISA
