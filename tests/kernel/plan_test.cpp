// plan(): its tiles are those that the kernels visit, its pairs those that the mask allows.

#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>
#include <support/any_mask.hpp>
#include <support/any_score.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

/// Runs the call, and compares what was counted with what was planned.
template <class Attend, class Source>
Plan planned(const Attend& attend, TensorView<const float> q, const Source& source, TensorView<float> out,
             Options options) {
  const Plan plan = attend.plan(q.shape(), source, options);
  Work work;
  options.work = &work;
  attend(q, source, out, options);
  EXPECT_EQ(work.full_tiles, plan.full_tiles);
  EXPECT_EQ(work.partial_tiles, plan.partial_tiles);
  return plan;
}

/// What a mask makes visible, pair by pair.
struct Seen {
  Index pairs = 0, keys = 0;  ///< keys: that some query sees
};
Seen seen(const AnyMask& mask, Interval queries, Interval keys) {
  Seen s;
  for (Index k = keys.begin; k < keys.end; ++k) {
    Index by = 0;
    for (Index q = queries.begin; q < queries.end; ++q) by += mask.allows(q, k) ? 1 : 0;
    s.pairs += by;
    s.keys += by > 0 ? 1 : 0;
  }
  return s;
}

TEST(Plan, CountsWhatIsDone) {
  ThreadPool two(2);
  for (const cases::Shape& shape : cases::shapes())
    cases::for_each(cases::masks(), [&](const auto& mask) {
      cases::Tensors t(shape);
      const AnyMask any = AnyMask::of(mask.policy);
      const auto attend = attention(any);
      const Contiguous source(t.k(), t.v());
      const Seen s = seen(any, {shape.keys - shape.queries, shape.keys}, {0, shape.keys});
      for (const Kernel kernel : {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow})
        for (const bool threads : {false, true}) {
          SCOPED_TRACE(shape.name() + " " + mask.name + (threads ? " 2 threads" : "") + " kernel " +
                       std::to_string(static_cast<int>(kernel)));
          Options options{.kernel = kernel};
          if (threads) options.executor = two;
          const Plan plan = planned(attend, t.q(), source, t.out(), options);
          EXPECT_EQ(plan.pairs, s.pairs * shape.heads);
          const Index dims = shape.head_dim + shape.value_dim;
          EXPECT_EQ(plan.flops, 2.0 * static_cast<double>(plan.pairs * dims));
          const double bytes =
              4.0 * static_cast<double>((shape.queries * shape.heads + s.keys * shape.kv_heads) * dims);
          EXPECT_GE(plan.bytes, bytes);
          if (mask.name.find('-') == std::string::npos) {  // the verdicts of the others are exact over ranges
            EXPECT_EQ(plan.bytes, bytes);
          }
          EXPECT_GT(plan.scratch_bytes, 0);
          EXPECT_LE(plan.scratch_bytes, 2 << 20);
          EXPECT_STREQ(plan.engine, "flash");
          if (kernel != Kernel::kAutomatic) {
            EXPECT_STREQ(plan.kernel, kernel == Kernel::kWide ? "wide" : "narrow");
          }
          const Plan full = attention().plan(t.q().shape(), source, options);
          EXPECT_EQ(full.skipped_tiles + full.partial_tiles, 0);
          // every task has all blocks; there may be more tasks where the mask has edges
          EXPECT_EQ((plan.full_tiles + plan.partial_tiles + plan.skipped_tiles) * full.tasks,
                    full.full_tiles * plan.tasks);
        }
    });
}

TEST(Plan, OfRandomCalls) {
  ThreadPool three(3);
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    const Index kv_heads = random.between(1, 3), keys = random_size(random, 0, random.chance(0.1) ? 5000 : 400);
    const cases::Shape shape{random.between(0, 80), keys, kv_heads * random.between(1, 5), kv_heads, 5, 3};
    const Expression mask = random_expression(random, 3, std::max<Index>(keys, 1));
    cases::Tensors t(shape);
    Options options{.first_key = random.chance(0.3) ? random.between(0, 3000) : 0,
                    .kernel = random.chance(0.5) ? Kernel::kWide : Kernel::kNarrow};
    if (random.chance(0.3)) options.first_query = random.between(0, 4000);
    if (random.chance(0.5)) options.executor = three;
    SCOPED_TRACE("seed " + std::to_string(seed) + " " + shape.name() + " " + mask.name);
    const Plan plan = planned(attention(mask.mask), t.q(), Contiguous(t.k(), t.v()), t.out(), options);
    const Index first_query = options.first_query.value_or(options.first_key + keys - shape.queries);
    const Seen s =
        seen(mask.mask, {first_query, first_query + shape.queries}, {options.first_key, options.first_key + keys});
    ASSERT_EQ(plan.pairs, s.pairs * shape.heads);
    ASSERT_EQ(attention<Naive>(mask.mask).plan(t.q().shape(), t.k(), t.v(), options).pairs, plan.pairs);
    if (HasFailure()) return;
  }
}

TEST(Plan, OfBatches) {
  ThreadPool two(2);
  const std::vector<Index> queries{0, 1, 71, 71, 76, 77}, keys{0, 5000, 5100, 5103, 5200, 5200};
  cases::Tensors t({77, 5200, 4, 2, 8, 8});
  const AnyMask mask = AnyMask::of(Window{300} | Sinks{4});
  Index pairs = 0;
  for (std::size_t i = 0; i + 1 < queries.size(); ++i) {
    const Index n = keys[i + 1] - keys[i];
    pairs += seen(mask, {n - (queries[i + 1] - queries[i]), n}, {0, n}).pairs * 4;
  }
  for (const Kernel kernel : {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow})
    for (const bool threads : {false, true}) {
      Options options{.cumulative_queries = queries, .cumulative_keys = keys, .kernel = kernel};
      if (threads) options.executor = two;
      const Plan plan = planned(attention(mask), t.q(), Contiguous(t.k(), t.v()), t.out(), options);
      EXPECT_EQ(plan.pairs, pairs);
      EXPECT_STREQ(plan.kernel, kernel == Kernel::kWide     ? "wide"
                                : kernel == Kernel::kNarrow ? "narrow"
                                                            : "wide+narrow");
    }
}

TEST(Plan, OneQueryOverManySplits) {
  ThreadPool two(2);
  cases::Tensors t({1, 20000, 4, 2, 8, 8});
  Options options{.executor = two};
  const Plan plan = planned(attention(Causal{}), t.q(), Contiguous(t.k(), t.v()), t.out(), options);
  EXPECT_STREQ(plan.kernel, "narrow");
  EXPECT_EQ(plan.full_tiles, 2 * ceil_div(20000, kBlock));  // one walk a KV head
  EXPECT_EQ(plan.partial_tiles + plan.skipped_tiles, 0);
  EXPECT_EQ(plan.pairs, 4 * 20000);
}

TEST(Plan, MaskedWorkIsNotDone) {
  cases::Tensors t({1, 20000, 1, 1, 8, 8});
  const Plan plan = planned(attention(Window{100} | Sinks{4}), t.q(), Contiguous(t.k(), t.v()), t.out(), {});
  EXPECT_EQ(plan.full_tiles + plan.partial_tiles, 4);  // 104 keys in 4 blocks
  EXPECT_EQ(plan.pairs, 104);
}

TEST(Plan, NotFiniteValuesAreNotCountedTwice) {
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
    cases::Tensors t({40, 200, 2, 1, 8, 8});
    t.v_memory.back() = std::numeric_limits<float>::quiet_NaN();
    planned(attention(Causal{}), t.q(), Contiguous(t.k(), t.v()), t.out(), {.kernel = kernel});
  }
}

/// Counts tasks, and how many calls of for_each there were.
struct Counting {
  Index tasks = 0;
  static Index workers() { return 1; }
  template <class F>
  void for_each(Index n, F&& f) {
    tasks += n;
    Serial().for_each(n, f);
  }
};

TEST(Plan, Tasks) {
  for (const cases::Shape& shape : cases::shapes())
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
      cases::Tensors t(shape);
      Counting counting;
      const Options options{.executor = counting, .kernel = kernel};
      const auto attend = attention(AnyMask::of(Causal{}));
      attend(t.q(), t.k(), t.v(), t.out(), options);
      EXPECT_EQ(attend.plan(t.q().shape(), t.k(), t.v(), options).tasks, counting.tasks) << shape.name();
    }
}

TEST(Plan, ExplainSaysTheNumbers) {
  cases::Tensors t({300, 5000, 4, 2, 64, 64});
  const Plan plan = attention(Causal{} & Window{1000}).plan(t.q().shape(), t.k(), t.v());
  const std::string text = plan.explain();
  for (const std::string& part :
       {std::string("flash"), std::string("wide kernel"), std::string(kIsa.name), std::to_string(plan.tasks) + " tasks",
        std::to_string(plan.full_tiles) + " full", std::to_string(plan.partial_tiles) + " partial",
        std::to_string(plan.skipped_tiles) + " skipped", std::to_string(plan.pairs) + " visible pairs",
        std::to_string(plan.scratch_bytes / 1024) + " KiB"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_GT(plan.skipped_tiles, 0);

  // the time that arithmetic takes, or memory
  EXPECT_EQ(text.find("time"), std::string::npos);
  EXPECT_EQ(plan.seconds({}), 0);
  EXPECT_DOUBLE_EQ(plan.seconds({.flops = 2e9, .read_bandwidth = 1e30}), plan.tile_flops / 2e9);
  EXPECT_DOUBLE_EQ(plan.seconds({.flops = 1e30, .read_bandwidth = 5e8}), plan.bytes / 5e8);
  EXPECT_NE(plan.explain({.flops = 1e9, .read_bandwidth = 1e30}).find("ms, by arithmetic"), std::string::npos);
  EXPECT_NE(plan.explain({.flops = 1e30, .read_bandwidth = 1e9}).find("ms, by memory"), std::string::npos);
  EXPECT_GE(plan.tile_flops, plan.flops);
  EXPECT_LE(plan.tile_flops,
            2. * 256 * 4 * (kBlock * (kTileVectors * kLanes)) *
                static_cast<double>(ceil_div(300, kTileVectors * kLanes) * ceil_div(1000 + 300, kBlock)));
  const Plan dense = attention().plan({48, 4, 64}, t.k().slice({0, 640}), t.v().slice({0, 640}));
  EXPECT_DOUBLE_EQ(dense.tile_flops, dense.flops);  // whole tiles of whole vectors (of 4, 8 or 16 lanes)

  const std::string none = attention().plan({0, 4, 64}, t.k(), t.v()).explain();
  EXPECT_NE(none.find("0 visible pairs"), std::string::npos) << none;
  EXPECT_EQ(none.find("nan"), std::string::npos) << none;
  EXPECT_NE(attention<Naive>().plan({1, 4, 64}, t.k(), t.v()).explain().find("naive, definition"), std::string::npos);
}

}  // namespace
}  // namespace longspan::testing
