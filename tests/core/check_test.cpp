#include <gtest/gtest.h>

#include <longspan/core/check.hpp>
#include <longspan/core/index.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

TEST(Check, NamesTheArgumentAndBothValues) {
  EXPECT_NO_THROW(check(true, "argument", 1, 2));
  EXPECT_TRUE(refused([] { check(false, "q.dim", 64, 128); }, "q.dim", "64", "128"));
  EXPECT_TRUE(refused([] { check(false, "position", kUnbounded, ">= 0"); }, "position", "9223372036854775807", ">= 0"));
  EXPECT_TRUE(refused([] { check(false, "scale", 0.1f, "> 1"); }, "scale", "0.100000001", "> 1"));
  EXPECT_TRUE(refused([] { check(false, "size", std::size_t{3}, Index{-4}); }, "size", "3", "-4"));
  EXPECT_TRUE(refused([] { check(false, "layout", std::string("pages"), "rows"); }, "layout", "pages", "rows"));
}

// The helper itself: what it must not take for a refusal.
TEST(Check, RefusedIsStrict) {
  EXPECT_FALSE(refused([] {}, "a", "1", "2"));
  EXPECT_FALSE(refused([] { check(false, "a", 1, 2); }, "b", "1", "2"));
  EXPECT_FALSE(refused([] { check(false, "a", 1, 2); }, "a", "2", "1"));
  EXPECT_FALSE(refused([] { throw std::runtime_error("longspan: a: got 1, expected 2"); }, "a", "1", "2"));
}

}  // namespace
}  // namespace longspan::testing
