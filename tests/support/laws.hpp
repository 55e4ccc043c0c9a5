#pragma once
// The laws of core/concepts.hpp as functions: an empty string, or the first case that breaks one. `sees` is the
// definition of the mask, sees(query, key) -> bool.

#include <gtest/gtest.h>

#include <functional>
#include <longspan/core/concepts.hpp>
#include <longspan/core/simd.hpp>
#include <sstream>
#include <string>
#include <support/any_mask.hpp>
#include <support/near.hpp>
#include <vector>

namespace longspan::testing {

inline std::string show(Interval i) {
  return "[" + std::to_string(i.begin) + ", " + (i.end == kUnbounded ? "∞" : std::to_string(i.end)) + ")";
}
template <class... Words>
std::string say(const Words&... words) {
  std::ostringstream text;
  (text << ... << words);
  return text.str();
}

/// M3 for one answer to "the next run at or after k".
inline std::string broken_run(const char* verdict, Interval run, Index k) {
  if (run.empty() ? run == kNoRun : run.begin >= k) return {};
  return say("M3: ", verdict, " at ", k, " answers ", show(run));
}

/// The definition, M1, M2, M3 for all ranges of queries in [first_query, keys) that aren't empty, and all keys in [0,
/// keys).
template <Mask M, class Sees>
std::string broken_law_in_small(const M& mask, const Sees& sees, Index first_query, Index keys) {
  const auto size = static_cast<std::size_t>(keys);
  for (Index begin = first_query; begin < keys; ++begin) {
    for (Index k = 0; k < keys; ++k)
      if (static_cast<bool>(mask.allows(begin, k)) != sees(begin, k)) return say("allows(", begin, ", ", k, ")");
    std::vector<char> any(size, false), all(size, true);
    for (Index end = begin + 1; end <= keys; ++end) {
      const Interval queries{begin, end};
      Index next_visible = kUnbounded;  // the first key at or after k that some query sees
      for (Index k = keys - 1; k >= 0; --k) {
        const auto at = static_cast<std::size_t>(k);
        const bool seen = sees(end - 1, k);
        any[at] = any[at] || seen;
        all[at] = all[at] && seen;
        if (any[at]) next_visible = k;
        const Interval some = mask.some(queries, k), every = mask.every(queries, k);
        // By induction over k descending, a walk from any k misses nothing if no run begins too late.
        std::string broken = broken_run("some", some, k) + broken_run("every", every, k);
        if (next_visible < some.begin) broken += say("M1: some at ", k, " is ", show(some), ", misses ", next_visible);
        for (Index j = every.begin; j < std::min(every.end, keys); ++j)
          if (!all[static_cast<std::size_t>(j)]) {
            broken += say("M2: every at ", k, " is ", show(every), ", some query does not see ", j);
            break;
          }
        if (!broken.empty()) return say("queries ", show(queries), ": ", broken);
      }
    }
  }
  return {};
}

/// Both verdicts name exactly the keys that some and that every query sees, at the sizes above.
template <Mask M, class Sees>
std::string inexact_in_small(const M& mask, const Sees& sees, Index first_query, Index keys) {
  for (Index begin = first_query; begin < keys; ++begin) {
    std::vector<char> any(static_cast<std::size_t>(keys), false), all(static_cast<std::size_t>(keys), true);
    for (Index end = begin + 1; end <= keys; ++end) {
      const Interval queries{begin, end};
      const auto compare = [&](const char* verdict, auto next, const std::vector<char>& wanted) -> std::string {
        Interval run{0, 0};
        for (Index k = 0; k < keys; ++k) {
          if (k >= run.end) run = next(k);
          if ((k >= run.begin) != (wanted[static_cast<std::size_t>(k)] != 0))
            return say("queries ", show(queries), ": ", verdict, " at ", k, " is ", show(run), ", not exact");
        }
        return {};
      };
      for (Index k = 0; k < keys; ++k) {
        const bool seen = sees(end - 1, k);
        any[static_cast<std::size_t>(k)] |= seen, all[static_cast<std::size_t>(k)] &= seen;
      }
      const std::string broken = compare(
                                     "some", [&](Index k) { return mask.some(queries, k); }, any) +
                                 compare(
                                     "every", [&](Index k) { return mask.every(queries, k); }, all);
      if (!broken.empty()) return broken;
    }
  }
  return {};
}

/// M1, M2, M3 for one range of queries and the keys of a window, asked from each key of `starts`.
template <Mask M, class Sees>
std::string broken_law(const M& mask, const Sees& sees, Interval queries, Interval keys,
                       const std::vector<Index>& starts) {
  const auto size = static_cast<std::size_t>(keys.size());
  std::vector<char> any(size, false), all(size, true);
  for (Index q = queries.begin; q < queries.end; ++q)
    for (std::size_t i = 0; i < size; ++i) {
      const bool seen = sees(q, keys.begin + static_cast<Index>(i));
      any[i] = any[i] || seen, all[i] = all[i] && seen;
    }
  const auto broken = [&](const std::string& what) { return say("queries ", show(queries), ": ", what); };
  for (const Index start : starts) {
    std::vector<char> covered(size, false);
    const auto each = [&](Interval run, auto f) {
      for (Index k = std::max(run.begin, keys.begin); k < std::min(run.end, keys.end); ++k)
        f(k, static_cast<std::size_t>(k - keys.begin));
    };
    for (Index k = start; k < keys.end;) {
      const Interval run = mask.some(queries, k);
      if (const std::string m3 = broken_run("some", run, k); !m3.empty()) return broken(m3);
      each(run, [&](Index, std::size_t i) { covered[i] = true; });
      k = run.end;
    }
    for (std::size_t i = 0; i < size; ++i)
      if (any[i] && !covered[i] && keys.begin + static_cast<Index>(i) >= start)
        return broken(say("M1: runs of some from ", start, " miss ", keys.begin + static_cast<Index>(i)));
    for (Index k = start; k < keys.end;) {
      const Interval run = mask.every(queries, k);
      if (const std::string m3 = broken_run("every", run, k); !m3.empty()) return broken(m3);
      Index hidden = -1;
      each(run, [&](Index at, std::size_t i) {
        if (!all[i] && hidden < 0) hidden = at;
      });
      if (hidden >= 0) return broken(say("M2: every at ", k, " is ", show(run), ", some query does not see ", hidden));
      k = run.end;
    }
  }
  return {};
}

/// `allows` as the kernels call it, queries in lanes with one key and one query with keys in lanes, for `lanes` queries
/// from q on and keys from k on.
template <Mask M, class Sees>
std::string broken_lanes(const M& mask, const Sees& sees, Index q, Index k, Index lanes = 2 * kLanes) {
  const auto compare = [&](const char* side, auto allowed, Index offset, auto wanted) -> std::string {
    alignas(64) float got[kLanes];
    xsimd::select(in_lanes(allowed), Lanes(1.f), Lanes(0.f)).store_aligned(got);
    for (Index i = 0; i < kLanes; ++i)
      if ((got[i] != 0) != wanted(offset + i))
        return say(side, " in lanes: query ", q, ", key ", k, ", lane ", offset + i, ": got ", got[i]);
    return {};
  };
  for (Index offset = 0; offset < lanes; offset += kLanes) {
    const Lanes places = iota() + Lanes(static_cast<float>(offset));
    std::string broken = compare("queries", mask.allows(Position<Lanes>{q, places}, one_place(k)), offset,
                                 [&](Index i) { return sees(q + i, k); });
    broken += compare("keys", mask.allows(one_place(q), Position<Lanes>{k, places}), offset,
                      [&](Index i) { return sees(q, k + i); });
    if (!broken.empty()) return broken;
  }
  return {};
}

/// A score function in lanes, called as the kernels call it, against itself in double: within `tolerance` relative to
/// |result| + |score| + `size` (what cancels inside). Any head.
template <ScoreFunction F>
std::string broken_score(const F& f, Index q, Index k, Index head, const std::vector<float>& scores, double tolerance,
                         double size) {
  const auto call = [&](const auto& score, const auto& query, const auto& key) {
    if constexpr (std::invocable<const F&, double, ExactPosition, ExactPosition, Index>)
      return f(score, query, key, head);
    else if constexpr (std::invocable<const F&, double, ExactPosition, ExactPosition, Site>)
      return f(score, query, key, Site{head});
    else
      return f(score, query, key);
  };
  const auto compare = [&](const char* side, const Lanes& result, const float* score, Index dq,
                           Index dk) -> std::string {
    alignas(64) float got[kLanes];
    result.store_aligned(got);
    for (Index i = 0; i < kLanes; ++i) {
      const double s = score[i];
      const double wanted = call(s, ExactPosition{q + i * dq}, ExactPosition{k + i * dk});
      if (!(error_in(got[i], wanted, std::abs(wanted) + std::abs(s) + size) <= tolerance))
        return say(side, " in lanes: query ", q, ", key ", k, ", lane ", i, ", score ", s, ": got ", got[i],
                   ", expected ", wanted);
    }
    return {};
  };
  for (std::size_t i = 0; i + kLanes <= scores.size(); i += kLanes) {
    const Lanes score = load(scores.data() + i);
    std::string broken =
        compare("queries", call(score, Position<Lanes>{q, iota()}, one_place(k)), scores.data() + i, 1, 0);
    broken += compare("keys", call(score, one_place(q), Position<Lanes>{k, iota()}), scores.data() + i, 0, 1);
    if (!broken.empty()) return broken;
  }
  return {};
}

}  // namespace longspan::testing
