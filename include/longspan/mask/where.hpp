#pragma once
// Masks from a user's function.

#include <optional>
#include <utility>

#include <longspan/core/concepts.hpp>
#include <longspan/core/runs.hpp>
#include <longspan/mask/block_sparse.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A function sees(query, key) as a mask that knows no runs: no tile is skipped and each is tested pair by pair. It is
/// asked from several threads, and for positions outside of the call too: clamp what is looked up.
///   [](Index q, Index k) -> bool      called once for each lane
///   [](auto q, auto k)                called with lanes, as `allows` of a mask (core/concepts.hpp): compare positions,
///                                     `(k <= q) & (k > q - 7)`, and don't subtract them
/// With runs from WithRuns or ByBlocks, what nobody sees is skipped.
template <std::copy_constructible F>
class Where {
 public:
  explicit Where(F sees) : sees_(std::move(sees)) {}
  Where(const Where&) = default;
  Where& operator=(const Where& other) {  // lambdas that capture can't be assigned
    if (this != &other) sees_.reset(), sees_.emplace(*other.sees_);
    return *this;
  }

  template <class Query, class Key>
  LONGSPAN_INLINE auto allows(const Query& q, const Key& k) const {
    if constexpr (!kInLanes<Query> && !kInLanes<Key>) {
      return static_cast<bool>((*sees_)(place(q), place(k)));
    } else if constexpr (std::invocable<const F&, Query, Key>) {
      return (*sees_)(q, k);
    } else {
      alignas(64) float seen[kLanes];
      for (Index i = 0; i < kLanes; ++i)
        seen[i] = (*sees_)(place(q) + (kInLanes<Query> ? i : 0), place(k) + (kInLanes<Key> ? i : 0)) ? 1.f : 0.f;
      return LaneTruth{Lanes::load_aligned(seen) != Lanes(0.f)};
    }
  }
  Interval some(Interval, Index k) const { return run_from(k, 0, kUnbounded); }
  Interval every(Interval, Index) const { return kNoRun; }

 private:
  std::optional<F> sees_;
};

/// … with the runs that `some` and `every` of a mask answer (core/concepts.hpp), from two functions (Interval queries,
/// Index k) -> Interval that keep the laws there.
template <std::copy_constructible F, class Some, class Every>
class WithRuns : public Where<F> {
 public:
  WithRuns(F sees, Some some, Every every)
      : Where<F>(std::move(sees)), runs_(std::pair(std::move(some), std::move(every))) {}
  WithRuns(const WithRuns&) = default;
  WithRuns& operator=(const WithRuns& other) {
    Where<F>::operator=(other);
    if (this != &other) runs_.reset(), runs_.emplace(*other.runs_);
    return *this;
  }

  Interval some(Interval q, Index k) const { return runs_->first(q, k); }
  Interval every(Interval q, Index k) const { return runs_->second(q, k); }

 private:
  std::optional<std::pair<Some, Every>> runs_;
};

/// … with runs that are found once, by asking for every pair of a grid what blocks are seen in part and which as a
/// whole (as FlexAttention's BlockMask). Keep it: it costs a call of `sees` for each pair. Outside of the grid nothing
/// is seen. Throws std::invalid_argument where the grid is empty or reaches beyond 2^52.
template <std::copy_constructible F>
class ByBlocks {
 public:
  ByBlocks(const BlockGrid& grid, F sees)
      : sees_(std::move(sees)),
        any_(grid, blocks(grid, [&](Interval q, Interval k) { return !all(q, k, false); })),
        all_(grid, blocks(grid, [&](Interval q, Interval k) { return all(q, k, true); })) {}

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return truth(within(q, any_.queries())) & truth(within(k, any_.keys())) & truth(sees_.allows(q, k));
  }
  Interval some(Interval q, Index k) const { return any_.some(q, k); }
  Interval every(Interval q, Index k) const { return all_.every(q, k); }

 private:
  bool all(Interval queries, Interval keys, bool seen) const {
    for (Index q = queries.begin; q < queries.end; ++q)
      for (Index k = keys.begin; k < keys.end; ++k)
        if (sees_.allows(q, k) != seen) return false;
    return true;
  }
  template <class Has>
  static auto blocks(const BlockGrid& grid, Has has) {
    return BlockTable::where([grid, has](Index r, Index c) { return has(grid.queries_of(r), grid.keys_of(c)); });
  }

  Where<F> sees_;
  BlockTable any_, all_;
};

}  // namespace longspan::inline LONGSPAN_ISA
