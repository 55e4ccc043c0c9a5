#pragma once
// Policies as a user would write them, with nothing but what the concepts ask for: no default constructor, no
// comparison, no name from the library except its words. Whatever the library takes must take these.

#include <algorithm>
#include <longspan/core/concepts.hpp>

namespace archetypes {

using longspan::Index;
using longspan::Interval;

/// The keys within `radius` of the query, on both sides. Its verdicts are as bad as the laws allow: `some` begins too
/// early, ends too late and comes in touching pieces; `every` is too narrow.
class SymmetricWindow {
 public:
  SymmetricWindow() = delete;
  explicit SymmetricWindow(Index radius) : radius_(radius) {}
  bool operator==(const SymmetricWindow&) const = delete;

  auto allows(const auto& q, const auto& k) const { return (k <= q + radius_) & (k > q - (radius_ + 1)); }
  Interval some(Interval q, Index k) const {
    const Index begin = std::max({k, q.begin - radius_ - 3, Index{0}}), end = q.end + radius_ + 5;
    if (begin >= end) return longspan::kNoRun;
    return {begin, std::min(end, begin / kPiece * kPiece + kPiece)};
  }
  Interval every(Interval q, Index k) const {
    const Index begin = std::max({k, q.end - radius_, Index{0}}), end = q.begin + radius_ - 1;
    return begin < end ? Interval{begin, end} : longspan::kNoRun;
  }

 private:
  static constexpr Index kPiece = 7;
  Index radius_;
};

/// Forgets slowly: a score function with head, written once for scalars and lanes.
class Recency {
 public:
  Recency() = delete;
  explicit Recency(float rate) : rate_(rate) {}

  auto operator()(auto score, auto query, auto key) const { return score - rate_ * (query - key); }

 private:
  float rate_;
};

/// The same as a lambda that depends on the head.
inline auto recency_by_head(float rate) {
  return [rate](auto score, auto query, auto key, Index head) {
    return score - (rate * static_cast<float>(head + 1)) * (query - key);
  };
}

static_assert(longspan::Mask<SymmetricWindow>);
static_assert(longspan::ScoreFunction<Recency>);
static_assert(longspan::ScoreFunction<decltype(recency_by_head(1.f))>);
static_assert(!longspan::Mask<Recency>);
static_assert(!longspan::ScoreFunction<SymmetricWindow>);

}  // namespace archetypes
