#pragma once
// How two states of a softmax row combine.

#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// How two states combine: factors for the values of each, new max and sum. Max is in units of log 2.
template <class T>
struct Merged {
  T max, sum, of_a, of_b;

  /// Identity: (-inf, 0, zeros) on either side leaves the other exactly as it is.
  LONGSPAN_INLINE Merged(const T& max_a, const T& sum_a, const T& max_b, const T& sum_b)
      : max(larger(max_a, max_b)), of_a(exp2(max_a - finite(max))), of_b(exp2(max_b - finite(max))) {
    sum = fma(sum_b, of_b, sum_a * of_a);
  }

  /// The maximum, or 0 where a row has seen nothing: -inf - -inf would be NaN.
  static LONGSPAN_INLINE T finite(const T& m) {
    if constexpr (std::is_same_v<T, float>)
      return m == kMinusInfinity ? 0.f : m;
    else
      return xsimd::select(m == T(kMinusInfinity), T(0.f), m);
  }

 private:
  static LONGSPAN_INLINE T larger(const T& a, const T& b) {
    if constexpr (std::is_same_v<T, float>)
      return a > b ? a : b;  // as the vector instruction does: b where either is NaN
    else
      return xsimd::max(a, b);
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
