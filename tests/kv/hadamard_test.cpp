// The Walsh-Hadamard transform against its matrix, and what it is for: keys with channels of outliers in four
// bits.

#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <longspan/attention.hpp>
#include <longspan/kv/hadamard.hpp>
#include <longspan/kv/paged.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

TEST(Hadamard, IsItsMatrix) {
  Random random(1);
  for (const Index dim : {1, 2, 6, 64, 80, 96, 128, 1024, 2048}) {
    const Index size = std::min<Index>(1024, Index{1} << std::countr_zero(static_cast<std::uint64_t>(dim)));
    const std::vector<float> x = random.gaussian(2 * 3 * dim);
    std::vector<float> y(x.size()), again(x.size());
    hadamard(view(x, 2, 3, dim), view(y, 2, 3, dim));
    hadamard(view(std::as_const(y), 2, 3, dim), view(again, 2, 3, dim));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto row = i / static_cast<std::size_t>(size) * static_cast<std::size_t>(size);
      double sum = 0;
      for (std::size_t j = 0; j < static_cast<std::size_t>(size); ++j)
        sum += (std::popcount((i - row) & j) % 2 == 0 ? 1 : -1) * static_cast<double>(x[row + j]);
      sum /= std::sqrt(static_cast<double>(size));
      ASSERT_TRUE(std::abs(static_cast<double>(y[i]) - sum) <= 2e-5) << "dim " << dim << ", element " << i;
      ASSERT_TRUE(std::abs(again[i] - x[i]) <= 1e-5f) << "dim " << dim << ", element " << i;
    }
  }
}

TEST(Hadamard, OfSixteenBitsInPlace) {
  Random random(2);
  const std::vector<float> x = random.gaussian(128);
  std::vector<bf16> rows(x.size());
  convert(x.data(), 128, rows.data());
  std::vector<float> exact(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) exact[i] = static_cast<float>(rows[i]);
  hadamard(view(exact, 1, 1, 128));
  hadamard(view(rows, 1, 1, 128));
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(rows[i].bits, bf16(exact[i]).bits) << i;
}

TEST(Hadamard, RefusesShapesThatDiffer) {
  std::vector<float> x(24);
  const auto to = [&](Index tokens, Index heads, Index dim) {
    return [&x, tokens, heads, dim] {
      hadamard(view(x, 2, 3, 4), TensorView<float>{x.data(), tokens, heads, dim, heads * dim, dim});
    };
  };
  EXPECT_TRUE(refused(to(3, 3, 4), "out.tokens", 3, 2));
  EXPECT_TRUE(refused(to(2, 2, 4), "out.heads", 2, 3));
  EXPECT_TRUE(refused(to(2, 3, 3), "out.dim", 3, 4));
}

/// Relative error of attention over a cache of T, against floats; keys have some channels `outlier` times as large
/// as the others.
template <class T>
double error(float outlier, bool turned) {
  constexpr Index kKeys = 600, kQueries = 4, kHeads = 4, kKvHeads = 2, kDim = 128;
  Random random(3);
  std::vector<float> q = random.gaussian(kQueries * kHeads * kDim), k = random.gaussian(kKeys * kKvHeads * kDim),
                     v = random.gaussian(kKeys * kKvHeads * kDim);
  for (std::size_t i = 0; i < k.size(); i += kDim)
    for (const std::size_t channel : {5U, 40U, 77U, 120U}) k[i + channel] *= outlier;
  for (std::size_t i = 0; i < q.size(); i += kDim)  // queries of a model keep the scores of such keys in bounds
    for (const std::size_t channel : {5U, 40U, 77U, 120U}) q[i + channel] /= outlier;
  const auto attend = [&](const auto& source) {
    std::vector<float> out(q.size());
    attention(Causal{})(view(q, kQueries, kHeads, kDim), source, view(out, kQueries, kHeads, kDim));
    return out;
  };
  const std::vector<float> exact =
      attend(Contiguous(TensorView<const float>(view(std::as_const(k), kKeys, kKvHeads, kDim)),
                        TensorView<const float>(view(std::as_const(v), kKeys, kKvHeads, kDim))));
  if (turned) {
    hadamard(view(q, kQueries, kHeads, kDim));
    hadamard(view(k, kKeys, kKvHeads, kDim));
    hadamard(view(v, kKeys, kKvHeads, kDim));
  }
  PagedCache<T> cache({.pages = 10, .kv_heads = kKvHeads, .head_dim = kDim});
  const SequenceId id = cache.open();
  EXPECT_EQ(
      cache.append(id, view(std::as_const(k), kKeys, kKvHeads, kDim), view(std::as_const(v), kKeys, kKvHeads, kDim)),
      Outcome::kDone);
  std::vector<float> out = attend(cache.view(id));
  if (turned) hadamard(view(out, kQueries, kHeads, kDim));
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double a = static_cast<double>(out[i]), b = static_cast<double>(exact[i]);
    difference += (a - b) * (a - b), size += b * b;
  }
  return std::sqrt(difference / size);
}

TEST(Hadamard, LeavesAttentionAsItIs) { EXPECT_TRUE(error<float>(30, true) <= 2e-6); }

TEST(Hadamard, SpreadsOutliers) {
  for (const float outlier : {10.f, 30.f}) {
    const double four = error<i4>(outlier, false), four_turned = error<i4>(outlier, true);
    const double eight = error<i8>(outlier, false), eight_turned = error<i8>(outlier, true);
    std::printf("  channels of outliers ×%g: i4 %.3f, turned %.3f; i8 %.4f, turned %.4f\n",
                static_cast<double>(outlier), four, four_turned, eight, eight_turned);
    EXPECT_TRUE(eight_turned <= 0.4 * eight);
    EXPECT_TRUE(four_turned <= 0.75 * four);  // groups confine outliers already
  }
}

}  // namespace
}  // namespace longspan::testing
