// What Rope and RopeTable do with rows: the same bits however a call is cut, inverses, and what is refused untouched.

#include <gtest/gtest.h>

#include <longspan/position/rope.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

struct Scaled {  // a policy with an attention factor
  std::vector<double> frequencies(Index dim, double base) const { return Linear{.factor = 4}.frequencies(dim, base); }
  double attention_factor() const { return 1.25; }
};

template <class Layout>
class Rotations : public ::testing::Test {
 protected:
  static constexpr Index kTokens = 37, kHeads = 3;

  static std::vector<float> rows(Index head_dim, std::uint64_t seed = 41) {
    return Random(seed).gaussian(kTokens * kHeads * head_dim);
  }
  static TensorView<float> view_of(std::vector<float>& rows, Index head_dim) {
    return view(rows, kTokens, kHeads, head_dim);
  }
  static std::vector<Index> positions() {
    Random random(42);
    std::vector<Index> out;
    for (Index i = 0; i < kTokens; ++i) out.push_back(random.between(0, 5000));
    return out;
  }
};
using Layouts = ::testing::Types<HalfSplit, Adjacent>;
TYPED_TEST_SUITE(Rotations, Layouts);

/// (rotary_dim, head_dim): whole rows, partial ones, odd tails, more pairs than one stack buffer holds.
constexpr Index kDims[][2] = {{2, 2},     {2, 7},     {32, 80},   {64, 64},  {66, 67},
                              {128, 128}, {256, 256}, {258, 300}, {600, 600}};

TYPED_TEST(Rotations, TurnsPairsByTheirAngles) {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
    const std::vector<float> x = this->rows(head_dim);
    std::vector<float> y = x;
    const TensorView<float> v = this->view_of(y, head_dim);
    const std::vector<Index> positions = this->positions();
    rope.rotate(v, positions);
    for (Index t = 0; t < v.tokens; ++t) {
      const Index p = positions[static_cast<std::size_t>(t)];
      const RopeTable<TypeParam> table = rope.table({p, p + 1});
      for (Index h = 0; h < v.heads; ++h) {
        const float* in = x.data() + (t * v.heads + h) * head_dim;
        const float* out = v.row(t, h);
        for (Index i = 0; i < dim / 2; ++i) {
          const Index a = TypeParam::first(i, dim / 2), b = TypeParam::second(i, dim / 2);
          const double c = table.cos(p)[static_cast<std::size_t>(i)], s = table.sin(p)[static_cast<std::size_t>(i)];
          const double length = 1.25 * std::hypot(in[a], in[b]);
          ASSERT_LE(error_in(out[a], in[a] * c - in[b] * s, length), 3 * 0x1p-24) << dim << ", pair " << i;
          ASSERT_LE(error_in(out[b], in[b] * c + in[a] * s, length), 3 * 0x1p-24) << dim << ", pair " << i;
        }
        for (Index d = dim; d < head_dim; ++d) ASSERT_EQ(out[d], in[d]);
      }
    }
  }
}

TYPED_TEST(Rotations, SameBitsHoweverACallIsCut) {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
    const std::vector<Index> positions = this->positions();
    const RopeTable<TypeParam> table = rope.table({0, 5001});
    const std::vector<float> x = this->rows(head_dim);
    std::vector<float> whole = x;
    rope.rotate(this->view_of(whole, head_dim), positions);

    std::vector<float> by_table = x;
    table.rotate(this->view_of(by_table, head_dim), positions);
    EXPECT_TRUE(same_bits(by_table, whole)) << "table, dim " << dim;

    std::vector<float> elsewhere(x.size(), -1.f), from = x;
    rope.rotate(TensorView<const float>(this->view_of(from, head_dim)), this->view_of(elsewhere, head_dim), positions);
    EXPECT_TRUE(same_bits(elsewhere, whole)) << "another buffer, dim " << dim;
    EXPECT_TRUE(same_bits(from, x)) << "the input is left alone, dim " << dim;

    std::vector<float> pieces = x;
    const TensorView<float> v = this->view_of(pieces, head_dim);
    for (Index begin = 0, size = 1; begin < v.tokens; begin += size, ++size) {
      const Index end = std::min(v.tokens, begin + size);
      rope.rotate(v.slice({begin, end}),
                  std::span(positions).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
    }
    EXPECT_TRUE(same_bits(pieces, whole)) << "a split list, dim " << dim;

    std::vector<float> strided = x;  // one head at a time
    for (Index h = 0; h < v.heads; ++h) {
      TensorView<float> one = this->view_of(strided, head_dim);
      one.data = one.row(0, h), one.heads = 1;
      rope.rotate(one, positions);
    }
    EXPECT_TRUE(same_bits(strided, whole)) << "head by head, dim " << dim;
  }
}

TYPED_TEST(Rotations, ConsecutivePositionsAreAList) {
  const Rope<TypeParam> rope(64, 500000.0);
  std::vector<float> a = this->rows(64), b = a;
  std::vector<Index> list;
  for (Index i = 0; i < this->kTokens; ++i) list.push_back(1000000 + i);
  rope.rotate(this->view_of(a, 64), 1000000);
  rope.rotate(this->view_of(b, 64), list);
  EXPECT_TRUE(same_bits(a, b));
}

TYPED_TEST(Rotations, UnrotateIsTheInverseAndBackwardTheTranspose) {
  for (const auto& [dim, head_dim] : kDims) {
    const Rope<TypeParam> rope(dim, 10000.0, Scaled{});
    const std::vector<Index> positions = this->positions();
    const std::vector<float> x = this->rows(head_dim), g = this->rows(head_dim, 43);
    const std::vector<double> exact(x.begin(), x.end());

    std::vector<float> turned = x;
    rope.rotate(this->view_of(turned, head_dim), positions);
    std::vector<float> back = turned, back_elsewhere(x.size()), back_by_table = turned;
    rope.unrotate(this->view_of(back, head_dim), positions);
    EXPECT_TRUE(near(back, exact, 8 * 0x1p-24)) << dim;
    rope.unrotate(TensorView<const float>(this->view_of(turned, head_dim)), this->view_of(back_elsewhere, head_dim),
                  positions);
    EXPECT_TRUE(same_bits(back_elsewhere, back));
    rope.table({0, 5001}).unrotate(this->view_of(back_by_table, head_dim), positions);
    EXPECT_TRUE(same_bits(back_by_table, back));

    // <g, m R x> = <m Rᵀ g, x>
    std::vector<float> gradient = g, gradient_elsewhere(x.size()), g_copy = g;
    rope.rotate_backward(this->view_of(gradient, head_dim), positions);
    rope.rotate_backward(TensorView<const float>(this->view_of(g_copy, head_dim)),
                         this->view_of(gradient_elsewhere, head_dim), positions);
    EXPECT_TRUE(same_bits(gradient_elsewhere, gradient));
    double left = 0, right = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      left += static_cast<double>(g[i]) * turned[i];
      right += static_cast<double>(gradient[i]) * x[i];
      size += std::abs(static_cast<double>(g[i]) * turned[i]);
    }
    EXPECT_LE(error_in(left, right, size), 1e-6) << dim;
  }
  // With a factor of 1 the two are one.
  const Rope<TypeParam> plain(64, 10000.0);
  std::vector<float> a = this->rows(64), b = a;
  plain.unrotate(this->view_of(a, 64), 77);
  plain.rotate_backward(this->view_of(b, 64), 77);
  EXPECT_TRUE(same_bits(a, b));
}

/// The exact factor m² R Rᵀ = m² of a there-and-back by rotate and rotate_backward.
TYPED_TEST(Rotations, BackwardCarriesTheFactor) {
  const Rope<TypeParam> rope(64, 10000.0, Scaled{});
  std::vector<float> x = this->rows(64);
  std::vector<double> wanted;
  for (const float v : x) wanted.push_back(1.25 * 1.25 * static_cast<double>(v));
  rope.rotate(this->view_of(x, 64), 123);
  rope.rotate_backward(this->view_of(x, 64), 123);
  EXPECT_TRUE(near(x, wanted, 8 * 0x1p-24));
}

TYPED_TEST(Rotations, RelativePositionsAreWhatCounts) {
  const Rope<TypeParam> rope(64, 10000.0);
  Random random(44);
  const auto score = [&](std::vector<float> q, std::vector<float> k, Index at) {
    rope.rotate(view(q, 1, 1, 64), at + 9);
    rope.rotate(view(k, 1, 1, 64), at);
    double sum = 0;
    for (std::size_t i = 0; i < q.size(); ++i) sum += static_cast<double>(q[i]) * k[i];
    return sum;
  };
  const std::vector<float> q = random.gaussian(64), k = random.gaussian(64);
  for (const Index at : {Index{1}, Index{4096}, Index{1} << 30, kRopeEnd - 10})
    EXPECT_NEAR(score(q, k, at), score(q, k, 0), 2e-5) << at;
}

TYPED_TEST(Rotations, BadInputIsRefusedAndNothingIsWritten) {
  const Rope<TypeParam> rope(64, 10000.0);
  const RopeTable<TypeParam> table = rope.table({10, 100});
  const std::vector<float> x = this->rows(64);
  std::vector<float> y = x, out(x.size(), 3.f);
  const std::vector<float> untouched = out;
  const TensorView<float> v = this->view_of(y, 64), w = this->view_of(out, 64);
  const auto last = [&](Index position) {
    std::vector<Index> list(static_cast<std::size_t>(this->kTokens), 50);
    list.back() = position;
    return list;
  };
  const std::string all = "within [0, 1099511627776)";
  EXPECT_TRUE(refused([&] { rope.rotate(v, -1); }, "position", "-1", all));
  EXPECT_TRUE(refused([&] { rope.rotate(v, kRopeEnd); }, "position", "1099511627776", all));
  EXPECT_TRUE(refused([&] { rope.rotate(v, kRopeEnd - 5); }, "position", "1099511627776", all));
  EXPECT_TRUE(refused([&] { rope.rotate(v, kUnbounded); }, "position", "9223372036854775807", all));
  EXPECT_TRUE(refused([&] { rope.rotate(v, last(-7)); }, "position", "-7", all));
  EXPECT_TRUE(refused([&] { rope.unrotate(v, last(-7)); }, "position", "-7", all));
  EXPECT_TRUE(refused([&] { rope.rotate_backward(v, last(kRopeEnd)); }, "position", "1099511627776", all));
  EXPECT_TRUE(refused([&] { table.rotate(v, 9); }, "position", "9", "within [10, 100)"));
  EXPECT_TRUE(refused([&] { table.rotate(v, 64); }, "position", "100", "within [10, 100)"));
  EXPECT_TRUE(refused([&] { table.rotate(v, last(100)); }, "position", "100", "within [10, 100)"));
  EXPECT_NO_THROW(table.rotate(w, 63));
  out = untouched;

  const std::vector<Index> few(36, 1), many(38, 1), none;
  EXPECT_TRUE(refused([&] { rope.rotate(v, few); }, "positions.size", "36", "37"));
  EXPECT_TRUE(refused([&] { rope.rotate(v, many); }, "positions.size", "38", "37"));
  EXPECT_TRUE(refused([&] { rope.rotate(v, none); }, "positions.size", "0", "37"));

  std::vector<float> narrow(static_cast<std::size_t>(this->kTokens * this->kHeads * 62), 3.f);
  EXPECT_TRUE(refused([&] { rope.rotate(this->view_of(narrow, 62), 0); }, "rows.dim", "62", "64"));
  const TensorView<const float> in = v;
  TensorView<float> bad = w;
  bad.tokens = 36;
  EXPECT_TRUE(refused([&] { rope.rotate(in, bad, 0); }, "out.tokens", "36", "37"));
  bad = w, bad.heads = 2;
  EXPECT_TRUE(refused([&] { rope.unrotate(in, bad, 0); }, "out.heads", "2", "3"));
  bad = w, bad.dim = 62;
  EXPECT_TRUE(refused([&] { rope.rotate_backward(in, bad, 0); }, "out.dim", "62", "64"));
  EXPECT_TRUE(refused([&] { rope.rotate(in, w, last(-7)); }, "position", "-7", all));

  EXPECT_TRUE(same_bits(y, x));
  EXPECT_TRUE(same_bits(out, untouched));

  EXPECT_TRUE(refused([&] { rope.table({-1, 5}); }, "range", "within [-1, 5)", all));
  EXPECT_TRUE(refused([&] { rope.table({5, kRopeEnd + 1}); }, "range", "within [5, 1099511627777)", all));
  EXPECT_TRUE(refused([&] { table.cos(100); }, "position", "100", "within [10, 100)"));
  EXPECT_TRUE(refused([&] { table.sin(9); }, "position", "9", "within [10, 100)"));
}

TYPED_TEST(Rotations, NothingToDoIsFine) {
  const Rope<TypeParam> rope(64, 10000.0);
  std::vector<float> none;
  EXPECT_NO_THROW(rope.rotate(view(none, 0, 3, 64), 0));
  EXPECT_NO_THROW(rope.rotate(view(none, 0, 3, 64), std::vector<Index>{}));
  EXPECT_NO_THROW(rope.rotate(view(none, 0, 3, 64), -5));  // no token stands at it
  EXPECT_TRUE(rope.table({7, 7}).positions().empty());
  EXPECT_TRUE(rope.table({7, 3}).positions().empty());
}

TYPED_TEST(Rotations, TableSaysWhatItHolds) {
  const Rope<TypeParam> rope(64, 10000.0, Scaled{});
  const RopeTable<TypeParam> table = rope.table({1000, 1010});
  EXPECT_EQ(table.positions(), (Interval{1000, 1010}));
  EXPECT_EQ(table.rotary_dim(), 64);
  EXPECT_EQ(table.attention_factor(), 1.25);
  for (Index p = 1000; p < 1010; ++p) {
    ASSERT_EQ(table.cos(p).size(), 32u);
    for (std::size_t i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(p) * rope.inverse_frequencies()[i];
      EXPECT_NEAR(table.cos(p)[i], 1.25 * std::cos(angle), 1e-7);
      EXPECT_NEAR(table.sin(p)[i], 1.25 * std::sin(angle), 1e-7);
    }
  }
}

}  // namespace
}  // namespace longspan::testing
