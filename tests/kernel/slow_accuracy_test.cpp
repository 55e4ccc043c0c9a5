// Error against the definition in double at real lengths, and what is not finite reaches only the rows that see it.

#include <gtest/gtest.h>

#include <cstdio>
#include <limits>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

/// Printed, recorded, and at most `allowed`.
void expect_error(const std::string& what, double error, double allowed = 2e-6) {
  std::printf("%-34s error %.3g · max|v|\n", what.c_str(), error);
  ::testing::Test::RecordProperty(what, std::to_string(error * 1e6) + "e-6");
  EXPECT_TRUE(error <= allowed) << what << ": " << error;
}

double largest_error(const Call& call, const Result& got, const Result& exact) {
  const double largest = call.largest_value();
  double worst = 0;
  for (std::size_t i = 0; i < got.out.size(); ++i)
    worst = std::max(worst, error_in(got.out[i], static_cast<double>(exact.out[i]), largest));
  return worst;
}

/// Both kernels; prefill is its last rows, among them some of a whole register tile.
void expect_accurate(const std::string& name, const Call& call) {
  const Result exact = call.by_definition();
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
    const Result got = call.by(call.contiguous(), kernel);
    expect_error(name + (kernel == Kernel::kWide ? " wide" : " narrow"), largest_error(call, got, exact));
    EXPECT_TRUE(call.close(got, exact)) << name;
  }
}

constexpr Index kKeys = 4096;
const cases::Shape kShape{50, kKeys, 1, 1, 128, 128};

TEST(Accuracy, Gaussian) {
  Random random(1);
  cases::Tensors t(kShape);
  t.q_memory = random.gaussian(std::ssize(t.q_memory));
  t.k_memory = random.gaussian(std::ssize(t.k_memory));
  t.v_memory = random.gaussian(std::ssize(t.v_memory));
  expect_accurate("gaussian, full", {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Full{})});
  expect_accurate("gaussian, causal", {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Causal{})});
  expect_accurate("gaussian, window", {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Window{1000})});
  for (float& x : t.v_memory) x = std::abs(x);  // no cancellation: the sums are long
  expect_accurate("gaussian, values > 0", {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Full{})});
}

TEST(Accuracy, OneKeyFarAboveTheRest) {
  Random random(2);
  for (const Index spike : {Index{0}, Index{2047}, Index{2048}, kKeys - 1})
    for (const float height : {5e4f, -5e4f}) {
      cases::Tensors t(kShape);
      t.v_memory = random.gaussian(std::ssize(t.v_memory));
      // every query has the same first element, which alone meets the spike
      for (Index i = 0; i < kShape.queries; ++i)
        for (Index h = 0; h < kShape.heads; ++h) t.q_memory[static_cast<std::size_t>((i * kShape.heads + h) * 128)] = 1;
      float* key = t.k_memory.data() + spike * 128;
      std::fill_n(key, 128, 0.f);
      key[0] = height * std::sqrt(128.f);
      expect_accurate("spike of " + std::to_string(static_cast<int>(height)) + " at " + std::to_string(spike),
                      {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Full{})});
    }
}

TEST(Accuracy, ConstantScores) {
  Random random(3);
  for (const float score : {0.f, 1.f, 300.f, -5e4f}) {
    cases::Tensors t(kShape);
    t.v_memory = random.uniform(std::ssize(t.v_memory), 0.f, 1.f);
    std::fill(t.q_memory.begin(), t.q_memory.end(), 1.f);
    std::fill(t.k_memory.begin(), t.k_memory.end(), score / std::sqrt(128.f));
    expect_accurate("constant " + std::to_string(static_cast<int>(score)),
                    {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Full{})});
  }
}

TEST(Accuracy, DoesNotGrowWithLength) {
  for (const Index keys : {1000, 16384, 262144}) {
    Random random(4);
    cases::Tensors t({1, keys, 1, 1, 16, 16});
    t.v_memory = random.uniform(std::ssize(t.v_memory), 0.f, 1.f);
    for (float& x : t.q_memory) x *= 0.1f;  // weights of one size: the longest sums
    expect_accurate(std::to_string(keys) + " keys", {.q = t.q(), .k = t.k(), .v = t.v(), .mask = AnyMask::of(Full{})});
  }
}

/// The rows of `head` that see key `bad` are not finite, and all others have the bits that they have without it.
void expect_only_those_who_see(const Call& clean, const Call& spoilt, Index bad, Index bad_kv_head, bool whole_row) {
  const auto spoilt_pages = Pages(spoilt.k, spoilt.v, 16);
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
    const Result wanted = clean.by(clean.contiguous(), kernel);
    const Result got = spoilt.by(spoilt.contiguous(), kernel);
    const Result paged = spoilt.by(spoilt_pages.view(), kernel);
    const Index dim = clean.v.dim;
    for (Index i = 0; i < clean.q.tokens; ++i)
      for (Index h = 0; h < clean.q.heads; ++h) {
        const bool sees =
            h / (clean.q.heads / clean.k.heads) == bad_kv_head && clean.mask.allows(clean.position(i), bad);
        for (Index d = 0; d < dim; ++d) {
          const auto at = static_cast<std::size_t>((i * clean.q.heads + h) * dim + d);
          if (sees && (whole_row || d == 1)) {
            ASSERT_FALSE(std::isfinite(got.out[at])) << "row " << i << ", head " << h << ", " << d;
            ASSERT_FALSE(std::isfinite(paged.out[at])) << "row " << i << ", head " << h << ", " << d;
          } else {
            ASSERT_TRUE(same_bits(std::span(&got.out[at], 1), std::span(&wanted.out[at], 1)))
                << "row " << i << ", head " << h << ", " << d << ", key " << bad;
            ASSERT_TRUE(same_bits(std::span(&paged.out[at], 1), std::span(&wanted.out[at], 1)))
                << "row " << i << ", head " << h << ", " << d << ", key " << bad << ", pages";
          }
        }
      }
  }
}

TEST(NotFinite, ReachesOnlyRowsThatSeeIt) {
  for (const cases::Shape& shape : {cases::Shape{60, 130, 4, 2, 12, 20}, cases::Shape{9, 2200, 4, 2, 12, 20}})
    for (const Expression& mask : {causal(), window(50) | sinks(3), prefix(100), causal() & !window(20)})
      for (const bool scored : {false, true})
        for (const Index from_end : {1, 2, 5, 30, 64, 100, 128}) {
          const Index bad = shape.keys - from_end;
          const cases::Tensors clean(shape);
          const auto scores = scored ? AnyScore::of(std::tuple(SoftCap(20.f))) : AnyScore();
          const auto call = [&](const cases::Tensors& t) {
            return Call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = mask.mask, .scores = scores};
          };
          SCOPED_TRACE(mask.name + " " + shape.name());
          for (const float poison : {kNan, kInfinity, -kInfinity}) {
            cases::Tensors values = clean;
            values.v_memory[static_cast<std::size_t>((bad * 2 + 1) * 20 + 1)] = poison;
            expect_only_those_who_see(call(clean), call(values), bad, 1, false);
          }
          cases::Tensors keys = clean;
          keys.k_memory[static_cast<std::size_t>((bad * 2 + 1) * 12 + 3)] = kNan;
          expect_only_those_who_see(call(clean), call(keys), bad, 1, true);
        }
}

TEST(NotFinite, InQueriesStaysInItsRow) {
  const cases::Shape shape{60, 130, 4, 2, 12, 20};
  const cases::Tensors clean(shape);
  for (const float poison : {kNan, kInfinity}) {
    cases::Tensors bad = clean;
    bad.q_memory[static_cast<std::size_t>((7 * 4 + 2) * 12 + 5)] = poison;
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
      const auto attend = attention(Causal{});
      const Result wanted = run(attend, clean.q(), Contiguous(clean.k(), clean.v()), {.kernel = kernel});
      Result got = run(attend, bad.q(), Contiguous(bad.k(), bad.v()), {.kernel = kernel});
      const std::size_t row = 7 * 4 + 2;
      for (std::size_t d = 0; d < 20; ++d) EXPECT_FALSE(std::isfinite(got.out[row * 20 + d]));
      std::copy_n(wanted.out.begin() + row * 20, 20, got.out.begin() + row * 20);
      got.lse[row] = wanted.lse[row];
      EXPECT_TRUE(same_bits(got, wanted));
    }
  }
}

}  // namespace
}  // namespace longspan::testing
