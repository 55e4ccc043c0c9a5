#pragma once
// Keys of any source as columns of floats, so that lanes are keys.

#include <longspan/core/bytes.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/transpose.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// to[d·stride + j] is dim d of key j, times the key's scale, for the first `keys` keys of a run, whatever its layout.
template <class Element>
void key_columns(const KeyValueRun<Element>& run, Index keys, Index dim, float* to, Index stride) {
  constexpr Index kPiece = 64;
  if (run.dim_stride == 1 && run.key_pack == 1) {
    constexpr Index kRows = 16;
    float piece[kRows * kPiece];
    for (Index j = 0; j < keys; j += kRows)
      for (Index d = 0; d < dim; d += kPiece) {
        const Index rows = std::min(kRows, keys - j), width = std::min(kPiece, dim - d);
        for (Index i = 0; i < rows; ++i) convert(run.key_at(j + i, d), width, piece + i * kPiece);
        transpose(piece, kPiece, rows, width, to + d * stride + j, stride);
      }
  } else if (run.key_stride == run.key_pack && run.key_pack <= 2 && dim % run.key_pack == 0) {
    const Index pack = run.key_pack;
    for (Index d = 0; d < dim; d += pack) {
      if (pack == 1) {
        convert(run.key_at(0, d), keys, to + d * stride);
        continue;
      }
      float pairs[2 * kPiece];
      for (Index j = 0; j < keys; j += kPiece) {
        const Index size = std::min(kPiece, keys - j);
        convert(run.key_at(j, d), 2 * size, pairs);
        for (Index i = 0; i < size; ++i) {
          to[d * stride + j + i] = pairs[2 * i];
          to[(d + 1) * stride + j + i] = pairs[2 * i + 1];
        }
      }
    }
  } else {
    for (Index d = 0; d < dim; ++d)
      for (Index j = 0; j < keys; ++j) to[d * stride + j] = static_cast<float>(*run.key_at(j, d));
  }
  if constexpr (kScaled<Element>)
    for (Index d = 0; d < dim; ++d)
      for (Index j = 0; j < keys; ++j) to[d * stride + j] *= run.scale_of_key(j);
}

}  // namespace longspan::inline LONGSPAN_ISA
