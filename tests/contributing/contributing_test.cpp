// The mask of CONTRIBUTING.md, from its text: the header and the line of the law test, both as they stand there.

#include <gtest/gtest.h>

#include <contributing_mask.hpp>
#include <support/any_mask.hpp>
#include <support/laws.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

TEST(Contributing, TheMaskKeepsTheLaws) {
  const std::vector<Expression> added{
#include <contributing_line.inc>
  };
  for (const Expression& e : added)
    for (const Expression& m : {e, !e, e & causal(), e | window(20)}) {
      EXPECT_EQ(broken_law_in_small(m.mask, m.sees, -20, 60), "") << m.name;
      for (Index q = -20; q < 60; ++q)
        for (Index k = 0; k < 60; k += 3) ASSERT_EQ(broken_lanes(m.mask, m.sees, q, k), "") << m.name;
    }
  EXPECT_EQ(inexact_in_small(added[0].mask, added[0].sees, -9, 40), "");
  EXPECT_TRUE(refused([] { Staircase(0); }, "Staircase.size", 0, "within [1, 2^52]"));
}

}  // namespace
}  // namespace longspan::testing
