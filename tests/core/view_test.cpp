#include <gtest/gtest.h>

#include <longspan/core/view.hpp>
#include <longspan/kv/contiguous.hpp>
#include <numeric>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

std::vector<float> counting(Index size) {
  std::vector<float> out(static_cast<std::size_t>(size));
  std::iota(out.begin(), out.end(), 0.f);
  return out;
}

TEST(View, DenseRows) {
  std::vector<float> memory = counting(5 * 3 * 4);
  const TensorView<float> v = view(memory, 5, 3, 4);
  EXPECT_EQ(v.token_stride, 12);
  EXPECT_EQ(v.head_stride, 4);
  for (Index t = 0; t < 5; ++t)
    for (Index h = 0; h < 3; ++h)
      for (Index d = 0; d < 4; ++d) EXPECT_EQ(v.row(t, h)[d], static_cast<float>((t * 3 + h) * 4 + d));
  v.row(4, 2)[3] = -1;
  EXPECT_EQ(memory.back(), -1);
  EXPECT_EQ(v.shape().tokens, 5);
  EXPECT_EQ(v.shape().heads, 3);
  EXPECT_EQ(v.shape().dim, 4);
}

TEST(View, HeadsFirstIsTheTransposedMemory) {
  std::vector<float> memory = counting(5 * 3 * 4);
  const TensorView<float> v = heads_first(memory, 3, 5, 4);
  EXPECT_EQ(v.shape().tokens, 5);
  EXPECT_EQ(v.shape().heads, 3);
  for (Index t = 0; t < 5; ++t)
    for (Index h = 0; h < 3; ++h)
      for (Index d = 0; d < 4; ++d) EXPECT_EQ(v.row(t, h)[d], static_cast<float>((h * 5 + t) * 4 + d));
}

TEST(View, SlicesKeepTheirRowsAndStrides) {
  std::vector<float> memory = counting(7 * 2 * 3);
  for (const TensorView<float>& v : {view(memory, 7, 2, 3), heads_first(memory, 2, 7, 3)})
    for (Index begin = 0; begin <= 7; ++begin)
      for (Index end = begin; end <= 7; ++end) {
        const TensorView<float> s = v.slice({begin, end});
        ASSERT_EQ(s.tokens, end - begin);
        ASSERT_EQ(s.heads, v.heads);
        ASSERT_EQ(s.dim, v.dim);
        for (Index t = begin; t < end; ++t)
          for (Index h = 0; h < 2; ++h) ASSERT_EQ(s.row(t - begin, h), v.row(t, h));
        if (end - begin >= 2) {
          ASSERT_EQ(s.slice({1, 2}).row(0, 1), v.row(begin + 1, 1));
        }
      }
}

TEST(View, ConstnessIsAddedNeverRemoved) {
  static_assert(std::is_convertible_v<TensorView<float>, TensorView<const float>>);
  static_assert(!std::is_convertible_v<TensorView<const float>, TensorView<float>>);
  const std::vector<float> memory = counting(12);
  static_assert(std::is_same_v<decltype(view(memory, 3, 2, 2)), TensorView<const float>>);
  static_assert(std::is_same_v<decltype(heads_first(memory, 2, 3, 2)), TensorView<const float>>);
  EXPECT_EQ(view(std::span(memory), 3, 2, 2).row(2, 1), memory.data() + 10);
  EXPECT_EQ(heads_first(std::span(memory), 2, 3, 2).row(2, 1), memory.data() + 10);
  std::vector<float> other = counting(12);
  const TensorView<const float> v = view(other, 3, 2, 2);
  EXPECT_EQ(v.row(1, 1), other.data() + 6);
}

TEST(View, SizesAreChecked) {
  std::vector<float> memory = counting(60);
  EXPECT_TRUE(refused([&] { view(memory, 5, 3, 5); }, "view.memory.size", "60", "75"));
  EXPECT_TRUE(refused([&] { heads_first(memory, 3, 5, 5); }, "view.memory.size", "60", "75"));
  EXPECT_TRUE(refused([&] { view(memory, -5, 3, 4); }, "view.tokens", "-5", ">= 0"));
  EXPECT_TRUE(refused([&] { view(memory, 5, 0, 4); }, "view.heads", "0", ">= 1"));
  EXPECT_TRUE(refused([&] { view(memory, 5, 3, -4); }, "view.dim", "-4", ">= 1"));
  std::vector<float> none;
  EXPECT_NO_THROW(view(none, 0, 3, 4));
}

/// 2^40 · 2^20 · 2^4 is 0 in 64 bits: such a view must not pass for one of no memory.
TEST(View, SizesThatOverflowAreRefused) {
  std::vector<float> none;
  EXPECT_THROW(view(none, Index{1} << 40, Index{1} << 20, 16), std::invalid_argument);
  EXPECT_THROW(heads_first(none, Index{1} << 20, Index{1} << 40, 16), std::invalid_argument);
}

TEST(Contiguous, HandsOutTheRestOfAHead) {
  std::vector<float> k = counting(6 * 2 * 3), v = counting(6 * 2 * 5);
  const Contiguous source(view(k, 6, 2, 3), heads_first(v, 2, 6, 5));
  static_assert(KeyValueSource<Contiguous<>>);
  EXPECT_EQ(source.keys(), 6);
  EXPECT_EQ(source.kv_heads(), 2);
  EXPECT_EQ(source.head_dim(), 3);
  EXPECT_EQ(source.value_dim(), 5);
  for (Index h = 0; h < 2; ++h)
    for (Index i = 0; i < 6; ++i) {
      const KeyValueRun<float> run = source.run(h, i);
      ASSERT_EQ(run.size, 6 - i);
      ASSERT_GE(run.readable, run.size);
      for (Index j = 0; j < run.size; ++j) {
        for (Index d = 0; d < 3; ++d)
          ASSERT_EQ(run.key[j * run.key_stride + d * run.dim_stride], static_cast<float>(((i + j) * 2 + h) * 3 + d));
        for (Index d = 0; d < 5; ++d)
          ASSERT_EQ(run.value[j * run.value_stride + d], static_cast<float>((h * 6 + i + j) * 5 + d));
      }
    }
  EXPECT_TRUE(refused([&] { Contiguous(view(k, 6, 2, 3), view(v, 10, 2, 3)); }, "values.tokens", "10", "6"));
  EXPECT_TRUE(refused([&] { Contiguous(view(k, 6, 2, 3), view(v, 6, 1, 10)); }, "values.heads", "1", "2"));
}

}  // namespace
}  // namespace longspan::testing
