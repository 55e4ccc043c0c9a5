// S1  Every query of every head is in exactly one task, whatever the shape, the kernel, the workers and the mask's
// period. S2  With a period, tasks of the wide kernel end at its multiples, wherever a call begins. S3  row_period is
// how far the edges of a mask are apart, and 0 where they are not regular.
#include <gtest/gtest.h>

#include <longspan/kernel/schedule.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/block_sparse.hpp>
#include <longspan/mask/documents.hpp>
#include <longspan/mask/masks.hpp>

#include <map>

namespace {

using namespace longspan;

TEST(Schedule, S1AndS2) {
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
    for (const Index rows : {0, 1, 15, 16, 48, 49, 64, 130, 257})
      for (const Index kv_heads : {1, 3})
        for (const Index group : {1, 4, 24, 200})
          for (const Index workers : {1, 2, 5})
            for (const Index first : {-70, -64, -1, 0, 1, 63, 64, 100})
              for (const Index period : {0, 1, 16, 24, 32, 48, 64, 128, 1000}) {
                if (group > 4 && (rows > 49 || workers == 2 || first > 1)) continue;
                SCOPED_TRACE(testing::Message() << "kernel " << static_cast<int>(kernel) << ", rows " << rows
                                                << ", kv_heads " << kv_heads << ", group " << group << ", workers "
                                                << workers << ", first " << first << ", period " << period);
                const Schedule schedule(kernel, {rows, kv_heads * group, 8}, 1000, kv_heads, workers, first, period);
                std::map<std::pair<Index, Index>, int> seen;
                for (Index task = 0; task < schedule.tasks(); ++task) {
                  const TaskRange t = schedule[task];
                  ASSERT_FALSE(t.rows.empty());
                  ASSERT_LE(t.queries(), schedule.task_queries());
                  const bool cuts = kernel == Kernel::kWide && period > 0 && period % kLanes == 0;
                  for (Index r = t.rows.begin + 1; cuts && r < t.rows.end; ++r)
                    ASSERT_NE(floor_mod(first + r, period), 0) << "an edge at row " << r << " inside of a task";
                  for (Index r = t.rows.begin; r < t.rows.end; ++r)
                    for (Index h = t.kv_heads.begin; h < t.kv_heads.end; ++h)
                      for (Index g = t.heads.begin; g < t.heads.end; ++g) ++seen[{r, h * group + g}];
                }
                ASSERT_EQ(static_cast<Index>(seen.size()), rows * kv_heads * group);
                for (const auto& [query, times] : seen) ASSERT_EQ(times, 1);
              }
}

TEST(Schedule, S3) {
  const BlockSparse blocks({4, 4, 64, 32}, [](Index r, Index c) { return c <= r; });
  EXPECT_EQ(row_period(Full{}, 0), 0);
  EXPECT_EQ(row_period(Causal{}, 7), 0);
  for (const Index first : {-200, -1, 0, 1, 63, 64, 100}) {
    EXPECT_EQ(row_period(blocks, first), 64) << first;
    EXPECT_EQ(row_period(Causal{} & blocks, first), 64) << first;
  }
  EXPECT_EQ(row_period(blocks, 1000), 0);
  const std::vector<Index> even{0, 96, 192, 288}, odd{0, 96, 192, 200, 290};
  EXPECT_EQ(row_period(Documents(even), 5), 96);
  EXPECT_EQ(row_period(Documents(odd), 5), 0);
}

}  // namespace
