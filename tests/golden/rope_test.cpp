// Frequencies, angles and rotated rows against other people's code (shared data, golden/rope).

#include <gtest/gtest.h>

#include <longspan/position/rope_scaling.hpp>
#include <support/golden.hpp>
#include <support/near.hpp>

namespace longspan::testing {
namespace {

/// What a case asks for, said by the policies themselves.
AnyFrequencies policy(const GoldenCase& c) {
  const std::string& kind = c.text("kind");
  const auto given = [&](const char* key, double otherwise) { return c.has(key) ? c.number(key) : otherwise; };
  const auto length = [&] { return c.has("seq_len") ? c.whole("seq_len") : 0; };
  const Index context = c.whole("context");
  const Index original = c.has("original")                           ? c.whole("original")
                         : c.has("original_max_position_embeddings") ? c.whole("original_max_position_embeddings")
                                                                     : context;
  if (kind == "linear") return Linear{.factor = c.number("factor")};
  if (kind == "ntk") return Ntk{.factor = c.number("factor")};
  if (kind == "dynamic")
    return DynamicNtk{.factor = c.number("factor"), .original_context = original, .length = length()};
  if (kind == "by_parts") return ByParts{.factor = c.number("factor"), .original_context = original};
  if (kind == "yarn" || kind == "yarn_authors") {
    Yarn yarn{.factor = c.number("factor"),
              .original_context = original,
              .beta_fast = given("beta_fast", 32),
              .beta_slow = given("beta_slow", 1),
              .mscale = given("mscale", 0),
              .mscale_all_dim = given("mscale_all_dim", 0)};
    if (c.name() == "yarn_factor_given") yarn.given_attention_factor = c.number("attention_factor");
    return yarn;
  }
  if (kind == "longrope")
    return LongRope{.short_factor = c.doubles("short_factor"),
                    .long_factor = c.doubles("long_factor"),
                    .original_context = original,
                    .factor = static_cast<double>(context) / static_cast<double>(original),
                    .length = length()};
  if (kind == "llama3")
    return Llama3{.factor = c.number("factor"),
                  .original_context = original,
                  .low_frequency_factor = c.number("low_freq_factor"),
                  .high_frequency_factor = c.number("high_freq_factor")};
  EXPECT_EQ(kind, "default");
  return Plain{};
}

/// The same by the names of a model's config.json.
RopeScaling block(const GoldenCase& c) {
  RopeScaling block{
      .rope_type = c.text("kind") == "yarn_authors" ? "yarn" : c.text("kind"),
      .rope_theta = c.number("base"),
      .partial_rotary_factor = static_cast<double>(c.whole("rotary_dim")) / static_cast<double>(c.whole("head_dim")),
      .max_position_embeddings = c.whole("context")};
  for (const char* key : {"original", "original_max_position_embeddings"})
    if (c.has(key)) block.original_max_position_embeddings = c.whole(key);
  if (c.has("factor") && !block.original_max_position_embeddings) block.factor = c.number("factor");
  if (block.rope_type == "llama3") block.factor = c.number("factor");
  if (c.name() == "yarn_factor_given") block.attention_factor = c.number("attention_factor");
  const auto fill = [&](const char* key, double& to) {
    if (c.has(key)) to = c.number(key);
  };
  fill("beta_fast", block.beta_fast), fill("beta_slow", block.beta_slow);
  fill("mscale", block.mscale), fill("mscale_all_dim", block.mscale_all_dim);
  fill("low_freq_factor", block.low_freq_factor), fill("high_freq_factor", block.high_freq_factor);
  if (c.has_array("short_factor"))
    block.short_factor = c.doubles("short_factor"), block.long_factor = c.doubles("long_factor");
  return block;
}

TEST(GoldenRope, FrequenciesAndAttentionFactors) {
  LONGSPAN_NEEDS_DATA();
  std::map<std::string, int> cases;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "rope").cases()) {
    ++cases[c.text("kind")];
    const std::vector<double> wanted = c.doubles("inv_freq");
    const Index length = c.has("seq_len") ? c.whole("seq_len") : 0;
    for (const Rope<HalfSplit>& rope : {Rope<HalfSplit>(c.whole("rotary_dim"), c.number("base"), policy(c)),
                                        block(c).rope<HalfSplit>(c.whole("head_dim"), length)}) {
      const std::span<const double> got = rope.inverse_frequencies();
      ASSERT_EQ(got.size(), wanted.size()) << c.name();
      for (std::size_t i = 0; i < wanted.size(); ++i)
        EXPECT_TRUE(error_in(got[i], wanted[i], wanted[i]) <= 1.5e-15)
            << c.name() << " [" << i << "]: got " << got[i] << ", expected " << wanted[i];
      EXPECT_TRUE(error_in(rope.attention_factor(), c.number("attention_factor"), 1) <= 1e-12)
          << c.name() << ": got " << rope.attention_factor();
    }
  }
  const std::map<std::string, int> all{{"by_parts", 2}, {"default", 6}, {"dynamic", 18},
                                       {"linear", 12},  {"llama3", 2},  {"longrope", 2},
                                       {"ntk", 2},      {"yarn", 15},   {"yarn_authors", 2}};
  EXPECT_EQ(cases, all);
}

/// The cases with tables.
template <class F>
void for_each_table(F&& f) {
  int cases = 0;
  for (const GoldenCase& c : Golden(*data_folder() / "golden", "rope").cases())
    if (c.has_array("cos")) f(c), ++cases;
  EXPECT_GE(cases, 20);
}

TEST(GoldenRope, CosinesAndSines) {
  LONGSPAN_NEEDS_DATA();
  for_each_table([](const GoldenCase& c) {
    const std::vector<double> frequencies = c.doubles("inv_freq");
    // The golden tables are exact for the golden frequencies, which are right to an ulp of double or so, as the
    // policy's are: far away that is more than an ulp of float. Both without the attention factor, which the tables
    // don't have.
    const Rope<HalfSplit> theirs(frequencies), ours(policy(c).frequencies(c.whole("rotary_dim"), c.number("base")));
    const std::vector<Index> positions = c.wholes("positions");
    const std::vector<double> cos = c.doubles("cos"), sin = c.doubles("sin");
    const std::size_t half = frequencies.size();
    ASSERT_EQ(c.shape("cos"), (std::vector<Index>{std::ssize(positions), theirs.rotary_dim() / 2}));
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const Index p = positions[i];
      const RopeTable<HalfSplit> exact = theirs.table({p, p + 1}), table = ours.table({p, p + 1});
      EXPECT_TRUE(within_ulps(exact.cos(p), std::span(cos).subspan(i * half, half), 0.51))
          << c.name() << ", position " << p;
      EXPECT_TRUE(within_ulps(exact.sin(p), std::span(sin).subspan(i * half, half), 0.51))
          << c.name() << ", position " << p;
      for (std::size_t j = 0; j < half; ++j) {
        const double two_ulps = static_cast<double>(p) * frequencies[j] * 0x1p-51;  // of the angle
        const double c_wanted = cos[i * half + j], s_wanted = sin[i * half + j];
        EXPECT_LE(error_in(table.cos(p)[j], c_wanted, 0.51 * float_ulp(c_wanted) + two_ulps), 1)
            << c.name() << ", position " << p << ", pair " << j;
        EXPECT_LE(error_in(table.sin(p)[j], s_wanted, 0.51 * float_ulp(s_wanted) + two_ulps), 1)
            << c.name() << ", position " << p << ", pair " << j;
        if (p <= 131071) {
          EXPECT_LE(error_in_ulps(table.cos(p)[j], c_wanted), 1) << c.name() << ", position " << p;
          EXPECT_LE(error_in_ulps(table.sin(p)[j], s_wanted), 1) << c.name() << ", position " << p;
        }
      }
    }
  });
}

/// |got − wanted| of each element of a pair, relative to the length of the pair.
template <PairLayout Layout>
double worst_error(std::span<const float> got, std::span<const double> wanted, Index dim) {
  double worst = 0;
  const Index half = dim / 2;
  for (Index row = 0; row < std::ssize(wanted) / dim; ++row)
    for (Index i = 0; i < half; ++i) {
      const auto a = static_cast<std::size_t>(row * dim + Layout::first(i, half));
      const auto b = static_cast<std::size_t>(row * dim + Layout::second(i, half));
      const double length = std::hypot(wanted[a], wanted[b]);
      worst = std::max({worst, error_in(got[a], wanted[a], length), error_in(got[b], wanted[b], length)});
    }
  return worst;
}

template <PairLayout Layout>
void check_rows(const GoldenCase& c, const char* layout) {
  const std::vector<Index> positions = c.wholes("positions");
  const std::vector<double> wanted = c.doubles(layout);
  const Index tokens = std::ssize(positions), dim = c.whole("rotary_dim"), head_dim = c.whole("head_dim");
  const std::vector<float> x = c.floats("x");

  // The factor is not in the golden rows. In rows as long as a head, of which only the first rotary_dim elements turn;
  // twice, as two heads.
  std::vector<float> rows(static_cast<std::size_t>(tokens * 2 * head_dim), 7.25f);
  const TensorView<float> v = view(rows, tokens, 2, head_dim);
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < 2; ++h) std::copy_n(x.data() + t * dim, dim, v.row(t, h));
  Rope<Layout>(c.doubles("inv_freq")).rotate(v, positions);

  for (Index h = 0; h < 2; ++h) {
    std::vector<float> got;
    for (Index t = 0; t < tokens; ++t) {
      got.insert(got.end(), v.row(t, h), v.row(t, h) + dim);
      for (Index d = dim; d < head_dim; ++d) ASSERT_EQ(v.row(t, h)[d], 7.25f) << c.name() << ", element " << d;
    }
    EXPECT_LE(worst_error<Layout>(got, wanted, dim), 3 * 0x1p-24) << c.name() << ", " << layout << ", head " << h;
  }
}

TEST(GoldenRope, RowsInBothLayouts) {
  LONGSPAN_NEEDS_DATA();
  for_each_table([](const GoldenCase& c) {
    check_rows<HalfSplit>(c, "half_split");
    check_rows<Adjacent>(c, "adjacent");
  });
}

}  // namespace
}  // namespace longspan::testing
