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

/// kLanes × kLanes. Each row is loaded once, whole: rows are often a page apart and would evict each other.
LONGSPAN_INLINE void transpose_tile(const float* in, Index in_stride, Lanes scale, float* out, Index out_stride) {
  Groups t[kLanes];
  unroll<kLanes>([&](auto i) LONGSPAN_LAMBDA { t[i] = load(in + i * in_stride) * scale; });
  unroll<kLanes / 4>([&](auto quad) LONGSPAN_LAMBDA {  // 4×4 inside each group: two rounds, rows 0 and 2 first
    Groups* q = t + 4 * quad;
    const Groups low02 = unpack_low(q[0], q[2]), high02 = unpack_high(q[0], q[2]);
    const Groups low13 = unpack_low(q[1], q[3]), high13 = unpack_high(q[1], q[3]);
    q[0] = unpack_low(low02, low13);
    q[1] = unpack_high(low02, low13);
    q[2] = unpack_low(high02, high13);
    q[3] = unpack_high(high02, high13);
  });
  unroll<4>([&](auto i) LONGSPAN_LAMBDA { exchange_groups(t + i); });
  unroll<kLanes>([&](auto i) LONGSPAN_LAMBDA { store(out + i * out_stride, Lanes(t[i])); });
}

}  // namespace detail

/// out[c·out_stride + r] = in[r·in_stride + c] · scale, for r < rows and c < columns; the two don't overlap. Calls between()
/// once for each vector that it reads of a matrix of kLanes × kLanes or more.
template <class F>
void transpose(const float* in, Index in_stride, Index rows, Index columns, float scale, float* out, Index out_stride,
               F&& between) {
  if (rows < kLanes || columns < kLanes) {
    for (Index r = 0; r < rows; ++r)
      for (Index c = 0; c < columns; ++c) out[c * out_stride + r] = in[r * in_stride + c] * scale;
    return;
  }
  const Lanes by(scale);
  for (Index r = 0; r < rows; r += kLanes) {
    const Index row = std::min(r, rows - kLanes);  // the last tile may do again what the one before it did
    for (Index c = 0; c < columns; c += kLanes) {
      const Index column = std::min(c, columns - kLanes);
      detail::transpose_tile(in + row * in_stride + column, in_stride, by, out + column * out_stride + row, out_stride);
      for (int i = 0; i < kLanes; ++i) between();
    }
  }
}
inline void transpose(const float* in, Index in_stride, Index rows, Index columns, float scale, float* out,
                      Index out_stride) {
  transpose(in, in_stride, rows, columns, scale, out, out_stride, [] {});
}

}  // namespace longspan::inline LONGSPAN_ISA
