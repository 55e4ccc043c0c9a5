#pragma once
// The one table of cases, read by tests and benchmarks alike. A new mask or score function is one line here, and is
// then tested against the definition and timed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include <longspan/longspan.hpp>

namespace cases {

namespace ls = longspan;
using ls::Index;

// ---- numbers
// ----------------------------------------------------------------------------------------------------------

/// Nearly normal numbers (mean 0, variance 1, within ±3.46: the sum of four uniform ones), the same on every machine
/// and cheap enough to fill gigabytes. `seed` and the place in `out` decide.
inline void fill_normal(std::span<float> out, std::uint64_t seed) {
  std::uint64_t counter = seed * 0xD1342543DE82EF95u;
  for (float& x : out) {
    std::uint64_t z = counter += 0x9E3779B97F4A7C15u;  // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    const std::uint64_t sum = (z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48);
    x = (static_cast<float>(sum) - 131070.f) * (1.7320508f / 65536.f);
  }
}
inline std::vector<float> normal(Index size, std::uint64_t seed) {
  std::vector<float> x(static_cast<std::size_t>(size));
  fill_normal(x, seed);
  return x;
}

// ---- policies
// ---------------------------------------------------------------------------------------------------------

/// A policy and what it is called in benchmark names and in the messages of tests.
template <class Policy>
struct Named {
  std::string name;
  Policy policy;
};
template <class Policy>
Named(const char*, Policy) -> Named<Policy>;

/// The longest sequence that the masks with tables are made for; of a shorter one they are the beginning.
inline constexpr Index kTokens = 16384;

/// Documents of one length.
inline ls::Documents documents(Index length) {
  std::vector<Index> lengths;
  for (Index at = 0; at <= kTokens; at += length) lengths.push_back(at);
  return ls::Documents(lengths);
}
/// Blocks on and below the diagonal: all on it, and a share of the others, drawn the same on every machine.
inline ls::BlockSparse causal_blocks(Index block, double density) {
  std::mt19937_64 draw(1);
  const ls::BlockGrid grid{kTokens / block, kTokens / block, block, block};
  return {grid, [&](Index row, Index column) {
            return column == row || (column < row && static_cast<double>(draw()) < density * 0x1p64);
          }};
}

/// Masks at the size of real work: timed by benchmarks, and tested.
inline auto timed_masks() {
  const ls::BlockSparse blocks = causal_blocks(64, 0.1);
  return std::tuple{
      Named{"full", ls::Full{}},
      Named{"causal", ls::Causal{}},
      Named{"window1024", ls::Window{1024}},
      Named{"sinks4+window1024", ls::Window{1024} | ls::Sinks{4}},
      Named{"prefix512", ls::Prefix{512}},
      Named{"documents16x1024", documents(1024)},
      Named{"blocksparse64x64", blocks},
      Named{"causal&blocksparse64x64", ls::Causal{} & blocks},
      Named{"longformer512+16", ls::longformer(512, 16)},
      Named{"bigbird64x64", ls::big_bird({.blocks = kTokens / 64})},
      Named{"dilated16x4x64", ls::Dilated{16, 4, 64}},
  };
}

/// All masks that are tested: the timed ones, and some whose edges lie inside small shapes.
inline auto masks() {
  return std::tuple_cat(timed_masks(), std::tuple{
                                           Named{"window1", ls::Window{1}},
                                           Named{"window17", ls::Window{17}},
                                           Named{"window64", ls::Window{64}},
                                           Named{"sinks4+window33", ls::Window{33} | ls::Sinks{4}},
                                           Named{"prefix40", ls::Prefix{40}},
                                           Named{"causal-window16", ls::Causal{} & !ls::Window{16}},
                                           Named{"causal&documents30", ls::Causal{} & documents(30)},
                                       });
}

/// Score functions, each entry a tuple that is applied left to right. `heads` is the number of query heads of the call.
inline auto scores(Index heads) {
  const auto recency = [](auto score, auto query, auto key) { return score - 0.01f * (query - key); };
  const ls::RelativeBias relative({}, heads, normal(32 * heads, 7));
  return std::tuple{
      Named{"none", std::tuple{}},
      Named{"softcap30", std::tuple{ls::SoftCap{30.f}}},
      Named{"alibi", std::tuple{ls::Alibi{heads}}},
      Named{"recency", std::tuple{recency}},
      Named{"softcap30+alibi", std::tuple{ls::SoftCap{30.f}, ls::Alibi{heads}}},
      Named{"relativebias32", std::tuple{relative}},
  };
}

/// Whether an entry of scores() is the one without any.
template <class Entry>
inline constexpr bool kNoScores = std::tuple_size_v<decltype(Entry::policy)> == 0;

/// Calls f(entry) for every entry of a table.
template <class Table, class F>
void for_each(const Table& table, F&& f) {
  std::apply([&](const auto&... entry) { (f(entry), ...); }, table);
}

/// attention<Engine>(mask, functions…) for a tuple of score functions. No Engine: the library's default.
template <class... Engine, class M, class... F>
auto attention(const M& mask, const std::tuple<F...>& functions) {
  return std::apply([&](const F&... f) { return ls::attention<Engine...>(mask, f...); }, functions);
}

// ---- shapes and data
// --------------------------------------------------------------------------------------------------

/// The sizes of one call.
struct Shape {
  Index queries = 1;
  Index keys = 1;
  Index heads = 1;
  Index kv_heads = 1;
  Index head_dim = 64;
  Index value_dim = 64;

  std::string name() const {
    return "q" + std::to_string(queries) + "k" + std::to_string(keys) + "h" + std::to_string(heads) + "kv" +
           std::to_string(kv_heads) + "d" + std::to_string(head_dim) + "v" + std::to_string(value_dim);
  }
};

/// Shapes for tests: every remainder of tiles, blocks (64), splits (2048) and lanes; groups of 1, 3, 4, 7, 8.
inline std::vector<Shape> shapes() {
  return {
      {.queries = 1, .keys = 1, .heads = 1, .kv_heads = 1, .head_dim = 1, .value_dim = 1},
      {.queries = 3, .keys = 5, .heads = 2, .kv_heads = 2, .head_dim = 4, .value_dim = 7},
      {.queries = 16, .keys = 64, .heads = 2, .kv_heads = 1, .head_dim = 16, .value_dim = 16},
      {.queries = 64, .keys = 64, .heads = 4, .kv_heads = 4, .head_dim = 64, .value_dim = 64},
      {.queries = 65, .keys = 130, .heads = 3, .kv_heads = 1, .head_dim = 80, .value_dim = 80},
      {.queries = 100, .keys = 100, .heads = 7, .kv_heads = 1, .head_dim = 96, .value_dim = 96},
      {.queries = 47, .keys = 47, .heads = 2, .kv_heads = 1, .head_dim = 33, .value_dim = 17},
      {.queries = 33, .keys = 200, .heads = 2, .kv_heads = 1, .head_dim = 256, .value_dim = 192},
      {.queries = 129, .keys = 129, .heads = 2, .kv_heads = 2, .head_dim = 128, .value_dim = 128},
      {.queries = 70, .keys = 2100, .heads = 2, .kv_heads = 1, .head_dim = 64, .value_dim = 48},
      {.queries = 1, .keys = 300, .heads = 7, .kv_heads = 1, .head_dim = 64, .value_dim = 64},
      {.queries = 1, .keys = 4099, .heads = 8, .kv_heads = 2, .head_dim = 128, .value_dim = 128},
      {.queries = 5, .keys = 2049, .heads = 16, .kv_heads = 2, .head_dim = 64, .value_dim = 64},
  };
}

/// Memory for the tensors of a shape: normal q, k, v and an `out` of NaN, so that a row that nobody wrote is seen.
struct Tensors {
  Shape shape;
  std::vector<float> q_memory, k_memory, v_memory, out_memory;

  explicit Tensors(const Shape& s, std::uint64_t seed = 1)
      : shape(s),
        q_memory(normal(s.queries * s.heads * s.head_dim, seed)),
        k_memory(normal(s.keys * s.kv_heads * s.head_dim, seed + 1000)),
        v_memory(normal(s.keys * s.kv_heads * s.value_dim, seed + 2000)),
        out_memory(static_cast<std::size_t>(s.queries * s.heads * s.value_dim),
                   std::numeric_limits<float>::quiet_NaN()) {}

  ls::TensorView<const float> q() const { return view(q_memory, shape.queries, shape.heads, shape.head_dim); }
  ls::TensorView<const float> k() const { return view(k_memory, shape.keys, shape.kv_heads, shape.head_dim); }
  ls::TensorView<const float> v() const { return view(v_memory, shape.keys, shape.kv_heads, shape.value_dim); }
  ls::TensorView<float> out() { return ls::view(out_memory, shape.queries, shape.heads, shape.value_dim); }

 private:
  static ls::TensorView<const float> view(const std::vector<float>& memory, Index tokens, Index heads, Index dim) {
    return ls::view(memory, tokens, heads, dim);
  }
};

// ---- cases
// ------------------------------------------------------------------------------------------------------------

/// What rounding allows against the definition, per unit of the largest |v|: `largest_score` is the largest |score|
/// that enters the softmax of the row (or of the whole case).
inline double relative_tolerance(double largest_score) {
  return std::max(2e-6, 4 * std::ldexp(1.0, -24) * largest_score);
}

/// One mask, one chain of score functions, one shape.
template <class M, class Functions = std::tuple<>>
struct Case {
  Named<M> mask;
  Named<Functions> functions;
  Shape shape;

  /// As in benchmark names: "causal", "causal+alibi".
  std::string policies() const { return functions.name == "none" ? mask.name : mask.name + "+" + functions.name; }
  /// What a failing test prints: it names everything that the case is made of, apart from the seed.
  std::string name() const { return policies() + "/" + shape.name(); }

  template <class... Engine>
  auto attention() const {
    return cases::attention<Engine...>(mask.policy, functions.policy);
  }

  /// Visible pairs, FLOPs and scratch, from the library's own schedule.
  template <class... Engine>
  ls::Plan plan(const ls::Options& options = {}) const {
    const Shape& s = shape;  // views without memory: a plan reads shapes only
    const ls::TensorView<const float> k{nullptr, s.keys, s.kv_heads, s.head_dim, s.kv_heads * s.head_dim, s.head_dim};
    const ls::TensorView<const float> v{nullptr,    s.keys, s.kv_heads, s.value_dim, s.kv_heads * s.value_dim,
                                        s.value_dim};
    return attention<Engine...>().plan(ls::Shape{s.queries, s.heads, s.head_dim}, k, v, options);
  }

  /// The largest |score| of a visible pair of one row, by the definition, at the default alignment and scale.
  double largest_score(const Tensors& t, Index query, Index head) const {
    const double scale = static_cast<double>(1.f / std::sqrt(static_cast<float>(shape.head_dim)));
    const Index kv_head = head / (shape.heads / shape.kv_heads), position = shape.keys - shape.queries + query;
    const float* q = t.q().row(query, head);
    const auto chain = std::apply([](const auto&... f) { return ls::ScoreChain(f...); }, functions.policy);
    double largest = 0;
    for (Index key = 0; key < shape.keys; ++key) {
      if (!mask.policy.allows(position, key)) continue;
      const float* k = t.k().row(key, kv_head);
      double dot = 0;
      for (Index d = 0; d < shape.head_dim; ++d) dot += static_cast<double>(q[d]) * static_cast<double>(k[d]);
      const double score = chain(scale * dot, ls::ExactPosition{position}, ls::ExactPosition{key}, ls::Site{head});
      largest = std::max(largest, std::abs(score));
    }
    return largest;
  }

  /// What rounding allows in one row of the output: max(2e-6, 4·2^-24·S)·max|v|.
  double tolerance(const Tensors& t, Index query, Index head) const {
    double largest_value = 0;
    for (const float x : t.v_memory) largest_value = std::max(largest_value, std::abs(static_cast<double>(x)));
    return relative_tolerance(largest_score(t, query, head)) * largest_value;
  }
};
template <class M, class Functions>
Case(Named<M>, Named<Functions>, Shape) -> Case<M, Functions>;
template <class M>
Case(Named<M>, Shape) -> Case<M>;

/// Calls f(case) for every mask without score functions, and for every chain of them with the causal mask and with
/// sinks and a window: each mask × each chain would only cost compile time.
template <class F>
void for_each_case(const Shape& shape, F&& f) {
  for_each(masks(), [&](const auto& mask) { f(Case{mask, Named{"none", std::tuple{}}, shape}); });
  const std::tuple with_scores{Named{"causal", ls::Causal{}}, Named{"sinks4+window33", ls::Window{33} | ls::Sinks{4}}};
  for_each(with_scores, [&](const auto& mask) {
    for_each(scores(shape.heads), [&](const auto& functions) {
      if constexpr (!kNoScores<std::decay_t<decltype(functions)>>) f(Case{mask, functions, shape});
    });
  });
}

}  // namespace cases
