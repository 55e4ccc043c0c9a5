// The numeric contract with score functions, the user's own among them.

#include <gtest/gtest.h>

#include <support/contract.hpp>

namespace longspan::testing {
namespace {

TEST(Contract, SoftCapAndAlibi) {
  contract::hold("causal, softcap, alibi", attention(Causal{}, SoftCap{2.f}, Alibi{4}), 4);
}

TEST(Contract, Lambda) {
  const auto recency = [](auto score, auto query, auto key) { return score * 1.3f - 0.01f * (query - key); };
  contract::hold("sinks | window, lambda", attention(Window{2060} | Sinks{4}, recency));
}

TEST(Contract, TemperaturesBiasesAndSinks) {
  const auto bias = cases::normal(4 * 40000, 1), table = cases::normal(32 * 4, 2);
  contract::hold("causal, temperatures, biases, alibi, learned sinks",
                 attention(Causal{}, LogN{100}, TemperatureTuning{70, 0.3f}, RelativeBias({}, 4, table),
                           AdditiveBias(bias, {.heads = 4, .keys = 40000}), SymmetricAlibi{4},
                           SinkLogits({1.f, kMinusInfinity, 50.f, -3.f})),
                 4);
}

// The distance of a query and a key is rounded once, also where it is beyond 2^24.
TEST(Contract, AlibiFarAway) {
  const cases::Tensors t({40, 300, 2, 1, 16, 16});
  const auto attend = attention(Alibi(std::vector<double>{1e-6, 3e-7}));
  for (const Index far : {Index{1} << 23, (Index{1} << 24) - 100, (Index{1} << 25) + 77, (Index{1} << 31) - 200,
                          (Index{1} << 40) + 12345})
    for (const auto& [first_query, first_key] : {std::pair(far, Index{13}), std::pair(Index{5}, far)}) {
      const Options wide{.first_query = first_query, .first_key = first_key, .kernel = Kernel::kWide};
      const Options narrow{.first_query = first_query, .first_key = first_key, .kernel = Kernel::kNarrow};
      EXPECT_TRUE(same_bits(run(attend, t.q(), Contiguous(t.k(), t.v()), wide),
                            run(attend, t.q(), Contiguous(t.k(), t.v()), narrow)))
          << first_query << " " << first_key;
    }
}

}  // namespace
}  // namespace longspan::testing
