// Keys and values of eight bits: conversions against other people's, and attention over pages of them: the same bits
// from both kernels and from all pages, within what each type allows.

#include <gtest/gtest.h>

#include <cstdio>
#include <limits>
#include <support/calls.hpp>
#include <support/golden.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

template <class T>
void check_against_others(const char* values, const char* saturating) {
  LONGSPAN_NEEDS_DATA();
  const GoldenCase golden = Golden(*data_folder() / "golden", "encodings").cases().at(0);
  for (std::size_t i = 0; i < 256; ++i) {
    T x;
    x.bits = static_cast<std::uint8_t>(i);
    const double expected = golden.doubles(values)[i];
    EXPECT_TRUE(std::isnan(expected) ? std::isnan(static_cast<double>(x)) : static_cast<double>(x) == expected) << i;
  }
  const std::vector<float> x = golden.floats("x");
  for (std::size_t i = 0; i < x.size(); ++i)
    if (!std::isnan(x[i])) {
      EXPECT_EQ(T(x[i]).bits, golden.bytes(saturating)[i]) << x[i];
    }
}
TEST(Bytes, E4m3ConvertsAsOthersDo) { check_against_others<e4m3>("e4m3_values", "e4m3_saturating"); }
TEST(Bytes, E5m2ConvertsAsOthersDo) { check_against_others<e5m2>("e5m2_values", "e5m2_saturating"); }

template <class T>
void check_codes() {
  std::vector<T> x(256 + kLanes);
  for (std::size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<decltype(x[i].bits)>(i);
  for (std::size_t i = 0; i < 256; ++i) {
    const float one = static_cast<float>(x[i]);
    const Lanes lanes = load(x.data() + i);
    for (std::size_t j = 0; j < static_cast<std::size_t>(kLanes); ++j) {
      const float lane = lanes.get(j), scalar = static_cast<float>(x[i + j]);
      ASSERT_TRUE(std::isnan(scalar) ? std::isnan(lane) : lane == scalar && std::signbit(lane) == std::signbit(scalar))
          << "code " << i + j << ": " << lane << ", expected " << scalar;
    }
    if (std::isnan(one)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(T(one))));
    } else if (!std::isinf(one)) {
      EXPECT_EQ(T(one).bits, x[i].bits) << one;
    }
  }
}
TEST(Bytes, EveryCodeComesBack) {
  check_codes<e4m3>();
  check_codes<e5m2>();
  check_codes<i8>();
}

TEST(Bytes, WholeNumbersWithAScale) {
  Random random(3);
  for (const Index dim : {1, 2, 33, 128}) {
    const std::vector<float> row = random.gaussian(dim);
    std::vector<i8> codes(row.size());
    const auto to = [&](Index d) -> i8& { return codes[static_cast<std::size_t>(d)]; };
    const float scale = i8::encode(row.data(), dim, to);
    int largest = 0;
    for (std::size_t d = 0; d < row.size(); ++d) {
      EXPECT_LE(std::abs(row[d] - scale * static_cast<float>(codes[d])), 0.5001f * scale);
      largest = std::max(largest, std::abs(static_cast<int>(codes[d].bits)));
    }
    EXPECT_EQ(largest, 127);
  }
  i8 codes[3];
  const auto to = [&](Index d) -> i8& { return codes[d]; };
  const float zeros[3] = {0, -0.f, 0}, small[3] = {1e-45f, 0, 0}, infinite[3] = {1, kInfinity, 0},
              none[3] = {1, kNaN, 0};
  EXPECT_EQ(i8::encode(zeros, 3, to), 0.f);
  EXPECT_EQ(codes[0].bits | codes[1].bits | codes[2].bits, 0);
  EXPECT_LE(i8::encode(small, 3, to), 1e-45f);
  EXPECT_TRUE(std::isnan(i8::encode(infinite, 3, to)));
  EXPECT_TRUE(std::isnan(i8::encode(none, 3, to)));
}

TEST(Bytes, FourBitsInGroups) {
  Random random(4);
  for (const Index dim : {1, 31, 32, 33, 80, 128})
    for (const float outlier : {1.f, 50.f}) {
      std::vector<float> row = random.gaussian(dim);
      row[0] *= outlier;
      std::vector<int> codes(row.size());
      std::vector<i4::Group> groups(static_cast<std::size_t>(ceil_div(dim, i4::kGroup)));
      const float scale = i4::encode(
          row.data(), dim, [&](Index d, int code) { codes[static_cast<std::size_t>(d)] = code; },
          [&](Index g) -> i4::Group& { return groups[static_cast<std::size_t>(g)]; });
      for (Index d = 0; d < dim; ++d) {
        const Index begin = d / i4::kGroup * i4::kGroup, end = std::min(begin + i4::kGroup, dim);
        const auto [low, high] = std::minmax_element(row.begin() + begin, row.begin() + end);
        const int number = groups[static_cast<std::size_t>(d / i4::kGroup)].number(codes[static_cast<std::size_t>(d)]);
        EXPECT_GE(number, -128);
        EXPECT_LE(number, 127);
        const float error = std::abs(scale * static_cast<float>(number) - row[static_cast<std::size_t>(d)]);
        EXPECT_TRUE(error <= (*high - *low) / 8 + scale) << dim << ", outlier " << outlier << ", element " << d;
      }
    }
  int most = 0;
  const auto code = [&](Index, int c) { most = std::max(most, c); };
  i4::Group group;
  const auto to = [&](Index) -> i4::Group& { return group; };
  const float zeros[2] = {0, -0.f}, none[2] = {1, kNaN};
  EXPECT_EQ(i4::encode(zeros, 2, code, to), 0.f);
  EXPECT_TRUE(std::isnan(i4::encode(none, 2, code, to)));
  EXPECT_LE(most, 15);
}

/// The same keys and values as floats and in pages of T.
template <class T>
struct Data {
  static constexpr Index kKeys = 333, kQueries = 50, kHeads = 6, kKvHeads = 2;

  Data(Index dim_, Index page_size)
      : dim(dim_),
        cache({.pages = kKeys / page_size + 1, .page_size = page_size, .kv_heads = kKvHeads, .head_dim = dim}) {
    Random random(7);
    q = random.gaussian(kQueries * kHeads * dim);
    k = random.gaussian(kKeys * kKvHeads * dim);
    v = random.gaussian(kKeys * kKvHeads * dim);
    auto stored = v;
    for (const Index key : {3, 182})  // which nobody sees, and which share a word with one that is seen
      for (Index d = 0; d < kKvHeads * dim; ++d) stored[static_cast<std::size_t>(key * kKvHeads * dim + d)] = kNaN;
    id = cache.open();
    const TensorView<const float> keys = view(k, kKeys, kKvHeads, dim), values = view(stored, kKeys, kKvHeads, dim);
    if (cache.append(id, keys, values) != Appended::kDone) throw std::logic_error("too few pages");
  }
  TensorView<const float> queries() const { return view(q, kQueries, kHeads, dim); }
  auto exact() const {
    return Contiguous(TensorView<const float>(view(k, kKeys, kKvHeads, dim)),
                      TensorView<const float>(view(v, kKeys, kKvHeads, dim)));
  }
  template <class Engine = Flash, class Source>
  std::vector<float> call(const Source& source, Kernel kernel = Kernel::kAutomatic, Index first_key = 0) const {
    std::vector<float> out(q.size(), kNaN);
    attention<Engine>(Window{101} | Sinks{3})(queries(), source, view(out, kQueries, kHeads, dim),
                                              {.first_key = first_key, .kernel = kernel});
    return out;
  }

  Index dim;
  std::vector<float> q, k, v;
  PagedCache<T> cache;
  SequenceId id;
};

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
    difference += (a - b) * (a - b), size += b * b;
  }
  return std::sqrt(difference / size);
}

/// `arithmetic`: against the definition over the same pages, of max|v|. `format`: against floats, relative to the whole
/// output (root of the sums of squares).
template <class T>
void check_kernels(double arithmetic, double format) {
  std::vector<float> reference;
  for (const Index dim : {128, 33, 80})
    for (const Index page_size : {64, 7, 100}) {
      const Data<T> data(dim, page_size);
      const auto paged = data.cache.view(data.id);
      const auto exact = data.template call<Naive>(paged);
      const auto wide = data.call(paged, Kernel::kWide);
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kNarrow), wide)) << dim << " pages of " << page_size;
      if (page_size == 64) reference = wide;
      EXPECT_TRUE(same_bits(wide, reference)) << dim << " pages of " << page_size;
      const Shortened<PagedView<T>> shortened{paged};
      EXPECT_TRUE(same_bits(data.call(shortened, Kernel::kWide), wide)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(data.call(shortened, Kernel::kNarrow), wide)) << dim << " pages of " << page_size;
      EXPECT_TRUE(same_bits(data.call(paged, Kernel::kNarrow, 1), data.call(paged, Kernel::kWide, 1)))
          << dim << " pages of " << page_size;
      for (std::size_t i = 0; i < wide.size(); ++i)
        ASSERT_LE(std::abs(static_cast<double>(wide[i]) - static_cast<double>(exact[i])), arithmetic * 5)
            << "dim " << dim << ", pages of " << page_size << ", element " << i;
      const double error = relative_error(wide, data.template call<Naive>(data.exact()));
      EXPECT_LE(error, format) << dim;
      if (page_size == 64) std::printf("  dim %d: relative error %.1e\n", static_cast<int>(dim), error);
    }
}

constexpr double kWords = kPack<e4m3> == 1 ? 2e-6 : 4 * 0x1p-9;  // dot products round queries and weights to bf16
TEST(Bytes, E4m3InBothKernels) { check_kernels<e4m3>(kWords, 4e-2); }
TEST(Bytes, E5m2InBothKernels) { check_kernels<e5m2>(kWords, 8e-2); }
TEST(Bytes, I8InBothKernels) { check_kernels<i8>(kPack<i8> == 1 ? 2e-6 : 1e-4, 1e-2); }

TEST(Bytes, I4InBothKernels) { check_kernels<i4>(kPack<i8> == 1 ? 2e-6 : 1e-4, 1.2e-1); }

TEST(Bytes, CacheTakesWhatItSays) {
  const PagedShape shape{.pages = 3, .page_size = 5, .kv_heads = 2, .head_dim = 3, .value_dim = 7};
  EXPECT_EQ(PagedCache<e4m3>::bytes(shape), 3 * 2 * 5 * (3 + 7));
  EXPECT_EQ(PagedCache<i8>::bytes(shape), 3 * 2 * (5 * (3 + 7 + 8) + 2));  // two bytes to the next scale
  const PagedShape usual{.pages = 1, .page_size = 64, .kv_heads = 8, .head_dim = 128};
  EXPECT_EQ(PagedCache<i4>::bytes(usual), 64 * 8 * 2 * (128 / 2 + 128 / 32 * 2 + 4));  // codes, groups, scale
}

}  // namespace
}  // namespace longspan::testing
