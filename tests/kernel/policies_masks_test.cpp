#include <support/case_table.hpp>

TEST(CaseTable, Masks) { EXPECT_GE(longspan::testing::compare_case_table<false>(), 2 * 18); }
