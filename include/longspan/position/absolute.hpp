#pragma once
// Absolute positions, added to what a token means before the first layer: by formula, or learned.

#include <cmath>
#include <span>
#include <vector>

#include <longspan/core/view.hpp>
#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// sin and cos(position · base^(−2i/dim)), i < dim/2. Vaswani et al., "Attention Is All You Need" (2017), section 3.5.
/// Layout: Adjacent, sine and cosine beside each other (the paper), or HalfSplit, all sines and then all cosines
/// (tensor2tensor, fairseq; those divide the exponents by dim/2 − 1: give them as frequencies).
template <PairLayout Layout>
class Sinusoidal {
 public:
  /// Throws std::invalid_argument for an odd or non-positive dim, or a base that is not finite and > 0.
  explicit Sinusoidal(Index dim, double base = 10000) : Sinusoidal(Plain{}.frequencies(dim, base)) {}
  /// [dim / 2] in radians per position; throws as Rope.
  explicit Sinusoidal(std::vector<double> frequencies) : frequencies_(std::move(frequencies)) {
    detail::check_frequencies(frequencies_);
  }

  Index dim() const { return 2 * half(); }

  /// The row of a position, which may be any real number of size below 2^40; right to 1 ulp of float below 2^30 turns.
  /// Throws std::invalid_argument for another position, or out.size() != dim(). O(dim), no allocation.
  void encode(double position, std::span<float> out) const {
    check(static_cast<Index>(out.size()) == dim(), "out.size", out.size(), dim());
    check(std::abs(position) < static_cast<double>(kRopeEnd), "position", position, "finite and of a size below 2^40");
    alignas(64) float cosine[detail::kAngles], sine[detail::kAngles];
    for (Index begin = 0; begin < half(); begin += detail::kAngles) {
      const Index count = std::min(detail::kAngles, half() - begin);
      detail::cosines_and_sines(position, frequencies_.data() + begin, count, 1.0, cosine, sine);
      for (Index i = 0; i < count; ++i) {
        out[static_cast<std::size_t>(Layout::first(begin + i, half()))] = sine[i];
        out[static_cast<std::size_t>(Layout::second(begin + i, half()))] = cosine[i];
      }
    }
  }

 private:
  Index half() const { return static_cast<Index>(frequencies_.size()); }
  std::vector<double> frequencies_;
};

/// A learned table, [positions, dim] in the caller's memory (BERT, GPT-2). Throws std::invalid_argument unless there is
/// a whole number of rows, at least one.
class Learned {
 public:
  Learned(std::span<const float> table, Index dim) : table_(table), dim_(dim) {
    check(dim >= 1, "Learned.dim", dim, ">= 1");
    check(!table.empty() && static_cast<Index>(table.size()) % dim == 0, "Learned.table.size", table.size(),
          MultipleOf{dim});
  }

  Index positions() const { return static_cast<Index>(table_.size()) / dim_; }
  Index dim() const { return dim_; }

  /// In place. Throws std::invalid_argument unless position is in [0, positions()).
  std::span<const float> operator[](Index position) const {
    check(position >= 0 && position < positions(), "position", position, Below{positions()});
    return table_.subspan(static_cast<std::size_t>(position * dim_), static_cast<std::size_t>(dim_));
  }

  /// Between two rows, linearly: position in [0, positions() − 1]. Throws std::invalid_argument for another, or
  /// out.size() != dim().
  void encode(double position, std::span<float> out) const {
    check(static_cast<Index>(out.size()) == dim_, "out.size", out.size(), dim_);
    const double last = static_cast<double>(positions() - 1);
    check(position >= 0 && position <= last, "position", position, UpTo{last});
    const Index below = static_cast<Index>(position);
    const std::span<const float> a = (*this)[below], b = (*this)[std::min(below + 1, positions() - 1)];
    const double share = position - static_cast<double>(below);
    for (std::size_t d = 0; d < out.size(); ++d) {
      const double x = static_cast<double>(a[d]), y = static_cast<double>(b[d]);
      out[d] = static_cast<float>(std::fma(share, y - x, x));
    }
  }

  /// The table for `length` positions, [length, dim]: its first and last rows stay, those between are interpolated
  /// (position interpolation of a table). Throws std::invalid_argument unless length >= 1.
  std::vector<float> stretched(Index length) const {
    check(length >= 1 && length <= kPositionEnd / dim_, "length", length, ">= 1");
    std::vector<float> out(static_cast<std::size_t>(length * dim_));
    for (Index i = 0; i < length; ++i) {
      // One division, so that a whole number comes out whole.
      const double position =
          length == 1 ? 0.0 : static_cast<double>(i * (positions() - 1)) / static_cast<double>(length - 1);
      encode(position, std::span(out).subspan(static_cast<std::size_t>(i * dim_), static_cast<std::size_t>(dim_)));
    }
    return out;
  }

 private:
  struct UpTo {
    double last;
    friend std::ostream& operator<<(std::ostream& text, UpTo u) { return text << "within [0, " << u.last << "]"; }
  };
  std::span<const float> table_;
  Index dim_;
};

}  // namespace longspan::inline LONGSPAN_ISA
