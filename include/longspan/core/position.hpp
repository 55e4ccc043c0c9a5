#pragma once
// A place in the sequence as a policy sees it: one number or a vector of neighbouring ones, behind one type.

#include <type_traits>

#include <longspan/core/index.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// An answer about one pair or about lanes of pairs, so that a mask can combine the two: of `k < 4` and `k <= q` with
/// one key and lanes of queries, the first is one answer and the second many.
template <class T>
struct Truth {
  T value;

  explicit operator bool() const requires std::is_same_v<T, bool> { return value; }
  friend LONGSPAN_INLINE Truth operator!(const Truth& a) { return {static_cast<T>(!a.value)}; }
  template <class U>
  friend LONGSPAN_INLINE auto operator&(const Truth& a, const Truth<U>& b) {
    using Both = std::conditional_t<std::is_same_v<T, bool>, U, T>;
    return Truth<Both>{static_cast<Both>(static_cast<Both>(a.value) & static_cast<Both>(b.value))};
  }
  template <class U>
  friend LONGSPAN_INLINE auto operator|(const Truth& a, const Truth<U>& b) {
    using Both = std::conditional_t<std::is_same_v<T, bool>, U, T>;
    return Truth<Both>{static_cast<Both>(static_cast<Both>(a.value) | static_cast<Both>(b.value))};
  }
};

template <class T>
LONGSPAN_INLINE auto operator&(const Truth<T>& a, bool b) {
  return a & Truth<bool>{b};
}
template <class T>
LONGSPAN_INLINE auto operator|(const Truth<T>& a, bool b) {
  return a | Truth<bool>{b};
}

/// What a mask returned, as a Truth.
template <class T>
LONGSPAN_INLINE auto truth(const T& answer) {
  if constexpr (std::is_arithmetic_v<T>)
    return Truth<bool>{static_cast<bool>(answer)};
  else
    return answer;
}

/// The absolute position base + offset. The offset is a scalar or a batch of small whole numbers, so comparisons are
/// exact at any position and a difference is the nearest float (exact below 2^24).
template <class Offset>
struct Position {
  Index base = 0;
  Offset offset{};

  /// How far `a` lies after `b`, as the kernel's scalar or lanes: rounded once, so that it does not depend on where the
  /// bases are (a multiple of 2^22 is exact in float up to 2^46, and what is added to it before stays below 2^24).
  template <class Other>
  friend LONGSPAN_INLINE auto operator-(const Position& a, const Position<Other>& b) {
    const Index distance = a.base - b.base, low = distance % (Index{1} << 22);
    return ((a.offset - b.offset) + static_cast<float>(low)) + static_cast<float>(distance - low);
  }
  friend LONGSPAN_INLINE Position operator-(const Position& a, Index shift) { return {a.base - shift, a.offset}; }
  friend LONGSPAN_INLINE Position operator+(const Position& a, Index shift) { return {a.base + shift, a.offset}; }

  template <class Other>
  friend LONGSPAN_INLINE auto operator<(const Position& a, const Position<Other>& b) {
    return made((a.offset - b.offset) < bound(b.base - a.base));
  }
  template <class Other>
  friend LONGSPAN_INLINE auto operator<=(const Position& a, const Position<Other>& b) {
    return made((a.offset - b.offset) <= bound(b.base - a.base));
  }
  template <class Other>
  friend LONGSPAN_INLINE auto operator>(const Position& a, const Position<Other>& b) {
    return made((a.offset - b.offset) > bound(b.base - a.base));
  }
  template <class Other>
  friend LONGSPAN_INLINE auto operator>=(const Position& a, const Position<Other>& b) {
    return made((a.offset - b.offset) >= bound(b.base - a.base));
  }
  friend LONGSPAN_INLINE auto operator<(const Position& a, Index b) { return made(a.offset < bound(b - a.base)); }
  friend LONGSPAN_INLINE auto operator<=(const Position& a, Index b) { return made(a.offset <= bound(b - a.base)); }
  friend LONGSPAN_INLINE auto operator>(const Position& a, Index b) { return made(a.offset > bound(b - a.base)); }
  friend LONGSPAN_INLINE auto operator>=(const Position& a, Index b) { return made(a.offset >= bound(b - a.base)); }

 private:
  template <class T>
  static LONGSPAN_INLINE Truth<T> made(const T& value) {
    return {value};
  }
  // Offsets stay below 2^22, so a distance clamped to 2^23 compares as the true one does, and is exact in float.
  static constexpr float bound(Index distance) {
    constexpr Index kFar = Index{1} << 23;
    return static_cast<float>(distance > kFar ? kFar : distance < -kFar ? -kFar : distance);
  }
};

/// The definition's reading of a position: one number, differences exact to 2^53.
struct ExactPosition {
  Index value = 0;

  friend constexpr double operator-(ExactPosition a, ExactPosition b) { return static_cast<double>(a.value - b.value); }
};

}  // namespace longspan::inline LONGSPAN_ISA
