// Positions that are added to embeddings: sinusoidal, and learned.

#include <gtest/gtest.h>

#include <longspan/position/absolute.hpp>
#include <support/golden.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

template <PairLayout Layout>
void check_golden(const GoldenCase& c, const char* array) {
  const Index dim = c.whole("dim");
  const std::vector<Index> positions = c.wholes("positions");
  const std::vector<double> wanted = c.doubles(array);
  const Sinusoidal<Layout> encoding(dim);
  ASSERT_EQ(encoding.dim(), dim);
  std::vector<float> row(static_cast<std::size_t>(dim));
  for (std::size_t i = 0; i < positions.size(); ++i) {
    encoding.encode(static_cast<double>(positions[i]), row);
    // Far away an ulp of a frequency is more than one of the result: see rope_test.cpp.
    const double far = static_cast<double>(positions[i]) * 0x1p-51;
    for (std::size_t d = 0; d < row.size(); ++d) {
      const double value = wanted[i * row.size() + d];
      EXPECT_LE(error_in(row[d], value, 0.51 * float_ulp(value) + far), 1) << array << ", " << positions[i];
      if (positions[i] <= 131071) {
        EXPECT_LE(error_in_ulps(row[d], value), 1) << array << ", " << positions[i];
      }
    }
  }
}

TEST(Sinusoidal, IsGoldenInBothLayouts) {
  LONGSPAN_NEEDS_DATA();
  const Golden golden(*data_folder() / "golden", "positions");
  check_golden<Adjacent>(golden.at("sinusoidal_64"), "interleaved");
  check_golden<HalfSplit>(golden.at("sinusoidal_64"), "concatenated");
}

TEST(Sinusoidal, AtAnyRealPosition) {
  for (const Index dim : {2, 6, 64, 600}) {
    const Sinusoidal<HalfSplit> halves(dim);
    const Sinusoidal<Adjacent> pairs(dim);
    const std::vector<double> f = Plain{}.frequencies(dim, 10000);
    std::vector<float> a(static_cast<std::size_t>(dim)), b(a);
    for (const double p : {0.0, 0.5, -0.5, 1e-9, 3.14159, -1234.5678, 99999.125}) {
      halves.encode(p, a);
      pairs.encode(p, b);
      for (std::size_t i = 0; i < f.size(); ++i) {
        EXPECT_EQ(a[i], b[2 * i]);
        EXPECT_EQ(a[f.size() + i], b[2 * i + 1]);
        EXPECT_NEAR(a[i], std::sin(p * f[i]), 7e-8) << p;
        EXPECT_NEAR(a[f.size() + i], std::cos(p * f[i]), 7e-8) << p;
      }
    }
  }
}

TEST(Sinusoidal, BadInputIsRefused) {
  const Sinusoidal<Adjacent> encoding(64);
  std::vector<float> row(64), few(63);
  EXPECT_TRUE(refused([] { Sinusoidal<Adjacent>{Index{63}}; }, "rotary_dim", 63, "even and >= 2"));
  EXPECT_TRUE(refused([] { Sinusoidal<Adjacent>(64, -1); }, "base", -1, "finite and > 0"));
  EXPECT_TRUE(refused([&] { encoding.encode(0, few); }, "out.size", 63, 64));
  for (const double p : {std::nan(""), 1e300, static_cast<double>(kRopeEnd), -static_cast<double>(kRopeEnd)})
    EXPECT_TRUE(refused([&] { encoding.encode(p, row); }, "position", p, "finite and of a size below 2^40"));
}

TEST(Learned, RowsAndBetweenThem) {
  const std::vector<float> table{0, 10, 1, 20, 4, 0};
  const Learned learned(table, 2);
  EXPECT_EQ(learned.positions(), 3);
  EXPECT_EQ(learned[2].data(), table.data() + 4);
  std::vector<float> row(2);
  const auto at = [&](double p) { return learned.encode(p, row), row; };
  EXPECT_EQ(at(0), (std::vector<float>{0, 10}));
  EXPECT_EQ(at(1), (std::vector<float>{1, 20}));
  EXPECT_EQ(at(1.5), (std::vector<float>{2.5, 10}));
  EXPECT_EQ(at(0.25), (std::vector<float>{0.25, 12.5}));
  EXPECT_EQ(at(2), (std::vector<float>{4, 0}));
  EXPECT_EQ(learned.stretched(3), table);
  EXPECT_EQ(learned.stretched(5), (std::vector<float>{0, 10, 0.5, 15, 1, 20, 2.5, 10, 4, 0}));
  EXPECT_EQ(learned.stretched(2), (std::vector<float>{0, 10, 4, 0}));
  EXPECT_EQ(learned.stretched(1), (std::vector<float>{0, 10}));
}

TEST(Learned, AStretchedTableKeepsItsRowsExactly) {
  const std::vector<float> table = Random(73).gaussian(97 * 8);
  const Learned learned(table, 8);
  for (const Index by : {1, 3, 7, 10}) {
    const std::vector<float> longer = learned.stretched(96 * by + 1);
    for (Index i = 0; i < 97; ++i)
      EXPECT_TRUE(same_bits(std::span(longer).subspan(static_cast<std::size_t>(i * by * 8), 8), learned[i])) << by;
  }
}

TEST(Learned, BadInputIsRefused) {
  const std::vector<float> table(12);
  const Learned learned(table, 4);
  std::vector<float> row(4), few(3);
  EXPECT_TRUE(refused([&] { learned[3]; }, "position", 3, "within [0, 3)"));
  EXPECT_TRUE(refused([&] { learned[-1]; }, "position", -1, "within [0, 3)"));
  for (const double p : {-0.5, 2.5, std::nan("")})
    EXPECT_TRUE(refused([&] { learned.encode(p, row); }, "position", p, "within [0, 2]"));
  EXPECT_TRUE(refused([&] { learned.encode(0, few); }, "out.size", 3, 4));
  EXPECT_TRUE(refused([&] { Learned(table, 5); }, "Learned.table.size", 12, "a multiple of 5"));
  EXPECT_TRUE(refused([&] { Learned(table, 0); }, "Learned.dim", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { Learned(std::span<const float>(), 4); }, "Learned.table.size", 0, "a multiple of 4"));
  EXPECT_TRUE(refused([&] { learned.stretched(0); }, "length", 0, ">= 1"));
}

}  // namespace
}  // namespace longspan::testing
