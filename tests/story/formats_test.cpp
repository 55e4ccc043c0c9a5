// What the formats of a cache cost a real model: the output of attention over its own keys and values, and how well it
// foresees a text.

#include <cstdio>

#include "story.hpp"

namespace longspan::testing {
namespace {

constexpr Index kLength = 512;  // what the model was trained on

/// Pieces of the text of that length, each with its beginning marked.
std::vector<std::vector<int>> pieces() {
  const std::vector<int> all = story_tokens();
  std::vector<std::vector<int>> pieces;
  for (Index at = 1; at + kLength <= std::ssize(all); at += kLength - 1) {
    pieces.push_back({kBeginOfText});
    pieces.back().insert(pieces.back().end(), all.begin() + at, all.begin() + at + kLength - 1);
  }
  return pieces;
}

/// The queries, keys and values of a layer.
Projections projections(const Model& model, std::size_t layer, const std::vector<int>& tokens) {
  Model below = model;
  below.layers.resize(std::max<std::size_t>(layer, 1));
  Engine engine(below, make_rope({}, model), kLength, 1);
  Matrix x = engine.read(tokens);
  for (Index t = 0; t < kLength && layer == 0; ++t) x.row(t) = model.embedding.row(tokens[t]);
  return project(model, model.layers[layer], x, make_rope({}, model).table({0, kLength}), 0);
}

/// Relative error of attention over a cache of T, of all rows of a layer.
template <class T>
double error(const Model& model, const Projections& p) {
  const auto attend = ls::attention(ls::Causal{});
  const auto q = ls::view(p.q, model.heads), k = ls::view(p.k, model.kv_heads), v = ls::view(p.v, model.kv_heads);
  Matrix exact(p.q.rows(), p.q.cols()), out = exact;
  attend(q, k, v, ls::view(exact, model.heads));
  ls::PagedCache<T> cache({.pages = kLength / 64, .kv_heads = model.kv_heads, .head_dim = model.head_dim()});
  const auto id = cache.open();
  EXPECT_EQ(cache.append(id, k, v), ls::Outcome::kDone);
  attend(q, cache.view(id), ls::view(out, model.heads));
  return static_cast<double>((out - exact).norm() / exact.norm());
}

TEST(Formats, AttentionOverRealKeys) {
  LONGSPAN_NEEDS_DATA();
  const Model model = load_model(story_file("stories260K.bin"));
  for (std::size_t layer = 0; layer < model.layers.size(); ++layer) {
    const Projections p = projections(model, layer, pieces().front());
    const double two = error<bf16>(model, p), e4 = error<e4m3>(model, p), e5 = error<e5m2>(model, p),
                 eight = error<i8>(model, p), four = error<i4>(model, p);
    std::printf("  layer %zu: bf16 %.1e, e4m3 %.1e, e5m2 %.1e, i8 %.1e, i4 %.1e\n", layer, two, e4, e5, eight, four);
    // This model's keys and queries reach 30, its scores hundreds: what a key is rounded by weighs as much more. bf16
    // errs by 1e-2, and these bounds only say that nothing became worse.
    EXPECT_TRUE(two <= 3e-2) << layer;
    EXPECT_TRUE(e4 <= 0.4) << layer;
    EXPECT_TRUE(e5 <= 0.7) << layer;
    EXPECT_TRUE(eight <= 0.1) << layer;
    EXPECT_TRUE(four <= 0.75) << layer;
  }
}

template <class T>
double mean_nll(const Model& model) {
  double sum = 0, count = 0;
  for (const std::vector<int>& tokens : pieces()) {
    Engine<T> engine(model, make_rope({}, model), kLength, 1);
    for (const double x : negative_log_likelihoods(engine, tokens)) sum += x;
    count += kLength - 1;
  }
  return sum / count;
}

TEST(Formats, TheModelForeseesAsWell) {
  LONGSPAN_NEEDS_DATA();
  const Model model = load_model(story_file("stories260K.bin"));
  const double exact = mean_nll<float>(model);
  const double two = mean_nll<bf16>(model) - exact, e4 = mean_nll<e4m3>(model) - exact,
               eight = mean_nll<i8>(model) - exact, four = mean_nll<i4>(model) - exact;
  std::printf("  %.4f nats a token; bf16 %+.5f, e4m3 %+.5f, i8 %+.5f, i4 %+.5f\n", exact, two, e4, eight, four);
  EXPECT_TRUE(std::abs(two) < 0.0005);
  EXPECT_TRUE(std::abs(eight) < 0.005);
  EXPECT_TRUE(std::abs(e4) < 0.08);
  EXPECT_TRUE(std::abs(four) < 0.4);
}

}  // namespace
}  // namespace longspan::testing
