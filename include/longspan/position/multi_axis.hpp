#pragma once
// Rotary embeddings of tokens that stand on several axes (time, row and column of an image): each pair of elements is
// turned by the position on one of them.

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include <longspan/position/angles.hpp>
#include <longspan/position/frequencies.hpp>
#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Which axis turns each pair.
class PairAxes {
 public:
  /// Axis of each pair. Throws std::invalid_argument when there is none or one is negative.
  explicit PairAxes(std::vector<Index> of_pair) : of_pair_(std::move(of_pair)) {
    check(!of_pair_.empty(), "PairAxes.size", 0, ">= 1");
    for (const Index axis : of_pair_) {
      check(axis >= 0 && axis < kMost, "PairAxes.axis", axis, Below{kMost});
      count_ = std::max(count_, axis + 1);
    }
  }
  /// The first sizes[0] pairs by axis 0, the next sizes[1] by axis 1, …: Qwen2-VL's mrope_section (time, height,
  /// width). Throws std::invalid_argument for a negative size, or none.
  static PairAxes sections(const std::vector<Index>& sizes) {
    check_sections(sizes);
    std::vector<Index> of_pair;
    for (std::size_t axis = 0; axis < sizes.size(); ++axis)
      of_pair.insert(of_pair.end(), static_cast<std::size_t>(sizes[axis]), static_cast<Index>(axis));
    return PairAxes(std::move(of_pair));
  }
  /// Axes take turns, 0 1 2 0 1 2 …, until an axis has its size; where one has, axis 0 stands for it: Qwen3-VL's
  /// mrope_section with mrope_interleaved. Throws as sections().
  static PairAxes interleaved(const std::vector<Index>& sizes) {
    check_sections(sizes);
    Index pairs = 0;
    for (const Index size : sizes) pairs += size;
    const Index axes = std::ssize(sizes);
    std::vector<Index> of_pair(static_cast<std::size_t>(pairs), 0);
    for (Index axis = 1; axis < axes; ++axis)
      for (Index i = 0; i < sizes[static_cast<std::size_t>(axis)]; ++i) {
        const Index pair = axis + i * axes;
        check(pair < pairs, "PairAxes.sections", sizes[static_cast<std::size_t>(axis)], "a size that fits its turns");
        of_pair[static_cast<std::size_t>(pair)] = axis;
      }
    return PairAxes(std::move(of_pair));
  }

  Index axes() const { return count_; }
  Index pairs() const { return static_cast<Index>(of_pair_.size()); }
  Index operator[](Index pair) const { return of_pair_[static_cast<std::size_t>(pair)]; }

 private:
  static constexpr Index kMost = 64;
  static void check_sections(const std::vector<Index>& sizes) {
    check(!sizes.empty(), "PairAxes.sections.size", 0, ">= 1");
    for (const Index size : sizes) check(size >= 0 && size < kPositionEnd / 64, "PairAxes.sections", size, ">= 0");
  }
  std::vector<Index> of_pair_;
  Index count_ = 0;
};

/// The positions of each token, [tokens, axes] in a row. A view of the caller's list.
class AxisPositions {
 public:
  AxisPositions(std::span<const Index> each, Index axes) : each_(each), axes_(axes) {}

  const Index* operator[](Index token) const { return each_.data() + token * axes_; }
  Index axes() const { return axes_; }

  /// Throws std::invalid_argument unless these are `tokens` times axes() positions, all in `allowed`.
  void require(Index tokens, Interval allowed) const {
    check(axes_ >= 1, "positions.axes", axes_, ">= 1");
    check(static_cast<Index>(each_.size()) == tokens * axes_, "positions.size", each_.size(), tokens * axes_);
    for (const Index p : each_) check(p >= allowed.begin && p < allowed.end, "position", p, detail::Within{allowed});
  }

 private:
  std::span<const Index> each_;
  Index axes_;
};

/// Rotary embedding on several axes: M-RoPE (Wang et al., "Qwen2-VL", 2024, section 2.1) and axial RoPE. What it does
/// to rows: detail::Rotations, with AxisPositions. Where all axes of a token agree, its bits are Rope's. Immutable.
template <PairLayout Layout>
class MultiAxisRope : public detail::Rotations<MultiAxisRope<Layout>, Layout, AxisPositions> {
 public:
  /// One series of frequencies, dealt to the axes. Throws std::invalid_argument where sections don't sum to
  /// rotary_dim / 2, and what the policy throws.
  template <FrequencyPolicy Policy = Plain>
  MultiAxisRope(Index rotary_dim, double base, PairAxes axes, const Policy& policy = {})
      : MultiAxisRope(policy.frequencies(rotary_dim, base), std::move(axes), policy.attention_factor()) {}

  /// By the frequencies themselves, [rotary_dim / 2] in radians per position; throws as Rope.
  MultiAxisRope(std::vector<double> inverse_frequencies, PairAxes axes, double attention_factor = 1)
      : inverse_frequencies_(std::move(inverse_frequencies)),
        axes_(std::move(axes)),
        attention_factor_(attention_factor) {
    check(axes_.pairs() == half(), "PairAxes.pairs", axes_.pairs(), half());
    detail::check_frequencies(inverse_frequencies_);
    detail::check_positive("attention_factor", attention_factor_);
  }

  /// Axial: `axes` equal parts of the row, each with the whole series of frequencies of a row of rotary_dim / axes (the
  /// vision encoders of Qwen-VL, Heo et al., "Rotary Position Embedding for Vision Transformer", 2024). Throws
  /// std::invalid_argument unless rotary_dim is a multiple of 2 · axes.
  template <FrequencyPolicy Policy = Plain>
  static MultiAxisRope axial(Index rotary_dim, double base, Index axes = 2, const Policy& policy = {}) {
    check(axes >= 1, "axes", axes, ">= 1");
    check(rotary_dim >= 2 && rotary_dim % (2 * axes) == 0, "rotary_dim", rotary_dim, MultipleOf{2 * axes});
    const std::vector<double> part = policy.frequencies(rotary_dim / axes, base);
    std::vector<double> all;
    for (Index axis = 0; axis < axes; ++axis) all.insert(all.end(), part.begin(), part.end());
    const std::vector<Index> sizes(static_cast<std::size_t>(axes), static_cast<Index>(part.size()));
    return {std::move(all), PairAxes::sections(sizes), policy.attention_factor()};
  }

  Index rotary_dim() const { return 2 * half(); }
  double attention_factor() const { return attention_factor_; }
  const PairAxes& axes() const { return axes_; }
  Interval positions() const { return {0, kRopeEnd}; }

 private:
  friend class detail::Rotations<MultiAxisRope<Layout>, Layout, AxisPositions>;

  Index half() const { return static_cast<Index>(inverse_frequencies_.size()); }
  void require(const AxisPositions& positions, Index tokens) const {
    check(positions.axes() == axes_.axes(), "positions.axes", positions.axes(), axes_.axes());
    positions.require(tokens, this->positions());
  }

  class Angles {
   public:
    explicit Angles(const MultiAxisRope& rope) : rope_(rope) {}
    std::pair<const float*, const float*> at(const Index* position, Index begin, Index count) {
      for (Index i = 0; i < count; ++i) position_[i] = static_cast<double>(position[rope_.axes_[begin + i]]);
      detail::cosines_and_sines_at([this](Index i) LONGSPAN_LAMBDA { return position_[i]; },
                                   rope_.inverse_frequencies_.data() + begin, count, rope_.attention_factor_, cosine_,
                                   sine_);
      return {cosine_, sine_};
    }

   private:
    const MultiAxisRope& rope_;
    alignas(64) double position_[detail::kAngles];
    alignas(64) float cosine_[detail::kAngles], sine_[detail::kAngles];
  };

  std::vector<double> inverse_frequencies_;
  PairAxes axes_;
  double attention_factor_;
};

}  // namespace longspan::inline LONGSPAN_ISA
