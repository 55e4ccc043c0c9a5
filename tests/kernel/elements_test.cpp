// bf16 and f16 keys, values, queries and outputs: the same bits from both kernels, contiguous and in pages, and an
// error within twice what rounding to the element type does to inputs and output.

#include <gtest/gtest.h>

#include <support/calls.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

template <class T>
std::vector<T> rounded(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  convert(x.data(), static_cast<Index>(x.size()), y.data());
  return y;
}

template <class T>
void check_elements(double unit) {
  const Index keys = 333, queries = 50, heads = 6, kv_heads = 2;
  for (const Index dim : {128, 33, 80})
    for (const Index page_size : {64, 7, 100}) {
      Random random(7);
      const auto q = rounded<T>(random.gaussian(queries * heads * dim));
      const auto k = rounded<T>(random.gaussian(keys * kv_heads * dim));
      const auto v = rounded<T>(random.gaussian(keys * kv_heads * dim));
      const Contiguous source(view(k, keys, kv_heads, dim), view(v, keys, kv_heads, dim));
      PagedCache<T> cache(
          {.pages = keys / page_size + 1, .page_size = page_size, .kv_heads = kv_heads, .head_dim = dim});
      const SequenceId id = cache.open();
      ASSERT_EQ(cache.append(id, view(k, keys, kv_heads, dim), view(v, keys, kv_heads, dim)), Appended::kDone);
      const auto attend = attention(Window{101} | Sinks{3});
      const auto call = [&](const auto& by, const auto& from, Kernel kernel) {
        std::vector<float> out = nans(queries * heads * dim);
        by(view(q, queries, heads, dim), from, view(out, queries, heads, dim), {.kernel = kernel});
        return out;
      };
      const auto exact = call(attention<Naive>(Window{101} | Sinks{3}), source, Kernel::kAutomatic);
      const auto wide = call(attend, source, Kernel::kWide);
      EXPECT_TRUE(same_bits(call(attend, source, Kernel::kNarrow), wide)) << dim;
      EXPECT_TRUE(same_bits(call(attend, cache.view(id), Kernel::kWide), wide)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(call(attend, cache.view(id), Kernel::kNarrow), wide)) << dim << " pages of " << page_size;
      double worst = 0, largest = 0;
      for (std::size_t i = 0; i < wide.size(); ++i)
        if (const double e = std::abs(static_cast<double>(wide[i]) - static_cast<double>(exact[i])); !(e <= worst))
          worst = e;
      for (const T x : v) largest = std::max(largest, std::abs(static_cast<double>(x)));
      EXPECT_TRUE(worst <= 4 * unit * largest) << worst << " of " << largest;
    }
}

TEST(Elements, Bf16) { check_elements<bf16>(0x1p-9); }
TEST(Elements, F16) { check_elements<f16>(0x1p-12); }

TEST(Elements, RoundToNearestEvenInLanesAsInScalars) {
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0xff000000u; bits += 0x1fffu) x.push_back(std::bit_cast<float>(bits));
  const auto b = rounded<bf16>(x);
  const auto h = rounded<f16>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(b[i].bits, bf16(x[i]).bits) << x[i];
    if (x[i] == x[i]) {
      ASSERT_EQ(h[i].bits, f16(x[i]).bits) << x[i];
    }
  }
}

}  // namespace
}  // namespace longspan::testing
