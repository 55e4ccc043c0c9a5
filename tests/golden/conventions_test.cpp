// docs/conventions.md: each library's rule of visibility, as its documentation states it, against reference data and
// against the mask that the table names.

#include <gtest/gtest.h>

#include <functional>
#include <longspan/longspan.hpp>
#include <support/any_mask.hpp>
#include <support/golden.hpp>

namespace longspan::testing {
namespace {

/// Of query row i and key j, by index: how others say it. m queries, n keys.
using ByIndex = std::function<bool(Index i, Index j)>;

class GoldenConventions : public ::testing::Test {
 protected:
  void SetUp() override { LONGSPAN_NEEDS_DATA(); }

  /// The rule, the golden matrix, and the mask at its positions mean the same.
  void hold(const std::string& name, const auto& make_rule, const auto& make_mask) {
    SCOPED_TRACE(name);
    const GoldenCase c = Golden(*data_folder() / "golden", "attention").at(name);
    const Index m = c.whole("queries"), n = c.whole("keys");
    const std::vector<unsigned char> visible = c.bytes("visible");
    const ByIndex rule = make_rule(c, m, n);
    const AnyMask mask = AnyMask::of(make_mask(c));
    ASSERT_EQ(c.whole("first_query"), n - m) << "the default alignment";
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        ASSERT_EQ(rule(i, j), visible[static_cast<std::size_t>(i * n + j)] != 0) << i << " " << j;
        ASSERT_EQ(static_cast<bool>(mask.allows(n - m + i, j)), rule(i, j)) << i << " " << j;
      }
  }
};

/// FlashAttention >= 2.1: key j is seen by query i where i + n - m - left <= j <= i + n - m + right, -1: no bound.
auto flash_window(Index left, Index right) {
  return [=](Index m, Index n) -> ByIndex {
    return
        [=](Index i, Index j) { return (left < 0 || j >= i + n - m - left) && (right < 0 || j <= i + n - m + right); };
  };
}
/// FlashInfer: causal and window_left, positions from the end of the keys.
auto flashinfer_window(Index window_left) {
  return [=](Index m, Index n) -> ByIndex {
    return [=](Index i, Index j) { return j <= i + n - m && (window_left < 0 || j >= i + n - m - window_left); };
  };
}

TEST_F(GoldenConventions, BottomRight) {
  const auto causal = [](const GoldenCase&) { return Causal{}; };
  for (const char* name : {"causal", "chunk", "decode", "decode_g7"}) {
    hold(
        name, [](const GoldenCase&, Index m, Index n) { return flash_window(-1, 0)(m, n); }, causal);
    hold(
        name, [](const GoldenCase&, Index m, Index n) { return flashinfer_window(-1)(m, n); }, causal);
    // PyTorch causal_lower_right: tril(ones(m, n), diagonal = n - m)
    hold(
        name,
        [](const GoldenCase&, Index m, Index n) -> ByIndex { return [=](Index i, Index j) { return j - i <= n - m; }; },
        causal);
  }
}

TEST_F(GoldenConventions, Windows) {
  const auto window = [](const GoldenCase& c) { return Window{c.whole("window")}; };
  for (const char* name : {"window", "window_1", "window_decode"}) {
    hold(
        name, [](const GoldenCase& c, Index m, Index n) { return flash_window(c.whole("window") - 1, 0)(m, n); },
        window);
    hold(
        name, [](const GoldenCase& c, Index m, Index n) { return flashinfer_window(c.whole("window") - 1)(m, n); },
        window);
  }
  const auto symmetric = [](const GoldenCase& c) { return Window::symmetric(c.whole("radius")); };
  hold(
      "symmetric_window",
      [](const GoldenCase& c, Index m, Index n) { return flash_window(c.whole("radius"), c.whole("radius"))(m, n); },
      symmetric);
}

/// Flex's mask_mod gets indices; an offset of n - m makes them positions.
TEST_F(GoldenConventions, FlexAttention) {
  const auto flex = [](auto mod) {
    return [mod](const GoldenCase& c, Index m, Index n) -> ByIndex {
      return [mod, &c, offset = n - m](Index i, Index j) { return mod(c, i + offset, j); };
    };
  };
  hold("sinks_window", flex([](const GoldenCase& c, Index q, Index k) {
         return q >= k && (q - k < c.whole("window") || k < c.whole("sinks"));
       }),
       [](const GoldenCase& c) { return Window{c.whole("window")} | Sinks{c.whole("sinks")}; });
  hold("prefix", flex([](const GoldenCase& c, Index q, Index k) { return k < c.whole("prefix") || q >= k; }),
       [](const GoldenCase& c) { return Prefix{c.whole("prefix")}; });
  hold("chunked", flex([](const GoldenCase& c, Index q, Index k) {
         return q >= k && q / c.whole("chunk") == k / c.whole("chunk");
       }),
       [](const GoldenCase& c) { return Chunked{c.whole("chunk")}; });
  hold("documents", flex([](const GoldenCase& c, Index q, Index k) {
         const std::vector<Index> lengths = c.wholes("cumulative_lengths");  // cu_seqlens
         const auto document = [&](Index at) { return std::upper_bound(lengths.begin(), lengths.end(), at); };
         return q >= k && document(q) == document(k);
       }),
       [](const GoldenCase& c) { return Documents{c.wholes("cumulative_lengths")} & Causal{}; });
}

/// SDPA's is_causal and ONNX's without past keys: tril(ones(m, n)), whatever m and n are.
TEST(Conventions, TopLeftIsFirstQuery0) {
  const Index m = 5, n = 9;
  const std::vector<float> q(m * 8, 0.3f), k(n * 8, 0.1f);
  std::vector<float> v(n * 8), out(m * 8);
  for (Index j = 0; j < n; ++j) v[static_cast<std::size_t>(j * 8)] = static_cast<float>(j);
  const auto mean_of_seen = [&](Index row) { return out[static_cast<std::size_t>(row * 8)]; };
  attention(AnyMask::of(Causal{}))(view(q, m, 1, 8), view(k, n, 1, 8), view(v, n, 1, 8), view(out, m, 1, 8),
                                   {.first_query = 0});
  for (Index i = 0; i < m; ++i) EXPECT_FLOAT_EQ(mean_of_seen(i), static_cast<float>(i) / 2);  // keys 0 … i
  attention(AnyMask::of(Causal{}))(view(q, m, 1, 8), view(k, n, 1, 8), view(v, n, 1, 8), view(out, m, 1, 8));
  for (Index i = 0; i < m; ++i) EXPECT_FLOAT_EQ(mean_of_seen(i), static_cast<float>(i + n - m) / 2);
}

}  // namespace
}  // namespace longspan::testing
