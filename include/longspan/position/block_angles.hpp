#pragma once
// The angles of a whole block of positions, for those who turn lanes of positions.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include <longspan/position/rope.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The angles of RopeBlocks, bit for bit, of 64 positions at a time, where neighbours are positions: four operations in
/// double a pair and position, in lanes. 128 · rotary_dim bytes and 512 · rotary_dim for its blocks(). Immutable.
template <PairLayout Layout>
class BlockAngles {
 public:
  static constexpr Index kBlock = 64;

  explicit BlockAngles(const Rope<Layout>& rope) : blocks_(rope.blocks(kBlock)), offsets_(blocks_.offsets_.size()) {
    const Index half = blocks_.half();
    for (Index offset = 0; offset < kBlock; ++offset)
      for (Index i = 0; i < 2 * half; ++i)
        offsets_[static_cast<std::size_t>((i % half * 2 + i / half) * kBlock + offset)] =
            blocks_.offsets_[static_cast<std::size_t>(offset * 2 * half + i)];
  }

  const RopeBlocks<Layout>& blocks() const { return blocks_; }
  /// How many floats the angles of a block are.
  Index floats() const { return kBlock * blocks_.rotary_dim(); }

  /// Of positions first … first + 63 to angles[pair][cosine, sine][position]; first is a multiple of 64 and not
  /// checked. O(64 · rotary_dim).
  void operator()(Index first, float* angles) const {
    const float least = static_cast<float>(0x1p-24 * blocks_.attention_factor());
    for (Index begin = 0; begin < blocks_.half(); begin += detail::kAngles) {
      const Index count = std::min(detail::kAngles, blocks_.half() - begin);
      alignas(64) double cosine[detail::kAngles], sine[detail::kAngles];
      detail::cosines_and_sines(static_cast<double>(first), blocks_.inverse_frequencies_.data() + begin, count, 1.0,
                                cosine, sine);
      alignas(64) std::uint32_t smallest[kBlock];  // of the sizes of a position's, which as bits are in their order
      std::fill_n(smallest, kBlock, kSize);
      float* const to = angles + begin * 2 * kBlock;
      for (Index i = 0; i < count; ++i)
        combine(cosine[i], sine[i], offsets_.data() + (begin + i) * 2 * kBlock, to + i * 2 * kBlock, smallest);
      for (Index j = 0; j < kBlock; ++j)
        if (smallest[j] < std::bit_cast<std::uint32_t>(least)) exactly(first + j, begin, count, to + j);
    }
  }

 private:
  static constexpr std::uint32_t kSize = 0x7fffffff;

  /// cos, sin(a + b) as RopeBlocks has them, for all offsets b.
  static LONGSPAN_INLINE void combine(double cosine, double sine, const double* __restrict offset, float* __restrict to,
                                      std::uint32_t* __restrict smallest) {
    for (Index j = 0; j < kBlock; ++j) {
      const float c = static_cast<float>(std::fma(cosine, offset[j], -(sine * offset[kBlock + j])));
      const float s = static_cast<float>(std::fma(sine, offset[j], cosine * offset[kBlock + j]));
      to[j] = c;
      to[kBlock + j] = s;
      const std::uint32_t size_c = std::bit_cast<std::uint32_t>(c) & kSize,
                          size_s = std::bit_cast<std::uint32_t>(s) & kSize;
      const std::uint32_t both = size_c < size_s ? size_c : size_s;
      smallest[j] = both < smallest[j] ? both : smallest[j];
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
  std::vector<double> offsets_;  // [rotary_dim / 2][cosine, sine][64], times the attention factor
};

}  // namespace longspan::inline LONGSPAN_ISA
