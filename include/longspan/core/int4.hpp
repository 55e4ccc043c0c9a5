#pragma once
// Elements of four bits, as a cache may store them: whole numbers in groups with a step and a first number of their
// own.

#include <longspan/core/bytes.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Two elements in a byte. A row (a key or a value of one token and head) has a scale, its largest |x| / 127, and each
/// group of 32 dims a step m in [1, 17] and a first number b in [−128, 112]: code n stands for (m·n + b) · scale. What
/// is inside the parentheses is a whole number of eight bits, so kernels multiply what they multiply of i8. Groups are
/// encoded for the least squared error, which cuts off what is far out.
/// Error: at most an eighth of the group's range (max − min) and a scale for each element; 0.075 of the standard
/// deviation where that is normal (root of the mean square). A row with a NaN or an infinity gets a scale of NaN. Like
/// the k-quants of ggml, whose groups have steps and minima of six bits in units of the row's.
struct i4 {
  static constexpr Index kGroup = 32;
  std::uint8_t bits = 0;  ///< the earlier of two elements in the lower half

  struct Group {
    std::uint8_t step = 1;
    std::int8_t first = 0;
    int number(int code) const { return step * code + first; }
  };

  /// Encodes a row: `to`(d, code) is given every code in [0, 16), `groups` the group of 32 dims that d is in. Returns
  /// the scale.
  template <class T, class To, class Groups>
  static float encode(const T* row, Index dim, To&& to, Groups&& groups) {
    const float scale = row_scale(row, dim);
    for (Index begin = 0; begin < dim; begin += kGroup) {
      const Index size = std::min(kGroup, dim - begin);
      alignas(64) float x[kGroup];  // in units of the scale; behind the row its last element once more
      for (Index d = 0; d < kGroup; ++d) {
        const float element = static_cast<float>(row[begin + std::min(d, size - 1)]);
        x[d] = scale > 0 ? std::clamp(element / scale, -127.f, 127.f) : 0.f;
      }
      const Group group = best(x);
      groups(begin / kGroup) = group;
      for (Index d = 0; d < size; ++d) to(begin + d, static_cast<std::uint8_t>(codes(Lanes(x[d]), group).get(0)));
    }
    return scale;
  }

 private:
  static Lanes codes(const Lanes& x, Group group) {
    const Lanes code = xsimd::nearbyint((x - Lanes(group.first)) * Lanes(1 / static_cast<float>(group.step)));
    return xsimd::min(xsimd::max(code, Lanes(0.f)), Lanes(15.f));
  }
  /// Of steps from the one that covers the range down to three quarters of it, and first numbers that centre it, those
  /// of the least squared error: what is cut off at the ends costs less than wider steps, where many are in the middle.
  static Group best(const float (&x)[kGroup]) {
    const auto [low, high] = std::minmax_element(x, x + kGroup);
    const int widest = std::max(1, static_cast<int>(std::ceil((*high - *low) / 15)));
    Group group;
    float least = std::numeric_limits<float>::infinity();
    for (int step = std::max(1, widest * 3 / 4); step <= widest; ++step)
      for (const float shift : {0.f, 1.f}) {
        const float first = std::floor((*low + *high - 15 * static_cast<float>(step)) / 2) + shift;
        const Group tried{static_cast<std::uint8_t>(step),
                          static_cast<std::int8_t>(std::clamp(first, -128.f, 127.f - 15 * static_cast<float>(step)))};
        Lanes error(0.f);
        for (Index d = 0; d < kGroup; d += kLanes) {
          const Lanes off = load(x + d) - (codes(load(x + d), tried) * Lanes(tried.step) + Lanes(tried.first));
          error = error + off * off;
        }
        const float sum = fold(error, [](const auto& a, const auto& b) LONGSPAN_LAMBDA { return a + b; });
        if (sum < least) least = sum, group = tried;
      }
    return group;
  }
};

template <>
inline constexpr bool kScaled<i4> = true;
template <>
inline constexpr Index kHeld<i4> = 2;

/// The numbers that bytes of two codes stand for, the lower halves' and the upper halves', as i8 in the same places.
/// `step` and `first` are the groups' of each byte.
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
struct FourBits {
  __m512i even, odd, first;  ///< the steps of even bytes and of odd ones, as 16 bits

  LONGSPAN_INLINE FourBits(__m512i step, __m512i first_)
      : even(_mm512_and_si512(step, _mm512_set1_epi16(0xff))), odd(_mm512_srli_epi16(step, 8)), first(first_) {}
  LONGSPAN_INLINE __m512i lower(__m512i codes) const {
    return numbers(nibbles(codes), nibbles(_mm512_srli_epi16(codes, 8)));
  }
  LONGSPAN_INLINE __m512i upper(__m512i codes) const {
    return numbers(nibbles(_mm512_srli_epi16(codes, 4)), _mm512_srli_epi16(codes, 12));
  }

 private:
  static LONGSPAN_INLINE __m512i nibbles(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi16(0xf)); }
  LONGSPAN_INLINE __m512i numbers(__m512i even_codes, __m512i odd_codes) const {
    const __m512i a = _mm512_mullo_epi16(even_codes, even);
    const __m512i b = _mm512_slli_epi16(_mm512_mullo_epi16(odd_codes, odd), 8);
    return _mm512_add_epi8(_mm512_or_si512(a, b), first);
  }
};
#endif

}  // namespace longspan::inline LONGSPAN_ISA
