// The flash engine against the definition: the shared case table over every source and kernel, shapes, positions,
// layouts, batches, and a random search.

#include <gtest/gtest.h>

#include <string>
#include <support/archetypes.hpp>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

Call call_of(const cases::Tensors& t, const AnyMask& mask, const AnyScore& scores = {}) {
  return {.q = t.q(), .k = t.k(), .v = t.v(), .mask = mask, .scores = scores};
}

/// Both kernels over every source against the definition.
::testing::AssertionResult like_definition(const Call& call) { return call.all_close(call.by_definition()); }

TEST(Flash, CaseTable) {
  int ran = 0;
  for (const cases::Shape& shape : cases::shapes())
    cases::for_each_case(shape, [&](const auto& one) {
      ++ran;
      constexpr bool none = cases::kNoScores<std::decay_t<decltype(one.functions)>>;
      const cases::Tensors t(one.shape);
      const auto scores = none ? AnyScore() : AnyScore::of(one.functions.policy);
      EXPECT_TRUE(like_definition(call_of(t, AnyMask::of(one.mask.policy), scores))) << one.name();
    });
  EXPECT_GE(ran, 13 * 28);
}

TEST(Flash, GroupsOfHeads) {
  for (const Index group : {1, 2, 3, 4, 5, 6, 7, 8, 13, 71})
    for (const Index kv_heads : {1, 3})
      for (const Index queries : {1, 3, 20}) {
        const cases::Shape shape{queries, 75, group * kv_heads, kv_heads, 20, 12};
        const cases::Tensors t(shape, static_cast<std::uint64_t>(group));
        const AnyScore alibi = AnyScore::of(std::tuple(Alibi(shape.heads)));
        EXPECT_TRUE(like_definition(call_of(t, AnyMask::of(Causal{})))) << shape.name();
        EXPECT_TRUE(like_definition(call_of(t, AnyMask::of(Causal{}), alibi))) << shape.name() << " alibi";
      }
}

TEST(Flash, Dims) {
  for (const Index dim : {1, 2, 3, 7, 15, 16, 17, 31, 40, 63, 72, 80, 129, 257})
    for (const auto& [head_dim, value_dim] : {std::pair(dim, dim), std::pair(dim, Index{5}), std::pair(Index{6}, dim)})
      for (const Index queries : {1, 50}) {
        const cases::Shape shape{queries, 83, 2, 1, head_dim, value_dim};
        EXPECT_TRUE(like_definition(call_of(cases::Tensors(shape), AnyMask::of(Causal{})))) << shape.name();
      }
}

TEST(Flash, RowsThatSeeNothing) {
  for (const auto& [queries, keys] : {std::pair<Index, Index>(7, 3), {70, 1}, {100, 64}, {5, 4}}) {
    const cases::Shape shape{queries, keys, 4, 2, 8, 9};
    const cases::Tensors t(shape);
    for (const Expression& mask : {causal(), window(2), causal() & !window(2), full() & !full()}) {
      const Call call = call_of(t, mask.mask);
      EXPECT_TRUE(like_definition(call)) << shape.name() << " " << mask.name;
      const Result r = call.by(call.contiguous());
      EXPECT_EQ(r.out[0], 0);
      EXPECT_FALSE(std::signbit(r.out[0]));
      EXPECT_EQ(r.lse[0], kMinusInfinity);
    }
  }
}

TEST(Flash, NoQueriesOrNoKeys) {
  for (const auto& [queries, keys] : {std::pair<Index, Index>(0, 5), {0, 0}, {5, 0}, {1, 0}, {100, 0}}) {
    const cases::Shape shape{queries, keys, 4, 2, 8, 9};
    const cases::Tensors t(shape);
    for (const Expression& mask : {full(), causal(), !full()})
      EXPECT_TRUE(like_definition(call_of(t, mask.mask))) << shape.name() << " " << mask.name;
  }
}

TEST(Flash, PositionsOfQueriesAndKeys) {
  const cases::Shape shape{37, 150, 2, 1, 16, 16};
  const cases::Tensors t(shape);
  const AnyScore alibi = AnyScore::of(std::tuple(Alibi(2)));
  for (const Expression& mask :
       {full(), causal(), window(40), window(30) | sinks(3), prefix(70), !causal(), foreign(20)})
    for (const auto& [first_query, first_key] : {std::pair<Index, Index>(0, 0),
                                                 {10, 0},
                                                 {113, 0},
                                                 {140, 0},
                                                 {1000, 0},
                                                 {5, 7},
                                                 {90, 63},
                                                 {4100, 4000},
                                                 {2050, 2000},
                                                 {1 << 20, (1 << 20) - 50},
                                                 {Index{1} << 51, (Index{1} << 51) - 100}})
      for (const bool scored : {false, true}) {
        Call call = call_of(t, mask.mask, scored ? alibi : AnyScore());
        call.options = {.first_query = first_query, .first_key = first_key};
        EXPECT_TRUE(like_definition(call))
            << mask.name << " " << first_query << " " << first_key << (scored ? " alibi" : "");
        call.options.first_query.reset();
        EXPECT_TRUE(like_definition(call)) << mask.name << " at the end, " << first_key << (scored ? " alibi" : "");
      }
}

TEST(Flash, Scales) {
  const cases::Shape shape{20, 90, 2, 2, 16, 16};
  const cases::Tensors t(shape);
  for (const float scale : {1.f, 0.01f, 7.f, 1e-30f}) {
    Call call = call_of(t, AnyMask::of(Causal{}));
    call.options.scale = scale;
    EXPECT_TRUE(like_definition(call)) << scale;
  }
}

/// Copies a tensor into rows that lie `gap` floats further apart, with NaN between them.
std::vector<float> spread(TensorView<const float> from, Index gap, TensorView<const float>& to) {
  const Index head_stride = from.dim + gap, token_stride = from.heads * head_stride + 3 * gap;
  std::vector<float> memory = nans(from.tokens * token_stride);
  for (Index i = 0; i < from.tokens; ++i)
    for (Index h = 0; h < from.heads; ++h)
      std::copy_n(from.row(i, h), from.dim, memory.begin() + i * token_stride + h * head_stride);
  to = {memory.data(), from.tokens, from.heads, from.dim, token_stride, head_stride};
  return memory;
}
std::vector<float> by_heads(TensorView<const float> from, TensorView<const float>& to) {
  std::vector<float> memory(static_cast<std::size_t>(from.tokens * from.heads * from.dim));
  const TensorView<float> view = heads_first(memory, from.heads, from.tokens, from.dim);
  for (Index i = 0; i < from.tokens; ++i)
    for (Index h = 0; h < from.heads; ++h) std::copy_n(from.row(i, h), from.dim, view.row(i, h));
  to = view;
  return memory;
}

TEST(Flash, StridesDontShow) {
  for (const cases::Shape& shape : {cases::Shape{35, 90, 6, 2, 24, 20}, cases::Shape{2, 200, 6, 3, 40, 17}}) {
    const cases::Tensors t(shape);
    const Call dense = call_of(t, AnyMask::of(Causal{}));
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
      const Result wanted = dense.by(dense.contiguous(), kernel);
      EXPECT_TRUE(dense.close(wanted, dense.by_definition()));
      Call apart = dense, turned = dense;
      const auto q = spread(dense.q, 5, apart.q), k = spread(dense.k, 1, apart.k), v = spread(dense.v, 3, apart.v);
      EXPECT_TRUE(same_bits(apart.by(apart.contiguous(), kernel), wanted)) << shape.name();
      const auto q2 = by_heads(dense.q, turned.q), k2 = by_heads(dense.k, turned.k), v2 = by_heads(dense.v, turned.v);
      EXPECT_TRUE(same_bits(turned.by(turned.contiguous(), kernel), wanted)) << shape.name();

      // an output with gaps: what lies between the rows stays as it was
      const Index stride = shape.heads * (shape.value_dim + 2) + 1;
      std::vector<float> memory(static_cast<std::size_t>(shape.queries * stride), 77.f);
      const TensorView<float> out{memory.data(),   shape.queries, shape.heads,
                                  shape.value_dim, stride,        shape.value_dim + 2};
      attention(dense.mask)(dense.q, dense.contiguous(), out, {.kernel = kernel});
      std::vector<float> got;
      for (Index i = 0; i < shape.queries; ++i)
        for (Index h = 0; h < shape.heads; ++h) {
          got.insert(got.end(), out.row(i, h), out.row(i, h) + shape.value_dim);
          std::fill_n(out.row(i, h), shape.value_dim, 77.f);
        }
      EXPECT_TRUE(same_bits(std::span<const float>(got), wanted.out)) << shape.name();
      EXPECT_EQ(std::count(memory.begin(), memory.end(), 77.f), std::ssize(memory)) << shape.name();
    }
  }
}

struct Ragged {
  std::vector<Index> queries, keys;  // cumulative
};
Ragged ragged(const std::vector<std::pair<Index, Index>>& lengths) {
  Ragged r{{0}, {0}};
  for (const auto& [queries, keys] : lengths) {
    r.queries.push_back(r.queries.back() + queries);
    r.keys.push_back(r.keys.back() + keys);
  }
  return r;
}

TEST(Flash, RaggedBatches) {
  using Lengths = std::vector<std::pair<Index, Index>>;
  for (const Lengths& lengths :
       {Lengths{{5, 5}, {1, 70}, {64, 64}, {33, 150}}, Lengths{{0, 10}, {3, 0}, {0, 0}, {7, 2}, {1, 2100}},
        Lengths{{1, 9}}, Lengths{{1, 1}, {1, 2}, {1, 65}, {1, 130}}, Lengths{{0, 0}}, Lengths{},
        Lengths{{40, 40}, {1, 300}, {0, 5}}}) {
    const Ragged r = ragged(lengths);
    const cases::Shape shape{r.queries.back(), r.keys.back(), 4, 2, 20, 12};
    const cases::Tensors t(shape);
    for (const Expression& mask : {causal(), window(20) | sinks(2)})
      for (const Kernel kernel : {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow}) {
        const auto attend = attention(mask.mask);
        const Options batch{.cumulative_queries = r.queries, .cumulative_keys = r.keys, .kernel = kernel};
        const Result all = run(attend, t.q(), Contiguous(t.k(), t.v()), batch);

        std::vector<std::unique_ptr<Pages>> pages;
        std::vector<PagedView<float>> views;
        for (std::size_t i = 0; i < lengths.size(); ++i) {
          const Interval rows{r.queries[i], r.queries[i + 1]}, keys{r.keys[i], r.keys[i + 1]};
          const Call alone{.q = t.q().slice(rows), .k = t.k().slice(keys), .v = t.v().slice(keys), .mask = mask.mask};
          const Result got = rows_of(all, rows, 4, 12);
          EXPECT_TRUE(alone.close(got, alone.by_definition()))
              << mask.name << " sequence " << i << " of " << shape.name();
          EXPECT_TRUE(same_bits(got, alone.by(alone.contiguous(), kernel))) << mask.name << " sequence " << i;
          pages.push_back(std::make_unique<Pages>(alone.k, alone.v, 16));
          views.push_back(pages.back()->view());
        }
        Result paged{nans(r.queries.back() * 4 * 12), nans(r.queries.back() * 4)};
        attend(t.q(), std::span<const PagedView<float>>(views), view(paged.out, r.queries.back(), 4, 12),
               {.lse = paged.lse, .cumulative_queries = r.queries, .kernel = kernel});
        EXPECT_TRUE(same_bits(paged, all)) << mask.name;
      }
  }
}

TEST(Flash, SourcesOfAUser) {
  for (const cases::Shape& shape :
       {cases::Shape{1, 12, 4, 2, 24, 20}, cases::Shape{1, 150, 4, 2, 24, 20}, cases::Shape{20, 300, 2, 1, 17, 33}}) {
    const cases::Tensors t(shape);
    const Call call = call_of(t, causal().mask);
    const Result wanted = call.by(call.contiguous());
    const archetypes::HalfFullPages pages(t.k(), t.v());
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
      EXPECT_TRUE(same_bits(call.by(pages, kernel), wanted))
          << shape.name() << (kernel == Kernel::kWide ? " wide" : "");
  }
}

TEST(Flash, RandomSearch) {
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    Random random(seed);
    const Index largest = random.chance(0.1) ? 2500 : 300;
    const Index kv_heads = random.between(1, 3), keys = random_size(random, 0, largest);
    const cases::Shape shape{random.chance(0.5) ? random.between(0, 6) : random.between(0, 120),
                             keys,
                             kv_heads * random.between(1, 9),
                             kv_heads,
                             random.between(1, 70),
                             random.between(1, 70)};
    const Expression mask = random_expression(random, 3, std::max<Index>(keys, 1));
    const cases::Tensors t(shape, seed);
    Call call = call_of(t, mask.mask);
    if (random.chance(0.4)) {
      const auto cap = SoftCap(static_cast<float>(random.real(1, 50)));
      const auto recency = archetypes::Recency(static_cast<float>(random.real(-0.1, 0.1)));
      const auto by_head = archetypes::recency_by_head(0.01f);
      call.scores = random.chance(0.5) ? AnyScore::of(std::tuple(cap, by_head))
                                       : AnyScore::of(std::tuple(recency, Alibi(shape.heads)));
    }
    if (random.chance(0.3)) call.options.first_key = random_size(random, 0, 5000);
    if (random.chance(0.3)) call.options.first_query = call.options.first_key + random_size(random, 0, keys + 10);
    if (random.chance(0.2)) call.options.scale = static_cast<float>(random.real(0.01, 1));
    const Result exact = call.by_definition();
    const Kernel kernel = random.chance(0.5) ? Kernel::kWide : Kernel::kNarrow;
    const Index page_size = random.between(1, 130);
    ASSERT_TRUE(call.close(call.by(call.contiguous(), kernel), exact))
        << "seed " << seed << " " << shape.name() << " " << mask.name;
    ASSERT_TRUE(call.close(call.by(Pages(call.k, call.v, page_size).view(), kernel), exact))
        << "seed " << seed << " " << shape.name() << " " << mask.name << " pages of " << page_size;
  }
}

}  // namespace
}  // namespace longspan::testing
