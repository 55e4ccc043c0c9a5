// Policies as the kernels call them, queries or keys in lanes, against their scalar definition.

#include <gtest/gtest.h>

#include <longspan/score/scores.hpp>
#include <support/any_mask.hpp>
#include <support/archetypes.hpp>
#include <support/laws.hpp>

namespace longspan::testing {
namespace {

TEST(MaskLanes, NamedMasksAtSmallAndHugePlaces) {
  const Index far = Index{1} << 40;
  std::vector<Expression> all{full(),       causal(),     window(1),          window(2),          window(33),
                              window(4096), window(far),  window(kUnbounded), sinks(0),           sinks(1),
                              sinks(20),    sinks(far),   sinks(far + 7),     sinks(kUnbounded),  prefix(0),
                              prefix(1),    prefix(20),   prefix(far + 7),    prefix(kUnbounded), foreign(0),
                              foreign(9),   foreign(1000)};
  for (const Expression& e : table_masks()) all.push_back(e);
  for (const Expression& e : pattern_masks()) all.push_back(e);
  for (const Expression& e : user_masks()) all.push_back(e);
  for (const Expression& e :
       {documents({0, far - 30, far, far + 20, far + 90}), spans({far - 50, far - 1, far + 10, far + 40}),
        block_sparse({5, 3, (far + 50) / 4, (far + 5) / 2}, 0.5, 1), dense({70, 90, far - 5, far + 11}, 0.5, 1),
        between(far, far), global_tokens(far + 3), chunked(far + 9), chunked((far + 40) / 3), columns(4194303, 7),
        columns(1 << 21, 1 << 20), dilated(far, 3), dilated(far, 64, 64), dilated(9, 4194303), dilated(4, 1, 4194303),
        segments(far, 64, 5), segments(4194303, 4194303, 17), segments((Index{1} << 30) + 7, 1, 0)})
    all.push_back(e);
  for (const Expression& e : all) {
    for (const Expression& m : {e, !e})
      for (const Index base : {Index{0}, Index{64}, Index{4096}, (Index{1} << 24) - 64, far})
        for (Index dq = -70; dq <= 70; dq += 1)
          for (const Index dk : {0, 1, 5, 63, 64})
            ASSERT_EQ(broken_lanes(m.mask, m.sees, base + dq, base + dk), "") << m.name;
  }
}

TEST(MaskLanes, DistancesAroundTheClamp) {
  // Distances between query and key, and between key and a landmark, around the powers of two where float stops
  // counting and where Position clamps.
  for (int bit = 20; bit <= 40; ++bit)
    for (const Index d : {-65, -33, -1, 0, 1, 17, 64}) {
      const Index distance = (Index{1} << bit) + d;
      for (const Index base : {Index{0}, Index{12345}, Index{1} << 40})
        for (const Expression& m : {causal(), window(distance), window(distance + 40), sinks(base + distance),
                                    prefix(base + distance), foreign(distance), window(distance) | sinks(4)}) {
          ASSERT_EQ(broken_lanes(m.mask, m.sees, base + distance, base), "") << m.name;
          ASSERT_EQ(broken_lanes(m.mask, m.sees, base, base + distance), "") << m.name;
        }
    }
}

TEST(MaskLanes, RandomExpressions) {
  for (std::uint64_t seed = 1; seed <= 20000; ++seed) {
    Random random(seed);
    const Expression e = random_expression(random, 3, random.chance(0.7) ? Index{1} << 40 : kUnbounded);
    const Index landmark = e.landmarks.empty() ? 0 : std::min(e.landmarks.front(), Index{1} << 40);
    const Index base = random.chance(0.5) ? random.between(0, Index{1} << 40) : landmark;
    const Index q = base + random.between(-100, 100);
    const Index k = std::max<Index>(0, (random.chance(0.3) ? q - landmark : base) + random.between(-100, 100));
    ASSERT_EQ(broken_lanes(e.mask, e.sees, q, k, 4 * kLanes), "") << e.name << ", seed " << seed;
  }
}

TEST(PositionLanes, Residues) {
  std::vector<Index> periods{1000, 4095, 1 << 21, (1 << 22) - 3, (1 << 22) - 1};
  for (Index p = 1; p <= 300; ++p) periods.push_back(p);
  for (const Index period : periods)
    for (const Index base : {Index{0}, Index{64}, -period - 5, 3 * period - 7, (Index{1} << 40) - 7})
      for (const Index offset : {0, 48, 5 * kLanes, (1 << 21) + 3}) {
        alignas(64) float got[kLanes];
        const Position<Lanes> at{base, iota() + Lanes(static_cast<float>(offset))};
        const Position<Lanes> rest = residue(at, period);
        rest.offset.store_aligned(got);
        for (Index i = 0; i < kLanes; ++i)
          ASSERT_EQ(rest.base + static_cast<Index>(got[i]), floor_mod(Wide{base} + offset + i, period))
              << "period " << period << ", position " << base + offset + i;
      }
}

// ---- distances
// --------------------------------------------------------------------------------------------------------

/// query - key in lanes, one side after the other: the exact distance rounded to float once, wherever the kernel's
/// block of queries or keys begins. (Below 2^24 that is the exact distance.)
TEST(PositionLanes, DistanceIsRoundedOnce) {
  for (int bit = 0; bit <= 40; ++bit)
    for (Index d = -130; d <= 130; ++d) {
      const Index q = (Index{1} << bit) + d;
      for (const Index k : {Index{0}, Index{64}, Index{1} << 40}) {
        alignas(64) float queries[kLanes], keys[kLanes];
        const Lanes high(Position<Lanes>{k + q, iota()} - one_place(k));
        const Lanes low(one_place(k + q) - Position<Lanes>{k, iota()});
        high.store_aligned(queries), low.store_aligned(keys);
        for (int i = 0; i < kLanes; ++i) {
          ASSERT_EQ(queries[i], static_cast<float>(q + i)) << "query " << k + q << " + " << i << ", key " << k;
          ASSERT_EQ(keys[i], static_cast<float>(q - i)) << "query " << k + q << ", key " << k << " + " << i;
        }
      }
    }
}

// ---- score functions
// --------------------------------------------------------------------------------------------------

constexpr Index kPlaces[][2] = {{0, 0},      {100, 37}, {40, 90}, {5000, 64}, {(Index{1} << 40) + 999, Index{1} << 40},
                                {1000000, 3}};

TEST(ScoreLanes, SoftCap) {
  Random random(11);
  for (const float cap : {1.f, 30.f, 50.f, 1e-3f, 1e4f})
    for (const float spread : {0.01f, 1.f, 10.f, 1000.f}) {
      std::vector<float> scores = random.gaussian(64 * kLanes, cap * spread);
      scores[0] = 0, scores[1] = -0.f, scores[2] = 3e38f, scores[3] = -3e38f, scores[4] = 1e-38f;
      for (const auto& [q, k] : kPlaces)
        ASSERT_EQ(broken_score(SoftCap(cap), q, k, 0, scores, 0x1p-22, cap * 1e-30), "") << cap;
    }
}

TEST(ScoreLanes, SoftCapKeepsInfinityInBoundsAndNanVisible) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const SoftCap cap(30.f);
  for (const auto& [score, wanted] : {std::pair{infinity, 30.f}, {-infinity, -30.f}, {0.f, 0.f}})
    EXPECT_EQ(cap(Lanes(score), one_place(0), one_place(0)).get(0), wanted) << score;
  EXPECT_TRUE(std::isnan(cap(Lanes(nan), one_place(0), one_place(0)).get(0)));
}

TEST(ScoreLanes, Alibi) {
  Random random(12);
  for (const Index heads : {1, 8, 12, 71}) {
    const Alibi alibi(heads);
    const std::vector<float> scores = random.spiky(64 * kLanes, 5e4f);
    for (const auto& [q, k] : kPlaces)
      for (Index head = 0; head < heads; head += 5) {
        const double size = alibi.slope(head) * static_cast<double>(std::abs(q - k) + kLanes);
        ASSERT_EQ(broken_score(alibi, q, k, head, scores, 0x1p-23, size), "") << heads << " heads, head " << head;
      }
  }
}

TEST(ScoreLanes, ForeignFunctions) {
  Random random(13);
  const std::vector<float> scores = random.spiky(16 * kLanes, 5e4f);
  for (const auto& [q, k] : kPlaces) {
    const double distance = static_cast<double>(std::abs(q - k) + kLanes);
    ASSERT_EQ(broken_score(archetypes::Recency(0.01f), q, k, 0, scores, 0x1p-22, 0.01 * distance), "");
    ASSERT_EQ(broken_score(archetypes::recency_by_head(0.01f), q, k, 5, scores, 0x1p-22, 0.06 * distance), "");
  }
}

}  // namespace
}  // namespace longspan::testing
