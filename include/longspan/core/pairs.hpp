#pragma once
// How many pairs of queries and keys see each other.

#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Of the pairs in queries × keys, those with key <= query + ahead. O(1).
constexpr Index pairs_until(Interval queries, Interval keys, Index ahead) {
  if (queries.empty() || keys.empty()) return 0;
  // Query q sees as many keys as q + ahead + 1 - keys.begin, bounded by none and all: a series that rises, then stays.
  const Index all = keys.size(), shift = ahead + 1 - keys.begin;
  const auto rising = [&](Index q) { return std::clamp<Index>(q + shift, 0, all + 1); };
  const auto staying = [&](Index q) { return std::max(q + shift, all + 1); };
  const Index from = rising(queries.begin), to = rising(queries.end);
  const Index count = to - from, sum = from + to - 1;  // one of them is even
  return (count % 2 == 0 ? count / 2 * sum : count * (sum / 2)) + (staying(queries.end) - staying(queries.begin)) * all;
}

/// All pairs.
constexpr Index pairs_of(Interval queries, Interval keys) { return queries.size() * keys.size(); }

/// Exactly how many keys of `keys` the query at `position` sees. O(runs) where the mask's readings agree.
template <Mask M>
Index count_visible(const M& mask, Index position, Interval keys) {
  const Interval query{position, position + 1};
  Index count = 0;
  for (Index k = keys.begin; k < keys.end;) {
    const Interval some = intersect(mask.some(query, k), keys), every = intersect(mask.every(query, k), keys);
    if (some.empty()) break;
    const Index doubtful = every.empty() ? some.end : std::min(some.end, every.begin);
    for (k = some.begin; k < doubtful; ++k) count += mask.allows(position, k) ? 1 : 0;
    if (k == every.begin && !every.empty()) {
      count += every.size();
      k = every.end;
    }
  }
  return count;
}

/// Exactly how many pairs of queries × keys a mask lets see each other: by its own `pairs(queries, keys)` where it has
/// a formula, else row by row, O(queries · runs).
template <Mask M>
Index count_pairs(const M& mask, Interval queries, Interval keys) {
  if constexpr (requires { mask.pairs(queries, keys); }) {
    return mask.pairs(queries, keys);
  } else {
    Index count = 0;
    for (Index q = queries.begin; q < queries.end; ++q) count += count_visible(mask, q, keys);
    return count;
  }
}

}  // namespace longspan::inline LONGSPAN_ISA
