#pragma once
// Rotary position embeddings: each pair of elements of a row is turned by position × inverse frequency. The angles of
// one position, of a range of positions kept in a table, or of any position out of a small table.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <longspan/position/angles.hpp>
#include <longspan/position/frequencies.hpp>
#include <longspan/position/rotations.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
/// For a list of inverse frequencies.
inline void check_frequencies(const std::vector<double>& frequencies) {
  check(!frequencies.empty(), "inverse_frequencies.size", 0, ">= 1");
  for (const double f : frequencies)
    check(std::abs(f) <= kRopeFastest, "inverse_frequencies", f, "finite and at most 1024");
}
}  // namespace detail

template <PairLayout Layout>
class Rope;
template <PairLayout Layout>
class BlockAngles;

/// The cosines and sines of a range of positions, times the attention factor: made once by Rope::table, applied to any
/// number of heads and layers. Rotates bit for bit as the Rope that made it. 4 · rotary_dim bytes per position.
template <PairLayout Layout>
class RopeTable : public detail::Rotations<RopeTable<Layout>, Layout> {
 public:
  Interval positions() const { return positions_; }
  Index rotary_dim() const { return 2 * half_; }
  double attention_factor() const { return attention_factor_; }

  /// [rotary_dim / 2], one per pair. Throw std::invalid_argument for a position outside positions().
  std::span<const float> cos(Index position) const { return part(position, 0); }
  std::span<const float> sin(Index position) const { return part(position, half_); }

 private:
  friend class Rope<Layout>;
  friend class detail::Rotations<RopeTable<Layout>, Layout>;

  RopeTable(Interval positions, Index half, double attention_factor)
      : positions_(positions),
        half_(half),
        attention_factor_(attention_factor),
        values_(static_cast<std::size_t>(positions.size() * 2 * half)) {}

  std::span<const float> part(Index position, Index offset) const {
    TokenPositions(position).require(1, positions_);
    return {row(position) + offset, static_cast<std::size_t>(half_)};
  }
  const float* row(Index position) const { return values_.data() + (position - positions_.begin) * 2 * half_; }

  class Angles {
   public:
    explicit Angles(const RopeTable& table) : table_(table) {}
    std::pair<const float*, const float*> at(Index position, Index begin, Index) const {
      const float* const row = table_.row(position) + begin;
      return {row, row + table_.half_};
    }

   private:
    const RopeTable& table_;
  };

  Interval positions_;
  Index half_;
  double attention_factor_;
  std::vector<float> values_;  // [positions, 2, rotary_dim / 2]: cosines, then sines
};

/// The angles of all positions from small tables, whatever the position: those of its block are computed when a call
/// comes to the block, and those of its offset added in two steps, to a multiple of 8 and from there. Made by
/// Rope::blocks. Right to 1 ulp of float as Rope, but not bit for bit the same (one angle in millions differs): use one
/// of the two for a cache. 8 · rotary_dim bytes for each 8 positions of a block, and at most 64 · rotary_dim more.
template <PairLayout Layout>
class RopeBlocks : public detail::Rotations<RopeBlocks<Layout>, Layout> {
 public:
  Interval positions() const { return {0, kRopeEnd}; }
  Index rotary_dim() const { return 2 * half(); }
  double attention_factor() const { return attention_factor_; }
  Index block() const { return block_; }

  /// Cosines and sines, times the attention factor, of each position: [positions, rotary_dim / 2] each. Positions are
  /// not checked.
  void angles(std::span<const Index> positions, float* cosines, float* sines) const {
    Angles angles(*this);
    for (Index begin = 0; begin < half(); begin += detail::kAngles) {
      const Index count = std::min(detail::kAngles, half() - begin);
      for (std::size_t i = 0; i < positions.size(); ++i) {
        const auto [cosine, sine] = angles.at(positions[i], begin, count);
        std::copy_n(cosine, count, cosines + static_cast<Index>(i) * half() + begin);
        std::copy_n(sine, count, sines + static_cast<Index>(i) * half() + begin);
      }
    }
  }
  Index bytes() const { return (std::ssize(units_) + std::ssize(steps_)) * Index{sizeof(double)}; }

 private:
  friend class Rope<Layout>;
  friend class BlockAngles<Layout>;
  friend class detail::Rotations<RopeBlocks<Layout>, Layout>;

  static constexpr Index kStep = 8;

  RopeBlocks(std::vector<double> inverse_frequencies, double attention_factor, Index block)
      : inverse_frequencies_(std::move(inverse_frequencies)),
        attention_factor_(attention_factor),
        block_(block),
        units_(table(std::min(block, kStep), 1, attention_factor)),
        steps_(table(ceil_div(block, kStep), kStep, 1)) {}

  Index half() const { return static_cast<Index>(inverse_frequencies_.size()); }
  /// Of offsets 0, by, 2·by, …: [size, 2, rotary_dim / 2], cosines, then sines.
  std::vector<double> table(Index size, Index by, double factor) const {
    std::vector<double> angles(static_cast<std::size_t>(size * 2 * half()));
    for (Index i = 0; i < size; ++i) {
      double* const to = angles.data() + i * 2 * half();
      detail::cosines_and_sines(static_cast<double>(i * by), inverse_frequencies_.data(), half(), factor, to,
                                to + half());
    }
    return angles;
  }
  /// What is below this as a float is computed: sums of angles are right within 2^-51, which is nothing for floats that
  /// are not smaller.
  float least() const { return static_cast<float>(0x1p-24 * attention_factor_); }

  /// cos, sin(a + b) for `count` pairs.
  static LONGSPAN_INLINE void add(const double* __restrict cos_a, const double* __restrict sin_a,
                                  const double* __restrict cos_b, const double* __restrict sin_b, Index count,
                                  double* __restrict cosine, double* __restrict sine) {
    for (Index i = 0; i < count; ++i) {
      cosine[i] = std::fma(cos_a[i], cos_b[i], -(sin_a[i] * sin_b[i]));
      sine[i] = std::fma(sin_a[i], cos_b[i], cos_a[i] * sin_b[i]);
    }
  }

  class Angles {
   public:
    explicit Angles(const RopeBlocks& blocks) : b_(blocks) {}
    std::pair<const float*, const float*> at(Index position, Index begin, Index count) {
      const Index block = position / b_.block_, offset = position % b_.block_, half = b_.half();
      const double* const frequency = b_.inverse_frequencies_.data() + begin;
      if (block != block_ || begin != begin_) {
        detail::cosines_and_sines(static_cast<double>(position - offset), frequency, count, 1.0, of_block_[0],
                                  of_block_[1]);
        block_ = block, begin_ = begin, step_ = -1;
      }
      if (offset / kStep != step_) {
        step_ = offset / kStep;
        const double* const step = b_.steps_.data() + step_ * 2 * half + begin;
        add(of_block_[0], of_block_[1], step, step + half, count, of_step_[0], of_step_[1]);
      }
      const double* const unit = b_.units_.data() + offset % kStep * 2 * half + begin;
      if (round_sum(unit, unit + half, count))
        detail::cosines_and_sines(static_cast<double>(position), frequency, count, b_.attention_factor_, cosine_,
                                  sine_);
      return {cosine_, sine_};
    }

   private:
    /// The step's and these as floats; whether one of them is too small.
    LONGSPAN_INLINE bool round_sum(const double* __restrict cosine, const double* __restrict sine, Index count) {
      const float least = b_.least();
      int below = 0;
      for (Index i = 0; i < count; ++i) {
        double c, s;
        add(of_step_[0] + i, of_step_[1] + i, cosine + i, sine + i, 1, &c, &s);
        cosine_[i] = static_cast<float>(c);
        sine_[i] = static_cast<float>(s);
        below |= (std::abs(cosine_[i]) < least ? 1 : 0) | (std::abs(sine_[i]) < least ? 1 : 0);
      }
      return below != 0;
    }

    const RopeBlocks& b_;
    Index block_ = -1, begin_ = -1, step_ = -1;
    alignas(64) double of_block_[2][detail::kAngles];
    alignas(64) double of_step_[2][detail::kAngles];
    alignas(64) float cosine_[detail::kAngles], sine_[detail::kAngles];
  };

  std::vector<double> inverse_frequencies_;
  double attention_factor_;
  Index block_;
  std::vector<double> units_;  // of 0 … 7, times the attention factor
  std::vector<double> steps_;  // of 0, 8, 16, … below the block
};

/// Rotary position embedding of the first rotary_dim elements of each row. Su et al., "RoFormer" (2021), equation 34.
/// What it does to rows: detail::Rotations above. Immutable.
template <PairLayout Layout>
class Rope : public detail::Rotations<Rope<Layout>, Layout> {
 public:
  /// By a frequency policy, which is asked here and not kept. Throws what the policy throws and what the other
  /// constructor throws (a base far below 1 makes frequencies above kRopeFastest).
  template <FrequencyPolicy Policy = Plain>
  Rope(Index rotary_dim, double base, const Policy& policy = {})
      : Rope(policy.frequencies(rotary_dim, base), policy.attention_factor()) {
    check(this->rotary_dim() == rotary_dim, "policy.frequencies.size", half(), rotary_dim / 2);
  }

  /// By the frequencies themselves: [rotary_dim / 2] in radians per position. Throws std::invalid_argument when there
  /// are none, one is not finite or above kRopeFastest in size, or the attention factor is not finite and > 0.
  explicit Rope(std::vector<double> inverse_frequencies, double attention_factor = 1)
      : inverse_frequencies_(std::move(inverse_frequencies)), attention_factor_(attention_factor) {
    detail::check_frequencies(inverse_frequencies_);
    detail::check_positive("attention_factor", attention_factor_);
  }

  Index rotary_dim() const { return 2 * half(); }
  double attention_factor() const { return attention_factor_; }
  /// [rotary_dim / 2], radians per position.
  std::span<const double> inverse_frequencies() const& { return inverse_frequencies_; }
  std::span<const double> inverse_frequencies() const&& = delete;  // of a temporary: the span would dangle
  /// What can be rotated: [0, kRopeEnd).
  Interval positions() const { return {0, kRopeEnd}; }

  /// The angles of all positions of a range; an empty range makes an empty table. Throws std::invalid_argument when
  /// the range leaves positions(). O(range.size() · rotary_dim) time and memory.
  RopeTable<Layout> table(Interval range) const {
    if (range.empty()) range = {};
    check(positions().contains(range), "range", detail::Within{range}, detail::Within{positions()});
    RopeTable<Layout> table(range, half(), attention_factor_);
    float* cosine = table.values_.data();
    for (Index position = range.begin; position < range.end; ++position, cosine += 2 * half())
      detail::cosines_and_sines(static_cast<double>(position), inverse_frequencies_.data(), half(), attention_factor_,
                                cosine, cosine + half());
    return table;
  }

  /// The angles of all positions in O(block · rotary_dim) memory, whatever the positions. Throws std::invalid_argument
  /// unless block is in [1, 2^20].
  RopeBlocks<Layout> blocks(Index block = 64) const {
    check(block >= 1 && block <= (Index{1} << 20), "block", block, "within [1, 2^20]");
    return {inverse_frequencies_, attention_factor_, block};
  }

 private:
  friend class detail::Rotations<Rope<Layout>, Layout>;

  Index half() const { return static_cast<Index>(inverse_frequencies_.size()); }

  class Angles {
   public:
    explicit Angles(const Rope& rope) : rope_(rope) {}
    std::pair<const float*, const float*> at(Index position, Index begin, Index count) {
      detail::cosines_and_sines(static_cast<double>(position), rope_.inverse_frequencies_.data() + begin, count,
                                rope_.attention_factor_, cosine_, sine_);
      return {cosine_, sine_};
    }

   private:
    const Rope& rope_;
    alignas(64) float cosine_[detail::kAngles], sine_[detail::kAngles];
  };

  std::vector<double> inverse_frequencies_;
  double attention_factor_;
};

}  // namespace longspan::inline LONGSPAN_ISA
