// Attention that chooses what to look at from the data: what each way of choosing keeps, and what it saves.
//
//   sparse [--tokens 65536] [--dim 128]
//
// One head whose queries and keys have the structure that MInference found in long prompts: some keys that all look at
// ("vertical"), and some distances at which all look back ("slash"). For each pattern: the time to choose, the time of
// attention under the chosen mask, both against causal attention, and the share of the true attention mass that was
// kept, from the LSE of both.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <longspan/longspan.hpp>
#include <random>
#include <vector>

namespace ls = longspan;
using ls::Index;

namespace {

struct Tensors {
  Index n, dim;
  std::vector<float> q, k, v;

  ls::TensorView<const float> view(const std::vector<float>& x) const { return ls::view(x, n, 1, dim); }
};

/// Every position has a direction of its own: its key holds it, and a query holds those of the positions that it looks
/// back at, and one more, which the keys that all look at share.
Tensors planted(Index n, Index dim) {
  Tensors t{n, dim, {}, {}, {}};
  std::mt19937_64 engine(7);
  std::normal_distribution<float> normal;
  const auto size = static_cast<std::size_t>(n * dim);
  t.q.resize(size), t.k.resize(size), t.v.resize(size);
  for (float& x : t.v) x = normal(engine);
  for (float& x : t.k) x = 0.2f * normal(engine);
  constexpr float kHeight = 22;  // what a planted pair scores; others about 0
  const float length = std::sqrt(kHeight * std::sqrt(static_cast<float>(dim)));
  std::vector<float> direction(static_cast<std::size_t>((n + 1) * dim));
  for (Index p = 0; p <= n; ++p) {
    float* d = &direction[static_cast<std::size_t>(p * dim)];
    float square = 0;
    for (Index i = 0; i < dim; ++i) d[i] = normal(engine), square += d[i] * d[i];
    for (Index i = 0; i < dim; ++i) d[i] *= length / std::sqrt(square);
  }
  const auto add = [&](std::vector<float>& to, Index row, Index p) {
    for (Index i = 0; i < dim; ++i)
      to[static_cast<std::size_t>(row * dim + i)] += direction[static_cast<std::size_t>(p * dim + i)];
  };
  for (Index p = 0; p < n; ++p) {
    add(t.k, p, p);
    add(t.q, p, n);
    for (const Index distance : {Index{0}, Index{1}, n / 50, n / 5})
      if (p >= distance) add(t.q, p, p - distance);
  }
  for (const Index key : {Index{0}, Index{3}, n / 40, n / 7, n / 3}) add(t.k, key, n);
  return t;
}

double seconds(const auto& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  Index tokens = 65536, dim = 128;
  CLI::App app("Sparse attention chosen from data, against causal attention");
  app.add_option("--tokens", tokens, "queries, and as many keys")->check(CLI::Range(1024, 1 << 20));
  app.add_option("--dim", dim, "of the head")->check(CLI::Range(16, 512));
  CLI11_PARSE(app, argc, argv);

  const Tensors t = planted(tokens, dim);
  const ls::HeadOf head(t.view(t.q), t.view(t.k), 0);
  std::vector<float> out(t.v.size()), all(static_cast<std::size_t>(tokens)), lse(all.size());
  const double causal = seconds([&] {
    ls::attention(ls::Causal{})(t.view(t.q), t.view(t.k), t.view(t.v), ls::view(out, tokens, 1, dim), {.lse = all});
  });
  std::printf("%lld tokens, one head of %lld, one thread: causal %.0f ms\n\n", static_cast<long long>(tokens),
              static_cast<long long>(dim), causal * 1e3);
  std::printf("%-42s %9s %9s %9s %9s %9s\n", "pattern", "blocks", "choose", "attend", "faster", "mass kept");

  const auto show = [&](const char* name, const ls::BlockSparse& mask, double density, double choosing) {
    const auto attend = ls::attention(mask & ls::Causal{});
    const double attending =
        seconds([&] { attend(t.view(t.q), t.view(t.k), t.view(t.v), ls::view(out, tokens, 1, dim), {.lse = lse}); });
    std::printf("%-42s %8.2f%% %6.0f ms %6.0f ms %8.1fx %8.2f%%\n", name, 100 * density, choosing * 1e3,
                attending * 1e3, causal / (choosing + attending), 100 * ls::kept_mass(lse, all));
  };
  const auto pattern = [&](const char* name, const auto& choose) {
    std::optional<ls::Sparsity> s;
    const double choosing = seconds([&] { s = choose(head); });
    show(name, s->mask, s->density, choosing);
  };
  pattern("AShape, 1 + 16 blocks", ls::AShape{});
  pattern("VerticalSlash, 98% of the last queries", ls::VerticalSlash{});
  pattern("PooledTopK, 32 blocks a row", ls::PooledTopK{});
  if (tokens <= 16384) {  // it looks at every stride-th pair: keys² · dim / stride
    pattern("Antidiagonal, stride 8, 95%", ls::Antidiagonal{});
    std::optional<ls::CertifiedSparsity> c;
    const double choosing = seconds([&] { c = ls::Certified{.epsilon = 0.01}(head); });
    show("Certified, error below 1% of max|v|", c->mask, c->density, choosing);
    std::printf("%42s at most %.1e of the mass is left out\n", "certificate:", c->left_out);
  }
  return 0;
}
