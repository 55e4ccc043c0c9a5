#pragma once
// Masks whose type isn't known to the compiler, so that expressions can be drawn at random: each carries what it is
// called, the textbook definition in integers that don't overflow, and the real mask built by the real operators.

#include <algorithm>
#include <functional>
#include <longspan/core/position.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/big_bird.hpp>
#include <longspan/mask/dense.hpp>
#include <longspan/mask/dilated.hpp>
#include <longspan/mask/documents.hpp>
#include <longspan/mask/masks.hpp>
#include <longspan/mask/patterns.hpp>
#include <longspan/mask/tree.hpp>
#include <longspan/mask/where.hpp>
#include <memory>
#include <string>
#include <support/archetypes.hpp>
#include <support/random.hpp>
#include <type_traits>
#include <vector>

namespace longspan::testing {

__extension__ typedef __int128 Wide;

/// The one query or key that meets a vector of the others, as the kernels pass it.
using OnePlace = Position<float>;
inline OnePlace one_place(Index at) { return {at, 0.f}; }

using LaneBools = xsimd::batch_bool<float>;
/// What `allows` answers, in lanes, read as the kernels read it.
template <class Answer>
LaneBools in_lanes(const Answer& answer) {
  return LaneBools(truth(answer).value);
}

/// Any mask behind one type, which is a mask itself: And, Or and Not are instantiated on it.
class AnyMask {
 public:
  /// Not a constructor: converting from every mask would make the concept depend on itself.
  template <Mask M>
  static AnyMask of(const M& mask) {
    AnyMask any;
    any.self_ = std::make_shared<Model<M>>(mask);
    return any;
  }

  template <class Query, class Key>
  auto allows(const Query& q, const Key& k) const {
    if constexpr (std::is_same_v<Query, Index>)
      return self_->allows(q, k);
    else if constexpr (std::is_same_v<Query, Position<Lanes>>)
      return self_->queries_in_lanes(q, k);
    else
      return self_->keys_in_lanes(q, k);
  }
  Interval some(Interval q, Index k) const { return self_->some(q, k); }
  Interval every(Interval q, Index k) const { return self_->every(q, k); }
  Index edge_after(Index q) const { return self_->edge_after(q); }
  Index pairs(Interval q, Interval k) const { return self_->pairs(q, k); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual bool allows(Index q, Index k) const = 0;
    virtual Truth<LaneBools> queries_in_lanes(const Position<Lanes>& q, const OnePlace& k) const = 0;
    virtual Truth<LaneBools> keys_in_lanes(const OnePlace& q, const Position<Lanes>& k) const = 0;
    virtual Interval some(Interval q, Index k) const = 0;
    virtual Interval every(Interval q, Index k) const = 0;
    virtual Index edge_after(Index q) const = 0;
    virtual Index pairs(Interval q, Interval k) const = 0;
  };
  template <class M>
  struct Model final : Interface {
    explicit Model(const M& m) : mask(m) {}
    bool allows(Index q, Index k) const override { return static_cast<bool>(mask.allows(q, k)); }
    Truth<LaneBools> queries_in_lanes(const Position<Lanes>& q, const OnePlace& k) const override {
      return {in_lanes(mask.allows(q, k))};
    }
    Truth<LaneBools> keys_in_lanes(const OnePlace& q, const Position<Lanes>& k) const override {
      return {in_lanes(mask.allows(q, k))};
    }
    Interval some(Interval q, Index k) const override { return mask.some(q, k); }
    Interval every(Interval q, Index k) const override { return mask.every(q, k); }
    Index edge_after(Index q) const override { return longspan::edge_after(mask, q); }
    Index pairs(Interval q, Interval k) const override { return count_pairs(mask, q, k); }
    M mask;
  };
  AnyMask() = default;
  std::shared_ptr<const Interface> self_;
};
static_assert(Mask<AnyMask>);

/// A mask expression.
struct Expression {
  std::string name;
  std::function<bool(Wide, Wide)> sees;  ///< the definition, of (query, key)
  AnyMask mask;
  std::vector<Index> landmarks = {};  ///< places and distances where its behaviour changes
};

inline Expression full() {
  return {"full", [](Wide, Wide) { return true; }, AnyMask::of(Full{})};
}
inline Expression causal() {
  return {"causal", [](Wide q, Wide k) { return k <= q; }, AnyMask::of(Causal{})};
}
inline Expression window(Index w) {
  return {"window(" + std::to_string(w) + ")",
          [w](Wide q, Wide k) { return k <= q && q - k < w; },
          AnyMask::of(Window(w)),
          {w}};
}
inline Expression sinks(Index s) {
  return {
      "sinks(" + std::to_string(s) + ")", [s](Wide q, Wide k) { return k < s && k <= q; }, AnyMask::of(Sinks(s)), {s}};
}
inline Expression prefix(Index p) {
  return {"prefix(" + std::to_string(p) + ")",
          [p](Wide q, Wide k) { return k < p || k <= q; },
          AnyMask::of(Prefix(p)),
          {p}};
}
inline Expression foreign(Index r) {
  return {"foreign(" + std::to_string(r) + ")",
          [r](Wide q, Wide k) { return k <= q + r && k >= q - r; },
          AnyMask::of(archetypes::SymmetricWindow(r)),
          {r}};
}

/// "name(1,2,3)".
inline std::string call(const std::string& name, const std::vector<Index>& arguments) {
  std::string text = name + "(";
  for (const Index& a : arguments) text += std::to_string(a) + (&a == &arguments.back() ? "" : ",");
  return text + ")";
}

inline Expression documents(const std::vector<Index>& lengths) {
  const auto document = [lengths](Wide at) {  // 0: none
    return at < 0 || at >= lengths.back()
               ? 0
               : std::count_if(lengths.begin(), lengths.end(), [&](Index l) { return l <= at; });
  };
  return {call("documents", lengths),
          [document](Wide q, Wide k) { return document(q) > 0 && document(q) == document(k); },
          AnyMask::of(Documents(lengths)), lengths};
}
inline Expression spans(const std::vector<Index>& edges) {  // begin, end, begin, end, …
  std::vector<Interval> runs;
  for (std::size_t i = 0; i + 1 < edges.size(); i += 2) runs.push_back({edges[i], edges[i + 1]});
  return {call("spans", edges),
          [runs](Wide q, Wide k) {
            const auto in = [](Interval s, Wide at) { return at >= s.begin && at < s.end; };
            return std::any_of(runs.begin(), runs.end(), [&](Interval s) { return in(s, q) && in(s, k); });
          },
          AnyMask::of(Spans(runs)), edges};
}
/// Blocks drawn with a seed.
inline Expression block_sparse(const BlockGrid& g, double density, std::uint64_t seed) {
  Random random(seed);
  std::vector<unsigned char> blocks(static_cast<std::size_t>(g.rows * g.columns));
  for (unsigned char& b : blocks) b = random.chance(density);
  blocks[static_cast<std::size_t>(random.between(0, std::ssize(blocks) - 1))] = 1;
  return {call("block_sparse", {g.rows, g.columns, g.block_queries, g.block_keys, static_cast<Index>(seed)}),
          [g, blocks](Wide q, Wide k) {
            if (q < 0 || k < 0 || q / g.block_queries >= g.rows || k / g.block_keys >= g.columns) return false;
            return blocks[static_cast<std::size_t>(q / g.block_queries * g.columns + k / g.block_keys)] != 0;
          },
          AnyMask::of(BlockSparse::from_dense(g, blocks)),
          {g.rows * g.block_queries, g.columns * g.block_keys, g.block_keys}};
}

/// A drawn mask with a bit for each pair.
inline Expression dense(const DenseShape& s, double density, std::uint64_t seed) {
  Random random(seed);
  std::vector<unsigned char> bytes(static_cast<std::size_t>(s.queries * s.keys));
  // In pieces of rows that are alike, and of neighbouring keys.
  for (Index r = 0; r < s.queries; ++r)
    for (Index c = 0; c < s.keys; ++c) {
      const auto at = static_cast<std::size_t>(r * s.keys + c);
      const bool as_above = r % 3 != 0, as_before = c % 5 != 0;
      bytes[at] = as_above    ? bytes[at - static_cast<std::size_t>(s.keys)]
                  : as_before ? bytes[at - 1]
                              : static_cast<unsigned char>(random.chance(density) ? 1 + seed % 255 : 0);
    }
  return {call("dense", {s.queries, s.keys, s.first_query, s.first_key, static_cast<Index>(seed)}),
          [s, bytes](Wide q, Wide k) {
            q -= s.first_query, k -= s.first_key;
            return q >= 0 && k >= 0 && q < s.queries && k < s.keys && bytes[static_cast<std::size_t>(q * s.keys + k)];
          },
          AnyMask::of(DenseMask::from_bytes(s, bytes)),
          {s.first_query, s.first_key, s.first_key + s.keys}};
}

/// Masks with tables, at edges that lie inside of small ranges.
inline std::vector<Expression> table_masks() {
  return {documents({0}),
          documents({0, 1}),
          documents({0, 0, 9}),
          documents({0, 5, 5, 6, 40, 90, 90}),
          documents({0, 16, 32, 48, 64, 80}),
          documents({0, 100}),
          spans({}),
          spans({0, 7, 7, 8, 20, 45, 60, 61}),
          spans({30, 70}),
          block_sparse({1, 1, 64, 64}, 1, 1),
          block_sparse({3, 2, 40, 33}, 0.5, 2),
          block_sparse({12, 12, 8, 8}, 0.4, 3),
          block_sparse({50, 7, 1, 17}, 0.7, 4),
          block_sparse({5, 100, 16, 1}, 0.6, 5),
          block_sparse({90, 90, 1, 1}, 0.9, 6),
          dense({0, 0}, 1, 1),
          dense({96, 96}, 0.5, 2),
          dense({20, 70, 30, 11}, 0.8, 3),
          dense({64, 64, 10, 0}, 1, 4),
          dense({3, 90, 40, 70}, 0.3, 5)};
}

// ---- patterns with a closed form

inline Wide floor_mod(Wide a, Wide b) { return (a % b + b) % b; }
inline Wide floor_div(Wide a, Wide b) { return (a - floor_mod(a, b)) / b; }

inline Expression between(Index left, Index right) {
  return {call("between", {left, right}),
          [=](Wide q, Wide k) { return k >= q - left && k <= q + right; },
          AnyMask::of(Window::between(left, right)),
          {left, right}};
}
inline Expression global_tokens(Index g) {
  return {call("global", {g}), [g](Wide q, Wide k) { return k < g || q < g; }, AnyMask::of(GlobalTokens(g)), {g}};
}
inline Expression chunked(Index c) {
  return {call("chunked", {c}),
          [c](Wide q, Wide k) { return k <= q && floor_div(q, c) == floor_div(k, c); },
          AnyMask::of(Chunked(c)),
          {c}};
}
inline Expression columns(Index period, Index width) {
  return {call("columns", {period, width}),
          [=](Wide q, Wide k) { return k <= q && floor_mod(k, period) >= period - width; },
          AnyMask::of(Columns(period, width)),
          {period}};
}
inline Expression dilated(Index w, Index stride, Index run = 1) {
  return {call("dilated", {w, stride, run}),
          [=](Wide q, Wide k) {
            const Wide apart = floor_div(q, run) - floor_div(k, run);
            return k <= q && apart % stride == 0 && apart < Wide{w} * stride;
          },
          AnyMask::of(Dilated(w, stride, run)),
          {w, stride * run}};
}
inline Expression segments(Index segment, Index dilation, Index offset) {
  return {call("segments", {segment, dilation, offset}),
          [=](Wide q, Wide k) {
            return floor_div(q, segment) == floor_div(k, segment) && floor_mod(q - offset, dilation) == 0 &&
                   floor_mod(k - offset, dilation) == 0;
          },
          AnyMask::of(DilatedSegments(segment, dilation, offset)),
          {segment, dilation}};
}

/// Patterns with a closed form, at edges that lie inside of small ranges.
inline std::vector<Expression> pattern_masks() {
  return {between(0, 0),
          between(5, 9),
          between(40, 0),
          between(kUnbounded, 3),
          between(3, kUnbounded),
          global_tokens(0),
          global_tokens(7),
          chunked(1),
          chunked(16),
          chunked(37),
          columns(1, 1),
          columns(8, 1),
          columns(11, 4),
          columns(64, 20),
          dilated(6, 3),
          dilated(1, 5),
          dilated(40, 1),
          dilated(3, 2, 10),
          dilated(100, 4, 7),
          dilated(kUnbounded, 8),
          dilated(2, 1, 9),
          segments(16, 1, 0),
          segments(16, 4, 3),
          segments(30, 3, 0),
          segments(50, 25, 1)};
}

/// Functions of a user: in scalars, in lanes, with runs, by blocks.
inline std::vector<Expression> user_masks(Index reach = 30) {
  const auto odd = [reach](Index q, Index k) { return k > q - reach && k <= q && (q * 5 + k * 3) % 7 != 0; };
  const auto lanes = [reach](auto q, auto k) { return (k > q - reach) & (k <= q); };
  const auto some = [reach](Interval q, Index k) {
    return run_from(k, std::max<Index>(0, q.begin - reach + 1), q.end);
  };
  const auto every = [reach](Interval q, Index k) {
    return run_from(k, std::max<Index>(0, q.end - reach), q.begin + 1);
  };
  const auto sees_odd = [reach](Wide q, Wide k) { return k > q - reach && k <= q && (q * 5 + k * 3) % 7 != 0; };
  const auto sees = [reach](Wide q, Wide k) { return k > q - reach && k <= q; };
  const auto inside = [](auto f, Wide queries, Wide keys) {
    return [=](Wide q, Wide k) { return q >= 0 && k >= 0 && q < queries && k < keys && f(q, k); };
  };
  return {{"where", sees_odd, AnyMask::of(Where(odd))},
          {"where in lanes", sees, AnyMask::of(Where(lanes))},
          {"with runs", sees, AnyMask::of(WithRuns(lanes, some, every))},
          {"by blocks", inside(sees_odd, 80, 54), AnyMask::of(ByBlocks({5, 6, 16, 9}, odd))},
          {"by blocks in lanes", inside(sees, 90, 90), AnyMask::of(ByBlocks({9, 9, 10, 10}, lanes))}};
}

inline std::vector<Index> both(std::vector<Index> a, const std::vector<Index>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
using longspan::operator&, longspan::operator|, longspan::operator!;  // ours, below, hide them

inline Expression operator&(const Expression& a, const Expression& b) {
  return {"(" + a.name + " & " + b.name + ")", [x = a.sees, y = b.sees](Wide q, Wide k) { return x(q, k) && y(q, k); },
          AnyMask::of(a.mask & b.mask), both(a.landmarks, b.landmarks)};
}
inline Expression operator|(const Expression& a, const Expression& b) {
  return {"(" + a.name + " | " + b.name + ")", [x = a.sees, y = b.sees](Wide q, Wide k) { return x(q, k) || y(q, k); },
          AnyMask::of(a.mask | b.mask), both(a.landmarks, b.landmarks)};
}
inline Expression operator!(const Expression& a) {
  return {"!" + a.name, [x = a.sees](Wide q, Wide k) { return !x(q, k); }, AnyMask::of(!a.mask), a.landmarks};
}

/// A size: small ones mostly; up to `largest` by powers of two; near it.
inline Index random_size(Random& random, Index smallest, Index largest) {
  if (largest <= 128 || random.chance(0.5)) return random.between(smallest, std::min<Index>(largest, 128));
  if (random.chance(0.2)) return largest - random.between(0, 100);
  int bits = 7;
  while (bits < 62 && (Index{1} << (bits + 1)) <= largest) ++bits;
  return std::clamp((Index{1} << random.between(7, bits)) + random.between(-3, 3), smallest, largest);
}
/// Which masks are drawn: those that say where queries see the same are read in pieces, so that their verdicts depend
/// on how an expression is nested. (Periodic ones only where sizes are small: their runs are many.)
enum class Leaves { kAll, kWithoutPieces };
inline Expression random_leaf(Random& random, Index largest, Leaves leaves = Leaves::kAll) {
  const auto ascending = [&](Index count) {
    std::vector<Index> places;
    for (Index i = 0; i < count; ++i) places.push_back(random_size(random, 1, std::min(largest, kPositionEnd)));
    std::sort(places.begin(), places.end());
    return places;
  };
  const auto small = [&](Index low, Index high) { return random.between(low, std::min(high, largest)); };
  switch (random.between(0, leaves == Leaves::kWithoutPieces ? 5 : largest <= 1000 ? 14 : 9)) {
    case 0:
      return full();
    case 1:
      return causal();
    case 2:
      if (random.chance(0.5)) return between(random_size(random, 0, largest), random_size(random, 0, largest));
      return window(random_size(random, 1, largest));
    case 3:
      return sinks(random_size(random, 0, largest));
    case 4:
      return prefix(random_size(random, 0, largest));
    // Its verdicts come in pieces, of which there must not be too many.
    case 5:
      return foreign(random_size(random, 0, std::min<Index>(largest, 1000)));
    case 6:
      return documents(both({0}, ascending(random.between(0, 5))));
    case 7: {
      std::vector<Index> edges = ascending(2 * random.between(0, 3));
      edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
      return spans({edges.begin(), edges.end() - std::ssize(edges) % 2});
    }
    case 8:
      return chunked(random_size(random, 1, std::min(largest, kPositionEnd)));
    case 9: {
      const auto size = [&] { return random_size(random, 1, std::min(largest, kPositionEnd / 16)); };
      return block_sparse({random.between(1, 12), random.between(1, 12), size(), size()}, random.real(0, 1),
                          static_cast<std::uint64_t>(random.between(0, 1 << 30)));
    }
    case 10:
      return global_tokens(random_size(random, 0, largest));
    case 11: {
      const Index period = small(1, 90);
      return columns(period, random.between(1, period));
    }
    case 12:
      return dilated(random_size(random, 1, largest), small(1, 9), small(1, 70));
    case 13: {
      const Index dilation = small(1, 6);
      return segments(dilation * small(1, 70), dilation, random.between(0, dilation - 1));
    }
    default: {
      const DenseShape shape{small(0, 150), small(0, 300), small(0, 50), small(0, 50)};
      return dense(shape, random.real(0, 1), static_cast<std::uint64_t>(random.between(0, 1 << 30)));
    }
  }
}
inline Expression random_expression(Random& random, int depth, Index largest, Leaves leaves = Leaves::kAll) {
  if (depth == 0 || random.chance(0.15)) return random_leaf(random, largest, leaves);
  const auto part = [&] { return random_expression(random, depth - 1, largest, leaves); };
  switch (random.between(0, 2)) {
    case 0:
      return part() & part();
    case 1:
      return part() | part();
    default:
      return !part();
  }
}

}  // namespace longspan::testing
