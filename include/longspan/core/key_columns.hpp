#pragma once
// Keys of any source as columns of floats, so that lanes are keys.

#include <longspan/core/bytes.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/core/transpose.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// to[d·stride + j] is dim d of key j, times the key's scale, for the first `keys` keys of a run, whatever its layout.
template <class Element>
void key_columns(const KeyValueRun<Element>& run, Index keys, Index dim, float* to, Index stride) {
  const auto one_by_one = [&] {
    for (Index d = 0; d < dim; ++d)
      for (Index j = 0; j < keys; ++j) to[d * stride + j] = static_cast<float>(run.number_of_key(j, d));
  };
  constexpr Index kPiece = 64, kMostPacked = 4;
  if constexpr (kHeld < Element >> 1) {
    one_by_one();
  } else if (run.dim_stride == 1 && run.key_pack == 1) {
    constexpr Index kRows = 16;
    float piece[kRows * kPiece];
    for (Index j = 0; j < keys; j += kRows)
      for (Index d = 0; d < dim; d += kPiece) {
        const Index rows = std::min(kRows, keys - j), width = std::min(kPiece, dim - d);
        for (Index i = 0; i < rows; ++i) convert(run.key_at(j + i, d), width, piece + i * kPiece);
        transpose(piece, kPiece, rows, width, to + d * stride + j, stride);
      }
  } else if (run.key_stride == run.key_pack && run.key_pack <= kMostPacked && dim % run.key_pack == 0) {
    const Index pack = run.key_pack;
    for (Index d = 0; d < dim; d += pack) {
      if (pack == 1) {
        convert(run.key_at(0, d), keys, to + d * stride);
        continue;
      }
      float packed[kMostPacked * kPiece];
      for (Index j = 0; j < keys; j += kPiece) {
        const Index size = std::min(kPiece, keys - j);
        convert(run.key_at(j, d), pack * size, packed);
        for (Index i = 0; i < size; ++i)
          for (Index e = 0; e < pack; ++e) to[(d + e) * stride + j + i] = packed[pack * i + e];
      }
    }
  } else {
    one_by_one();
  }
  if constexpr (kScaled<Element>)
    for (Index d = 0; d < dim; ++d)
      for (Index j = 0; j < keys; ++j) to[d * stride + j] *= run.scale_of_key(j);
}

}  // namespace longspan::inline LONGSPAN_ISA
