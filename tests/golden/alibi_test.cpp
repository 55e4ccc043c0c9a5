// ALiBi slopes against the authors' code (shared data, golden/positions).

#include <gtest/gtest.h>

#include <longspan/core/position.hpp>
#include <longspan/score/scores.hpp>
#include <support/golden.hpp>
#include <support/near.hpp>

namespace longspan::testing {
namespace {

TEST(GoldenAlibi, Slopes) {
  LONGSPAN_NEEDS_DATA();
  int counts = 0;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "positions").cases()) {
    if (!c.has_array("slopes")) continue;
    ++counts;
    const std::vector<double> wanted = c.doubles("slopes");
    const Index heads = std::ssize(wanted);
    ASSERT_EQ(c.name(), "alibi_" + std::to_string(heads));
    const Alibi alibi(heads);
    ASSERT_EQ(alibi.heads(), heads);
    const Alibi given(wanted);
    for (Index h = 0; h < heads; ++h) {
      const double slope = wanted[static_cast<std::size_t>(h)];
      // the authors multiply the ratio up, which costs them an ulp now and then
      EXPECT_LE(error_in(alibi.slope(h), slope, slope), 1e-14) << heads << " heads, head " << h;
      EXPECT_EQ(given.slope(h), slope);
      EXPECT_EQ(given(10.0, ExactPosition{1000}, ExactPosition{900}, h), std::fma(-slope, 100.0, 10.0));
    }
  }
  EXPECT_EQ(counts, 13);
}

}  // namespace
}  // namespace longspan::testing
