// A handful of compositions as the compiler sees them, all inlined, at random sizes.

#include <fuzz/differential.hpp>

namespace longspan::testing {
namespace {

template <class... Policies>
void hold(const char* name, Index heads, const Policies&... policies) {
  ThreadPool two(2);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    const Index keys = random_size(random, 0, 700);
    const cases::Shape shape{random.chance(0.5) ? random.between(0, 6) : random.between(0, 110),
                             keys,
                             heads,
                             random.chance(0.5) ? 1 : heads,
                             random.between(1, 40),
                             random.between(1, 40)};
    const cases::Tensors t(shape, seed);
    const Contiguous source(t.k(), t.v());
    const Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = full().mask};
    Options options{.first_query = std::max<Index>(0, keys - shape.queries + random.between(-9, 9))};
    const Result exact = run(attention<Naive>(policies...), t.q(), source, options);
    options.kernel = static_cast<Kernel>(random.between(0, 2));
    if (random.chance(0.5)) options.executor = two;
    ASSERT_TRUE(call.close(run(attention(policies...), t.q(), source, options), exact))
        << name << ", seed " << seed << ", " << shape.name();
  }
}

TEST(StaticCompositions, AgreeWithTheDefinition) {
  const std::vector<Index> lengths{0, 100, 101, 290, 650};
  hold("window and sinks in documents, capped, alibi", 4,
       Documents(lengths) & (Window{300} | Sinks{4} | GlobalTokens{7}), SoftCap{20.f}, Alibi{4});
  const auto recency = [](auto score, auto query, auto key, Index head) {
    return score - 0.01f * static_cast<float>(head) * (query - key);
  };
  hold("no dilated, a lambda, sinks", 3, Causal{} & !Dilated{5, 3, 40}, recency, LogN{50},
       SinkLogits({1.f, -2.f, 0.f}));
  const std::vector<float> table = cases::normal(32 * 2, 5);
  hold("blocks or a function, relative bias", 2,
       BlockSparse({20, 20, 37, 41}, [](Index r, Index c) { return (r + 2 * c) % 3 == 0; }) |
           Where([](auto q, auto k) { return (k <= q) & (k > q - 5); }),
       RelativeBias({}, 2, table));
}

}  // namespace
}  // namespace longspan::testing
