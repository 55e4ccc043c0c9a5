#pragma once
// a & b, a | b, !a over masks. What some query sees of !a is what not every query sees of a, and the other way round:
// that duality is why a mask has both readings, and De Morgan then holds on verdicts too.
//
// What some query sees of a & b lies in what some query sees of each, but a and b may each have another query in mind:
// queries of two documents, say. So compositions read a range of queries in pieces between the edges that masks name
// (edge_after, core/concepts.hpp).

#include <array>
#include <utility>

#include <longspan/core/concepts.hpp>
#include <longspan/core/interval_algebra.hpp>
#include <longspan/core/pairs.hpp>

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

/// A range of queries cut at a mask's edges; not at all where they are many.
class Pieces {
 public:
  template <class M>
  Pieces(const M& mask, Interval q) {
    for (Interval rest = q; !rest.empty(); ++count_) {
      if (count_ == kMost) {
        pieces_[0] = q, count_ = 1;
        return;
      }
      const Index end = std::min(mask.edge_after(rest.begin), q.end);
      pieces_[static_cast<std::size_t>(count_)] = {std::exchange(rest.begin, end), end};
    }
  }
  Interval all() const { return {0, count_}; }
  Interval operator[](Index i) const { return pieces_[static_cast<std::size_t>(i)]; }

 private:
  static constexpr Index kMost = 8;
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
    const detail::Pieces pieces(*this, q);
    const auto both = [&](Index i, Index at) {
      return next_of_intersection(detail::some_of(a, pieces[i]), detail::some_of(b, pieces[i]), at);
    };
    return next_of_any(pieces.all(), both, k);
  }
  Interval every(Interval q, Index k) const {
    return next_of_intersection(detail::every_of(a, q), detail::every_of(b, q), k);
  }
  Index edge_after(Index q) const { return std::min(longspan::edge_after(a, q), longspan::edge_after(b, q)); }
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
    const detail::Pieces pieces(*this, q);
    const auto either = [&](Index i, Index at) {
      return next_of_union(detail::every_of(a, pieces[i]), detail::every_of(b, pieces[i]), at);
    };
    return next_of_all(pieces.all(), either, k);
  }
  Index edge_after(Index q) const { return std::min(longspan::edge_after(a, q), longspan::edge_after(b, q)); }
};

template <Mask M>
struct Not {
  M mask;
  explicit Not(M m) : mask(m) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const { return !truth(mask.allows(q, k)); }
  Interval some(Interval q, Index k) const { return next_of_complement(detail::every_of(mask, q), k); }
  Interval every(Interval q, Index k) const { return next_of_complement(detail::some_of(mask, q), k); }
  Index pairs(Interval q, Interval keys) const requires requires { mask.pairs(q, keys); }
  { return pairs_of(q, keys) - mask.pairs(q, keys); }
  Index edge_after(Index q) const { return longspan::edge_after(mask, q); }
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
