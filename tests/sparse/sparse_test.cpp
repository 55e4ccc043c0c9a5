// Masks chosen from data: what they keep against the definition, on planted structure, and certificates against the
// true error on inputs made to break them.

#include <gtest/gtest.h>

#include <longspan/longspan.hpp>
#include <support/any_mask.hpp>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/planted.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

/// Of one head, by the definition: output and LSE under a mask.
Result definition(const AnyMask& mask, TensorView<const float> q, TensorView<const float> k,
                  TensorView<const float> v) {
  return run(attention<Naive>(mask), q, Contiguous(k, v));
}

/// The share of the mass that a mask keeps, from LSE.
double truth(const BlockSparse& mask, TensorView<const float> q, TensorView<const float> k) {
  const Result all = definition(causal().mask, q, k, k), kept = definition(AnyMask::of(mask & Causal{}), q, k, k);
  return kept_mass(kept.lse, all.lse);
}

TEST(Probe, WeightsAreTheDefinitions) {
  const cases::Tensors t({37, 90, 4, 2, 21, 21});
  for (const Index h : {0, 3}) {
    const HeadOf head(t.q(), t.k(), h, 0.7f);
    for (const Probe& probe : {Probe::last(head, 9), Probe::spread(head, 5), Probe::spread(head, 1000)}) {
      for (Index i = 0; i < probe.rows(); ++i) {
        const Index p = probe.position(i);
        double sum = 0;
        std::vector<double> weight(90);
        for (Index j = 0; j <= p; ++j) {
          double dot = 0;
          for (Index d = 0; d < 21; ++d)
            dot += static_cast<double>(t.q().row(p - 53, h)[d]) * static_cast<double>(t.k().row(j, h / 2)[d]);
          sum += weight[static_cast<std::size_t>(j)] = std::exp(static_cast<double>(0.7f) * dot);
        }
        for (Index j = 0; j < 90; ++j)
          ASSERT_NEAR(probe.row(i)[j], weight[static_cast<std::size_t>(j)] / sum, 1e-5) << p << " " << j;
      }
    }
    EXPECT_EQ(Probe::last(head, 9).position(0), 81);
    EXPECT_EQ(Probe::spread(head, 5).position(4), 89);
    EXPECT_EQ(Probe::spread(head, 1000).rows(), 37);
  }
}

TEST(Probe, KeptIsTheMassUnderAMask) {
  const cases::Tensors t({150, 150, 1, 1, 16, 16});
  const HeadOf head(t.q(), t.k(), 0);
  const BlockSparse mask(head.grid(16), [](Index r, Index c) { return c == r || (r * 3 + c) % 4 == 0; });
  EXPECT_NEAR(Probe::spread(head, 150).kept(mask), truth(mask, t.q(), t.k()), 1e-5);
  EXPECT_NEAR(Probe::spread(head, 7).kept(Full{}), 1, 1e-6);
  EXPECT_EQ(kept_mass(std::vector<float>{kMinusInfinity, 1.f}, std::vector<float>{kMinusInfinity, 1.f}), 1);
  EXPECT_TRUE(refused([] { kept_mass(std::vector<float>{1}, std::vector<float>{1, 2}); }, "kept_mass.size", 1, 2));
}

// Two keys that all look at, and two distances at which all look back.
const std::vector<Index> kColumns{3, 700}, kDistances{0, 333};

TEST(VerticalSlash, FindsPlantedLines) {
  const Planted t(1500, 64, kColumns, kDistances, 22, 1);
  const HeadOf head(t.queries(), t.keys(), 0);
  const Sparsity s = VerticalSlash{.mass = 0.95}(head);
  const double kept = truth(s.mask, t.queries(), t.keys());
  EXPECT_GE(kept, 0.95);
  EXPECT_NEAR(s.kept, kept, 0.02);
  EXPECT_LE(s.density, 0.45);
  for (Index q = 0; q < 1500; ++q) {
    for (const Index c : kColumns) {
      if (c <= q) {
        ASSERT_TRUE(s.mask.allows(q, c)) << q;
      }
    }
    for (const Index d : kDistances) {
      if (d <= q) {
        ASSERT_TRUE(s.mask.allows(q, q - d)) << q;
      }
    }
  }
  // In a chunk at the end of the keys the same lines are found.
  const Sparsity chunk = VerticalSlash{.mass = 0.95}(HeadOf(t.queries().slice({1300, 1500}), t.keys(), 0));
  for (Index q = 1300; q < 1500; ++q)
    for (Index k = 0; k <= q; ++k) ASSERT_EQ(chunk.mask.allows(q, k), s.mask.allows(q, k)) << q << " " << k;
  EXPECT_EQ(VerticalSlash{.most = 1}(head).density < s.density, true);
}

TEST(BlockPatterns, KeepPlantedMass) {
  const Planted t(1200, 64, kColumns, kDistances, 22, 2);
  const HeadOf head(t.queries(), t.keys(), 0);
  const auto hold = [&](const char* name, const Sparsity& s, double least, double densest) {
    const double kept = truth(s.mask, t.queries(), t.keys());
    EXPECT_GE(kept, least) << name;
    EXPECT_NEAR(s.kept, kept, 0.03) << name;
    EXPECT_LE(s.density, densest) << name;
  };
  hold("antidiagonal", Antidiagonal{.stride = 2, .mass = 0.97}(head), 0.9, 0.6);
  hold("pooled", PooledTopK{.count = 6}(head), 0.5, 0.75);
  hold("A-shape", AShape{.sinks = 1, .window = 2}(head), 0.4, 0.35);
  const Sparsity a = AShape{.block = 100, .sinks = 1, .window = 2}(head);
  for (Index q = 0; q < 1200; q += 7)
    for (Index k = 0; k <= q; k += 3)
      ASSERT_EQ(a.mask.allows(q, k), k / 100 < 1 || q / 100 - k / 100 < 2) << q << " " << k;
  // All blocks: nothing is left out.
  for (const Sparsity& s : {Antidiagonal{.mass = 1}(head), PooledTopK{.count = 1000}(head), AShape{.window = 99}(head),
                            VerticalSlash{.mass = 1, .most = 5000}(head)})
    EXPECT_NEAR(s.kept, 1, 2e-3);
}

/// Where pooled scores or antidiagonals are right by construction.
TEST(BlockPatterns, ScoresFindHeavyBlocks) {
  // Block b of keys points along axis b; queries of block r look for block r / 2.
  const Index blocks = 10, block = 16, dim = 16, n = blocks * block;
  std::vector<float> q(static_cast<std::size_t>(n * dim)), k(q.size());
  for (Index p = 0; p < n; ++p) {
    k[static_cast<std::size_t>(p * dim + p / block)] = 6;
    q[static_cast<std::size_t>(p * dim + p / block / 2)] = 6;
  }
  const HeadOf head(view(std::as_const(q), n, 1, dim), view(std::as_const(k), n, 1, dim), 0);
  for (const Sparsity& s :
       {PooledTopK{.block = block, .count = 1}(head), Antidiagonal{.block = block, .stride = 8, .mass = 0.99}(head)})
    for (Index r = 1; r < blocks; ++r)
      for (Index c = 0; c < r; ++c) EXPECT_EQ(s.mask.allows(r * block, c * block), c == r / 2) << r << " " << c;
}

// ---- certificates

struct Adversary {
  std::string name;
  std::vector<float> q, k;  // [n, dim]
};

std::vector<Adversary> adversaries(Index n, Index dim, std::uint64_t seed) {
  Random random(seed);
  std::vector<Adversary> all;
  const auto add = [&](const char* name, std::vector<float> q, std::vector<float> k) {
    all.push_back({name, std::move(q), std::move(k)});
  };
  const auto gauss = [&](float sigma = 1) { return random.gaussian(n * dim, sigma); };
  add("gaussian", gauss(), gauss());
  add("large", gauss(30), gauss(30));
  add("tiny", gauss(1e-20f), gauss(1e-20f));
  add("equal", std::vector<float>(static_cast<std::size_t>(n * dim), 0.5f),
      std::vector<float>(static_cast<std::size_t>(n * dim), 0.5f));
  add("spiky", random.spiky(n * dim, 100), random.spiky(n * dim, 100));
  std::vector<float> needle = gauss(0.1f);  // one key among small ones outweighs all
  for (Index d = 0; d < dim; ++d) needle[static_cast<std::size_t>(n / 3 * dim + d)] = 4;
  add("needle", random.uniform(n * dim, 0.5f, 1.5f), needle);
  std::vector<float> even = gauss(0.01f);  // signs in turn: bounds of a block are far from its keys
  for (Index j = 0; j < n; ++j)
    for (Index d = 0; d < dim; ++d) even[static_cast<std::size_t>(j * dim + d)] += (j + d) % 2 ? 1.f : -1.f;
  add("alternating", gauss(), even);
  std::vector<float> local = gauss(0.3f), looks = gauss(0.3f);  // blocks far back hardly matter
  for (Index j = 0; j < n; ++j) {
    local[static_cast<std::size_t>(j * dim)] = static_cast<float>(j) * 0.5f;
    looks[static_cast<std::size_t>(j * dim)] = 3;
  }
  add("local", looks, local);
  const Planted planted(n, dim, {5}, {0}, 30, seed);
  add("planted", planted.q, planted.k);
  return all;
}

#if defined(LONGSPAN_SMALL_TILES)
constexpr std::uint64_t kSeeds = 1;  // with sanitizers, which are ten times as slow
#else
constexpr std::uint64_t kSeeds = 4;
#endif

TEST(Certified, NeverExceeded) {
  const Index n = 300, dim = 16;
  int sparse = 0;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed)
    for (const Adversary& a : adversaries(n, dim, seed)) {
      const std::vector<float> v_memory = Random(seed + 100).uniform(n * dim, -1, 1);
      const TensorView<const float> k = view(a.k, n, 1, dim), v = view(v_memory, n, 1, dim);
      for (const Index queries : {n, Index{70}}) {
        const TensorView<const float> q = view(a.q, n, 1, dim).slice({n - queries, n});
        const Result all = definition(causal().mask, q, k, v);
        for (const double epsilon : {2., 0.1, 1e-3, 1e-6})
          for (const Index block : {16, 33}) {
            const CertifiedSparsity c = Certified{block, epsilon}(HeadOf(q, k, 0));
            SCOPED_TRACE(a.name + " seed " + std::to_string(seed) + " epsilon " + std::to_string(epsilon));
            ASSERT_LE(c.left_out, epsilon / 2);
            const Result kept = definition(AnyMask::of(c.mask & Causal{}), q, k, v);
            for (std::size_t i = 0; i < all.lse.size(); ++i) {
              const auto exact = static_cast<double>(all.lse[i]), got = static_cast<double>(kept.lse[i]);
              // LSE is a float: of its own rounding the certificate says nothing
              ASSERT_LE(1 - std::exp(got - exact), c.left_out + 0x1p-22 * (1 + std::abs(exact))) << "row " << i;
              for (std::size_t d = i * 16; d < (i + 1) * 16; ++d)
                ASSERT_LE(std::abs(kept.out[d] - all.out[d]), 2 * c.left_out + 1e-6) << "row " << i;
            }
            sparse += c.density < 0.9;
          }
      }
    }
  EXPECT_GT(sparse, 25 * static_cast<int>(kSeeds));  // it is not kept by looking at everything
}

TEST(Sparse, BadInputIsRefused) {
  const std::vector<float> x(5 * 8);
  const TensorView<const float> t = view(x, 5, 1, 8);
  EXPECT_TRUE(refused([&] { HeadOf(t, t.slice({0, 4}), 0); }, "HeadOf.q.tokens", 5, "within [1, keys]"));
  EXPECT_TRUE(refused([&] { HeadOf(t.slice({0, 0}), t, 0); }, "HeadOf.q.tokens", 0, "within [1, keys]"));
  EXPECT_TRUE(refused([&] { HeadOf(t, t, 1); }, "HeadOf.head", 1, "within [0, 1)"));
  EXPECT_TRUE(refused([&] { HeadOf(t, view(x, 5, 2, 4), 0); }, "HeadOf.q.heads", 1, "a multiple of 2"));
  EXPECT_TRUE(refused([&] { HeadOf(t, view(x, 10, 1, 4), 0); }, "HeadOf.k.dim", 4, 8));
  EXPECT_TRUE(refused([&] { HeadOf(t, t, 0, 0.f); }, "HeadOf.scale", 0, "finite and > 0"));
  const HeadOf head(t, t, 0);
  const auto bad = [&](const auto& pattern, const char* argument, const auto& got, const auto& wanted) {
    EXPECT_TRUE(refused([&] { (void)pattern(head); }, argument, got, wanted));
  };
  bad(AShape{.block = 0}, "sparse.block", 0, ">= 1");
  bad(AShape{.sinks = -1}, "AShape.sinks", -1, ">= 0");
  bad(AShape{.window = 0}, "AShape.window", 0, ">= 1");
  bad(VerticalSlash{.probes = 0}, "VerticalSlash.probes", 0, ">= 1");
  bad(VerticalSlash{.mass = 1.5}, "VerticalSlash.mass", 1.5, "within (0, 1]");
  bad(VerticalSlash{.most = 0}, "VerticalSlash.most", 0, ">= 1");
  bad(PooledTopK{.count = 0}, "PooledTopK.count", 0, ">= 1");
  bad(Antidiagonal{.stride = 48}, "Antidiagonal.stride", 48, "a divisor of block");
  bad(Antidiagonal{.mass = 0}, "Antidiagonal.mass", 0, "within (0, 1]");
  bad(Certified{.epsilon = 0}, "Certified.epsilon", 0, "within (0, 2]");
  bad(Certified{.epsilon = std::nan("")}, "Certified.epsilon", std::nan(""), "within (0, 2]");
}

}  // namespace
}  // namespace longspan::testing
