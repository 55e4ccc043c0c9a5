// Frequencies, angles and rotated rows against other people's code (shared data, golden/rope).

#include <gtest/gtest.h>

#include <longspan/position/rope.hpp>
#include <optional>
#include <support/golden.hpp>
#include <support/near.hpp>

namespace longspan::testing {
namespace {

/// The frequencies that a case asks for, or nothing for a scaling that the library doesn't have.
std::optional<std::vector<double>> frequencies(const GoldenCase& c) {
  const Index dim = c.whole("rotary_dim");
  const double base = c.number("base");
  const auto of = [&](const auto& policy) {
    const Rope<HalfSplit> rope(dim, base, policy);
    return std::vector<double>(rope.inverse_frequencies().begin(), rope.inverse_frequencies().end());
  };
  const std::string& kind = c.text("kind");
  if (kind == "default") return of(Plain{});
  if (kind == "linear") return of(Linear{.factor = c.number("factor")});
  if (kind == "ntk") return of(Ntk{.factor = c.number("factor")});
  return std::nullopt;
}

TEST(GoldenRope, InverseFrequencies) {
  LONGSPAN_NEEDS_DATA();
  std::map<std::string, int> cases;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "rope").cases()) {
    const auto got = frequencies(c);
    if (!got) continue;
    ++cases[c.text("kind")];
    const std::vector<double> wanted = c.doubles("inv_freq");
    ASSERT_EQ(got->size(), wanted.size()) << c.name();
    for (std::size_t i = 0; i < wanted.size(); ++i)
      EXPECT_TRUE(error_in((*got)[i], wanted[i], wanted[i]) <= 1e-15)
          << c.name() << " [" << i << "]: got " << (*got)[i] << ", expected " << wanted[i];
  }
  EXPECT_GE(cases["default"], 6);
  EXPECT_GE(cases["linear"], 12);
  EXPECT_GE(cases["ntk"], 2);
}

/// The cases with tables: by their own frequencies every scaling's, as angles don't know where frequencies come from.
template <class F>
void for_each_table(F&& f) {
  int cases = 0;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "rope").cases())
    if (c.has_array("cos")) f(c), ++cases;
  EXPECT_GE(cases, 20);
}

TEST(GoldenRope, CosinesAndSines) {
  LONGSPAN_NEEDS_DATA();
  for_each_table([](const GoldenCase& c) {
    const Rope<HalfSplit> rope(c.doubles("inv_freq"));
    const std::vector<Index> positions = c.wholes("positions");
    const std::vector<double> cos = c.doubles("cos"), sin = c.doubles("sin");
    const std::size_t half = static_cast<std::size_t>(rope.rotary_dim() / 2);
    ASSERT_EQ(c.shape("cos"), (std::vector<Index>{std::ssize(positions), rope.rotary_dim() / 2}));
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const Index p = positions[i];
      const RopeTable<HalfSplit> table = rope.table({p, p + 1});
      EXPECT_TRUE(within_ulps(table.cos(p), std::span(cos).subspan(i * half, half), 0.51))
          << c.name() << ", position " << p;
      EXPECT_TRUE(within_ulps(table.sin(p), std::span(sin).subspan(i * half, half), 0.51))
          << c.name() << ", position " << p;
    }
  });
}

/// |got − wanted| of each element of a pair, relative to the length of the pair.
template <PairLayout Layout>
double worst_error(std::span<const float> got, std::span<const double> wanted, Index dim) {
  double worst = 0;
  const Index half = dim / 2;
  for (Index row = 0; row < std::ssize(wanted) / dim; ++row)
    for (Index i = 0; i < half; ++i) {
      const auto a = static_cast<std::size_t>(row * dim + Layout::first(i, half));
      const auto b = static_cast<std::size_t>(row * dim + Layout::second(i, half));
      const double length = std::hypot(wanted[a], wanted[b]);
      worst = std::max({worst, error_in(got[a], wanted[a], length), error_in(got[b], wanted[b], length)});
    }
  return worst;
}

template <PairLayout Layout>
void check_rows(const GoldenCase& c, const char* layout) {
  const std::vector<Index> positions = c.wholes("positions");
  const std::vector<double> wanted = c.doubles(layout);
  const Index tokens = std::ssize(positions), dim = c.whole("rotary_dim"), head_dim = c.whole("head_dim");
  const std::vector<float> x = c.floats("x");

  // The factor is not in the golden rows. In rows as long as a head, of which only the first rotary_dim elements turn;
  // twice, as two heads.
  std::vector<float> rows(static_cast<std::size_t>(tokens * 2 * head_dim), 7.25f);
  const TensorView<float> v = view(rows, tokens, 2, head_dim);
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < 2; ++h) std::copy_n(x.data() + t * dim, dim, v.row(t, h));
  Rope<Layout>(c.doubles("inv_freq")).rotate(v, positions);

  for (Index h = 0; h < 2; ++h) {
    std::vector<float> got;
    for (Index t = 0; t < tokens; ++t) {
      got.insert(got.end(), v.row(t, h), v.row(t, h) + dim);
      for (Index d = dim; d < head_dim; ++d) ASSERT_EQ(v.row(t, h)[d], 7.25f) << c.name() << ", element " << d;
    }
    EXPECT_LE(worst_error<Layout>(got, wanted, dim), 3 * 0x1p-24) << c.name() << ", " << layout << ", head " << h;
  }
}

TEST(GoldenRope, RowsInBothLayouts) {
  LONGSPAN_NEEDS_DATA();
  for_each_table([](const GoldenCase& c) {
    check_rows<HalfSplit>(c, "half_split");
    check_rows<Adjacent>(c, "adjacent");
  });
}

}  // namespace
}  // namespace longspan::testing
