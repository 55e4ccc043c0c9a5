#pragma once
// a & b, a | b, !a over masks. What some query sees of !a is what not every query sees of a, and the other way round:
// that duality is why a mask has both readings, and De Morgan then holds on verdicts too.

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
    return next_of_intersection(detail::some_of(a, q), detail::some_of(b, q), k);
  }
  Interval every(Interval q, Index k) const {
    return next_of_intersection(detail::every_of(a, q), detail::every_of(b, q), k);
  }
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
  Interval every(Interval q, Index k) const { return next_of_union(detail::every_of(a, q), detail::every_of(b, q), k); }
};

template <Mask M>
struct Not {
  M mask;
  explicit Not(M m) : mask(m) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return !truth(mask.allows(q, k)); }
  Interval some(Interval q, Index k) const { return next_of_complement(detail::every_of(mask, q), k); }
  Interval every(Interval q, Index k) const { return next_of_complement(detail::some_of(mask, q), k); }
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
