#pragma once
// Software prefetch, spread over the steps of a loop, so that memory is busy while the loop computes.

#include <bit>
#include <utility>

#include <longspan/core/concepts.hpp>
#include <longspan/core/elements.hpp>
#include <longspan/core/simd.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Rows of memory that will be read soon. step() is in the innermost loops, which need all registers there are: it has
/// two numbers and a rare jump, and what that needs stays in memory.
class Ahead {
 public:
  Ahead() = default;
  template <class Element>
  Ahead(const Element* data, Index stride, Index rows, Index columns)
      : row_(reinterpret_cast<const char*>(data)),
        row_bytes_(columns * static_cast<Index>(sizeof(Element))),
        stride_(stride * static_cast<Index>(sizeof(Element))),
        rows_(rows) {}

  /// The first `keys` of a run, and in rows of keys or values also what follows for `neighbours` elements: other heads.
  template <class Element>
  static Ahead of_keys(const KeyValueRun<Element>& run, Index keys, Index head_dim, Index neighbours = 0) {
    const Index size = std::min(run.size, keys);
    if (run.dim_stride == 1) return {run.key, run.key_stride, size, head_dim + neighbours};
    return {run.key, run.dim_stride, packs(head_dim, run.key_pack), size * run.key_pack / kHeld<Element>};
  }
  template <class Element>
  static Ahead of_values(const KeyValueRun<Element>& run, Index keys, Index value_dim, Index neighbours = 0) {
    return {run.value, run.value_stride, packs(std::min(run.size, keys), run.value_pack),
            value_dim * run.value_pack / kHeld<Element> + neighbours};
  }

  /// How fast to ask: the same for most blocks, and worth keeping, for it takes three divisions.
  struct Pace {
    Index rows = 0, row_bytes = 0, steps = 0;  ///< what it was made for
    Index row_steps = 0, step_bytes = 0;
  };
  /// The same, to be asked for in this many calls of step(), or of step_lines() where a line a step is too few.
  Ahead over(Index steps, Pace& pace) const {
    Ahead spread = *this;
    if (rows_ <= 0 || row_bytes_ <= 0 || steps <= 0) return {};
    if (pace.rows != rows_ || pace.row_bytes != row_bytes_ || pace.steps != steps) {
      const Index row_steps = std::max<Index>(1, steps / rows_);
      const Index step_bytes = ceil_div(row_bytes_, row_steps * kGrain) * kGrain;
      pace = {rows_, row_bytes_, steps, ceil_div(row_bytes_, step_bytes), step_bytes};
    }
    spread.row_steps_ = pace.row_steps;
    spread.step_bytes_ = pace.step_bytes;
    spread.line_ = row_;
    spread.left_ = spread.row_steps_;
    return spread;
  }

  LONGSPAN_INLINE void step() {
    prefetch(line_);
    advance();
  }
  LONGSPAN_INLINE void step_lines() {
    for (const char* p = line_; p < line_ + step_bytes_; p += kLine) prefetch(p);
    advance();
  }

 private:
  static constexpr Index kLine = 64, kGrain = 16;

  /// ceil_div for packs, which are powers of two.
  static Index packs(Index size, Index pack) {
    return (size + pack - 1) >> std::countr_zero(static_cast<std::uint64_t>(pack));
  }

  LONGSPAN_INLINE void advance() {
    line_ += step_bytes_;
    if (--left_ > 0) [[likely]]
      return;
    if (--rows_ > 0) {
      row_ += stride_;
      line_ = row_;
      left_ = row_steps_;
    } else {
      step_bytes_ = 0;
      left_ = kUnbounded;
    }
  }

  // With nothing to ask for, it is an address that is in the cache.
  const char* line_ = reinterpret_cast<const char*>(this);
  Index left_ = kUnbounded;
  Index step_bytes_ = 0;
  const char* row_ = nullptr;
  Index row_bytes_ = 0, stride_ = 0, row_steps_ = 0, rows_ = 0;
};

/// What will be read of a source: keys, or values, of some heads, in memory's order.
template <KeyValueSource Source>
struct AheadOf {
  const Source& source;
  Index first_key;  ///< the position of key 0

  Ahead keys(Interval keys, Interval heads) const {
    if constexpr (requires { source.made_before(Index{}, Index{}); })
      if (const MadeKeys made = source.made_before(heads.begin, keys.begin - first_key); made.words)
        return made.rows
                   ? Ahead(made.words + keys.begin % kMadeBlock * made.stride, made.stride, keys.size(), made.size)
                   : Ahead(made.words + keys.begin % kMadeBlock, made.stride, made.size, keys.size());
    const auto one = run(heads.begin, keys.begin);
    const Index apart = heads.size() == 1 ? 0 : run(heads.end - 1, keys.begin).key - one.key;
    return Ahead::of_keys(one, keys.size(), source.head_dim(), neighbours(apart, one.key_stride));
  }
  Ahead values(Interval keys, Interval heads) const {
    const auto one = run(heads.begin, keys.begin);
    const Index apart = heads.size() == 1 ? 0 : run(heads.end - 1, keys.begin).value - one.value;
    return Ahead::of_values(one, keys.size(), source.value_dim(), neighbours(apart, one.value_stride));
  }
  /// How far apart the first and the last head are, if both stand in the row of one token.
  static Index neighbours(Index apart, Index stride) { return apart > 0 && apart < stride ? apart : 0; }
  auto run(Index head, Index key) const { return source.run(head, key - first_key); }
};

}  // namespace longspan::inline LONGSPAN_ISA
