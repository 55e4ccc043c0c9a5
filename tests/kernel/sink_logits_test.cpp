// Learned sinks: one more term of each row's denominator, in both engines, both kernels, and when parts are merged.

#include <gtest/gtest.h>

#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

const float kNone = kMinusInfinity;

/// A sink is a key whose score is the logit and whose value is 0.
Result with_a_key_more(const Call& call) {
  const Index n = call.k.tokens, dim = call.q.dim;
  Result all{nans(call.q.tokens * call.q.heads * call.v.dim), nans(call.q.tokens * call.q.heads)};
  for (Index h = 0; h < call.q.heads; ++h) {
    const Index kv_head = h / (call.q.heads / call.k.heads);
    std::vector<float> q, k, v;
    for (Index i = 0; i < call.q.tokens; ++i) {
      q.insert(q.end(), call.q.row(i, h), call.q.row(i, h) + dim);
      q.push_back(1 / call.scale());
    }
    for (Index j = 0; j <= n; ++j) {  // the sink is the first key, the others stand where they stood
      const float* row = j ? call.k.row(j - 1, kv_head) : nullptr;
      for (Index d = 0; d < dim; ++d) k.push_back(j ? row[d] : 0.f);
      k.push_back(j ? 0.f : call.logits[static_cast<std::size_t>(h)]);
      for (Index d = 0; d < call.v.dim; ++d) v.push_back(j ? call.v.row(j - 1, kv_head)[d] : 0.f);
    }
    const auto seen = [&](Index query, Index key) {
      return key == 0 || static_cast<bool>(call.mask.allows(query - 1, key - 1));
    };
    const Call one{.q = view(q, call.q.tokens, 1, dim + 1),
                   .k = view(k, n + 1, 1, dim + 1),
                   .v = view(v, n + 1, 1, call.v.dim),
                   .mask = AnyMask::of(Where(seen)),
                   .options = {.scale = call.scale()}};
    const Result r = one.by_definition();
    for (Index i = 0; i < call.q.tokens; ++i) {
      std::copy_n(r.out.begin() + i * call.v.dim, call.v.dim, all.out.begin() + (i * call.q.heads + h) * call.v.dim);
      all.lse[static_cast<std::size_t>(i * call.q.heads + h)] = r.lse[static_cast<std::size_t>(i)];
    }
  }
  return all;
}

TEST(SinkLogits, AreAKeyWithoutAValue) {
  for (const cases::Shape& shape : {cases::Shape{20, 90, 4, 2, 16, 12}, cases::Shape{1, 200, 4, 1, 24, 20},
                                    cases::Shape{70, 70, 4, 4, 8, 33}, cases::Shape{3, 2500, 4, 2, 16, 16}})
    for (const auto& logits :
         {std::vector<float>{0.5f, -2.f, 3.f, 0.f}, std::vector<float>{-30.f, 40.f, 700.f, -500.f}}) {
      const cases::Tensors t(shape);
      const Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = causal().mask, .logits = logits};
      const Result wanted = with_a_key_more(call);
      EXPECT_TRUE(call.close(call.by_definition(), wanted)) << shape.name();
      EXPECT_TRUE(call.all_close(wanted)) << shape.name();
      EXPECT_TRUE(call.close(call.by_parts<Flash>(3), wanted)) << shape.name();
      EXPECT_TRUE(call.close(call.by_parts<Naive>(3), wanted)) << shape.name();
    }
}

TEST(SinkLogits, RowsThatSeeNothing) {
  const cases::Tensors t({70, 70, 2, 1, 8, 9});
  const Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = (!full()).mask, .logits = {1.25f, kNone}};
  for (const Result& r : {call.by_definition(), call.by(call.contiguous(), Kernel::kWide),
                          call.by(call.contiguous(), Kernel::kNarrow), call.by_parts<Flash>(2)})
    for (std::size_t i = 0; i < r.lse.size(); ++i) {
      EXPECT_EQ(r.lse[i], i % 2 ? kMinusInfinity : 1.25f);
      for (std::size_t d = 0; d < 9; ++d) EXPECT_EQ(r.out[i * 9 + d], 0.f);
    }
}

TEST(SinkLogits, NoneLeavesEveryBit) {
  const cases::Tensors t({30, 300, 4, 2, 16, 12});
  const Call without{.q = t.q(), .k = t.k(), .v = t.v(), .mask = causal().mask};
  Call with = without;
  with.logits = std::vector<float>(4, kNone);
  for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
    EXPECT_TRUE(same_bits(with.by(with.contiguous(), kernel), without.by(without.contiguous(), kernel)));
  EXPECT_TRUE(same_bits(with.by_definition(), without.by_definition()));
}

TEST(SinkLogits, ThroughTheFrontDoor) {
  const cases::Tensors t({30, 30, 4, 2, 16, 12});
  const Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = causal().mask, .logits = {0.5f, -2.f, 3.f, 0.f}};
  const auto attend = attention(SinkLogits(call.logits), call.mask);
  EXPECT_TRUE(same_bits(run(attend, t.q(), call.contiguous()), call.by(call.contiguous())));
  EXPECT_TRUE(refused([&] { run(attention(call.mask, SinkLogits({1.f})), t.q(), call.contiguous()); },
                      "sink logits heads", 1, 4));
  std::vector<bf16> half(30 * 4 * 12);  // rounded once
  attend(t.q(), t.k(), t.v(), view(half, 30, 4, 12));
  std::vector<bf16> rounded(half.size());
  convert(call.by(call.contiguous()).out.data(), std::ssize(half), rounded.data());
  for (std::size_t i = 0; i < half.size(); ++i)
    ASSERT_EQ(static_cast<float>(half[i]), static_cast<float>(rounded[i])) << i;
}

TEST(SinkLogits, MergeRefusesOthers) {
  Partial a(2, 2, 3), b(2, 2, 3), none(2, 2, 3);
  a.logits = {1.f, 2.f};
  b.logits = {1.f, 3.f};
  EXPECT_TRUE(refused([&] { merge(a, b); }, "merge.logits", "other sinks", "the same in both"));
  EXPECT_EQ(merge(a, none).logits, a.logits);
  EXPECT_EQ(merge(none, a).logits, a.logits);
}

/// A bias whose shape does not cover the call, in a batch too; and a function that is told its head and its sequence.
TEST(Sites, OfBatches) {
  const std::vector<Index> queries{0, 2, 5}, keys{0, 7, 20};
  const cases::Tensors t({5, 20, 2, 1, 8, 8});
  const std::vector<float> bias = cases::normal(2 * 2 * 13 * 13, 3);
  const auto by_site = [](auto score, auto, auto, Site site) {
    return score + static_cast<float>(3 * site.sequence + site.head);
  };
  const AnyScore scores = AnyScore::of(std::tuple(AdditiveBias(bias, {2, 2, 13, 13}), by_site));
  const Options batch{.cumulative_queries = queries, .cumulative_keys = keys};
  const auto attend = attention(causal().mask, scores);
  const Contiguous source(t.k(), t.v());
  const Result got = run(attend, t.q(), source, batch);
  const Result exact = run(attention<Naive>(causal().mask, scores), t.q(), source, batch);
  for (Index i = 0; i < 2; ++i) {
    const Interval rows{queries[static_cast<std::size_t>(i)], queries[static_cast<std::size_t>(i) + 1]};
    const Interval part{keys[static_cast<std::size_t>(i)], keys[static_cast<std::size_t>(i) + 1]};
    // alone it is sequence 0: so give it its own part of the bias, and the difference of the sites
    const std::span<const float> own = std::span(bias).subspan(static_cast<std::size_t>(i) * 338, 338);
    const auto shifted = [i](auto score, auto, auto, Index head) { return score + static_cast<float>(3 * i + head); };
    const Call alone{.q = t.q().slice(rows),
                     .k = t.k().slice(part),
                     .v = t.v().slice(part),
                     .mask = causal().mask,
                     .scores = AnyScore::of(std::tuple(AdditiveBias(own, {1, 2, 13, 13}), shifted))};
    EXPECT_TRUE(alone.close(rows_of(got, rows, 2, 8), alone.by_definition()));
    EXPECT_TRUE(alone.close(rows_of(exact, rows, 2, 8), alone.by_definition()));
  }
  const auto bad = [&](const BiasShape& shape, std::size_t size, const char* argument, Index wrong,
                       const auto& wanted) {
    const AnyScore wrong_shape = AnyScore::of(std::tuple(AdditiveBias(std::span(bias).first(size), shape)));
    EXPECT_TRUE(
        refused([&] { run(attention(causal().mask, wrong_shape), t.q(), source, batch); }, argument, wrong, wanted));
  };
  bad({1, 3, 1, 13}, 39, "BiasShape.heads", 3, 2);
  bad({1, 2, 1, 12}, 24, "BiasShape.keys", 12, ">= 13");
  bad({1, 2, 1, 13, 0, 1}, 26, "BiasShape.first_key", 1, "within [0, 1)");
  bad({1, 2, 12, 13}, 312, "BiasShape.queries", 12, ">= 13");
  bad({1, 2, 12, 13, 6}, 312, "BiasShape.first_query", 6, "within [0, 6)");
}

}  // namespace
}  // namespace longspan::testing
