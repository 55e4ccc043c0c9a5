#pragma once
// Rows turned so that what is large in a few channels is spread over all of them, before they are stored in few bits.

#include <cmath>

#include <longspan/core/check.hpp>
#include <longspan/core/elements.hpp>
#include <longspan/core/view.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
inline constexpr Index kHadamardBlock = 1024;  // the most

/// Unnormalised, in place; `size` is a power of two.
inline void walsh_hadamard(float* x, Index size) {
  for (Index half = 1; half < size; half *= 2)
    for (Index begin = 0; begin < size; begin += 2 * half)
      for (Index i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
}
}  // namespace detail

/// out = H · in for every row [tokens, heads, dim], of float, bf16 or f16 (arithmetic is in float): the orthonormal
/// Walsh-Hadamard transform (Sylvester's order) of each block of a row, whose size is the largest power of two that
/// divides dim, at most 1024. H is its own inverse: the same call undoes it. `in` and `out` are the same memory or
/// disjoint. For a cache in few bits:
///   keys    turn them and the queries, both behind the rotary embedding (H and rotations do not commute): scores are
///           what they were, since (H q)·(H k) = q·k
///   values  turn them before they are stored, and the rows of the output, once
/// A channel that is c times as large as the others then costs all elements of its block c / sqrt(size), not c. Error:
/// 2^-24 · (log2(size) + 2) of the row's norm per element, and rounding to the element type. Throws
/// std::invalid_argument for shapes that differ. O(tokens · heads · dim · log(dim)). Ashkboos et al., "QuaRot" (arXiv
/// 2404.00456), section 4.2, without random signs.
template <class In, ElementType Out>
void hadamard(TensorView<In> in, TensorView<Out> out) {
  check(out.tokens == in.tokens, "out.tokens", out.tokens, in.tokens);
  check(out.heads == in.heads, "out.heads", out.heads, in.heads);
  check(out.dim == in.dim, "out.dim", out.dim, in.dim);
  Index size = 1;
  while (size < detail::kHadamardBlock && in.dim % (2 * size) == 0) size *= 2;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
  alignas(64) float block[detail::kHadamardBlock];
  for (Index token = 0; token < in.tokens; ++token)
    for (Index head = 0; head < in.heads; ++head)
      for (Index d = 0; d < in.dim; d += size) {
        convert(in.row(token, head) + d, size, block);
        detail::walsh_hadamard(block, size);
        for (Index i = 0; i < size; ++i) block[i] *= scale;
        convert(block, size, out.row(token, head) + d);
      }
}
template <ElementType T>
void hadamard(TensorView<T> rows) {
  hadamard(rows, rows);
}

}  // namespace longspan::inline LONGSPAN_ISA
