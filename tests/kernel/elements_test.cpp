// bf16 and f16 as keys, values, queries and outputs: the same bits from both kernels, contiguous and in pages, within
// what each type allows; conversions against other people's.

#include <gtest/gtest.h>

#include <limits>
#include <support/calls.hpp>
#include <support/golden.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

template <class T>
std::vector<T> rounded(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  convert(x.data(), static_cast<Index>(x.size()), y.data());
  return y;
}

/// Queries, keys and values of one type, also in pages, and calls that see some of them.
template <class T>
struct Data {
  static constexpr Index kKeys = 333, kQueries = 50, kHeads = 6, kKvHeads = 2;

  Data(Index dim_, Index page_size)
      : dim(dim_),
        cache({.pages = kKeys / page_size + 1, .page_size = page_size, .kv_heads = kKvHeads, .head_dim = dim}) {
    Random random(7);
    q = rounded<T>(random.gaussian(kQueries * kHeads * dim));
    k = rounded<T>(random.gaussian(kKeys * kKvHeads * dim));
    v = rounded<T>(random.gaussian(kKeys * kKvHeads * dim));
    for (const Index key : kUnseen)
      for (Index d = 0; d < kKvHeads * dim; ++d)
        v[static_cast<std::size_t>(key * kKvHeads * dim + d)] = T(std::numeric_limits<float>::quiet_NaN());
    id = cache.open();
    if (cache.append(id, keys(), values()) != Appended::kDone) throw std::logic_error("too few pages");
  }
  auto keys() const { return view(k, kKeys, kKvHeads, dim); }
  auto values() const { return view(v, kKeys, kKvHeads, dim); }
  auto queries() const { return view(q, kQueries, kHeads, dim); }

  template <class Out = float, class Engine = Flash, class Source>
  std::vector<Out> call(const Source& source, Kernel kernel = Kernel::kAutomatic, Index first_key = 0) const {
    std::vector<Out> out(q.size(), Out(std::numeric_limits<float>::quiet_NaN()));
    attention<Engine>(Window{101} | Sinks{3})(queries(), source, view(out, kQueries, kHeads, dim),
                                              {.first_key = first_key, .kernel = kernel});
    return out;
  }

  static constexpr Index kUnseen[] = {3, 182};  // keys that share a word with one that is seen
  Index dim;
  std::vector<T> q, k, v;
  PagedCache<T> cache;
  SequenceId id;
};

template <class T>
void check_elements(double tolerance) {
  for (const Index dim : {128, 33, 80})
    for (const Index page_size : {64, 7, 100}) {
      const Data<T> data(dim, page_size);
      const Contiguous contiguous(data.keys(), data.values());
      const auto paged = data.cache.view(data.id);
      const auto exact = data.template call<float, Naive>(contiguous);
      const auto wide = data.call(contiguous, Kernel::kWide);
      EXPECT_TRUE(same_bits(data.call(contiguous, Kernel::kNarrow), wide)) << dim;
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kWide), wide)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kNarrow), wide)) << dim << " pages of " << page_size;
      const Shortened<PagedView<T>> shortened{paged};
      EXPECT_TRUE(same_bits(data.call(shortened, Kernel::kWide), wide)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(data.call(shortened, Kernel::kNarrow), wide)) << dim << " pages of " << page_size;
      // Keys at odd positions first: what stands together in a page is not what is together in a sum.
      const auto odd = data.call(contiguous, Kernel::kWide, 1);
      EXPECT_TRUE(same_bits(data.call(contiguous, Kernel::kNarrow, 1), odd)) << dim;
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kWide, 1), odd)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kNarrow, 1), odd)) << dim << " pages of " << page_size;
      for (std::size_t i = 0; i < wide.size(); ++i)  // values are below 5
        ASSERT_LE(std::abs(static_cast<double>(wide[i]) - static_cast<double>(exact[i])), tolerance * 5)
            << "dim " << dim << ", element " << i;
      for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {  // the output is that row, rounded once
        const auto out = data.template call<T>(contiguous, kernel);
        for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i].bits, T(wide[i]).bits) << "element " << i;
      }
    }
}

// Dot products of bf16 round queries and weights; everything else is widened, and as exact as float.
TEST(Elements, Bf16) { check_elements<bf16>(kPack<bf16> == 1 ? 2e-6 : 4 * 0x1p-9); }
TEST(Elements, F16) { check_elements<f16>(2e-6); }

TEST(Elements, ConvertAsOthersDo) {
  LONGSPAN_NEEDS_DATA();
  const GoldenCase golden = Golden(*data_folder() / "golden", "encodings").cases().at(0);
  const std::vector<float> x = golden.floats("x");
  const auto b = rounded<bf16>(x);
  const auto h = rounded<f16>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) continue;  // which NaN is nobody's business
    EXPECT_EQ(b[i].bits, golden.wholes("bf16")[i]) << x[i];
    EXPECT_EQ(h[i].bits, golden.wholes("f16")[i]) << x[i];
  }
}

TEST(Elements, LanesConvertAsScalarsDo) {
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0xff000000u; bits += 0x1fffu) x.push_back(std::bit_cast<float>(bits));
  const auto b = rounded<bf16>(x);
  const auto h = rounded<f16>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(b[i].bits, bf16(x[i]).bits) << x[i];
    if (!std::isnan(x[i])) {
      ASSERT_EQ(h[i].bits, f16(x[i]).bits) << x[i];
    }
  }
}

TEST(Elements, EveryHalfFloatComesBack) {
  std::vector<bf16> b(65536);
  std::vector<f16> h(65536);
  for (std::size_t i = 0; i < b.size(); ++i) b[i].bits = h[i].bits = static_cast<std::uint16_t>(i);
  std::vector<float> from_b(b.size()), from_h(b.size());
  convert(b.data(), std::ssize(b), from_b.data());
  convert(h.data(), std::ssize(h), from_h.data());
  for (std::size_t i = 0; i < b.size(); ++i) {
    ASSERT_TRUE(std::isnan(from_b[i]) ? std::isnan(static_cast<float>(b[i])) : from_b[i] == static_cast<float>(b[i]));
    ASSERT_TRUE(std::isnan(from_h[i]) ? std::isnan(static_cast<float>(h[i])) : from_h[i] == static_cast<float>(h[i]));
    if (!std::isnan(from_b[i])) {
      ASSERT_EQ(bf16(from_b[i]).bits, i);
    }
    if (!std::isnan(from_h[i])) {
      ASSERT_EQ(f16(from_h[i]).bits, i);
    }
  }
}

}  // namespace
}  // namespace longspan::testing
