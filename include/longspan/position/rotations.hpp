#pragma once
// Pairs of elements of a row, turned by angles: what all rotary embeddings do. A token's row does not depend on how it
// got its position (prefill, chunk or decode), on the head, on the compiler or on the instruction set.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>
#include <type_traits>
#include <utility>

#include <longspan/core/check.hpp>
#include <longspan/core/elements.hpp>
#include <longspan/core/view.hpp>
#include <longspan/position/angles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Where the elements of pair i < half stand in a row of which the first 2·half elements are rotated: all first ones
/// beside each other and all second ones, or each pair together.
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

/// A norm of each head's row before it is rotated (Qwen 3, Gemma 3): x → x / sqrt(mean(x²) + epsilon) · (weight +
/// weight_offset), over the whole row.
struct RmsNorm {
  std::span<const float> weight;  ///< [dim]
  double epsilon = 1e-6;          ///< >= 0
  float weight_offset = 0;        ///< 1 in Gemma
};

namespace detail {

inline constexpr Index kAngles = 128;  // pairs whose angles are held on the stack at a time

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

/// Rows on their way through a buffer of floats: elements to floats, normed if there is a norm.
class RowReader {
 public:
  explicit RowReader(const RmsNorm* norm) : norm_(norm) {}
  explicit operator bool() const { return norm_ != nullptr; }

  /// What the norm multiplies a row by. Products of floats are exact in double, so nothing depends on contraction.
  template <class T>
  float factor(const T* row, Index dim) const {
    if (!norm_) return 1;
    constexpr Index kSums = 16;
    double sums[kSums] = {};
    const auto add = [&](Index d, Index sum) {
      const double x = static_cast<double>(static_cast<float>(row[d]));
      sums[sum] += x * x;
    };
    Index d = 0;
    for (; d + kSums <= dim; d += kSums)
      for (Index i = 0; i < kSums; ++i) add(d + i, i);
    for (; d < dim; ++d) add(d, d % kSums);
    double sum = 0;
    for (const double s : sums) sum += s;
    return static_cast<float>(1 / std::sqrt(sum / static_cast<double>(dim) + norm_->epsilon));
  }

  /// Elements [begin, begin + count) of a row to `to`.
  template <class T>
  void read(const T* row, Index begin, Index count, float factor, float* __restrict to) const {
    convert(row + begin, count, to);
    if (!norm_) return;
    const float* __restrict weight = norm_->weight.data() + begin;
    for (Index i = 0; i < count; ++i) to[i] = to[i] * factor * (weight[i] + norm_->weight_offset);
  }

 private:
  const RmsNorm* norm_;
};

/// Pairs [begin, begin + count) of a row, at most kAngles, from `in` to `out`, which may be the same.
template <PairLayout Layout, class In, class Out>
LONGSPAN_INLINE void turn_row(const RowReader& reader, In* in, Out* out, Index half, Index begin, Index count,
                              const float* cosine, const float* sine, float sign, float scale, float factor) {
  constexpr bool kTogether = Layout::first(1, 0) == 1;  // halves of a row
  if constexpr (std::same_as<In, Out> && std::same_as<Out, float>)
    if (in == out && !reader) return turn_pairs<Layout>(out, half, begin, count, cosine, sine, sign, scale);
  alignas(64) float pairs[2 * kAngles];
  const Index first = Layout::first(begin, half), second = Layout::second(begin, half);
  const Index size = kTogether ? count : 2 * count;
  reader.read(in, first, size, factor, pairs);
  if constexpr (kTogether) reader.read(in, second, size, factor, pairs + count);
  turn_pairs<Layout>(pairs, count, 0, count, cosine, sine, sign, scale);
  convert(pairs, size, out + first);
  if constexpr (kTogether) convert(pairs + count, size, out + second);
}

/// The elements that are not turned.
template <class In, class Out>
void rest_of_row(const RowReader& reader, In* in, Out* out, Index from, Index dim, float factor) {
  if (static_cast<const void*>(in) == out && !reader) return;
  alignas(64) float rest[kAngles];
  for (Index d = from; d < dim; d += kAngles) {
    const Index count = std::min(kAngles, dim - d);
    reader.read(in, d, count, factor, rest);
    convert(rest, count, out + d);
  }
}

/// What a rotary embedding can do with rows. Derived has positions() (what it can rotate), rotary_dim(),
/// attention_factor(), and a class Angles, made from a Derived for each call, with at(position, first pair, count).
///
/// All functions: rows are [tokens, heads, dim] with dim >= rotary_dim, of float, bf16 or f16 (arithmetic is in float,
/// rounded once at the end); of a row the first rotary_dim elements are rotated and the others left (or copied) as they
/// are. `in` and `out` have one shape and are the same memory or disjoint. With m = attention_factor() and R the
/// rotation by position · inv_freq of each pair:
///   rotate           x → m R x        what queries and keys get; with a norm: x → m R norm(x)
///   unrotate         x → R⁻¹ x / m    the inverse of rotate
///   rotate_backward  g → m Rᵀ g       gradient of the rotated rows → gradient of the rows; unrotate where m is 1
///   rerotate         rows that were rotated at `from` → as if at `to`, by the difference alone: for a cache whose
///                    tokens move (a context shift, evicted tokens, a prefix that is used elsewhere)
/// Throw std::invalid_argument for a row too short, shapes that differ, a list of positions that is not one per token,
/// a position (or difference) outside positions(), or a norm of another size; then no row has been touched. Error:
/// 3·2^-24 · m · |pair| per element, and 3·2^-24 more with a norm. No allocation; const, so any number of threads.
/// O(tokens · heads · rotary_dim), angles once per token.
template <class Derived, PairLayout Layout, class Positions = TokenPositions>
class Rotations {
 public:
  template <class T>
  void rotate(TensorView<T> rows, Positions positions) const {
    turn(rows, rows, positions, 1, 1);
  }
  template <class T>
  void rotate(TensorView<T> rows, Positions positions, const RmsNorm& norm) const {
    turn(rows, rows, positions, 1, 1, &norm);
  }
  template <class In, class Out>
  void rotate(TensorView<In> in, TensorView<Out> out, Positions positions) const {
    turn(in, out, positions, 1, 1);
  }
  template <class In, class Out>
  void rotate(TensorView<In> in, TensorView<Out> out, Positions positions, const RmsNorm& norm) const {
    turn(in, out, positions, 1, 1, &norm);
  }
  template <class T>
  void unrotate(TensorView<T> rows, Positions positions) const {
    unrotate(rows, rows, positions);
  }
  template <class In, class Out>
  void unrotate(TensorView<In> in, TensorView<Out> out, Positions positions) const {
    const double m = self().attention_factor();
    turn(in, out, positions, -1, static_cast<float>(1 / (m * m)));  // the angles carry m themselves
  }
  template <class T>
  void rotate_backward(TensorView<T> rows, Positions positions) const {
    turn(rows, rows, positions, -1, 1);
  }
  template <class In, class Out>
  void rotate_backward(TensorView<In> in, TensorView<Out> out, Positions positions) const {
    turn(in, out, positions, -1, 1);
  }
  template <class T>
  void rerotate(TensorView<T> rows, TokenPositions from,
                TokenPositions to) const requires std::same_as<Positions, TokenPositions> {
    from.require(rows.tokens, {0, kRopeEnd});
    to.require(rows.tokens, {0, kRopeEnd});
    const Interval allowed = self().positions();
    for (Index token = 0; token < rows.tokens; ++token) {
      const Index size = std::abs(to[token] - from[token]);
      check(size >= allowed.begin && size < allowed.end, "difference of positions", size, Within{allowed});
    }
    const float scale = static_cast<float>(1 / self().attention_factor());
    turn_by(
        rows, rows, [&](Index token) { return std::abs(to[token] - from[token]); },
        [&](Index token) { return to[token] < from[token] ? -1.f : 1.f; }, scale, nullptr);
  }

 private:
  friend Derived;
  Rotations() = default;
  const Derived& self() const { return static_cast<const Derived&>(*this); }

  static constexpr Index kStep = Layout::first(1, 0) - Layout::first(0, 0);
  static_assert(kStep == 1 || (kStep == 2 && Layout::second(0, 8) == Layout::first(0, 8) + 1),
                "halves of a row, or pairs of neighbours");

  template <class In, class Out>
  void turn(TensorView<In> in, TensorView<Out> out, const Positions& positions, float sign, float scale,
            const RmsNorm* norm = nullptr) const {
    if constexpr (requires { self().require(positions, in.tokens); })
      self().require(positions, in.tokens);
    else
      positions.require(in.tokens, self().positions());
    turn_by(
        in, out, [&](Index token) { return positions[token]; }, [&](Index) { return sign; }, scale, norm);
  }

  template <class In, class Out, class Position, class Sign>
  void turn_by(TensorView<In> in, TensorView<Out> out, const Position& position, const Sign& sign, float scale,
               const RmsNorm* norm) const {
    static_assert(ElementType<std::remove_const_t<In>> && ElementType<Out>, "rows are of float, bf16 or f16");
    const Index rotary_dim = self().rotary_dim(), half = rotary_dim / 2;
    check(in.dim >= rotary_dim, "rows.dim", in.dim, rotary_dim);
    check(out.tokens == in.tokens, "out.tokens", out.tokens, in.tokens);
    check(out.heads == in.heads, "out.heads", out.heads, in.heads);
    check(out.dim == in.dim, "out.dim", out.dim, in.dim);
    if (norm) {
      check(static_cast<Index>(norm->weight.size()) == in.dim, "norm.weight.size", norm->weight.size(), in.dim);
      check(std::isfinite(norm->epsilon) && norm->epsilon >= 0, "norm.epsilon", norm->epsilon, "finite and >= 0");
    }
    constexpr Index kHeads = 32;  // whose norms are held at a time
    const RowReader reader(norm);
    typename Derived::Angles angles(self());
    float factor[kHeads];
    for (Index token = 0; token < in.tokens; ++token)
      for (Index head = 0; head < in.heads; head += kHeads) {
        const Index heads = std::min(kHeads, in.heads - head);
        for (Index h = 0; h < heads && norm; ++h) factor[h] = reader.factor(in.row(token, head + h), in.dim);
        for (Index begin = 0; begin < half; begin += kAngles) {
          const Index count = std::min(kAngles, half - begin);
          const auto [cosine, sine] = angles.at(position(token), begin, count);
          for (Index h = 0; h < heads; ++h)
            turn_row<Layout>(reader, in.row(token, head + h), out.row(token, head + h), half, begin, count, cosine,
                             sine, sign(token), scale, norm ? factor[h] : 1.f);
        }
        for (Index h = 0; h < heads; ++h)
          rest_of_row(reader, in.row(token, head + h), out.row(token, head + h), rotary_dim, in.dim,
                      norm ? factor[h] : 1.f);
      }
  }
};

}  // namespace detail

}  // namespace longspan::inline LONGSPAN_ISA
