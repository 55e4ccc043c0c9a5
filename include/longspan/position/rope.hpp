#pragma once
// Rotary position embeddings: each pair of elements of a row is turned by position × inverse frequency. The angle is
// formed exactly and cosine and sine are rounded once, so a token's row does not depend on how it got its position
// (prefill, chunk or decode), on the head, on the compiler or on the instruction set: every rounding below is an
// explicit operation that no compiler may merge, and no libm is asked.

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <ostream>
#include <span>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>
#include <longspan/core/view.hpp>
#include <longspan/position/frequencies.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Where the elements of pair i < half stand in a row of which the first 2·half elements are rotated.
template <class L>
concept PairLayout = requires(Index i, Index half) {
  { L::first(i, half) } -> std::same_as<Index>;
  { L::second(i, half) } -> std::same_as<Index>;
};

/// (i, i + d/2), as Llama in transformers, GPT-NeoX.
struct HalfSplit {
  static constexpr Index first(Index i, Index) { return i; }
  static constexpr Index second(Index i, Index half) { return i + half; }
};

/// (2i, 2i + 1), as the RoFormer paper, llama2.c, GPT-J.
struct Adjacent {
  static constexpr Index first(Index i, Index) { return 2 * i; }
  static constexpr Index second(Index i, Index) { return 2 * i + 1; }
};

/// Positions that can be rotated are [0, kRopeEnd), and inverse frequencies at most kRopeFastest radians per position:
/// together they keep angles below 2^50, where their reduction still counts quarter turns exactly.
inline constexpr Index kRopeEnd = Index{1} << 40;
inline constexpr double kRopeFastest = 1024;

/// The position of each token of a call: consecutive ones from a first, or one per token in any order. A view of the
/// caller's list, made implicitly from an integer, a span or a vector.
class TokenPositions {
 public:
  TokenPositions(Index first) : first_(first) {}
  TokenPositions(std::span<const Index> each) : each_(each), listed_(true) {}
  TokenPositions(const std::vector<Index>& each) : TokenPositions(std::span<const Index>(each)) {}

  Index operator[](Index token) const { return listed_ ? each_[static_cast<std::size_t>(token)] : first_ + token; }

  /// Throws std::invalid_argument unless these are `tokens` positions, all in `allowed`.
  void require(Index tokens, Interval allowed) const;

 private:
  Index first_ = 0;
  std::span<const Index> each_;
  bool listed_ = false;
};

namespace detail {

// pi / 2 = kHalfPi1 + kHalfPi2 + kHalfPi3 within 2^-163.
inline constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
inline constexpr double kHalfPi1 = 0x1.921fb54442d18p+0;
inline constexpr double kHalfPi2 = 0x1.1a62633145c07p-54;
inline constexpr double kHalfPi3 = -0x1.f1976b7ed8fbcp-110;

/// cosine[i], sine[i] = factor · cos, sin(position · frequency[i]) for i < count; position a whole number in
/// [0, kRopeEnd), |frequency| <= kRopeFastest. Error: 0.5 + 2^-20 ulp of float below 2^30 turns (the rounding to float
/// and little else), 0.5 + 2^-14 in the whole range.
LONGSPAN_INLINE void cosines_and_sines(double position, const double* __restrict frequency, Index count, double factor,
                                       float* __restrict cosine, float* __restrict sine) {
  // Adding this leaves the nearest whole number in the low bits of the mantissa (below 2^51, negative ones too).
  constexpr double kRound = 0x1.8p+52;
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  for (Index i = 0; i < count; ++i) {
    // The angle: high + low, exactly.
    const double high = position * frequency[i];
    const double low = std::fma(position, frequency[i], -high);
    // r = high + low − quarters · pi/2 in about [−pi/4, pi/4]. `a` is exact: it is a multiple of 2^-53 below 1 (of
    // 2^-52 below 2). `s + e` is exactly a + low (Knuth's TwoSum). The two roundings left are relative to what remains
    // after cancellation, so r keeps its relative precision however near the angle comes to a quarter turn.
    const double shifted = std::fma(high, kTwoOverPi, kRound);
    const double quarters = shifted - kRound;
    const double a = std::fma(-quarters, kHalfPi1, high);
    const double s = a + low;
    const double b = s - a;
    const double e = (a - (s - b)) + (low - b);
    const double r = std::fma(-quarters, kHalfPi2, s) + std::fma(-quarters, kHalfPi3, e);
    // Taylor: the first omitted terms are r^16/17! = 2^-54 and r^18/18! = 2^-59 (relative) at pi/4.
    const double z = r * r;
    double p = -1.0 / 1307674368000;
    p = std::fma(p, z, 1.0 / 6227020800);
    p = std::fma(p, z, -1.0 / 39916800);
    p = std::fma(p, z, 1.0 / 362880);
    p = std::fma(p, z, -1.0 / 5040);
    p = std::fma(p, z, 1.0 / 120);
    p = std::fma(p, z, -1.0 / 6);
    const double near_sine = std::fma(r * z, p, r);
    double q = 1.0 / 20922789888000;
    q = std::fma(q, z, -1.0 / 87178291200);
    q = std::fma(q, z, 1.0 / 479001600);
    q = std::fma(q, z, -1.0 / 3628800);
    q = std::fma(q, z, 1.0 / 40320);
    q = std::fma(q, z, -1.0 / 720);
    q = std::fma(q, z, 1.0 / 24);
    q = std::fma(q, z, -0.5);
    const double near_cosine = std::fma(q, z, 1.0);
    // Back to the quarter: an odd one swaps the two; sine is negative in 2, 3 and cosine in 1, 2.
    const std::uint64_t quarter = std::bit_cast<std::uint64_t>(shifted);
    const bool swap = (quarter & 1) != 0;
    const std::uint64_t sine_bits = std::bit_cast<std::uint64_t>(swap ? near_cosine : near_sine);
    const std::uint64_t cosine_bits = std::bit_cast<std::uint64_t>(swap ? near_sine : near_cosine);
    sine[i] = static_cast<float>(factor * std::bit_cast<double>(sine_bits ^ ((quarter << 62) & kSign)));
    cosine[i] = static_cast<float>(factor * std::bit_cast<double>(cosine_bits ^ (((quarter + 1) << 62) & kSign)));
  }
}

/// Turns pairs [begin, begin + count) of one row in place, by the angles of cosine[0 … count) and sign · sine, and
/// multiplies by scale. Only fused operations with one product beside them: the bits are the same in lanes and scalars.
template <PairLayout Layout>
LONGSPAN_INLINE void turn_pairs(float* row, Index half, Index begin, Index count, const float* __restrict cosine,
                                const float* __restrict sine, float sign, float scale) {
  // For two halves the compiler must know that they do not overlap; restrict says so only for pointers of their own.
  float* __restrict first = row + Layout::first(begin, half);
  float* __restrict second = row + Layout::second(begin, half);
  constexpr Index kStep = Layout::first(1, 0) - Layout::first(0, 0);
  for (Index i = 0; i < count; ++i) {
    const float x0 = first[i * kStep], x1 = second[i * kStep];
    const float c = cosine[i], s = sign * sine[i];
    first[i * kStep] = std::fma(x0, c, -(x1 * s)) * scale;
    second[i * kStep] = std::fma(x1, c, x0 * s) * scale;
  }
}

/// Where a refused position should have been.
struct Within {
  Interval allowed;
  friend std::ostream& operator<<(std::ostream& text, const Within& w) {
    return text << "within [" << w.allowed.begin << ", " << w.allowed.end << ")";
  }
};

/// What Rope and RopeTable can do with rows. Derived has positions() (what it can rotate), rotary_dim(),
/// attention_factor() and angles(position, first pair, count, buffers).
///
/// All functions: rows are [tokens, heads, dim] with dim >= rotary_dim; of a row the first rotary_dim elements are
/// rotated and the others left (or copied) as they are. `in` and `out` have one shape and are the same memory or
/// disjoint. With m = attention_factor() and R the rotation by position · inv_freq of each pair:
///   rotate           x → m R x        what queries and keys get
///   unrotate         x → R⁻¹ x / m    the inverse of rotate
///   rotate_backward  g → m Rᵀ g       gradient of the rotated rows → gradient of the rows; unrotate where m is 1
/// Throw std::invalid_argument for a row too short, shapes that differ, a list of positions that is not one per token,
/// or a position outside positions(); then no row has been touched. Error: 3·2^-24 · m · |pair| per element. No
/// allocation; const, so any number of threads. O(tokens · heads · rotary_dim), angles once per token.
template <class Derived, PairLayout Layout>
class Rotations {
 public:
  void rotate(TensorView<float> rows, TokenPositions positions) const { turn(rows, rows, positions, 1, 1); }
  void rotate(TensorView<const float> in, TensorView<float> out, TokenPositions positions) const {
    turn(in, out, positions, 1, 1);
  }
  void unrotate(TensorView<float> rows, TokenPositions positions) const { unrotate(rows, rows, positions); }
  void unrotate(TensorView<const float> in, TensorView<float> out, TokenPositions positions) const {
    const double m = self().attention_factor();
    turn(in, out, positions, -1, static_cast<float>(1 / (m * m)));  // the angles carry m themselves
  }
  void rotate_backward(TensorView<float> rows, TokenPositions positions) const { turn(rows, rows, positions, -1, 1); }
  void rotate_backward(TensorView<const float> in, TensorView<float> out, TokenPositions positions) const {
    turn(in, out, positions, -1, 1);
  }

 protected:
  static constexpr Index kBuffer = 128;  // pairs whose angles are held on the stack at a time

 private:
  friend Derived;
  Rotations() = default;
  const Derived& self() const { return static_cast<const Derived&>(*this); }

  void turn(TensorView<const float> in, TensorView<float> out, const TokenPositions& positions, float sign,
            float scale) const {
    const Index rotary_dim = self().rotary_dim(), half = rotary_dim / 2;
    check(in.dim >= rotary_dim, "rows.dim", in.dim, rotary_dim);
    check(out.tokens == in.tokens, "out.tokens", out.tokens, in.tokens);
    check(out.heads == in.heads, "out.heads", out.heads, in.heads);
    check(out.dim == in.dim, "out.dim", out.dim, in.dim);
    positions.require(in.tokens, self().positions());
    alignas(64) float cosine_buffer[kBuffer];
    alignas(64) float sine_buffer[kBuffer];
    for (Index token = 0; token < in.tokens; ++token) {
      for (Index head = 0; head < in.heads; ++head)
        if (in.row(token, head) != out.row(token, head)) std::copy_n(in.row(token, head), in.dim, out.row(token, head));
      for (Index begin = 0; begin < half; begin += kBuffer) {
        const Index count = std::min(kBuffer, half - begin);
        const auto [cosine, sine] = self().angles(positions[token], begin, count, cosine_buffer, sine_buffer);
        for (Index head = 0; head < in.heads; ++head)
          turn_pairs<Layout>(out.row(token, head), half, begin, count, cosine, sine, sign, scale);
      }
    }
  }
};

}  // namespace detail

inline void TokenPositions::require(Index tokens, Interval allowed) const {
  const auto one = [&](Index position) {
    check(position >= allowed.begin && position < allowed.end, "position", position, detail::Within{allowed});
  };
  if (listed_) {
    check(static_cast<Index>(each_.size()) == tokens, "positions.size", each_.size(), tokens);
    for (const Index position : each_) one(position);
  } else if (tokens > 0) {
    one(first_);
    if (tokens > allowed.end - first_) one(allowed.end);  // the first that leaves; first_ + tokens may overflow
  }
}

template <PairLayout Layout>
class Rope;

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
  std::pair<const float*, const float*> angles(Index position, Index begin, Index, float*, float*) const {
    return {row(position) + begin, row(position) + half_ + begin};
  }

  Interval positions_;
  Index half_;
  double attention_factor_;
  std::vector<float> values_;  // [positions, 2, rotary_dim / 2]: cosines, then sines
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
    check(!inverse_frequencies_.empty(), "inverse_frequencies.size", 0, ">= 1");
    for (const double f : inverse_frequencies_)
      check(std::abs(f) <= kRopeFastest, "inverse_frequencies", f, "finite and at most 1024");
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

 private:
  friend class detail::Rotations<Rope<Layout>, Layout>;

  Index half() const { return static_cast<Index>(inverse_frequencies_.size()); }
  std::pair<const float*, const float*> angles(Index position, Index begin, Index count, float* cosine,
                                               float* sine) const {
    detail::cosines_and_sines(static_cast<double>(position), inverse_frequencies_.data() + begin, count,
                              attention_factor_, cosine, sine);
    return {cosine, sine};
  }

  std::vector<double> inverse_frequencies_;
  double attention_factor_;
};

}  // namespace longspan::inline LONGSPAN_ISA
