#pragma once
// Transposition of small matrices of floats, between rows of tokens and lanes of tokens.

#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

// A vector is groups of four floats. Unpacking stays inside groups and exchanging moves whole ones, which is what the
// hardware has; xsimd's zip moves floats across groups, hence the intrinsics.
#if defined(__AVX512F__)
using Groups = __m512;
LONGSPAN_INLINE Groups unpack_low(Groups a, Groups b) { return _mm512_unpacklo_ps(a, b); }
LONGSPAN_INLINE Groups unpack_high(Groups a, Groups b) { return _mm512_unpackhi_ps(a, b); }
/// t[4i] becomes group 0 of t[0], t[4], t[8], t[12], and so on: the 4×4 matrix of groups transposed.
LONGSPAN_INLINE void exchange_groups(Groups* t) {
  const Groups low_ab = _mm512_shuffle_f32x4(t[0], t[4], 0x44), high_ab = _mm512_shuffle_f32x4(t[0], t[4], 0xee);
  const Groups low_cd = _mm512_shuffle_f32x4(t[8], t[12], 0x44), high_cd = _mm512_shuffle_f32x4(t[8], t[12], 0xee);
  t[0] = _mm512_shuffle_f32x4(low_ab, low_cd, 0x88);
  t[4] = _mm512_shuffle_f32x4(low_ab, low_cd, 0xdd);
  t[8] = _mm512_shuffle_f32x4(high_ab, high_cd, 0x88);
  t[12] = _mm512_shuffle_f32x4(high_ab, high_cd, 0xdd);
}
#elif defined(__AVX__)
using Groups = __m256;
LONGSPAN_INLINE Groups unpack_low(Groups a, Groups b) { return _mm256_unpacklo_ps(a, b); }
LONGSPAN_INLINE Groups unpack_high(Groups a, Groups b) { return _mm256_unpackhi_ps(a, b); }
LONGSPAN_INLINE void exchange_groups(Groups* t) {
  const Groups low = _mm256_permute2f128_ps(t[0], t[4], 0x20);
  t[4] = _mm256_permute2f128_ps(t[0], t[4], 0x31);
  t[0] = low;
}
#else
using Groups = Lanes;  // four lanes: one group
LONGSPAN_INLINE Groups unpack_low(const Groups& a, const Groups& b) { return xsimd::zip_lo(a, b); }
LONGSPAN_INLINE Groups unpack_high(const Groups& a, const Groups& b) { return xsimd::zip_hi(a, b); }
LONGSPAN_INLINE void exchange_groups(Groups*) {}
#endif

}  // namespace detail

/// kLanes rows of kLanes floats, as columns. Rows are loaded once, whole: they are often a page apart and would evict
/// each other.
struct TransposedTile {
  detail::Groups column[kLanes];

  /// `get` makes kLanes floats of what a row is made of.
  template <class Element, class Get>
  LONGSPAN_INLINE TransposedTile(const Element* in, Index stride, Get&& get) {
    unroll<kLanes>([&](auto i) LONGSPAN_LAMBDA {
      column[i] = get(in);
      in += stride;
      LONGSPAN_OPAQUE(in);  // or compilers keep kLanes products i·stride, on the stack
    });
    unroll<kLanes / 4>([&](auto quad) LONGSPAN_LAMBDA {  // 4×4 inside each group: two rounds, rows 0 and 2 first
      using namespace detail;
      Groups* q = column + 4 * quad;
      const Groups low02 = unpack_low(q[0], q[2]), high02 = unpack_high(q[0], q[2]);
      const Groups low13 = unpack_low(q[1], q[3]), high13 = unpack_high(q[1], q[3]);
      q[0] = unpack_low(low02, low13);
      q[1] = unpack_high(low02, low13);
      q[2] = unpack_low(high02, high13);
      q[3] = unpack_high(high02, high13);
    });
    unroll<4>([&](auto i) LONGSPAN_LAMBDA { detail::exchange_groups(column + i); });
  }
  LONGSPAN_INLINE Lanes operator[](int i) const { return Lanes(column[i]); }
};

/// out[c·out_stride + r] = in[r·in_stride + c], for r < rows and c < columns, bit by bit; the two don't overlap.
inline void transpose(const float* in, Index in_stride, Index rows, Index columns, float* out, Index out_stride) {
  if (rows < kLanes || columns < kLanes) {
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c) out[c * out_stride + r] = in[r * in_stride + c];
    return;
  }
  for (Index r = 0; r < rows; r += kLanes) {
    const Index row = std::min(r, rows - kLanes);  // the last tile may do again what the one before it did
    for (Index c = 0; c < columns; c += kLanes) {
      const Index column = std::min(c, columns - kLanes);
      const TransposedTile tile(in + row * in_stride + column, in_stride,
                                [](const float* p) LONGSPAN_LAMBDA { return load(p); });
      float* to = out + column * out_stride + row;
      unroll<kLanes>([&](auto i) LONGSPAN_LAMBDA { store(to + i * out_stride, tile[i]); });
    }
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
