// The laws of masks (core/concepts.hpp) and of their algebra: every small case, and random ones far away.

#include <gtest/gtest.h>

#include <iostream>
#include <support/any_mask.hpp>
#include <support/laws.hpp>

namespace longspan::testing {
namespace {

std::vector<Expression> named() {
  return {full(),     causal(),     window(1),  window(2),  window(7),  window(64), window(1000),
          sinks(0),   sinks(1),     sinks(5),   sinks(70),  prefix(0),  prefix(1),  prefix(9),
          prefix(64), prefix(1000), foreign(0), foreign(1), foreign(9), foreign(40)};
}
template <class... Lists>
std::vector<Expression> joined(std::vector<Expression> all, const Lists&... more) {
  (all.insert(all.end(), more.begin(), more.end()), ...);
  return all;
}

std::string broken_in_small(const Expression& e, Index first_query, Index keys) {
  const std::string broken = broken_law_in_small(e.mask, e.sees, first_query, keys);
  for (Index q = first_query; q < keys; ++q)
    if (const Index edge = e.mask.edge_after(q); edge <= q) return say(e.name, ": edge_after(", q, ") is ", edge);
  return broken.empty() ? broken : e.name + ": " + broken;
}

// Sanitizers look for what is undefined, not for wrong answers, and are ten times as slow.
#if defined(LONGSPAN_SMALL_TILES)
constexpr Index kSmall = 40;
constexpr int kNests = 40;
#else
constexpr Index kSmall = 96;
constexpr int kNests = 400;
#endif

TEST(MaskLaws, NamedMasksExhaustively) {
  for (const Expression& e : joined(named(), table_masks(), pattern_masks(), user_masks())) {
    EXPECT_EQ(broken_in_small(e, -20, kSmall), "");
    EXPECT_EQ(broken_in_small(!e, -20, kSmall), "");
  }
}

/// The library's own are exact, and so are those of its patterns that are made of two.
TEST(MaskLaws, VerdictsAreExact) {
  const std::vector<Expression> patterns{between(6, 6) | global_tokens(3),
                                         window(9) | dilated(kUnbounded, 8),
                                         chunked(8) | columns(8, 2),
                                         segments(16, 4, 3) & causal(),
                                         window(30) | sinks(4),
                                         documents({0, 20, 25, 60}) & causal(),
                                         spans({3, 14, 30, 41}) | causal(),
                                         causal() & block_sparse({8, 8, 8, 8}, 0.5, 1)};
  for (const Expression& e : joined(named(), table_masks(), pattern_masks(), patterns)) {
    if (e.name.find("foreign") != e.name.npos) continue;
    EXPECT_EQ(inexact_in_small(e.mask, e.sees, -9, 60), "") << e.name;
    EXPECT_EQ(inexact_in_small((!e).mask, (!e).sees, -9, 60), "") << "!" << e.name;
  }
}

/// Counts by formula, or by runs, against counting.
TEST(MaskLaws, PairsAreCounted) {
  Random random(77);
  for (const Expression& e : joined(named(), table_masks(), pattern_masks(), user_masks()))
    for (const Expression& m : {e, !e})
      for (int i = 0; i < 60; ++i) {
        const Index q = random.between(-30, 90), k = random.between(0, 90);
        const Interval queries{q, q + random.between(0, 60)}, keys{k, k + random.between(0, 60)};
        Index wanted = 0;
        for (Index a = queries.begin; a < queries.end; ++a)
          for (Index b = keys.begin; b < keys.end; ++b) wanted += m.sees(a, b);
        ASSERT_EQ(count_pairs(m.mask, queries, keys), wanted) << m.name << show(queries) << show(keys);
      }
  // Far away, where a product of positions would overflow.
  const Index far = Index{1} << 51;
  EXPECT_EQ(Causal{}.pairs({far, far + 3}, {0, far + 3}), 3 * far + 6);
  EXPECT_EQ(Causal{}.pairs({far, far + 1000}, {5, 1005}), 1000000);
  EXPECT_EQ(Window{1 << 20}.pairs({far, far + 1000}, {0, far + 2000}), Index{1000} << 20);
  EXPECT_EQ((!Window{1}).pairs({far, far + 10}, {far, far + 10}), 90);
}

TEST(MaskLaws, PairsExhaustively) {
  const auto hold = [](const std::vector<Expression>& all, const std::vector<Expression>& others) {
    for (const Expression& a : all)
      for (const Expression& b : others) {
        ASSERT_EQ(broken_in_small(a & b, -4, 28), "");
        ASSERT_EQ(broken_in_small(a | b, -4, 28), "");
        ASSERT_EQ(broken_in_small(!(a & !b), -4, 28), "");
      }
  };
  hold(named(), named());
  hold(joined(table_masks(), pattern_masks()),
       {causal(), window(7), foreign(9), documents({0, 3, 11, 40}), block_sparse({4, 9, 7, 3}, 0.5, 1)});
}

TEST(MaskLaws, NestsExhaustively) {
  Random random(20240601);
  for (int i = 0; i < kNests; ++i) {
    const Expression e = random_expression(random, 3, 40);
    ASSERT_EQ(broken_in_small(e, -5, 30), "") << "expression " << i;
  }
  for (int i = 0; i < 12; ++i) {
    const Expression e = random_expression(random, 3, 100);
    ASSERT_EQ(broken_in_small(e, -10, kSmall), "") << "expression " << i;
  }
}

/// A place where something may happen: near 0, a landmark, or one of them before or behind the query.
Index random_key(Random& random, const Expression& e, Index query) {
  constexpr Index kFar = Index{1} << 41;
  const Index landmark =
      e.landmarks.empty() ? 0 : e.landmarks[static_cast<std::size_t>(random.between(0, std::ssize(e.landmarks) - 1))];
  const Index near = std::min(landmark, kFar);
  const Index places[] = {0, query, near, query - near, query + near};
  return std::clamp<Index>(places[random.between(0, 4)] + random.between(-120, 20), 0, kFar);
}
Index random_query(Random& random, const Expression& e) {
  switch (random.between(0, 3)) {
    case 0:
      return random.between(-70, 200);
    case 1:
      return random.between(0, Index{1} << 40);
    case 2:
      return (Index{1} << random.between(5, 40)) + random.between(-70, 70);
    default:
      return random_key(random, e, random.between(0, 1000)) - 64;
  }
}

TEST(MaskLaws, FarAway) {
  for (std::uint64_t seed = 1; seed <= 6000; ++seed) {
    Random random(seed);
    const Expression e = random_expression(random, 3, random.chance(0.7) ? Index{1} << 40 : kUnbounded);
    const Index q = random_query(random, e);
    const Interval queries{q, q + random.between(1, 40)};
    const Index k = random_key(random, e, q);
    const Interval keys{k, k + random.between(1, 150)};
    const std::vector<Index> starts{k, random.between(k, keys.end - 1), random.between(k, keys.end - 1)};
    ASSERT_EQ(broken_law(e.mask, e.sees, queries, keys, starts), "")
        << e.name << ", keys " << show(keys) << ", seed " << seed;
  }
}

TEST(MaskLaws, AllowsIsTheDefinition) {
  for (std::uint64_t seed = 1; seed <= 60000; ++seed) {
    Random random(seed);
    const Expression e = random_expression(random, 3, random.chance(0.7) ? Index{1} << 40 : kUnbounded);
    const Index q = random_query(random, e), k = random_key(random, e, q);
    ASSERT_EQ(static_cast<bool>(e.mask.allows(q, k)), e.sees(q, k))
        << e.name << ", query " << q << ", key " << k << ", seed " << seed;
  }
}

/// Windows that mean "everything before me", with queries before the first key (legal: more queries than keys).
TEST(MaskLaws, WidestWindowAndNegativeQueries) {
  for (const Index width : {kUnbounded, kUnbounded - 1, kUnbounded - 64}) {
    EXPECT_EQ(broken_in_small(window(width), -70, 40), "");
    EXPECT_EQ(broken_in_small(!window(width), -70, 40), "");
    for (Index q = -70; q < 70; ++q)
      for (Index k = 0; k < 70; ++k)
        ASSERT_EQ(Window(width).allows(q, k), k <= q) << "width " << width << ", query " << q << ", key " << k;
  }
}

/// A mask keeps the laws and is by definition what `wanted` says.
void expect_same(const auto& mask, const std::function<bool(Wide, Wide)>& sees, const char* what) {
  constexpr Index kSize = 40;
  EXPECT_EQ(broken_law_in_small(mask, sees, -3, kSize), "") << what;
}

/// Patterns as their papers define them.
TEST(MaskLaws, PatternsOfPapers) {
  expect_same(
      longformer(5, 3), [](Wide q, Wide k) { return (k <= q + 5 && k >= q - 5) || k < 3 || q < 3; }, "Longformer");
  expect_same(
      strided(7), [](Wide q, Wide k) { return k <= q && (q - k <= 7 || (q - k) % 7 == 0); }, "strided");
  expect_same(
      fixed_blocks(8, 3), [](Wide q, Wide k) { return k <= q && (q / 8 == k / 8 || k % 8 >= 5); }, "fixed");

  const std::vector<Index> parents{-1, 0, 1, 0, 3, -1, 5, 4};
  const auto sees_node = [&](Wide q, Wide k) {
    for (Index at = static_cast<Index>(q - 20); at >= 0; at = parents[static_cast<std::size_t>(at)])
      if (at == k - 20) return true;
    return false;
  };
  expect_same(
      tree(20, parents),
      [&](Wide q, Wide k) { return (k < 20 && k <= q) || (q >= 20 && q < 28 && k >= 20 && sees_node(q, k)); }, "tree");
  expect_same(
      tree(20, {}), [](Wide q, Wide k) { return k < 20 && k <= q; }, "no tree");
}

TEST(MaskLaws, BigBirdHasItsBlocks) {
  const BigBird pattern{.blocks = 20, .block = 4, .radius = 2, .global = 1, .random = 3, .seed = 7};
  const BlockSparse mask = big_bird(pattern), again = big_bird(pattern);
  bool other = false;
  BigBird next = pattern;
  next.seed = 8;
  for (Index r = 0; r < 20; ++r) {
    Index more = 0, always = 0;
    for (Index c = 0; c < 20; ++c) {
      const bool has = mask.allows(4 * r + 1, 4 * c + 3);
      EXPECT_EQ(has, again.allows(4 * r + 1, 4 * c + 3));
      other = other || has != big_bird(next).allows(4 * r + 1, 4 * c + 3);
      const bool wanted = r < 1 || c < 1 || std::abs(r - c) <= 2;
      EXPECT_TRUE(has || !wanted) << r << " " << c;
      always += wanted, more += has && !wanted;
    }
    EXPECT_EQ(more, std::min<Index>(3, 20 - always)) << r;
  }
  EXPECT_TRUE(other);
}

/// A function of a user may capture what can't be assigned; masks can.
TEST(MaskLaws, FunctionsAreCopied) {
  const auto below = [](Index bound) { return Where([bound](Index, Index k) { return k < bound; }); };
  auto mask = below(3);
  EXPECT_FALSE(mask.allows(Index{9}, Index{5}));
  mask = below(7);
  EXPECT_TRUE(mask.allows(Index{9}, Index{5}));
  mask = *&mask;
  EXPECT_TRUE(mask.allows(Index{9}, Index{5}));
  const auto none = [](Interval, Index) { return kNoRun; };
  const auto bounded = [&](Index bound) {
    return WithRuns([bound](Index, Index k) { return k < bound; },
                    [bound](Interval, Index k) { return run_from(k, 0, bound); }, none);
  };
  auto with = bounded(3);
  with = bounded(7);
  EXPECT_TRUE(with.allows(Index{9}, Index{5}));
  EXPECT_EQ(with.some({9, 10}, 5), (Interval{5, 7}));
}

/// Ways to make the same mask.
TEST(MaskLaws, TablesFromOtherForms) {
  const auto same = [&](const auto& mask, const Expression& wanted, const char* what) {
    expect_same(mask, wanted.sees, what);
  };
  const std::vector<Index> ids{7, 7, 7, 0, 0, 9, 7, 7, 2, 2, 2, 2};
  same(Documents::by_ids(ids), documents({0, 3, 5, 6, 8, 12}), "documents by ids");
  same(Spans::by_ids(ids), spans({0, 3, 5, 6, 6, 8, 8, 12}), "spans by ids");
  same(Documents::by_ids({}), documents({0}), "no ids");

  const BlockGrid grid{4, 3, 9, 13};
  const std::vector<unsigned char> bytes{1, 0, 1, 0, 0, 0, 2, 255, 1, 0, 1, 0};
  const auto has = [&](Index r, Index c) { return bytes[static_cast<std::size_t>(r * 3 + c)] != 0; };
  const Expression blocks{"blocks",
                          [&](Wide q, Wide k) {
                            return q >= 0 && k >= 0 && q < 36 && k < 39 &&
                                   has(static_cast<Index>(q / 9), static_cast<Index>(k / 13));
                          },
                          full().mask};
  same(BlockSparse::from_dense(grid, bytes), blocks, "dense");
  same(BlockSparse(grid, has), blocks, "function");
  const std::vector<Index> offsets{0, 2, 2, 5, 6}, columns{0, 2, 0, 1, 2, 1};
  same(BlockSparse(grid, offsets, columns), blocks, "CSR");
  const std::vector<std::pair<Index, Index>> list{{2, 1}, {0, 0}, {2, 0}, {3, 1}, {2, 2}, {0, 2}, {2, 1}};
  same(BlockSparse::from_list(grid, list), blocks, "list");

  const DenseShape shape{3, 70, 9, 2};
  std::vector<unsigned char> pairs(3 * 70);
  for (std::size_t i = 0; i < pairs.size(); ++i) pairs[i] = i * i % 7 < 3;
  std::vector<std::uint64_t> words(3 * 2);
  for (std::size_t i = 0; i < pairs.size(); ++i)
    words[i / 70 * 2 + i % 70 / 64] |= std::uint64_t{pairs[i]} << (i % 70 % 64);
  const auto sees = [&](Wide q, Wide k) {
    return q >= 9 && q < 12 && k >= 2 && k < 72 && pairs[static_cast<std::size_t>((q - 9) * 70 + k - 2)] != 0;
  };
  expect_same(DenseMask::from_bytes(shape, pairs), sees, "bytes");
  expect_same(DenseMask::from_bits(shape, words), sees, "bits");
}

// ---- the algebra
// ------------------------------------------------------------------------------------------------------

/// Two expressions that must mean the same: by definition, in `allows`, and in the keys that the verdicts name.
std::string differ(const Expression& a, const Expression& b, Interval queries, Interval keys, bool verdicts) {
  const std::string names = a.name + " and " + b.name + ": ";
  for (Index q = queries.begin; q < queries.end; ++q)
    for (Index k = keys.begin; k < keys.end; ++k) {
      const bool x = static_cast<bool>(a.mask.allows(q, k)), y = static_cast<bool>(b.mask.allows(q, k));
      if (x != y || x != a.sees(q, k)) return say(names, "query ", q, ", key ", k, ": ", x, " and ", y);
    }
  if (!verdicts) return {};
  const auto marks = [&](const Expression& e, auto next) {
    std::vector<bool> marked(static_cast<std::size_t>(keys.size()));
    for (Index k = keys.begin; k < keys.end;) {
      const Interval run = next(e.mask, k);
      for (Index i = run.begin; i < std::min(run.end, keys.end); ++i)
        marked[static_cast<std::size_t>(i - keys.begin)] = true;
      k = run.end;
    }
    return marked;
  };
  const auto some = [&](const AnyMask& m, Index k) { return m.some(queries, k); };
  const auto every = [&](const AnyMask& m, Index k) { return m.every(queries, k); };
  if (marks(a, some) != marks(b, some)) return names + "some differs for queries " + show(queries);
  if (marks(a, every) != marks(b, every)) return names + "every differs for queries " + show(queries);
  return {};
}

TEST(MaskAlgebra, Laws) {
  for (std::uint64_t seed = 1; seed <= 1500; ++seed) {
    Random random(seed);
    const Index largest = random.chance(0.5) ? 100 : Index{1} << 40;
    const Leaves leaves = random.chance(0.5) ? Leaves::kAll : Leaves::kWithoutPieces;
    const auto draw = [&] { return random_expression(random, 1, largest, leaves); };
    const Expression a = draw(), b = draw(), c = draw();
    const Index q = random_query(random, a & (b & c)), k = random_key(random, a & (b & c), q);
    const Interval queries{q, q + random.between(1, 20)}, keys{k, k + random.between(1, 100)};
    const auto same = [&](const Expression& x, const Expression& y) {
      EXPECT_EQ(differ(x, y, queries, keys, leaves == Leaves::kWithoutPieces), "") << "seed " << seed;
    };
    same(a & b, b & a);
    same(a | b, b | a);
    same(a & (b & c), (a & b) & c);
    same(a | (b | c), (a | b) | c);
    same(a & a, a);
    same(a | a, a);
    same(!(a & b), (!a) | (!b));
    same(!(a | b), (!a) & (!b));
    same(!!a, a);
    same(a & (b | c), (a & b) | (a & c));
    same(a | (a & b), a);
    same(a & full(), a);
    same(a | !full(), a);
    ASSERT_FALSE(HasFailure());
  }
}

// ---- how much the verdicts recognise
// ----------------------------------------------------------------------------------

struct Shares {
  Index full = 0, full_found = 0, empty = 0, empty_found = 0;

  void add(const Expression& e, Interval queries, Interval keys) {
    bool all = true, any = false;
    for (Index q = queries.begin; q < queries.end && (all || !any); ++q)
      for (Index k = keys.begin; k < keys.end; ++k) {
        const bool seen = e.sees(q, k);
        all = all && seen, any = any || seen;
      }
    if (all) ++full, full_found += e.mask.every(queries, keys.begin).contains(keys);
    if (!any) ++empty, empty_found += e.mask.some(queries, keys.begin).begin >= keys.end;
  }
  static double share(Index found, Index of) {
    return of == 0 ? 1 : static_cast<double>(found) / static_cast<double>(of);
  }
  double full_share() const { return share(full_found, full); }
  double empty_share() const { return share(empty_found, empty); }
};

Shares shares_of(const Expression& e, Random& random, int tiles) {
  Shares shares;
  for (int i = 0; i < tiles; ++i) {
    const Index q = random.between(-64, 700),
                k = std::max<Index>(0, random.chance(0.5) ? q + random.between(-200, 100) : random.between(0, 700));
    shares.add(e, {q, q + 64}, {k, k + 48});
  }
  return shares;
}

/// Masks, their complements, and their pairs with each of `others`, by & and |: at least 99% of their tiles, and of
/// those of each at least `least`.
void hold_quality(const char* what, const std::vector<Expression>& masks, const std::vector<Expression>& others,
                  double least = 0.99) {
  Random random(5);
  Shares total;
  const auto hold = [&](const Expression& e) {
    const Shares s = shares_of(e, random, 600);
    EXPECT_GE(s.full_share(), least) << e.name << ": " << s.full_found << " of " << s.full << " full tiles";
    EXPECT_GE(s.empty_share(), least) << e.name << ": " << s.empty_found << " of " << s.empty << " empty tiles";
    total.full += s.full, total.full_found += s.full_found, total.empty += s.empty, total.empty_found += s.empty_found;
  };
  for (const Expression& a : masks) {
    hold(a);
    hold(!a);
    for (const Expression& b : others) hold(a & b), hold(a | b);
  }
  std::cout << what << ": full tiles recognised " << total.full_share() << " of " << total.full << ", empty tiles "
            << total.empty_share() << " of " << total.empty << "\n";
  EXPECT_GE(total.full_share(), 0.99);
  EXPECT_GE(total.empty_share(), 0.99);
  EXPECT_GT(total.full, 100);
  EXPECT_GT(total.empty, 100);
}

TEST(MaskQuality, NamedMasksAndTheirPairsRecogniseTiles) {
  const std::vector<Expression> all{causal(), full(),    window(100), window(300),
                                    sinks(4), sinks(90), prefix(60),  prefix(333)};
  hold_quality("named masks and pairs", all, all);
}

TEST(MaskQuality, MasksWithTablesRecogniseTiles) {
  const std::vector<Expression> others{causal(), window(100)};
  hold_quality("documents", {documents({0, 100, 400, 700}), documents({0, 64, 128, 192, 256, 320, 384, 448})}, others);
  hold_quality("spans", {spans({0, 100, 130, 230, 300, 700}), spans({64, 192, 192, 320})}, others);
  hold_quality("blocks",
               {block_sparse({11, 11, 64, 64}, 0.4, 1), block_sparse({22, 22, 32, 32}, 0.8, 2),
                block_sparse({7, 60, 100, 13}, 0.7, 3), block_sparse({44, 5, 16, 150}, 0.5, 4)},
               others);
}

/// A mask of the library whose definition is its own `allows`.
Expression made(const std::string& name, const auto& mask) {
  return {
      name,
      [mask](Wide q, Wide k) { return static_cast<bool>(mask.allows(static_cast<Index>(q), static_cast<Index>(k))); },
      AnyMask::of(mask)};
}

TEST(MaskQuality, PatternsRecogniseTiles) {
  const std::vector<Expression> others{causal(), window(100)};
  // Where one mask ends and another begins inside the range of queries, each query sees on by one or the other, and a
  // composition can't know: hence windows that are not narrower than the 64 queries of a tile.
  hold_quality("windows", {between(100, 100), between(64, 200), between(150, 20)}, others);
  hold_quality("chunks", {chunked(64), chunked(128), chunked(300)}, others);
  hold_quality("longformer", {made("longformer", longformer(64, 16)), made("longformer", longformer(150, 100))},
               others);
  hold_quality("bigbird",
               {made("bigbird", big_bird({.blocks = 11})), made("bigbird", big_bird({.blocks = 22, .block = 32}))},
               others);
  hold_quality("dilated", {dilated(4, 2, 64), dilated(3, 3, 100), dilated(50, 2), dilated(300, 1)}, others);
  // Where a window of 100 ends between two keys of a query that are 8 apart, verdicts are some keys off.
  hold_quality("sparse transformer",
               {made("strided", strided(128)), made("strided", strided(8)), made("fixed", fixed_blocks(128, 64)),
                made("fixed", fixed_blocks(200, 8))},
               others, 0.98);
  hold_quality(
      "longnet",
      {segments(128, 1, 0), segments(256, 4, 1), segments(128, 1, 0) | segments(512, 2, 0), segments(700, 1, 0)},
      others);
  const auto blocks = [](Index q, Index k) { return q / 64 * 5 % 7 >= k / 100 * 3 % 5; };
  hold_quality("dense", {made("dense", DenseMask({700, 700}, blocks))}, others);
  hold_quality("dense, other every three rows", {dense({700, 700}, 0.995, 1), dense({700, 700}, 0.8, 2)}, {});
  const std::vector<Index> parents{-1, 0, 0, 1, 1, 2, 5, 6, 6, 3};
  hold_quality("tree", {made("tree", tree(300, parents)), made("tree", tree(640, parents))}, others);
}

TEST(MaskQuality, NestsAreReported) {
  Random random(6);
  Shares total;
  for (int i = 0; i < 300; ++i) {
    const Expression e = random_expression(random, 3, 300);
    const Shares s = shares_of(e, random, 100);
    total.full += s.full, total.full_found += s.full_found, total.empty += s.empty, total.empty_found += s.empty_found;
  }
  std::cout << "random nests: full tiles recognised " << total.full_share() << " of " << total.full << ", empty tiles "
            << total.empty_share() << " of " << total.empty << "\n";
  EXPECT_GE(total.full_share(), 0.8);  // verdicts may be conservative; the foreign mask's are on purpose
  EXPECT_GE(total.empty_share(), 0.8);
}

TEST(MaskArguments, AreChecked) {
  EXPECT_THROW(Window(0), std::invalid_argument);
  EXPECT_THROW(Window(-1), std::invalid_argument);
  EXPECT_THROW(Sinks(-1), std::invalid_argument);
  EXPECT_THROW(Prefix(-1), std::invalid_argument);
  EXPECT_NO_THROW(Window(1));
  EXPECT_NO_THROW(Sinks(0));
  EXPECT_NO_THROW(Prefix(0));
}

}  // namespace
}  // namespace longspan::testing
