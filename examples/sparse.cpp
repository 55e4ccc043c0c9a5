// Attention that chooses what to look at from the data: what each way of choosing keeps, and what it saves.
//
//   sparse [--tokens 65536] [--dim 128]
//
// One head whose queries and keys have the structure that MInference found in long prompts: some keys that all look at
// ("vertical"), and some distances at which all look back ("slash"). For each pattern: the time to choose, the time of
// attention under the chosen mask, both against causal attention, and the share of the true attention mass that was
// kept, from the LSE of both. Then one token is decoded over a paged cache, of which it reads a part.

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

/// A text of topics, 256 tokens each: keys are near their topic's direction, and one query looks for two of them.
Tensors topics(Index n, Index dim) {
  Tensors t{n, dim, {}, {}, {}};
  std::mt19937_64 engine(8);
  std::normal_distribution<float> normal;
  constexpr Index kTopic = 256;
  constexpr float kHeight = 20;
  const float spread = std::sqrt(kHeight / std::sqrt(static_cast<float>(dim)));  // of each element
  t.q.resize(static_cast<std::size_t>(dim));
  std::vector<float> topic(t.q.size());
  for (Index p = 0; p < n; ++p) {
    if (p % kTopic == 0)
      for (float& x : topic) x = spread * normal(engine);
    if (p == n / 7 || p == n / 2)
      for (std::size_t d = 0; d < topic.size(); ++d) t.q[d] += topic[d];
    for (const float x : topic) t.k.push_back(x + 0.15f * normal(engine));
  }
  t.v.resize(t.k.size());
  for (float& x : t.v) x = normal(engine);
  return t;
}

/// Decode of one token from pages that are chosen by the bounds of their keys.
void read_pages(Index tokens, Index dim) {
  const Tensors t = topics(tokens, dim);
  ls::PagedCache<float> cache({.pages = ls::ceil_div(tokens, Index{64}), .page_size = 64, .head_dim = dim});
  const ls::SequenceId id = cache.open();
  if (cache.append(id, t.view(t.k), t.view(t.v)) != ls::Appended::kDone) return;
  ls::PageBounds bounds;
  bounds.update(cache.view(id));  // beside the cache: after each append, which costs it the new tokens
  const auto view = cache.view(id);
  const auto q = ls::view(t.q, 1, 1, dim);
  std::vector<float> dense(t.q.size()), out(t.q.size()), all(1), lse(1);
  const auto attend = ls::attention();
  const double whole = seconds([&] { attend(q, view, ls::view(dense, 1, 1, dim), {.lse = all}); });
  std::printf("\none token over %lld keys in pages of 64, all of them: %.2f ms\n", static_cast<long long>(tokens),
              whole * 1e3);
  std::printf("%-42s %9s %9s %9s %9s\n", "pages", "bytes", "time", "mass kept", "error");
  const auto show = [&](const char* name, const auto& read) {
    Index pages = read();  // once before it is timed
    const double time = seconds([&] { pages = read(); });
    double error = 0, largest = 0;
    for (std::size_t d = 0; d < out.size(); ++d)
      error = std::max(error, static_cast<double>(std::abs(out[d] - dense[d])));
    for (const float x : t.v) largest = std::max(largest, static_cast<double>(std::abs(x)));
    const auto bytes = static_cast<double>(pages * 64 * 2 * dim * Index{sizeof(float)} + bounds.bytes());
    std::printf("%-42s %8.2f%% %6.2f ms %8.3f%% %9.1e\n", name,
                100 * bytes / static_cast<double>(tokens * 2 * dim * Index{sizeof(float)}), time * 1e3,
                100 * ls::kept_mass(lse, all), error / largest);
  };
  const auto quest = [&](Index share) {
    return [&, share] {
      const ls::ChosenPages pages = ls::Quest{.pages = std::max<Index>(1, bounds.pages() / share)}(bounds, q);
      ls::attend_pages(attend, q, view, pages, ls::view(out, 1, 1, dim), {.lse = lse});
      return pages.count();
    };
  };
  show("Quest, 1/10 of the pages", quest(10));
  show("Quest, 1/100", quest(100));
  double left_out = 0;
  show("certified, at most 1% of the mass left out", [&] {
    const ls::CertifiedReading r =
        ls::attend_certified(attend, q, view, bounds, 0.01, ls::view(out, 1, 1, dim), {.lse = lse});
    left_out = r.left_out;
    return r.pages.count();
  });
  std::printf("%42s at most %.1e of the mass is left out (errors are relative to max|v|)\n", "certificate:", left_out);
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
  read_pages(tokens, dim);
  return 0;
}
