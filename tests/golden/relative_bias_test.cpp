// T5 buckets against transformers' (shared data, golden/positions).

#include <gtest/gtest.h>

#include <longspan/score/relative_bias.hpp>
#include <support/golden.hpp>

namespace longspan::testing {
namespace {

TEST(GoldenRelativeBias, Buckets) {
  LONGSPAN_NEEDS_DATA();
  int ran = 0;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "positions").cases()) {
    if (!c.has_array("bucket")) continue;
    ++ran;
    const T5Buckets bucket{c.whole("buckets"), c.whole("max_distance"), c.whole("bidirectional") == 1};
    const std::vector<Index> distances = c.wholes("key_minus_query"), wanted = c.wholes("bucket");
    std::vector<float> table;  // one head, whose bias is the number of the bucket
    for (Index i = 0; i < bucket.buckets; ++i) table.push_back(static_cast<float>(i));
    const RelativeBias bias(bucket, 1, table);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(bucket(distances[i]), wanted[i]) << c.name() << ", distance " << distances[i];
      EXPECT_EQ(bias.bias(0, distances[i]), static_cast<float>(wanted[i])) << c.name() << ", distance " << distances[i];
    }
  }
  EXPECT_EQ(ran, 2);
}

}  // namespace
}  // namespace longspan::testing
