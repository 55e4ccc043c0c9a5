#pragma once
// xPos: rotary embedding with a decay, so that scores oscillate less the further apart two tokens are.

#include <cmath>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// q → ζ^((n − origin) / scale_base) · R q and k → ζ^(−(n − origin) / scale_base) · R k for each pair, with ζ_i =
/// (2i / d + γ) / (1 + γ): a score decays with the distance of its tokens. Sun et al., "A Length-Extrapolatable
/// Transformer" (2022), section 3.2 and appendix A.
///
/// The two factors only cancel in the score, so each leaves the range of floats far from the origin: positions() are
/// those where it is within 2^±60. Queries and keys must have one origin; any will do.
template <PairLayout Layout>
class XPos {
 public:
  struct Decay {
    double gamma = 0.4;       ///< > 0
    double scale_base = 512;  ///< positions in which a pair decays by ζ; > 0
    Index origin = 0;         ///< where both factors are 1
  };

  /// Of the frequencies of a rope, whose attention factor has to be 1. Throws std::invalid_argument otherwise, and
  /// unless the fields of `decay` are as they say.
  explicit XPos(Rope<Layout> rope, Decay decay = {})
      : rope_(std::move(rope)), decay_(decay), zeta_(static_cast<std::size_t>(rope_.rotary_dim() / 2)) {
    check(rope_.attention_factor() == 1, "XPos.rope.attention_factor", rope_.attention_factor(), 1);
    detail::check_positive("XPos.gamma", decay.gamma);
    detail::check_positive("XPos.scale_base", decay.scale_base);
    check(decay.origin >= 0 && decay.origin < kRopeEnd, "XPos.origin", decay.origin, detail::Within{{0, kRopeEnd}});
    const double d = static_cast<double>(rope_.rotary_dim());
    for (std::size_t i = 0; i < zeta_.size(); ++i) {
      const double zeta = (2 * static_cast<double>(i) / d + decay.gamma) / (1 + decay.gamma);
      zeta_[i] = std::pow(zeta, 1 / decay.scale_base);
    }
    const double reach = -60 * std::numbers::ln2 / std::log(zeta_[0]);
    const Index far = reach < static_cast<double>(kRopeEnd) ? static_cast<Index>(reach) : kRopeEnd;
    positions_ = intersect({decay.origin - far, decay.origin + far + 1}, {0, kRopeEnd});
  }

  Index rotary_dim() const { return rope_.rotary_dim(); }
  Interval positions() const { return positions_; }

  /// As rotate of detail::Rotations. Error: 4·2^-24 · ζ^… · |pair| per element.
  template <class T>
  void rotate_queries(TensorView<T> rows, TokenPositions positions) const {
    Side(*this, 1).rotate(rows, positions);
  }
  template <class T>
  void rotate_keys(TensorView<T> rows, TokenPositions positions) const {
    Side(*this, -1).rotate(rows, positions);
  }

 private:
  class Side : public detail::Rotations<Side, Layout> {
   public:
    Side(const XPos& xpos, Index sign) : xpos_(xpos), sign_(sign) {}
    Index rotary_dim() const { return xpos_.rotary_dim(); }
    double attention_factor() const { return 1; }
    Interval positions() const { return xpos_.positions_; }

    class Angles {
     public:
      explicit Angles(const Side& side) : x_(side.xpos_), sign_(side.sign_) {}
      std::pair<const float*, const float*> at(Index position, Index begin, Index count) {
        const double* const frequency = x_.rope_.inverse_frequencies().data() + begin;
        detail::cosines_and_sines(static_cast<double>(position), frequency, count, 1.0, cosine_, sine_);
        const Index power = sign_ * (position - x_.decay_.origin);
        for (Index i = 0; i < count; ++i) {
          const double scale = power_of(x_.zeta_[static_cast<std::size_t>(begin + i)], power);
          out_cosine_[i] = static_cast<float>(scale * cosine_[i]);
          out_sine_[i] = static_cast<float>(scale * sine_[i]);
        }
        return {out_cosine_, out_sine_};
      }

     private:
      /// By squaring: no libm, so the same bits everywhere. Within |power| · 2^-52.
      static double power_of(double x, Index power) {
        double result = 1;
        for (Index p = std::abs(power); p > 0; p /= 2, x *= x)
          if (p % 2 == 1) result *= x;
        return power < 0 ? 1 / result : result;
      }
      const XPos& x_;
      Index sign_;
      alignas(64) double cosine_[detail::kAngles], sine_[detail::kAngles];
      alignas(64) float out_cosine_[detail::kAngles], out_sine_[detail::kAngles];
    };

   private:
    const XPos& xpos_;
    Index sign_;
  };

  Rope<Layout> rope_;
  Decay decay_;
  std::vector<double> zeta_;  // [rotary_dim / 2], ζ^(1 / scale_base)
  Interval positions_;
};

}  // namespace longspan::inline LONGSPAN_ISA
