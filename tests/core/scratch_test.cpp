#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <longspan/core/scratch.hpp>
#include <thread>

namespace longspan::testing {
namespace {

TEST(Scratch, GrowsAndNeverShrinks) {
  Scratch scratch;
  const auto aligned = [](const float* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; };
  float* small = scratch.floats(3);
  ASSERT_NE(small, nullptr);
  EXPECT_TRUE(aligned(small));
  float* large = scratch.floats(1000);
  EXPECT_TRUE(aligned(large));
  for (int i = 0; i < 1000; ++i) large[i] = static_cast<float>(i);
  for (const Index less : {Index{1000}, Index{1}, Index{0}, Index{999}}) EXPECT_EQ(scratch.floats(less), large);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(large[i], static_cast<float>(i));
  EXPECT_TRUE(aligned(scratch.floats(1001)));
}

#if !defined(__SANITIZE_ADDRESS__)  // which aborts instead of throwing
TEST(Scratch, SurvivesOutOfMemory) {
  Scratch scratch;
  scratch.floats(10);
  EXPECT_THROW(scratch.floats(Index{1} << 58), std::bad_alloc);
  float* again = scratch.floats(10);
  ASSERT_NE(again, nullptr);
  for (int i = 0; i < 10; ++i) again[i] = 1.f;
}
#endif

struct Kept {
  int value = 0;
  int* data = nullptr;
};
struct OnePurpose;
struct OtherPurpose;

TEST(Leased, KeepsAThreadsValueBetweenLeases) {
  { Leased<Kept, OnePurpose>()->value = 7; }
  {
    Leased<Kept, OnePurpose> again;
    EXPECT_EQ(again->value, 7);
    EXPECT_EQ((*again).value, 7);
  }
  EXPECT_EQ((Leased<Kept, OtherPurpose>()->value), 0);
  int elsewhere = -1;
  std::thread([&] { elsewhere = Leased<Kept, OnePurpose>()->value; }).join();
  EXPECT_EQ(elsewhere, 0);
}

TEST(Leased, ASecondLeaseHasItsOwn) {
  Leased<Kept, OnePurpose> outer;
  outer->value = 1;
  {
    Leased<Kept, OnePurpose> inner;
    EXPECT_EQ(inner->value, 0);
    inner->value = 2;
    EXPECT_EQ(outer->value, 1);
  }
  EXPECT_EQ(outer->value, 1);
}

}  // namespace
}  // namespace longspan::testing
