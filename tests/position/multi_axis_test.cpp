// Rotary embeddings on several axes, and with a decay.

#include <gtest/gtest.h>

#include <longspan/position/multi_axis.hpp>
#include <longspan/position/xpos.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

template <class Layout>
class MultiAxis : public ::testing::Test {};
using Layouts = ::testing::Types<HalfSplit, Adjacent>;
TYPED_TEST_SUITE(MultiAxis, Layouts);

std::vector<Index> axes_of(const PairAxes& axes) {
  std::vector<Index> out;
  for (Index i = 0; i < axes.pairs(); ++i) out.push_back(axes[i]);
  return out;
}

TEST(PairAxes, DealPairsToAxes) {
  EXPECT_EQ(axes_of(PairAxes::sections({2, 3, 1})), (std::vector<Index>{0, 0, 1, 1, 1, 2}));
  EXPECT_EQ(axes_of(PairAxes::interleaved({4, 2, 2})), (std::vector<Index>{0, 1, 2, 0, 1, 2, 0, 0}));
  EXPECT_EQ(axes_of(PairAxes::interleaved({24, 20, 20})).size(), 64u);  // Qwen3-VL's: h in 1, 4, … 58; w in 2, 5, … 59
  for (Index i = 0; i < 64; ++i) EXPECT_EQ(PairAxes::interleaved({24, 20, 20})[i], i < 60 ? i % 3 : 0) << i;
  EXPECT_EQ(PairAxes::sections({16, 24, 24}).axes(), 3);
  EXPECT_EQ(PairAxes::sections({4, 0, 4}).axes(), 3);
  EXPECT_TRUE(refused([] { PairAxes::sections({}); }, "PairAxes.sections.size", 0, ">= 1"));
  EXPECT_TRUE(refused([] { PairAxes::sections({4, -1}); }, "PairAxes.sections", -1, ">= 0"));
  EXPECT_TRUE(refused([] { PairAxes::interleaved({1, 4, 1}); }, "PairAxes.sections", 4, "a size that fits its turns"));
  EXPECT_TRUE(refused([] { PairAxes({0, -1}); }, "PairAxes.axis", -1, "within [0, 64)"));
  EXPECT_TRUE(refused([] { PairAxes(std::vector<Index>{}); }, "PairAxes.size", 0, ">= 1"));
}

/// Each pair by itself, as a Rope of its frequency alone.
TYPED_TEST(MultiAxis, TurnsEachPairByItsAxis) {
  Random random(61);
  const Index tokens = 13, heads = 2, dim = 128, head_dim = 130;
  for (const PairAxes& axes : {PairAxes::sections({16, 24, 24}), PairAxes::interleaved({24, 20, 20})}) {
    const MultiAxisRope<TypeParam> rope(dim, 1e6, axes, Linear{.factor = 2});
    const std::vector<double> f = Linear{.factor = 2}.frequencies(dim, 1e6);
    std::vector<Index> positions;
    for (Index i = 0; i < tokens * 3; ++i) positions.push_back(random.between(0, 100000));
    const std::vector<float> x = random.gaussian(tokens * heads * head_dim);
    std::vector<float> y = x;
    rope.rotate(view(y, tokens, heads, head_dim), AxisPositions(positions, 3));
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h)
        for (Index i = 0; i < dim / 2; ++i) {
          const auto row = static_cast<std::size_t>((t * heads + h) * head_dim);
          const std::size_t a = row + static_cast<std::size_t>(TypeParam::first(i, dim / 2)),
                            b = row + static_cast<std::size_t>(TypeParam::second(i, dim / 2));
          std::vector<float> pair{x[a], x[b]};
          Rope<HalfSplit>(std::vector<double>{f[static_cast<std::size_t>(i)]})
              .rotate(view(pair, 1, 1, 2), positions[static_cast<std::size_t>(t * 3 + axes[i])]);
          ASSERT_EQ(y[a], pair[0]) << t << ", " << i;
          ASSERT_EQ(y[b], pair[1]) << t << ", " << i;
        }
  }
}

/// Text, where all axes agree, has the bits of Rope: as a list and with every axis alike.
TYPED_TEST(MultiAxis, IsRopeWhereAxesAgree) {
  const Index tokens = 17, dim = 64;
  const MultiAxisRope<TypeParam> rope(dim, 10000.0, PairAxes::interleaved({12, 10, 10}));
  std::vector<float> x = Random(62).gaussian(tokens * dim), y = x;
  std::vector<Index> positions;
  for (Index t = 0; t < tokens; ++t) positions.insert(positions.end(), 3, 1000 + t);
  rope.rotate(view(x, tokens, 1, dim), AxisPositions(positions, 3));
  Rope<TypeParam>(dim, 10000.0).rotate(view(y, tokens, 1, dim), 1000);
  EXPECT_TRUE(same_bits(x, y));
  rope.unrotate(view(x, tokens, 1, dim), AxisPositions(positions, 3));
  const std::vector<float> back = Random(62).gaussian(tokens * dim);
  EXPECT_TRUE(near(x, std::vector<double>(back.begin(), back.end()), 8 * 0x1p-24));
}

/// Axial: a part of the row for each axis, rotated as a row of its own (of pairs that stand together).
TEST(Axial, IsARopePerAxis) {
  const Index tokens = 9, dim = 64;
  const auto rope = MultiAxisRope<Adjacent>::axial(dim, 100.0);
  std::vector<float> x = Random(63).gaussian(tokens * dim), y = x;
  std::vector<Index> positions, rows, columns;
  for (Index t = 0; t < tokens; ++t) {
    rows.push_back(t / 3), columns.push_back(t % 3);
    positions.push_back(t / 3), positions.push_back(t % 3);
  }
  rope.rotate(view(x, tokens, 1, dim), AxisPositions(positions, 2));
  const Rope<Adjacent> part(32, 100.0);
  const TensorView<float> whole = view(y, tokens, 1, dim);
  part.rotate(TensorView<float>{y.data(), tokens, 1, 32, dim, dim}, rows);
  part.rotate(TensorView<float>{y.data() + 32, tokens, 1, 32, dim, dim}, columns);
  EXPECT_EQ(whole.tokens, tokens);
  EXPECT_TRUE(same_bits(x, y));
  EXPECT_TRUE(refused([] { MultiAxisRope<Adjacent>::axial(66, 100.0); }, "rotary_dim", 66, "a multiple of 4"));
  EXPECT_TRUE(refused([] { MultiAxisRope<Adjacent>::axial(64, 100.0, 0); }, "axes", 0, ">= 1"));
}

TYPED_TEST(MultiAxis, BadInputIsRefused) {
  EXPECT_TRUE(refused(
      [] {
        MultiAxisRope<TypeParam>(128, 1e6, PairAxes::sections({16, 24, 23}));
      },
      "PairAxes.pairs", 63, 64));
  EXPECT_TRUE(refused(
      [] {
        MultiAxisRope<TypeParam>(127, 1e6, PairAxes::sections({16, 24, 23}));
      },
      "rotary_dim", 127, "even and >= 2"));
  const MultiAxisRope<TypeParam> rope(8, 1e4, PairAxes::sections({2, 1, 1}));
  std::vector<float> x(16, 1.f);
  const std::vector<float> untouched = x;
  std::vector<Index> positions(6, 1);
  const auto v = view(x, 2, 1, 8);
  EXPECT_TRUE(refused([&] { rope.rotate(v, AxisPositions(positions, 2)); }, "positions.axes", 2, 3));
  positions.pop_back();
  EXPECT_TRUE(refused([&] { rope.rotate(v, AxisPositions(positions, 3)); }, "positions.size", 5, 6));
  positions.push_back(-1);
  EXPECT_TRUE(
      refused([&] { rope.rotate(v, AxisPositions(positions, 3)); }, "position", -1, "within [0, 1099511627776)"));
  EXPECT_TRUE(same_bits(x, untouched));
}

TYPED_TEST(MultiAxis, XPosDecays) {
  const Index dim = 64;
  const Rope<TypeParam> rope(dim, 10000.0);
  Random random(64);
  const std::vector<float> q = random.gaussian(dim), k = random.gaussian(dim);
  const auto score = [&](Index at_q, Index at_k, Index origin) {
    const XPos<TypeParam> xpos(rope, {.origin = origin});
    std::vector<float> a = q, b = k;
    xpos.rotate_queries(view(a, 1, 1, dim), at_q);
    xpos.rotate_keys(view(b, 1, 1, dim), at_k);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  };
  // The definition: Σ over pairs of ζ^(distance / 512) · (a rotation by the distance).
  for (const Index distance : {0, 1, 5, 512, 3000}) {
    double wanted = 0, size = 0;
    for (Index i = 0; i < dim / 2; ++i) {
      const auto a = static_cast<std::size_t>(TypeParam::first(i, dim / 2)),
                 b = static_cast<std::size_t>(TypeParam::second(i, dim / 2));
      const double zeta = (static_cast<double>(i) / 32 + 0.4) / 1.4;
      const double scale = std::pow(zeta, static_cast<double>(distance) / 512);
      const double angle = static_cast<double>(distance) * rope.inverse_frequencies()[static_cast<std::size_t>(i)];
      const double dot = static_cast<double>(q[a]) * k[a] + static_cast<double>(q[b]) * k[b];
      const double cross = static_cast<double>(q[a]) * k[b] - static_cast<double>(q[b]) * k[a];
      wanted += scale * (dot * std::cos(angle) + cross * std::sin(angle));
      size += scale * std::hypot(q[a], q[b]) * std::hypot(k[a], k[b]);
    }
    for (const Index at : {0, 100, 9000})
      for (const Index origin : {0, 1000, 10000})
        EXPECT_LE(error_in(score(at + distance, at, origin), wanted, size), 2e-6) << distance << ", " << at;
  }
}

TYPED_TEST(MultiAxis, XPosRefuses) {
  const Rope<TypeParam> rope(64, 10000.0);
  const XPos<TypeParam> xpos(rope, {.origin = 50000});
  const Interval reach = xpos.positions();
  EXPECT_GT(reach.begin, 32000);
  EXPECT_LT(reach.end, 68000);
  std::vector<float> x(64, 1.f);
  xpos.rotate_keys(view(x, 1, 1, 64), reach.begin);
  for (const float v : x) EXPECT_TRUE(std::isfinite(v));
  const std::string within = "within [" + std::to_string(reach.begin) + ", " + std::to_string(reach.end) + ")";
  EXPECT_TRUE(refused([&] { xpos.rotate_keys(view(x, 1, 1, 64), reach.end); }, "position", reach.end, within));
  EXPECT_TRUE(
      refused([&] { xpos.rotate_queries(view(x, 1, 1, 64), reach.begin - 1); }, "position", reach.begin - 1, within));
  for (const double bad : {0.0, -1.0, std::nan("")}) {
    EXPECT_TRUE(refused([&] { XPos<TypeParam>(rope, {.gamma = bad}); }, "XPos.gamma", bad, "finite and > 0"));
    EXPECT_TRUE(refused([&] { XPos<TypeParam>(rope, {.scale_base = bad}); }, "XPos.scale_base", bad, "finite and > 0"));
  }
  EXPECT_TRUE(refused([&] { XPos<TypeParam>(Rope<TypeParam>(std::vector<double>{1.0}, 1.5)); },
                      "XPos.rope.attention_factor", 1.5, 1));
  EXPECT_TRUE(refused([&] { XPos<TypeParam>(rope, {.origin = -1}); }, "XPos.origin", -1, "within [0, 1099511627776)"));
}

}  // namespace
}  // namespace longspan::testing
