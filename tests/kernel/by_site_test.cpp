// Masks by head and by sequence: every head and sequence as if it were called alone with its mask.

#include <gtest/gtest.h>

#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/contract.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

using contract::heads_of, contract::kKernels, contract::name;

static_assert(MaskBySite<ByHead<Causal>> && !Mask<ByHead<Causal>> && !ScoreFunction<ByHead<Causal>>);
static_assert(MaskBySite<decltype(ByHead<Window>({Window{1}}) & Causal{})> && Mask<decltype(Window{1} & Causal{})>);

/// A mask for each head that shares nothing with the others.
AnyMask of_head(Index h) {
  const Expression masks[] = {causal(),      window(20) | sinks(3),
                              !full(),       documents({0, 30, 90}),
                              dilated(9, 3), block_sparse({20, 20, 16, 16}, 0.4, 3),
                              !window(7)};
  return masks[h % 7].mask;
}

/// Adds the number of the head: a function that must know whose rows these are.
constexpr auto kByHead = [](auto score, auto query, auto key, Index head) {
  return score - 0.01f * static_cast<float>(head) * (query - key);
};

TEST(MaskByHead, EachHeadAsIfAlone) {
  ThreadPool two(2);
  for (const cases::Shape& shape : {cases::Shape{1, 300, 8, 2, 24, 20}, cases::Shape{40, 100, 7, 7, 16, 12},
                                    cases::Shape{3, 4500, 6, 1, 16, 16}, cases::Shape{0, 9, 4, 2, 8, 8}}) {
    SCOPED_TRACE(shape.name());
    const cases::Tensors t(shape);
    const ByHead masks = by_head(shape.heads, of_head);
    std::vector<float> logits = cases::normal(shape.heads, 3);
    const auto attend = attention(masks, AnyScore::of(std::tuple(kByHead)), SinkLogits(logits));
    const Contiguous source(t.k(), t.v());
    const Pages pages(t.k(), t.v(), 16);
    const Result exact =
        run(attention<Naive>(masks, AnyScore::of(std::tuple(kByHead)), SinkLogits(logits)), t.q(), source);
    Partial parts = attend.partial(t.q(), source);  // where rows are not written by the sink of a row alone
    Result merged{nans(std::ssize(exact.out)), nans(std::ssize(exact.lse))};
    parts.finish(view(merged.out, shape.queries, shape.heads, shape.value_dim), merged.lse);
    for (const Kernel kernel : kKernels)
      for (const bool threads : {false, true}) {
        Options options{.kernel = kernel};
        if (threads) options.executor = two;
        const Result got = run(attend, t.q(), source, options);
        EXPECT_TRUE(same_bits(run(attend, t.q(), pages.view(), options), got));
        EXPECT_TRUE(same_bits(merged, got));
        Index pairs = 0;
        for (Index h = 0; h < shape.heads; ++h) {
          const Index kv_head = h / (shape.heads / shape.kv_heads);
          const auto with_head = [h](auto score, auto query, auto key) { return kByHead(score, query, key, h); };
          const Call alone{.q = heads_of(t.q(), {h, h + 1}),
                           .k = heads_of(t.k(), {kv_head, kv_head + 1}),
                           .v = heads_of(t.v(), {kv_head, kv_head + 1}),
                           .mask = of_head(h),
                           .scores = AnyScore::of(std::tuple(with_head)),
                           .logits = {logits[static_cast<std::size_t>(h)]}};
          const Result one = heads_of(got, shape.queries, shape.heads, {h, h + 1}, shape.value_dim);
          EXPECT_TRUE(same_bits(one, alone.by(alone.contiguous(), kernel))) << "head " << h << ", " << name(kernel);
          EXPECT_TRUE(alone.close(heads_of(exact, shape.queries, shape.heads, {h, h + 1}, shape.value_dim),
                                  alone.by_definition()))
              << "head " << h;
          pairs += attention(of_head(h)).plan(alone.q.shape(), alone.k, alone.v).pairs;
        }
        Work work;
        options.work = &work;
        run(attend, t.q(), source, options);
        const Plan plan = attend.plan(t.q().shape(), source, options);
        EXPECT_EQ(plan.pairs, pairs);
        EXPECT_EQ(plan.full_tiles, work.full_tiles);
        EXPECT_EQ(plan.partial_tiles, work.partial_tiles);
      }
  }
}

TEST(MaskBySequence, EachSequenceAsIfAlone) {
  const std::vector<Index> queries{0, 1, 71, 71, 76}, keys{0, 400, 500, 507, 590};
  const cases::Tensors t({76, 590, 4, 2, 16, 12});
  const Contiguous source(t.k(), t.v());
  // a tree for one sequence, a window for the next: what continuous batching of speculative decoding asks for
  const auto attend = attention(by_sequence(4, of_head) & Causal{});
  for (const Kernel kernel : kKernels) {
    const Options batch{.cumulative_queries = queries, .cumulative_keys = keys, .kernel = kernel};
    const Result got = run(attend, t.q(), source, batch);
    for (Index i = 0; i < 4; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const Interval rows{queries[at], queries[at + 1]}, part{keys[at], keys[at + 1]};
      const Call alone{.q = t.q().slice(rows),
                       .k = t.k().slice(part),
                       .v = t.v().slice(part),
                       .mask = AnyMask::of(of_head(i) & Causal{})};
      EXPECT_TRUE(same_bits(rows_of(got, rows, 4, 12), alone.by(alone.contiguous(), kernel))) << "sequence " << i;
    }
  }
}

/// The algebra, pair by pair, at every site.
TEST(MaskBySite, ExpressionsOfBoth) {
  const ByHead heads = by_head(3, [](Index h) { return Window{2 + 3 * h}; });
  const BySequence sequences = by_sequence(2, [](Index i) { return Prefix{i * 5}; });
  const auto all = (heads | Sinks{1}) & !(sequences & !Causal{});
  static_assert(decltype(all)::kByHead && !decltype(sequences | Causal{})::kByHead);
  EXPECT_EQ(all.heads(), 3);
  EXPECT_EQ(all.sequences(), 2);
  for (Index h = 0; h < 3; ++h)
    for (Index i = 0; i < 2; ++i)
      for (Index q = 0; q < 20; ++q)
        for (Index k = 0; k < 20; ++k) {
          const bool window = k <= q && q - k < 2 + 3 * h, sink = k < 1 && k <= q, prefix = k < i * 5 || k <= q;
          ASSERT_EQ(static_cast<bool>(all.at({h, i}).allows(q, k)), (window || sink) && !(prefix && k > q));
        }
}

TEST(MaskBySite, OtherCountsAreRefused) {
  const auto window = [](Index i) { return Window{i + 1}; };
  EXPECT_TRUE(refused([] { ByHead<Causal>({}); }, "ByHead.masks.size", 0, ">= 1"));
  EXPECT_TRUE(refused([] { BySequence<Causal>({}); }, "BySequence.masks.size", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { (void)(by_head(3, window) & by_head(2, window)); }, "mask heads", 2, 3));
  EXPECT_TRUE(refused([&] { (void)(by_sequence(1, window) | !by_sequence(2, window)); }, "mask sequences", 2, 1));
  const cases::Tensors t({5, 5, 4, 2, 8, 8});
  EXPECT_TRUE(
      refused([&] { (void)attention(by_head(2, window)).plan(t.q().shape(), t.k(), t.v()); }, "mask heads", 2, 4));
  EXPECT_TRUE(refused([&] { (void)attention(by_sequence(2, window)).plan(t.q().shape(), t.k(), t.v()); },
                      "mask sequences", 2, 1));
}

}  // namespace
}  // namespace longspan::testing
