// The schedule (kernel/tiles.hpp): tiles of any mask against the keys that its verdicts name, one by one.

#include <gtest/gtest.h>

#include <longspan/kernel/tiles.hpp>
#include <support/any_mask.hpp>
#include <support/laws.hpp>

namespace longspan::testing {
namespace {

/// The keys of a range that a verdict names, walking from its begin.
template <class Next>
std::vector<bool> named_keys(const Next& next, Interval keys) {
  std::vector<bool> named(static_cast<std::size_t>(keys.size()));
  for (Index k = keys.begin; k < keys.end;) {
    const Interval run = next(k);
    for (Index i = run.begin; i < std::min(run.end, keys.end); ++i)
      named[static_cast<std::size_t>(i - keys.begin)] = true;
    k = run.end;
  }
  return named;
}

std::string show_tile(const Tile& t) {
  return say("tile of block ", t.block, ", keys ", show(t.keys), t.full ? ", full" : "");
}

/// Tiles ascend, each inside one block, from the first to the last key in it that `some` names and so over all visible
/// ones; full ones are wholly visible, and where `every` says so in one run they are full.
std::string broken_tiles(const Expression& e, Interval queries, Interval keys) {
  std::vector<Tile> tiles;
  Tile announced;
  std::string surprise;
  for_each_tile(e.mask, queries, keys, [&](const Tile& t, const Tile& following) {
    if (!tiles.empty() && (t.block != announced.block || t.keys != announced.keys || t.full != announced.full))
      surprise = say(show_tile(t), " was announced as ", show_tile(announced));
    announced = following;
    tiles.push_back(t);
  });
  if (!surprise.empty()) return surprise;
  if (!announced.keys.empty()) return say("announced, but never came: ", show_tile(announced));
  const std::vector<bool> some = named_keys([&](Index k) { return e.mask.some(queries, k); }, keys);
  const auto named = [&](Index k) { return some[static_cast<std::size_t>(k - keys.begin)]; };
  std::size_t next = 0;
  for (Index block = keys.begin / kBlock * kBlock; block < keys.end; block += kBlock) {
    const Interval inside = intersect({block, block + kBlock}, keys);
    Index first = inside.begin, last = inside.end;
    while (first < last && !named(first)) ++first;
    while (first < last && !named(last - 1)) --last;
    if (first == last) continue;
    if (next == tiles.size()) return say("no tile for keys ", show(Interval{first, last}));
    const Tile tile = tiles[next++];
    if (tile.block != block || tile.keys != Interval{first, last})
      return say(show_tile(tile), ", expected keys ", show(Interval{first, last}));
    bool all = true;
    for (Index q = queries.begin; q < queries.end; ++q)
      for (Index k = first; k < last; ++k) all = all && e.sees(q, k);
    if (tile.full && !all) return say(show_tile(tile), " has hidden keys");
    if (!tile.full && e.mask.every(queries, first).contains(tile.keys)) return say(show_tile(tile), " should be full");
    for (Index k = inside.begin; k < inside.end; ++k)
      for (Index q = queries.begin; q < queries.end; ++q)
        if (e.sees(q, k) && (k < first || k >= last)) return say(show_tile(tile), " misses key ", k);
  }
  if (next != tiles.size()) return say("one more: ", show_tile(tiles[next]));
  return {};
}

TEST(Tiles, OfNamedMasks) {
  std::vector<Expression> all{full(),
                              causal(),
                              window(1),
                              window(40),
                              window(64),
                              window(200),
                              sinks(0),
                              sinks(3),
                              sinks(64),
                              prefix(0),
                              prefix(100),
                              foreign(30),
                              !causal(),
                              !window(30),
                              !sinks(70),
                              window(70) | sinks(4),
                              window(20) | sinks(30)};
  for (const Expression& e : table_masks()) all.push_back(e);
  for (const Expression& e : pattern_masks()) all.push_back(e);
  for (const Expression& e : user_masks()) all.push_back(e);
  for (const Expression& e : all)
    for (Index q = -40; q < 300; q += 7)
      for (const Index rows : {1, 5, 48, 64})
        for (const Interval keys :
             {Interval{0, 1}, {0, 64}, {0, 300}, {5, 70}, {63, 65}, {64, 128}, {100, 101}, {130, 333}})
          ASSERT_EQ(broken_tiles(e, {q, q + rows}, keys), "")
              << e.name << ", queries " << show(Interval{q, q + rows}) << ", keys " << show(keys);
}

TEST(Tiles, OfRandomMasks) {
  for (std::uint64_t seed = 1; seed <= 4000; ++seed) {
    Random random(seed);
    const Expression e = random_expression(random, 3, random.chance(0.6) ? 300 : Index{1} << 40);
    const Index base = random.chance(0.5) || e.landmarks.empty() ? 0 : std::min(e.landmarks.front(), Index{1} << 40);
    const Index q = base + random.between(-100, 400), k = std::max<Index>(0, base + random.between(-200, 300));
    const Interval queries{q, q + random.between(1, 64)}, keys{k, k + random.between(1, 300)};
    ASSERT_EQ(broken_tiles(e, queries, keys), "")
        << e.name << ", queries " << show(queries) << ", keys " << show(keys) << ", seed " << seed;
  }
}

TEST(Tiles, NoneForEmptyRanges) {
  const auto none = [](const Tile& tile, const Tile&) { ADD_FAILURE() << show_tile(tile); };
  for_each_tile(Full{}, {5, 5}, {0, 100}, none);
  for_each_tile(Full{}, {5, 9}, {7, 7}, none);
  for_each_tile(Causal{}, {-9, 0}, {0, 100}, none);
}

/// A mask that counts how often its verdicts are asked for.
struct Counted {
  AnyMask mask;
  Index* calls;

  bool allows(Index q, Index k) const { return static_cast<bool>(mask.allows(q, k)); }
  Interval some(Interval q, Index k) const { return ++*calls, mask.some(q, k); }
  Interval every(Interval q, Index k) const { return ++*calls, mask.every(q, k); }
};

TEST(Tiles, HiddenKeysAreNotVisited) {
  const Index far = Index{1} << 40;
  for (const Expression& e : {window(100), window(100) | sinks(4), sinks(70), window(5) & sinks(far)}) {
    Index calls = 0, tiles = 0;
    for_each_tile(Counted{e.mask, &calls}, {far, far + 64}, {0, far + 64}, [&](const Tile&, const Tile&) { ++tiles; });
    EXPECT_LE(tiles, 6) << e.name;
    EXPECT_LE(calls, 2 * tiles + 4) << e.name;
  }
}

TEST(Tiles, LongRunsAskOnce) {
  Index calls = 0, tiles = 0;
  for_each_tile(Counted{causal().mask, &calls}, {100000, 100064}, {0, 100064},
                [&](const Tile&, const Tile&) { ++tiles; });
  EXPECT_EQ(tiles, 100064 / 64 + 1);
  EXPECT_LE(calls, 8);
}

}  // namespace
}  // namespace longspan::testing
