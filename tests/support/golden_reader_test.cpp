#include <gtest/gtest.h>

#include <support/golden.hpp>
#include <support/near.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

/// A folder of its own for each test, removed with it.
class GoldenReader : public ::testing::Test {
 protected:
  GoldenReader() {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = std::filesystem::path(::testing::TempDir()) / ("longspan_golden_" + test);
    std::filesystem::create_directories(folder_);
  }
  ~GoldenReader() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  Golden read(const std::string& manifest, const std::string& binary) const {
    write("one.txt", manifest);
    write("one.bin", binary);
    return Golden(folder_, "one");
  }
  std::string complaint(const std::string& manifest, const std::string& binary = std::string(16, 'x')) const {
    try {
      read(manifest, binary);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "none";
  }
  std::filesystem::path folder_;
};

TEST_F(GoldenReader, ReadsParametersAndArrays) {
  const float x[] = {1.5f, -2.f, 0.25f, 7.f};
  const Index w[] = {-3, Index{1} << 40};
  std::string binary(reinterpret_cast<const char*>(x), sizeof x);
  binary.append(reinterpret_cast<const char*>(w), sizeof w);
  binary.append("\x01\xff", 2);
  const Golden golden = read(
      "# comment\n\ncase a\n  count 3\n  scale 0.125\n  mask causal & window 8\n  array x f32 2x2 0\n"
      "case b\n  array w i64 2 16\n  array u u8 2 32\n  array none f64 0x3 0\n  array one f64 1 16\n",
      binary);
  ASSERT_EQ(golden.cases().size(), 2u);
  const GoldenCase& a = golden.at("a");
  EXPECT_EQ(a.whole("count"), 3);
  EXPECT_EQ(a.number("scale"), 0.125);
  EXPECT_EQ(a.text("mask"), "causal & window 8");
  EXPECT_EQ(a.shape("x"), (std::vector<Index>{2, 2}));
  EXPECT_EQ(a.floats("x"), (std::vector<float>{1.5f, -2.f, 0.25f, 7.f}));
  EXPECT_FALSE(a.has("mode"));
  EXPECT_FALSE(a.has_array("w"));
  const GoldenCase& b = golden.at("b");
  EXPECT_EQ(b.wholes("w"), (std::vector<Index>{-3, Index{1} << 40}));
  EXPECT_EQ(b.bytes("u"), (std::vector<unsigned char>{1, 255}));
  EXPECT_TRUE(b.doubles("none").empty());
  EXPECT_EQ(b.doubles("one").size(), 1u);
  EXPECT_THROW(a.text("mode"), std::runtime_error);
  EXPECT_THROW(a.whole("scale"), std::runtime_error);
  EXPECT_THROW(a.number("mask"), std::runtime_error);
  EXPECT_THROW(a.floats("w"), std::runtime_error);
  EXPECT_THROW(a.doubles("x"), std::runtime_error);
  EXPECT_THROW(golden.at("c"), std::runtime_error);
}

TEST_F(GoldenReader, NamesWhatIsWrong) {
  EXPECT_EQ(complaint("case a\n  array x f32 4 0\n"), "none");
  EXPECT_EQ(complaint("case a\n  array x f32 5 0\n"), "one.txt:2: array x leaves the file of 16 bytes");
  EXPECT_EQ(complaint("case a\n  array x u8 9 8\n"), "one.txt:2: array x leaves the file of 16 bytes");
  EXPECT_EQ(complaint("case a\n  array x f32 1 4\n"), "one.txt:2: bad offset 4");
  EXPECT_EQ(complaint("case a\n  array x f32 1 -8\n"), "one.txt:2: bad offset -8");
  EXPECT_EQ(complaint("case a\n  array x f32 1 24\n"), "one.txt:2: bad offset 24");
  EXPECT_EQ(complaint("case a\n  array x f16 1 0\n"), "one.txt:2: unknown type f16");
  for (const char* shape : {"x", "2x", "x2", "2xx2", "-2", "2.5", "a", "99999999999999999999"})
    EXPECT_EQ(complaint(std::string("case a\n  array x f32 ") + shape + " 0\n"),
              std::string("one.txt:2: bad shape ") + shape);
  EXPECT_EQ(complaint("case a\n  array x f32 1000000000000x1000000000000 0\n"),
            "one.txt:2: bad shape 1000000000000x1000000000000");
  EXPECT_EQ(complaint("case a\n  array x f32 4\n"), "one.txt:2: expected array NAME TYPE SHAPE OFFSET");
  EXPECT_EQ(complaint("case a\n  array x f32 4 0 0\n"), "one.txt:2: expected array NAME TYPE SHAPE OFFSET");
  EXPECT_EQ(complaint("case a\n  array x f32 4 zero\n"), "one.txt:2: expected array NAME TYPE SHAPE OFFSET");
  EXPECT_EQ(complaint("case a\n  array x f32 4 0\n  array x f32 4 0\n"), "one.txt:3: second array x");
  EXPECT_EQ(complaint("case a\n  n 1\n  n 1\n"), "none");
  EXPECT_EQ(complaint("case a\n  n 1\n  n 2\n"), "one.txt:3: another value of n");
  EXPECT_EQ(complaint("case a\n  n\n"), "one.txt:2: n has no value");
  EXPECT_EQ(complaint("n 1\ncase a\n"), "one.txt:1: n before the first case");
  EXPECT_EQ(complaint("array x f32 4 0\n"), "one.txt:1: array before the first case");
  EXPECT_EQ(complaint("case\n"), "one.txt:1: a case has one name");
  EXPECT_EQ(complaint("case a b\n"), "one.txt:1: a case has one name");
  EXPECT_EQ(complaint("case a\ncase a\n"), "one.txt:2: second case a");
}

TEST_F(GoldenReader, NeedsBothFiles) {
  write("half.txt", "case a\n");
  EXPECT_THROW(Golden(folder_, "half"), std::runtime_error);
  EXPECT_THROW(Golden(folder_, "neither"), std::runtime_error);
}

TEST(SharedData, EveryGoldenFileIsRead) {
  LONGSPAN_NEEDS_DATA();
  for (const char* name : {"rope", "positions", "attention", "gradient", "encodings"}) {
    const Golden golden(*data_folder() / "golden", name);
    EXPECT_FALSE(golden.cases().empty()) << name;
  }
  EXPECT_FALSE(read_file(*data_folder() / "text" / "tinystories.txt").empty());
}

// What the comparisons must refuse, as everything else relies on it.
TEST(Comparisons, FailOnNan) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> one{1.f, nan}, low{1.f, -infinity};
  const std::vector<double> two{1.0, 2.0}, two_nan{1.0, std::nan("")}, two_low{1.0, -infinity}, two_high{1.0, infinity};
  EXPECT_FALSE(near(one, two, 1e30));
  EXPECT_FALSE(near(one, two_nan, 1e30));
  EXPECT_FALSE(within_ulps(one, two, 1e30));
  EXPECT_FALSE(near(low, two, 1e30));
  EXPECT_TRUE(near(low, two_low, 0));
  EXPECT_FALSE(near(low, two_high, 1e30));
  EXPECT_FALSE(near(std::vector<float>{1.f}, two, 1e30));
  EXPECT_TRUE(near(std::vector<float>{1.f, 2.001f}, two, 0.001));
  EXPECT_FALSE(near(std::vector<float>{1.f, 2.003f}, two, 0.001));
}

TEST(Comparisons, CountUlps) {
  EXPECT_EQ(float_ulp(1.0), 0x1p-23);
  EXPECT_EQ(float_ulp(1.99), 0x1p-23);
  EXPECT_EQ(float_ulp(-2.0), 0x1p-22);
  EXPECT_EQ(float_ulp(0.0), 0x1p-149);
  EXPECT_EQ(float_ulp(0x1p-140), 0x1p-149);
  EXPECT_EQ(error_in_ulps(1.f, 1 + 0x1p-22), 2);
  EXPECT_TRUE(same_bits(std::vector<float>{0.f, 1.f}, std::vector<float>{0.f, 1.f}));
  EXPECT_FALSE(same_bits(std::vector<float>{0.f}, std::vector<float>{-0.f}));
  const std::string message = same_bits(std::vector<float>{3.f, 1.f}, std::vector<float>{3.f, 2.f}).message();
  EXPECT_NE(message.find("[1]"), std::string::npos) << message;
}

TEST(RandomNumbers, RepeatBySeed) {
  EXPECT_EQ(Random(7).gaussian(100), Random(7).gaussian(100));
  EXPECT_NE(Random(7).gaussian(100), Random(8).gaussian(100));
  const std::vector<float> spiky = Random(9).spiky(10000, 5e4f);
  const auto spikes = std::count_if(spiky.begin(), spiky.end(), [](float x) { return std::abs(x) == 5e4f; });
  EXPECT_GT(spikes, 50);
  EXPECT_LT(spikes, 200);
}

}  // namespace
}  // namespace longspan::testing
