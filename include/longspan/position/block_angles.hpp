#pragma once
// The angles of a whole block of positions, for those who turn lanes of positions.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include <longspan/core/concepts.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The angles of RopeBlocks, bit for bit, of 64 positions at a time, where neighbours are positions: four operations in
/// double for a pair and a position, in lanes, from tables that stay in the first-level cache. Immutable.
template <PairLayout Layout>
class BlockAngles {
 public:
  static constexpr Index kBlock = kMadeBlock;

  explicit BlockAngles(const Rope<Layout>& rope) : blocks_(rope.blocks(kBlock)), units_(blocks_.units_.size()) {
    for (Index unit = 0; unit < kStep; ++unit)
      for (Index i = 0; i < 2 * half(); ++i)
        units_[static_cast<std::size_t>((i % half() * 2 + i / half()) * kStep + unit)] =
            blocks_.units_[static_cast<std::size_t>(unit * 2 * half() + i)];
  }

  const RopeBlocks<Layout>& blocks() const { return blocks_; }
  /// How many floats the angles of a block are.
  Index floats() const { return kBlock * blocks_.rotary_dim(); }

  /// Of positions first … first + 63 to angles[pair][cosine, sine][position]; first is a multiple of 64 and not
  /// checked. O(64 · rotary_dim).
  void operator()(Index first, float* angles) const {
    for (Index begin = 0; begin < half(); begin += detail::kAngles) {
      const Index count = std::min(detail::kAngles, half() - begin);
      alignas(64) double block[2][detail::kAngles], steps[kBlock / kStep][2][detail::kAngles];
      detail::cosines_and_sines(static_cast<double>(first), blocks_.inverse_frequencies_.data() + begin, count, 1.0,
                                block[0], block[1]);
      for (Index a = 0; a < kBlock / kStep; ++a) {
        const double* const step = blocks_.steps_.data() + a * 2 * half() + begin;
        RopeBlocks<Layout>::add(block[0], block[1], step, step + half(), count, steps[a][0], steps[a][1]);
      }
      alignas(64) std::uint32_t smallest[kBlock];  // of the sizes of a position's, which as bits are in their order
      std::fill_n(smallest, kBlock, kSize);
      float* const to = angles + begin * 2 * kBlock;
      for (Index i = 0; i < count; ++i) {
        const double* const unit = units_.data() + (begin + i) * 2 * kStep;
        float* const pair = to + i * 2 * kBlock;
        unroll<static_cast<int>(kStep) / kDoubleLanes>([&](auto v) LONGSPAN_LAMBDA {
          const DoubleLanes cosine = DoubleLanes::load_unaligned(unit + v * kDoubleLanes);
          const DoubleLanes sine = DoubleLanes::load_unaligned(unit + kStep + v * kDoubleLanes);
          for (Index a = 0; a < kBlock / kStep; ++a) {
            const DoubleLanes c(steps[a][0][i]), s(steps[a][1][i]);
            store_floats(pair + a * kStep + v * kDoubleLanes, fma(c, cosine, -(s * sine)));
            store_floats(pair + kBlock + a * kStep + v * kDoubleLanes, fma(s, cosine, c * sine));
          }
        });
      }
      for (Index i = 0; i < count; ++i) keep_smallest(to + i * 2 * kBlock, smallest);  // not earlier: stores are halves
      for (Index j = 0; j < kBlock; ++j)
        if (smallest[j] < std::bit_cast<std::uint32_t>(blocks_.least())) exactly(first + j, begin, count, to + j);
    }
  }

 private:
  static constexpr Index kStep = RopeBlocks<Layout>::kStep;
  static constexpr std::uint32_t kSize = 0x7fffffff;

  Index half() const { return blocks_.half(); }

  static LONGSPAN_INLINE void keep_smallest(const float* __restrict pair, std::uint32_t* __restrict smallest) {
    for (Index j = 0; j < kBlock; ++j) {
      const std::uint32_t c = std::bit_cast<std::uint32_t>(pair[j]) & kSize;
      const std::uint32_t s = std::bit_cast<std::uint32_t>(pair[kBlock + j]) & kSize;
      smallest[j] = std::min(smallest[j], std::min(c, s));
    }
  }

  /// Pairs [begin, begin + count) of one position, computed as such.
  [[gnu::noinline]] void exactly(Index position, Index begin, Index count, float* to) const {
    float cosine[detail::kAngles], sine[detail::kAngles];
    detail::cosines_and_sines(static_cast<double>(position), blocks_.inverse_frequencies_.data() + begin, count,
                              blocks_.attention_factor(), cosine, sine);
    for (Index i = 0; i < count; ++i) to[i * 2 * kBlock] = cosine[i], to[(i * 2 + 1) * kBlock] = sine[i];
  }

  RopeBlocks<Layout> blocks_;
  std::vector<double> units_;  // [rotary_dim / 2][cosine, sine][8], times the attention factor
};

}  // namespace longspan::inline LONGSPAN_ISA
