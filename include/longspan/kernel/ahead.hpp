#pragma once
// Software prefetch, spread over the steps of a loop, so that memory is busy while the loop computes.

#include <longspan/core/concepts.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Rows of memory that will be read soon.
class Ahead {
 public:
  Ahead() = default;
  template <class Element>
  Ahead(const Element* data, Index stride, Index rows, Index columns)
      : line_(reinterpret_cast<const char*>(data)),
        row_bytes_(columns * static_cast<Index>(sizeof(Element))),
        stride_(stride * static_cast<Index>(sizeof(Element))),
        end_(line_ + row_bytes_),
        rows_(rows) {}

  /// The first `keys` of a run, and in rows of keys or values also what follows for `neighbours` elements: other heads.
  template <class Element>
  static Ahead of_keys(const KeyValueRun<Element>& run, Index keys, Index head_dim, Index neighbours = 0) {
    const Index size = std::min(run.size, keys);
    if (run.dim_stride == 1) return {run.key, run.key_stride, size, head_dim + neighbours};
    return {run.key, run.dim_stride, head_dim, size};
  }
  template <class Element>
  static Ahead of_values(const KeyValueRun<Element>& run, Index keys, Index value_dim, Index neighbours = 0) {
    return {run.value, run.value_stride, std::min(run.size, keys), value_dim + neighbours};
  }

  /// The same, to be asked for in this many calls of step().
  Ahead over(Index steps) const {
    Ahead spread = *this;
    if (steps > 0) spread.step_bytes_ = ceil_div(rows_ * ceil_div(row_bytes_, kLine), steps) * kLine;
    return spread;
  }

  LONGSPAN_INLINE void step() {
    if (rows_ <= 0) return;
    for (const char* p = line_; p < line_ + step_bytes_; p += kLine) prefetch(p);
    line_ += step_bytes_;
    if (line_ < end_) return;
    end_ += stride_;
    line_ = end_ - row_bytes_;
    --rows_;
  }

 private:
  static constexpr Index kLine = 64;
  const char* line_ = nullptr;
  Index row_bytes_ = 0, stride_ = 0, step_bytes_ = kLine;
  const char* end_ = nullptr;
  Index rows_ = 0;
};

}  // namespace longspan::inline LONGSPAN_ISA
