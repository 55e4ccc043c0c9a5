// Rows of 16 bits, the norm before the rotation, rotation by a difference, and angles out of small tables.

#include <gtest/gtest.h>

#include <iostream>
#include <longspan/position/rope.hpp>
#include <support/near.hpp>
#include <support/quad.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

struct Scaled {
  std::vector<double> frequencies(Index dim, double base) const { return Linear{.factor = 4}.frequencies(dim, base); }
  double attention_factor() const { return 1.25; }
};

constexpr Index kTokens = 19, kHeads = 35;  // more heads than one pass holds
constexpr Index kDims[][2] = {{2, 2}, {2, 7}, {32, 80}, {66, 67}, {128, 128}, {258, 300}, {600, 600}};

std::vector<Index> some_positions() {
  Random random(52);
  std::vector<Index> out;
  for (Index i = 0; i < kTokens; ++i) out.push_back(random.between(0, 5000));
  return out;
}

template <class T>
std::vector<T> to(const std::vector<float>& x) {
  std::vector<T> out;
  for (const float v : x) out.push_back(static_cast<T>(v));
  return out;
}
template <class T>
std::vector<float> widened(const std::vector<T>& x) {
  std::vector<float> out;
  for (const T v : x) out.push_back(static_cast<float>(v));
  return out;
}
template <class T>
TensorView<T> rows_of(std::vector<T>& x, Index dim) {
  return view(x, kTokens, kHeads, dim);
}

template <class Layout>
class Rows : public ::testing::Test {};
using Layouts = ::testing::Types<HalfSplit, Adjacent>;
TYPED_TEST_SUITE(Rows, Layouts);

/// Sixteen bits go in, arithmetic is in float, and one rounding comes out: in place, elsewhere, and across types.
template <class Layout, class T>
void rotates_elements() {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<Layout> rope(dim, 10000.0, Scaled{});
    const std::vector<Index> positions = some_positions();
    const std::vector<T> x = to<T>(Random(51).gaussian(kTokens * kHeads * head_dim));
    std::vector<float> wanted = widened(x);
    rope.rotate(rows_of(wanted, head_dim), positions);

    std::vector<T> in_place = x, from = x, elsewhere(x.size());
    rope.rotate(rows_of(in_place, head_dim), positions);
    EXPECT_TRUE(same_bits(widened(in_place), widened(to<T>(wanted)))) << dim;
    rope.rotate(TensorView<const T>(rows_of(from, head_dim)), rows_of(elsewhere, head_dim), positions);
    EXPECT_TRUE(same_bits(widened(elsewhere), widened(in_place))) << dim;

    std::vector<float> as_floats(x.size());
    rope.rotate(rows_of(from, head_dim), rows_of(as_floats, head_dim), positions);
    EXPECT_TRUE(same_bits(as_floats, wanted)) << dim;
    std::vector<float> floats = widened(x);
    rope.rotate(rows_of(floats, head_dim), rows_of(elsewhere, head_dim), positions);
    EXPECT_TRUE(same_bits(widened(elsewhere), widened(in_place))) << dim;

    rope.table({0, 5001}).rotate(rows_of(from, head_dim), positions);
    EXPECT_TRUE(same_bits(widened(from), widened(in_place))) << dim;
  }
}
TYPED_TEST(Rows, OfSixteenBits) {
  rotates_elements<TypeParam, bf16>();
  rotates_elements<TypeParam, f16>();
}

TYPED_TEST(Rows, NormedBeforeTheRotation) {
  for (const float offset : {0.f, 1.f})
    for (const auto& [dim, head_dim] : kDims) {
      const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
      const std::vector<Index> positions = some_positions();
      const std::vector<float> x = Random(53).gaussian(kTokens * kHeads * head_dim, 3),
                               weight = Random(54).uniform(head_dim, 0.2f, 1.8f);
      const RmsNorm norm{.weight = weight, .epsilon = 1e-3, .weight_offset = offset};
      std::vector<double> normed;
      for (std::size_t row = 0; row < x.size(); row += weight.size()) {
        double sum = 0;
        for (std::size_t d = 0; d < weight.size(); ++d) sum += static_cast<double>(x[row + d]) * x[row + d];
        for (std::size_t d = 0; d < weight.size(); ++d)
          normed.push_back(x[row + d] / std::sqrt(sum / static_cast<double>(head_dim) + 1e-3) *
                           (static_cast<double>(weight[d]) + offset));
      }
      std::vector<double> wanted = normed;
      for (Index t = 0; t < kTokens; ++t) {
        const Index p = positions[static_cast<std::size_t>(t)];
        for (Index h = 0; h < kHeads; ++h)
          for (Index i = 0; i < dim / 2; ++i) {
            const auto row = static_cast<std::size_t>((t * kHeads + h) * head_dim);
            const std::size_t a = row + static_cast<std::size_t>(TypeParam::first(i, dim / 2)),
                              b = row + static_cast<std::size_t>(TypeParam::second(i, dim / 2));
            const double angle = static_cast<double>(p) * rope.inverse_frequencies()[static_cast<std::size_t>(i)];
            wanted[a] = 1.25 * (normed[a] * std::cos(angle) - normed[b] * std::sin(angle));
            wanted[b] = 1.25 * (normed[b] * std::cos(angle) + normed[a] * std::sin(angle));
          }
      }
      std::vector<float> in_place = x, from = x, elsewhere(x.size());
      rope.rotate(rows_of(in_place, head_dim), positions, norm);
      EXPECT_TRUE(near(in_place, wanted, 6 * 0x1p-24)) << dim << ", " << offset;
      rope.rotate(rows_of(from, head_dim), rows_of(elsewhere, head_dim), positions, norm);
      EXPECT_TRUE(same_bits(elsewhere, in_place)) << dim;
      EXPECT_TRUE(same_bits(from, x)) << dim;

      std::vector<bf16> half = to<bf16>(x), half_out(x.size());  // not normed twice where chunks are in place
      std::vector<float> exact = widened(half);
      rope.rotate(rows_of(exact, head_dim), positions, norm);
      rope.rotate(rows_of(half, head_dim), rows_of(half_out, head_dim), positions, norm);
      EXPECT_TRUE(same_bits(widened(half_out), widened(to<bf16>(exact)))) << dim;
      rope.rotate(rows_of(half, head_dim), positions, norm);
      EXPECT_TRUE(same_bits(widened(half), widened(half_out))) << dim;
    }
  const Rope<TypeParam> rope(64, 10000.0);
  std::vector<float> x(64), weight(63);
  EXPECT_TRUE(refused([&] { rope.rotate(view(x, 1, 1, 64), 0, RmsNorm{weight}); }, "norm.weight.size", "63", "64"));
  weight.resize(64);
  for (const double epsilon : {-1.0, std::nan("")})
    EXPECT_TRUE(refused(
        [&] {
          rope.rotate(view(x, 1, 1, 64), 0, RmsNorm{weight, epsilon});
        },
        "norm.epsilon", epsilon, "finite and >= 0"));
}

TYPED_TEST(Rows, MoveByTheDifference) {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
    const std::vector<Index> from = some_positions();
    std::vector<Index> to_positions = from;
    for (std::size_t i = 0; i < from.size(); ++i) to_positions[i] = i % 3 == 0 ? from[i] / 4 : from[i] + 1000;
    std::vector<float> moved = Random(55).gaussian(kTokens * kHeads * head_dim), fresh = moved;
    rope.rotate(rows_of(moved, head_dim), from);
    rope.rerotate(rows_of(moved, head_dim), from, to_positions);
    rope.rotate(rows_of(fresh, head_dim), to_positions);
    const std::vector<double> wanted(fresh.begin(), fresh.end());
    EXPECT_TRUE(near(moved, wanted, 16 * 0x1p-24)) << dim;

    // A context shift: all by the same difference.
    std::vector<float> shifted = Random(55).gaussian(kTokens * kHeads * head_dim), there = shifted;
    rope.rotate(rows_of(shifted, head_dim), 5000);
    rope.rerotate(rows_of(shifted, head_dim), 5000, 100);
    rope.rotate(rows_of(there, head_dim), 100);
    EXPECT_TRUE(near(shifted, std::vector<double>(there.begin(), there.end()), 16 * 0x1p-24)) << dim;
  }
  const Rope<TypeParam> rope(64, 10000.0);
  std::vector<float> x(64 * 3, 1.f);
  const std::vector<float> untouched = x;
  EXPECT_TRUE(refused([&] { rope.rerotate(view(x, 3, 1, 64), -1, 5); }, "position", "-1", "within [0, 1099511627776)"));
  EXPECT_TRUE(refused(
      [&] {
        rope.rerotate(view(x, 3, 1, 64), 5, std::vector<Index>{1, 2});
      },
      "positions.size", "2", "3"));
  const RopeTable<TypeParam> table = rope.table({0, 100});
  EXPECT_TRUE(refused([&] { table.rerotate(view(x, 3, 1, 64), 500, 300); }, "difference of positions", "200",
                      "within [0, 100)"));
  EXPECT_TRUE(same_bits(x, untouched));
  EXPECT_NO_THROW(table.rerotate(view(x, 3, 1, 64), 5000, 4950));
}

#if LONGSPAN_HAS_QUAD
TEST(Blocks, AnyPositionFromASmallTable) {
  Random random(56);
  double worst = 0;
  Index different = 0, angles = 0;
  for (const double base : {10000.0, 500000.0})
    for (const Index block : {1, 7, 64, 1024}) {
      const Rope<HalfSplit> rope(128, base);
      const RopeBlocks<HalfSplit> blocks = rope.blocks(block);
      EXPECT_LE(blocks.bytes(), (std::min<Index>(block, 8) + ceil_div(block, 8)) * 64 * 16);
      for (int i = 0; i < 200; ++i) {
        const Index p = i < 20 ? i : random.between(0, Index{1} << random.between(5, 30));
        std::vector<float> one(128, 0.f);  // the rotation of (1, 0) is (cos, sin)
        std::fill_n(one.begin(), 64, 1.f);
        blocks.rotate(view(one, 1, 1, 128), p);
        const RopeTable<HalfSplit> table = rope.table({p, p + 1});
        for (std::size_t j = 0; j < 64; ++j, ++angles) {
          const Turn t = exact_turn(p, rope.inverse_frequencies()[j]);
          worst = std::max({worst, error_in_ulps(one[j], t.cos), error_in_ulps(one[64 + j], t.sin)});
          different += one[j] != table.cos(p)[j] || one[64 + j] != table.sin(p)[j];
        }
      }
    }
  std::cout << "largest error of blocks: " << worst << " ulp; " << different << " of " << angles
            << " angles differ from Rope's\n";
  EXPECT_LE(worst, 0.6);
}

/// Where a cosine is next to nothing, its ulp is, too: positions whose angle is nearest to a quarter turn.
TEST(Blocks, NearQuarterTurns) {
  Random random(57);
  double worst = 0;
  Index near_ones = 0;
  for (int i = 0; i < 20000; ++i) {
    const Index p = random.between(64, Index{1} << 30);
    const double turns = static_cast<double>(random.between(1, p / 2));
    const double f = turns * 1.5707963267948966 / static_cast<double>(p);
    const Turn t = exact_turn(p, f);
    if (!(std::min(std::abs(t.cos), std::abs(t.sin)) < 0x1p-26)) continue;
    ++near_ones;
    std::vector<float> one{1.f, 0.f};
    Rope<HalfSplit>(std::vector<double>{f}).blocks(64).rotate(view(one, 1, 1, 2), p);
    worst = std::max({worst, error_in_ulps(one[0], t.cos), error_in_ulps(one[1], t.sin)});
  }
  EXPECT_GT(near_ones, 10000);
  EXPECT_LE(worst, 0.6);
}
#endif

TYPED_TEST(Rows, FromBlocksAreRopes) {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
    const RopeBlocks<TypeParam> blocks = rope.blocks();
    EXPECT_EQ(blocks.rotary_dim(), dim);
    EXPECT_EQ(blocks.attention_factor(), 1.25);
    const std::vector<Index> positions = some_positions();
    std::vector<float> x = Random(58).gaussian(kTokens * kHeads * head_dim), y = x;
    rope.rotate(rows_of(x, head_dim), positions);
    blocks.rotate(rows_of(y, head_dim), positions);
    EXPECT_TRUE(near(y, std::vector<double>(x.begin(), x.end()), 0x1p-24)) << dim;

    std::vector<float> whole = Random(59).gaussian(kTokens * kHeads * head_dim), pieces = whole;
    blocks.rotate(rows_of(whole, head_dim), 60);  // over the end of a block, in one call and token by token
    for (Index t = 0; t < kTokens; ++t) blocks.rotate(rows_of(pieces, head_dim).slice({t, t + 1}), 60 + t);
    EXPECT_TRUE(same_bits(pieces, whole)) << dim;
  }
  const Rope<TypeParam> rope(64, 10000.0);
  for (const Index block : {Index{0}, Index{-1}, (Index{1} << 20) + 1})
    EXPECT_TRUE(refused([&] { rope.blocks(block); }, "block", block, "within [1, 2^20]"));
}

}  // namespace
}  // namespace longspan::testing
