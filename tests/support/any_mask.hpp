#pragma once
// Masks whose type isn't known to the compiler, so that expressions can be drawn at random: each carries what it is
// called, the textbook definition in integers that don't overflow, and the real mask built by the real operators.

#include <functional>
#include <longspan/core/position.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/masks.hpp>
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

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual bool allows(Index q, Index k) const = 0;
    virtual Truth<LaneBools> queries_in_lanes(const Position<Lanes>& q, const OnePlace& k) const = 0;
    virtual Truth<LaneBools> keys_in_lanes(const OnePlace& q, const Position<Lanes>& k) const = 0;
    virtual Interval some(Interval q, Index k) const = 0;
    virtual Interval every(Interval q, Index k) const = 0;
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
inline Expression random_leaf(Random& random, Index largest) {
  switch (random.between(0, 5)) {
    case 0:
      return full();
    case 1:
      return causal();
    case 2:
      return window(random_size(random, 1, largest));
    case 3:
      return sinks(random_size(random, 0, largest));
    case 4:
      return prefix(random_size(random, 0, largest));
    // Its verdicts come in pieces, of which there must not be too many.
    default:
      return foreign(random_size(random, 0, std::min<Index>(largest, 1000)));
  }
}
inline Expression random_expression(Random& random, int depth, Index largest) {
  if (depth == 0 || random.chance(0.15)) return random_leaf(random, largest);
  switch (random.between(0, 2)) {
    case 0:
      return random_expression(random, depth - 1, largest) & random_expression(random, depth - 1, largest);
    case 1:
      return random_expression(random, depth - 1, largest) | random_expression(random, depth - 1, largest);
    default:
      return !random_expression(random, depth - 1, largest);
  }
}

}  // namespace longspan::testing
