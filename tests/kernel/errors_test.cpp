// Bad input to a call: std::invalid_argument that names the argument and both values, before anything is written.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <support/any_mask.hpp>
#include <support/cases.hpp>
#include <support/refused.hpp>
#include <vector>

namespace longspan::testing {
namespace {

/// A good call of 3 queries, 5 keys, 4 heads over 2, head_dim 6, value_dim 7; each test spoils something.
class Errors : public ::testing::Test {
 protected:
  struct Arguments {
    TensorView<const float> q, k, v;
    TensorView<float> out;
    Options options;
  };

  Errors() : tensors_({3, 5, 4, 2, 6, 7}), lse_(12, 77.f) {
    std::fill(tensors_.out_memory.begin(), tensors_.out_memory.end(), 77.f);
  }

  Arguments good() { return {tensors_.q(), tensors_.k(), tensors_.v(), tensors_.out(), {.lse = lse_}}; }

  /// Every way to make the call refuses it with this message, and has written nothing.
  template <class Got, class Wanted>
  void expect_refused(const std::function<void(Arguments&)>& spoil, const char* argument, const Got& got,
                      const Wanted& wanted, bool of_output = false) {
    Arguments a = good();
    spoil(a);
    EXPECT_TRUE(refused([&] { flash_(a.q, a.k, a.v, a.out, a.options); }, argument, got, wanted)) << "flash";
    EXPECT_TRUE(refused([&] { naive_(a.q, a.k, a.v, a.out, a.options); }, argument, got, wanted)) << "naive";
    if (!of_output) {
      EXPECT_TRUE(refused([&] { (void)flash_.plan(a.q.shape(), a.k, a.v, a.options); }, argument, got, wanted))
          << "plan";
      EXPECT_TRUE(refused([&] { (void)flash_.partial(a.q, a.k, a.v, a.options); }, argument, got, wanted)) << "partial";
    }
    expect_untouched();
  }
  void expect_untouched() const {
    for (const float x : tensors_.out_memory) ASSERT_EQ(x, 77.f);
    for (const float x : lse_) ASSERT_EQ(x, 77.f);
  }

  cases::Tensors tensors_;
  std::vector<float> lse_;
  Attention<Flash, AnyMask, ScoreChain<>> flash_{AnyMask::of(Causal{}), ScoreChain<>()};
  Attention<Naive, AnyMask, ScoreChain<>> naive_{AnyMask::of(Causal{}), ScoreChain<>()};
};

TEST_F(Errors, NoneInTheGoodCall) {
  const Arguments a = good();
  flash_(a.q, a.k, a.v, a.out, a.options);
  for (const float x : tensors_.out_memory) EXPECT_NE(x, 77.f);
  for (const float x : lse_) EXPECT_NE(x, 77.f);
}

TEST_F(Errors, Shapes) {
  expect_refused([](auto& a) { a.q.tokens = -1; }, "q.tokens", -1, ">= 0");
  expect_refused([](auto& a) { a.q.heads = 0; }, "q.heads", 0, ">= 1");
  expect_refused([](auto& a) { a.q.dim = 0; }, "q.dim", 0, ">= 1");
  expect_refused([](auto& a) { a.k.tokens = a.v.tokens = -2; }, "keys", -2, "within [0, 2^52)");
  expect_refused([](auto& a) { a.k.heads = a.v.heads = 0; }, "kv_heads", 0, ">= 1");
  expect_refused([](auto& a) { a.v.dim = 0; }, "value_dim", 0, ">= 1");
  expect_refused([](auto& a) { a.k.dim = 8; }, "keys.head_dim", 8, 6);
  expect_refused([](auto& a) { a.k.dim = 0; }, "keys.head_dim", 0, 6);
  expect_refused([](auto& a) { a.q.heads = 5; }, "q.heads", 5, "a multiple of 2");
  expect_refused([](auto& a) { a.k.heads = a.v.heads = 8; }, "q.heads", 4, "a multiple of 8");
  expect_refused([](auto& a) { a.v.tokens = 4; }, "values.tokens", 4, 5);
  expect_refused([](auto& a) { a.v.heads = 1; }, "values.heads", 1, 2);
  expect_refused([](auto& a) { a.out.tokens = 2; }, "out.tokens", 2, 3, true);
  expect_refused([](auto& a) { a.out.heads = 2; }, "out.heads", 2, 4, true);
  expect_refused([](auto& a) { a.out.dim = 6; }, "out.dim", 6, 7, true);
}

TEST_F(Errors, Numbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const float scale : {0.f, -1.f, nan, infinity, -infinity})
    expect_refused([&](auto& a) { a.options.scale = scale; }, "options.scale", scale, "finite and > 0");
  for (const Index place : {Index{-1}, Index{1} << 52, kUnbounded, std::numeric_limits<Index>::min()}) {
    expect_refused([&](auto& a) { a.options.first_key = place; }, "options.first_key", place, "within [0, 2^52)");
    expect_refused([&](auto& a) { a.options.first_query = place; }, "options.first_query", place, "within [0, 2^52)");
  }
  for (const std::size_t size : {std::size_t{1}, std::size_t{11}})
    expect_refused([&](auto& a) { a.options.lse = a.options.lse.first(size); }, "options.lse.size", size, 12);
}

TEST_F(Errors, RaggedLengths) {
  const auto with = [&](std::vector<Index> queries, std::vector<Index> keys, const char* argument, const auto& got,
                        const auto& wanted) {
    expect_refused(
        [&](auto& a) {
          a.options.cumulative_queries = queries;
          a.options.cumulative_keys = keys;
        },
        argument, got, wanted);
  };
  with({1, 3}, {0, 5}, "options.cumulative_queries", 1, "0 at the beginning");
  with({0, 2}, {0, 5}, "options.cumulative_queries", 2, 3);
  with({0, 4}, {0, 5}, "options.cumulative_queries", 4, 3);
  with({0, 2, 1, 3}, {0, 1, 2, 5}, "options.cumulative_queries", 1, ">= 2");
  with({0, -1, 3}, {0, 1, 5}, "options.cumulative_queries", -1, ">= 0");
  with({0, 1, 3}, {1, 1, 5}, "options.cumulative_keys", 1, "0 at the beginning");
  with({0, 1, 3}, {0, 1, 4}, "options.cumulative_keys", 4, 5);
  with({0, 1, 3}, {0, 6, 5}, "options.cumulative_keys", 5, ">= 6");
  with({0, 1, 3}, {0, 5}, "options.cumulative_keys.size", 2, 3);
  with({0, 1, 3}, {}, "sources.size", 1, 2);
  with({}, {0, 5}, "options.cumulative_keys.size", 2, "0 without cumulative_queries");
}

TEST_F(Errors, BatchesOfSources) {
  const Arguments a = good();
  const std::vector<Index> queries{0, 1, 3};
  const auto call = [&](const std::vector<Contiguous<>>& sources, const Options& options) {
    flash_(a.q, std::span<const Contiguous<>>(sources), a.out, options);
  };
  const auto part = [&](Index keys) { return Contiguous(a.k.slice({0, keys}), a.v.slice({0, keys})); };
  const Options ragged{.lse = lse_, .cumulative_queries = queries};
  EXPECT_TRUE(refused([&] { call({part(2), part(3)}, {}); }, "options.cumulative_queries.size", 0, 3));
  EXPECT_TRUE(refused([&] { call({part(2)}, ragged); }, "sources.size", 1, 2));
  EXPECT_TRUE(refused([&] { call({part(2), part(2), part(2)}, ragged); }, "sources.size", 3, 2));
  const Contiguous<> one_head({a.k.data, 5, 1, 6, 12, 6}, {a.v.data, 5, 1, 7, 14, 7});
  EXPECT_TRUE(refused([&] { call({part(2), one_head}, ragged); }, "sources.kv_heads", 1, 2));
  const Contiguous<> thin(a.k, {a.v.data, 5, 2, 3, 14, 7});
  EXPECT_TRUE(refused([&] { call({part(2), thin}, ragged); }, "sources.value_dim", 3, 7));
  const std::vector<Index> keys{0, 2, 5};
  EXPECT_TRUE(refused(
      [&] {
        call({part(5), part(5)}, {.cumulative_queries = queries, .cumulative_keys = keys});
      },
      "sources.size", 2, "1 with cumulative_keys"));
  EXPECT_TRUE(refused([&] { call({}, {}); }, "options.cumulative_queries.size", 0, 1));
  expect_untouched();
}

TEST_F(Errors, PagesAreNotCut) {
  PagedCache<float> cache({.pages = 1, .page_size = 16, .kv_heads = 2, .head_dim = 6, .value_dim = 7});
  const SequenceId id = cache.open();
  const Arguments a = good();
  ASSERT_EQ(cache.append(id, a.k, a.v), Appended::kDone);
  const std::vector<Index> queries{0, 1, 3}, keys{0, 2, 5};
  EXPECT_TRUE(refused(
      [&] {
        flash_(a.q, cache.view(id), a.out, {.lse = lse_, .cumulative_queries = queries, .cumulative_keys = keys});
      },
      "options.cumulative_keys", "a source that cannot be sliced", "contiguous keys and values"));
  TensorView<const float> q = a.q;
  q.dim = 5;
  EXPECT_TRUE(refused([&] { flash_(q, cache.view(id), a.out, {.lse = lse_}); }, "keys.head_dim", 6, 5));
  expect_untouched();
}

TEST_F(Errors, ScoresMadeForOtherHeads) {
  const Arguments a = good();
  const auto attend = attention(AnyMask::of(Causal{}), SoftCap{3.f}, Alibi{8});
  EXPECT_TRUE(refused([&] { attend(a.q, a.k, a.v, a.out, a.options); }, "score function heads", 8, 4));
  EXPECT_TRUE(refused([&] { (void)attend.plan(a.q.shape(), a.k, a.v); }, "score function heads", 8, 4));
  expect_untouched();
}

TEST(PolicyErrors, AreFoundWhenTheyAreMade) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const Index width : {Index{0}, Index{-5}, std::numeric_limits<Index>::min()})
    EXPECT_TRUE(refused([&] { Window{width}; }, "Window.width", width, ">= 1"));
  EXPECT_TRUE(refused([] { Sinks{-1}; }, "Sinks.count", -1, ">= 0"));
  EXPECT_TRUE(refused([] { Prefix{-1}; }, "Prefix.length", -1, ">= 0"));
  for (const float cap : {0.f, -3.f, nan, infinity})
    EXPECT_TRUE(refused([&] { SoftCap{cap}; }, "SoftCap.cap", cap, "finite, > 0"));
  for (const Index heads : {0, -2}) EXPECT_TRUE(refused([&] { Alibi{heads}; }, "Alibi.heads", heads, ">= 1"));
  EXPECT_TRUE(refused([] { Alibi{std::vector<double>{}}; }, "Alibi.slopes.size", 0, ">= 1"));
  EXPECT_TRUE(refused([] { Alibi{std::vector<double>{1, std::nan("")}}; }, "Alibi.slopes", std::nan(""), "finite"));
}

TEST(PolicyErrors, Documents) {
  const auto with = [](std::vector<Index> lengths, const auto& got, const auto& wanted) {
    EXPECT_TRUE(refused([&] { Documents{lengths}; }, "Documents.cumulative_lengths", got, wanted));
  };
  with({}, -1, "0 at the beginning");
  with({1, 4}, 1, "0 at the beginning");
  with({0, 4, 3}, 3, ">= 4");
  with({0, -1}, -1, ">= 0");
  const auto spans = [](std::vector<Interval> runs, const char* argument, Index got, const char* wanted) {
    EXPECT_TRUE(refused([&] { Spans{runs}; }, argument, got, wanted));
  };
  spans({{-1, 4}}, "Spans.begin", -1, ">= 0");
  spans({{0, 4}, {3, 9}}, "Spans.begin", 3, ">= 4");
  spans({{5, 9}, {0, 2}}, "Spans.begin", 0, ">= 9");
  spans({{0, 4}, {4, 4}}, "Spans.end", 4, ">= 5");
}

TEST(PolicyErrors, BlockSparse) {
  const BlockGrid good{.rows = 2, .columns = 3};
  const auto grid = [](BlockGrid g, const char* argument, Index got, const char* wanted) {
    EXPECT_TRUE(refused([&] { BlockSparse(g, [](Index, Index) { return true; }); }, argument, got, wanted));
    EXPECT_TRUE(refused([&] { BlockSparse::from_dense(g, {}); }, argument, got, wanted));
    EXPECT_TRUE(refused([&] { BlockSparse::from_list(g, {}); }, argument, got, wanted));
    EXPECT_TRUE(refused([&] { BlockSparse(g, std::span<const Index>{}, {}); }, argument, got, wanted));
  };
  grid({.rows = 0, .columns = 3}, "BlockGrid.rows", 0, ">= 1");
  grid({.rows = 2, .columns = -3}, "BlockGrid.columns", -3, ">= 1");
  grid({.rows = 2, .columns = 3, .block_queries = 0}, "BlockGrid.block_queries", 0, ">= 1");
  grid({.rows = 2, .columns = 3, .block_keys = -1}, "BlockGrid.block_keys", -1, ">= 1");
  grid({.rows = kPositionEnd / 64 + 1, .columns = 3}, "BlockGrid.rows", kPositionEnd / 64 + 1,
       "at most 2^52 positions");

  const auto csr = [&](std::vector<Index> offsets, std::vector<Index> columns, const char* argument, Index got,
                       const auto& wanted) {
    EXPECT_TRUE(refused([&] { BlockSparse(good, offsets, columns); }, argument, got, wanted));
  };
  csr({0, 1}, {0}, "BlockSparse.row_offsets.size", 2, 3);
  csr({1, 1, 2}, {0, 0}, "BlockSparse.row_offsets", 1, "0 at the beginning");
  csr({0, 2, 1}, {0, 1}, "BlockSparse.row_offsets", 1, ">= 2");
  csr({0, 1, 2}, {0, 1, 2}, "BlockSparse.row_offsets", 2, 3);
  csr({0, 2, 2}, {1, 1}, "BlockSparse.columns", 1, ">= 2");
  csr({0, 2, 2}, {2, 0}, "BlockSparse.columns", 0, ">= 3");
  csr({0, 0, 1}, {-1}, "BlockSparse.columns", -1, ">= 0");
  csr({0, 1, 2}, {0, 3}, "BlockSparse.columns", 3, "within [0, 3)");
  csr({0, 0, 0}, {}, "BlockSparse.blocks", 0, ">= 1");

  const std::vector<unsigned char> five(5, 1), none(6, 0);
  EXPECT_TRUE(refused([&] { BlockSparse::from_dense(good, five); }, "BlockSparse.blocks.size", 5, "rows · columns"));
  EXPECT_TRUE(refused([&] { BlockSparse::from_dense(good, none); }, "BlockSparse.blocks", 0, ">= 1"));
  EXPECT_TRUE(refused([&] { BlockSparse(good, [](Index, Index) { return false; }); }, "BlockSparse.blocks", 0, ">= 1"));
  const auto list = [&](std::vector<std::pair<Index, Index>> blocks, const char* argument, Index got,
                        const char* wanted) {
    EXPECT_TRUE(refused([&] { BlockSparse::from_list(good, blocks); }, argument, got, wanted));
  };
  list({{1, 1}, {2, 0}}, "BlockSparse.rows", 2, "within [0, 2)");
  list({{1, 1}, {-1, 0}}, "BlockSparse.rows", -1, "within [0, 2)");
  list({{1, 1}, {0, 3}}, "BlockSparse.columns", 3, "within [0, 3)");
  list({}, "BlockSparse.blocks", 0, ">= 1");
}

TEST(PolicyErrors, Patterns) {
  const auto with = [](auto make, const char* argument, Index got, const char* wanted) {
    EXPECT_TRUE(refused([&] { (void)make(); }, argument, got, wanted));
  };
  with([] { return Window::between(-1, 3); }, "Window.left", -1, ">= 0");
  with([] { return Window::between(0, -3); }, "Window.right", -3, ">= 0");
  with([] { return Window::symmetric(-3); }, "Window.radius", -3, ">= 0");
  with([] { return GlobalTokens(-1); }, "GlobalTokens.count", -1, ">= 0");
  with([] { return Chunked(0); }, "Chunked.size", 0, ">= 1");
  with([] { return Columns(0); }, "Columns.period", 0, "within [1, 2^22)");
  with([] { return Columns(1 << 22); }, "Columns.period", 1 << 22, "within [1, 2^22)");
  with([] { return Columns(8, 9); }, "Columns.width", 9, "within [1, period]");
  with([] { return Columns(8, 0); }, "Columns.width", 0, "within [1, period]");
  with([] { return Dilated(0, 3); }, "Dilated.window", 0, ">= 1");
  with([] { return Dilated(3, 0); }, "Dilated.stride", 0, "within [1, 2^22)");
  with([] { return Dilated(3, 1 << 22); }, "Dilated.stride", 1 << 22, "within [1, 2^22)");
  with([] { return Dilated(3, 2, 0); }, "Dilated.run", 0, "within [1, 2^22 / stride)");
  with([] { return Dilated(3, 4, 1 << 20); }, "Dilated.run", 1 << 20, "within [1, 2^22 / stride)");
  with([] { return DilatedSegments(8, 0); }, "DilatedSegments.dilation", 0, "within [1, 2^22)");
  with([] { return DilatedSegments(0, 2); }, "DilatedSegments.segment", 0, "within [1, 2^52]");
  with([] { return DilatedSegments(9, 2); }, "DilatedSegments.segment", 9, "a multiple of 2");
  with([] { return DilatedSegments(8, 2, 2); }, "DilatedSegments.offset", 2, "within [0, 2)");
  with([] { return big_bird({.blocks = 0}); }, "BlockGrid.rows", 0, ">= 1");
  with([] { return big_bird({.blocks = 9, .radius = -1}); }, "BigBird.radius", -1, ">= 0");
  with([] { return big_bird({.blocks = 9, .global = -1}); }, "BigBird.global", -1, ">= 0");
  with([] { return big_bird({.blocks = 9, .random = -1}); }, "BigBird.random", -1, ">= 0");
}

TEST(PolicyErrors, PairByPair) {
  const auto shape = [](DenseShape s, const char* argument, Index got) {
    EXPECT_TRUE(refused([&] { DenseMask(s, [](Index, Index) { return true; }); }, argument, got, "within [0, 2^52]"));
    EXPECT_TRUE(refused([&] { DenseMask::from_bytes(s, {}); }, argument, got, "within [0, 2^52]"));
    EXPECT_TRUE(refused([&] { DenseMask::from_bits(s, {}); }, argument, got, "within [0, 2^52]"));
  };
  shape({-1, 3}, "DenseShape.queries", -1);
  shape({1, -3}, "DenseShape.keys", -3);
  shape({1, 3, -1}, "DenseShape.first_query", -1);
  shape({1, 3, 0, kPositionEnd + 1}, "DenseShape.first_key", kPositionEnd + 1);
  const std::vector<unsigned char> five(5, 1);
  EXPECT_TRUE(refused(
      [&] {
        DenseMask::from_bytes({2, 3}, five);
      },
      "DenseMask.bytes.size", 5, "the size of the shape"));
  EXPECT_TRUE(refused(
      [&] {
        DenseMask::from_bytes({2, 0}, five);
      },
      "DenseMask.bytes.size", 5, "the size of the shape"));
  const std::vector<std::uint64_t> words(5);
  EXPECT_TRUE(refused(
      [&] {
        DenseMask::from_bits({5, 65}, words);
      },
      "DenseMask.bits.size", 5, "the size of the shape"));
  const auto parents = [](std::vector<Index> p, Index got) {
    EXPECT_TRUE(refused([&] { (void)tree(7, p); }, "tree.parents", got, "an earlier node, or -1"));
  };
  parents({0}, 0);
  parents({-1, 2, 1}, 2);
  parents({-1, 0, -2}, -2);
  EXPECT_TRUE(refused([] { (void)tree(-1, std::vector<Index>{-1}); }, "tree.first", -1, ">= 0"));
}

}  // namespace
}  // namespace longspan::testing
