// Policies as the kernels call them, queries or keys in lanes, against their scalar definition.

#include <gtest/gtest.h>

#include <iostream>

#include <longspan/score/additive_bias.hpp>
#include <longspan/score/relative_bias.hpp>
#include <longspan/score/scores.hpp>
#include <longspan/score/temperature.hpp>
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

TEST(ScoreLanes, SymmetricAlibi) {
  Random random(14);
  const SymmetricAlibi alibi(8);
  const std::vector<float> scores = random.spiky(16 * kLanes, 5e4f);
  for (const auto& [q, k] : kPlaces) {
    const double size = alibi.slope(1) * static_cast<double>(std::abs(q - k) + kLanes);
    ASSERT_EQ(broken_score(alibi, q, k, 1, scores, 0x1p-23, size), "");
  }
}

TEST(ScoreLanes, RelativeBias) {
  Random random(15);
  const std::vector<float> scores = random.gaussian(4 * kLanes, 3);
  for (const bool bidirectional : {false, true})
    for (const auto& [buckets, reach] : {std::pair<Index, Index>{32, 128}, {4, 3}, {64, 1000}}) {
      const Index heads = 3;
      const std::vector<float> table = random.gaussian(buckets * heads);
      const RelativeBias bias({buckets, reach, bidirectional}, heads, table);
      for (const Index k : {Index{0}, Index{2000}, Index{1} << 40})
        for (Index d = -1200; d <= 1200; d += std::abs(d) < 200 ? 1 : 37)
          ASSERT_EQ(broken_score(bias, std::max<Index>(k + d, -200), k, d & 1, scores, 0x1p-24, 0), "");
    }
  const RelativeBias one(1, 0, [](Index, Index d) { return d == 0 ? 2.f : 1.f; });
  EXPECT_EQ(broken_score(one, 5, 5, 0, scores, 0x1p-24, 0), "");
}

TEST(ScoreLanes, AdditiveBias) {
  Random random(16);
  const Index far = Index{1} << 40;
  const std::vector<float> scores = random.gaussian(2 * kLanes, 3), memory = random.gaussian(2 * 3 * 70 * 90);
  for (const BiasShape& s : {BiasShape{2, 3, 70, 90}, BiasShape{2, 3, 70, 90, 1000, far}, BiasShape{1, 6, 70, 90},
                             BiasShape{6, 1, 70, 90}, BiasShape{2, 3, 1, 70 * 90, 0, 7}, BiasShape{1, 1, 1, 37800}}) {
    const AdditiveBias bias(memory, s);
    for (Index row = 0; row + kLanes <= 70; row += 3)
      for (Index column = 0; column + kLanes <= 90; column += 5)
        ASSERT_EQ(broken_score(bias, s.first_query + row, s.first_key + column, s.heads - 1, scores, 0x1p-24, 0), "");
  }
  // Lanes that belong to nobody don't leave the table.
  const std::vector<float> exact(memory.begin(), memory.begin() + 3 * 5);
  const AdditiveBias small(exact, {.queries = 3, .keys = 5});
  const auto got = [&](const auto& q, const auto& k, int lane) { return small(Lanes(1.f), q, k, Site{}).get(lane); };
  for (const Index begin : {-40, -1, 0, 2})
    for (int lane = 0; lane < kLanes; ++lane) {
      const Index row = begin + lane;
      const float by_query = got(Position<Lanes>{begin, iota()}, one_place(4), lane);
      const float by_key = got(one_place(2), Position<Lanes>{begin, iota()}, lane);
      if (row >= 0 && row < 3) {
        ASSERT_EQ(by_query, 1.f + exact[static_cast<std::size_t>(row * 5 + 4)]);
      }
      if (row >= 0 && row < 5) {
        ASSERT_EQ(by_key, 1.f + exact[static_cast<std::size_t>(2 * 5 + row)]);
      }
    }
}

TEST(ScoreLanes, Temperatures) {
  Random random(17);
  const std::vector<float> scores = random.spiky(4 * kLanes, 5e4f);
  for (const Index q : {Index{-3}, Index{0}, Index{1}, Index{60}, Index{4090}, Index{8180}, Index{8191}, Index{1000000},
                        (Index{1} << 24) + 77, (Index{1} << 37) - 5, (Index{1} << 40) + 12345}) {
    for (const Index trained : {2, 512, 4096, 1 << 30})
      ASSERT_EQ(broken_score(LogN(trained), q, 5, 0, scores, 0x1p-21, 0), "") << trained;
    for (const Index every : {64, 100, 8192})
      for (const float strength : {0.f, 0.1f, 2.f})
        ASSERT_EQ(broken_score(TemperatureTuning(every, strength), q, 5, 0, scores, 0x1p-21, 0), "") << every;
  }
  // At the border of a step, lane by lane, where float can't count any more.
  for (const Index step : {1, 3000, 1 << 20}) {
    const Index q = step * 8192 - 1 - kLanes / 2;
    ASSERT_EQ(broken_score(TemperatureTuning(8192, 50.f), q, 5, 0, scores, 0x1p-21, 0), "") << step;
  }
}

TEST(ScoreLanes, Logarithm) {
  double worst = 0;
  const auto at = [&](float x) {
    const double wanted = std::log(static_cast<double>(x));
    const double e = error_in_ulps(log(Lanes(x)).get(0), wanted);
    worst = std::max(worst, std::abs(x - 1) < 0.3f ? 0 : e);
    ASSERT_LE(e, 2) << x;
  };
  for (float x = 1.f; x < 3e38f; x *= 1.00037f) at(x);
  for (int i = 1; i < 5000; ++i) at(static_cast<float>(i)), at(1 + static_cast<float>(i) * 0x1p-23f);
  for (float x = 1.f; x > 2e-38f; x *= 0.9993f) at(x);
  std::cout << "logarithm: " << worst << " ulp\n";
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
