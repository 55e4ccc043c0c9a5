// Forward attention and merges against golden numbers in float64 (shared data, golden/attention).

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <support/any_mask.hpp>
#include <support/any_score.hpp>
#include <support/calls.hpp>
#include <support/golden.hpp>
#include <support/near.hpp>

namespace longspan::testing {
namespace {

std::vector<GoldenCase> cases() { return Golden(*data_folder() / "golden", "attention").cases(); }
bool is_merge(const GoldenCase& c) { return c.has("parts"); }

/// Reads the mask of a case, `a | b & ~(c)`.
class MaskReader {
 public:
  explicit MaskReader(const GoldenCase& c) : case_(c), rest_(c.text("mask")) {}

  Expression read() {
    Expression all = either();
    if (!rest_.empty()) throw std::runtime_error("case " + case_.name() + ": mask " + case_.text("mask"));
    return all;
  }

 private:
  bool take(std::string_view word) {
    if (!rest_.starts_with(word)) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  Expression either() {
    Expression a = both();
    while (take("|")) a = a | both();
    return a;
  }
  Expression both() {
    Expression a = one();
    while (take("&")) a = a & one();
    return a;
  }
  Expression one() {
    if (take("~")) return !one();
    if (take("(")) {
      Expression a = either();
      if (!take(")")) throw std::runtime_error("case " + case_.name() + ": no )");
      return a;
    }
    const std::string name(rest_.substr(0, rest_.find_first_of("&|~()")));
    rest_.remove_prefix(name.size());
    if (name == "full") return full();
    if (name == "causal") return causal();
    if (name == "window") return window(case_.whole("window"));
    if (name == "sinks") return sinks(case_.whole("sinks"));
    if (name == "prefix") return prefix(case_.whole("prefix"));
    if (name == "dilated") return dilated(case_.whole("window"), case_.whole("stride"));
    if (name == "strided") return window(case_.whole("stride")) | columns(case_.whole("stride"), 1);
    if (name == "global_tokens") return global_tokens(case_.whole("global_tokens"));
    if (name == "chunked") return chunked(case_.whole("chunk"));
    const auto named = [&](const auto& mask) { return Expression{name, {}, AnyMask::of(mask)}; };
    if (name == "documents") return named(Documents(case_.wholes("cumulative_lengths")));
    if (name == "spans") return named(Spans::by_ids(case_.wholes("span_ids")));
    if (name == "symmetric_window") return named(Window::symmetric(case_.whole("radius")));
    const Index queries = case_.whole("queries"), keys = case_.whole("keys"), first = case_.whole("first_query");
    if (name == "dense") return named(DenseMask::from_bytes({queries, keys, first, 0}, case_.bytes("visible")));
    if (name == "tree") return named(tree(first, case_.wholes("parents")));
    if (name == "block_sparse") {
      const Index block = case_.whole("block");
      const std::vector<Index>& blocks = case_.shape("blocks");
      return named(BlockSparse::from_dense({blocks[0], blocks[1], block, block}, case_.bytes("blocks")));
    }
    throw std::runtime_error("case " + case_.name() + ": mask " + name);
  }

  const GoldenCase& case_;
  std::string_view rest_;
};

/// What the case says is visible, as a user would write it.
auto visible(const GoldenCase& c) {
  return [seen = c.bytes("visible"), queries = c.whole("queries"), keys = c.whole("keys"),
          first = c.whole("first_query")](Index q, Index k) {
    q -= first;  // lanes may lie outside
    return q >= 0 && q < queries && k >= 0 && k < keys && seen[static_cast<std::size_t>(q * keys + k)] != 0;
  };
}

/// A case's data, and its call with a mask.
struct Forward {
  explicit Forward(const GoldenCase& c)
      : q(c.floats("q")), k(c.floats("k")), v(c.floats("v")), out(c.doubles("output")), lse(c.doubles("lse")) {
    if (c.has_array("sink")) logits = c.floats("sink");
    if (!c.has("scores")) return;
    std::istringstream words(c.text("scores"));
    std::vector<std::string> names{std::istream_iterator<std::string>(words), {}};
    const auto cap = [&] { return SoftCap(static_cast<float>(c.number("softcap"))); };
    const auto alibi = [&] { return Alibi(c.doubles("slopes")); };
    if (names == std::vector<std::string>{"softcap"}) {
      scores = AnyScore::of(std::tuple(cap()));
    } else if (names == std::vector<std::string>{"alibi"}) {
      scores = AnyScore::of(std::tuple(alibi()));
    } else if (names == std::vector<std::string>{"softcap", "alibi"}) {
      scores = AnyScore::of(std::tuple(cap(), alibi()));
    } else if (names == std::vector<std::string>{"bias"}) {
      bias = c.floats("bias");
      const std::vector<Index>& shape = c.shape("bias");
      scores = AnyScore::of(std::tuple(AdditiveBias(
          bias, {.heads = shape[0], .queries = shape[1], .keys = shape[2], .first_query = c.whole("first_query")})));
    } else {
      throw std::runtime_error("case " + c.name() + ": scores " + c.text("scores"));
    }
  }

  Call call(const GoldenCase& c, const AnyMask& mask) const {
    const Index heads = c.whole("heads"), kv_heads = c.whole("kv_heads"), dim = c.whole("head_dim");
    return {.q = view(q, c.whole("queries"), heads, dim),
            .k = view(k, c.whole("keys"), kv_heads, dim),
            .v = view(v, c.whole("keys"), kv_heads, c.whole("value_dim")),
            .mask = mask,
            .scores = scores,
            .options = {.scale = static_cast<float>(c.number("scale"))},
            .logits = logits};
  }

  std::vector<float> q, k, v, bias, logits;
  std::vector<double> out, lse;
  AnyScore scores;
};

/// Naive, and both kernels over every source, against the case.
void expect_golden(const GoldenCase& c, const AnyMask& mask) {
  SCOPED_TRACE("case " + c.name());
  const Forward data(c);
  const Call call = data.call(c, mask);
  EXPECT_EQ(call.position(0), c.whole("first_query"));
  EXPECT_TRUE(call.close(call.by_definition(), data.out, data.lse)) << "naive";
  EXPECT_TRUE(call.all_close(data.out, data.lse));
}

/// All but merges.
constexpr int kForwardCases = 48;

TEST(GoldenAttention, MasksAndScoresOfTheLibrary) {
  LONGSPAN_NEEDS_DATA();
  int ran = 0;
  for (const GoldenCase& c : cases()) {
    if (is_merge(c)) continue;
    ++ran;
    expect_golden(c, MaskReader(c).read().mask);
  }
  EXPECT_EQ(ran, kForwardCases);
}

TEST(GoldenAttention, MasksOfAUser) {
  LONGSPAN_NEEDS_DATA();
  int ran = 0;
  for (const GoldenCase& c : cases()) {
    if (is_merge(c)) continue;
    ++ran;
    expect_golden(c, AnyMask::of(Where(visible(c))));
    const Index end = c.whole("first_query") + c.whole("queries");
    if (c.whole("first_query") < 0) continue;  // outside of every grid
    const BlockGrid grid{ceil_div(end, 16), ceil_div(c.whole("keys"), 16), 16, 16};
    expect_golden(c, AnyMask::of(ByBlocks(grid, visible(c))));
  }
  EXPECT_EQ(ran, kForwardCases);
}

/// The same denominators when the keys come in parts: a learned sink is counted once.
TEST(GoldenAttention, MergedParts) {
  LONGSPAN_NEEDS_DATA();
  for (const GoldenCase& c : cases()) {
    if (is_merge(c) || c.whole("first_query") < 0) continue;
    SCOPED_TRACE("case " + c.name());
    const Forward data(c);
    const Call call = data.call(c, MaskReader(c).read().mask);
    EXPECT_TRUE(call.close(call.by_parts<Flash>(3), data.out, data.lse));
    EXPECT_TRUE(call.close(call.by_parts<Naive>(2), data.out, data.lse)) << "naive";
  }
}

TEST(GoldenAttention, Merges) {
  LONGSPAN_NEEDS_DATA();
  int ran = 0;
  for (const GoldenCase& c : cases()) {
    if (!is_merge(c)) continue;
    ++ran;
    SCOPED_TRACE("case " + c.name());
    const std::vector<Index>& shape = c.shape("output");
    const auto part = [&](Index i) {
      const auto floats = [&](const std::string& array) {
        const std::vector<double> exact = c.doubles(array + "_" + std::to_string(i));
        return std::vector<float>(exact.begin(), exact.end());
      };
      const std::vector<float> out = floats("output"), lse = floats("lse");
      return Partial(view(out, shape[0], shape[1], shape[2]), lse);
    };
    Partial ascending = part(0), descending = part(c.whole("parts") - 1);
    for (Index i = 1; i < c.whole("parts"); ++i) {
      ascending = merge(ascending, part(i));
      descending = merge(descending, part(c.whole("parts") - 1 - i));
    }
    for (const Partial* whole : {&ascending, &descending}) {
      std::vector<float> out = nans(shape[0] * shape[1] * shape[2]), lse = nans(shape[0] * shape[1]);
      whole->finish(view(out, shape[0], shape[1], shape[2]), lse);
      EXPECT_TRUE(near(out, c.doubles("output"), 2e-6));
      EXPECT_TRUE(near(lse, c.doubles("lse"), 2e-6, 1));
    }
  }
  EXPECT_EQ(ran, 3);
}

}  // namespace
}  // namespace longspan::testing
