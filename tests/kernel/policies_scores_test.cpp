#include <support/case_table.hpp>

TEST(CaseTable, Scores) { EXPECT_GE(longspan::testing::compare_case_table<true>(), 2 * 10); }
