#pragma once
// Software prefetch, spread over the steps of a loop, so that memory is busy while the loop computes.

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
