#pragma once
// Which tokens a sequence keeps when its cache must not grow any further, and taking the others out of a PagedCache: by
// tokens (compact: copies what moves, layer by layer, per head if wanted) or by whole pages (evict: no copy).
//
// Positions afterwards. Kept as they were: store keys that are rotated already, and turn each query to
// KeptTokens::next(); score functions and masks that look at positions get them by KeptTokens::for_each_run and merge.
// Re-assigned, so that they are never larger than the cache: store keys un-rotated, and attend by rotary_attention with
// CachePositions (StreamingLLM) or Consecutive (rotary_schemes.hpp).

#include <cmath>
#include <concepts>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <longspan/core/runs.hpp>
#include <longspan/kv/paged.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// policy(keys, mass): which of `keys` keys stay, ascending. mass: [keys], the attention that each key got so far, or
/// empty where nobody measured it (see attention_mass). A lambda is one.
template <class P>
concept EvictionPolicy = std::copy_constructible<P> &&
    requires(const P& policy, Index keys, std::span<const double> mass) {
  { policy(keys, mass) } -> std::same_as<std::vector<Index>>;
};

namespace detail {

inline void check_mass(Index keys, std::span<const double> mass) {
  check(std::ssize(mass) == keys, "mass.size", mass.size(), keys);
  for (const double m : mass) check(std::isfinite(m) && m >= 0, "mass", m, "finite and >= 0");
}

/// `count` of [0, candidates), the first by `before`, and [candidates, keys); ascending.
template <class Before>
std::vector<Index> first_and_recent(Index candidates, Index keys, Index count, const Before& before) {
  std::vector<Index> kept(static_cast<std::size_t>(candidates));
  std::iota(kept.begin(), kept.end(), Index{0});
  std::nth_element(kept.begin(), kept.begin() + count, kept.end(), before);
  kept.resize(static_cast<std::size_t>(count));
  std::sort(kept.begin(), kept.end());
  for (Index key = candidates; key < keys; ++key) kept.push_back(key);
  return kept;
}

inline std::vector<Index> all_keys(Index keys) {
  std::vector<Index> kept(static_cast<std::size_t>(keys));
  std::iota(kept.begin(), kept.end(), Index{0});
  return kept;
}

}  // namespace detail

/// The first `sinks` tokens, on which models lay what attention they have no use for, and the last `recent`. Xiao et
/// al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453), section 3.2. Needs no mass.
struct StreamingLlm {
  Index sinks = 4;
  Index recent = 1020;

  /// Throws std::invalid_argument unless sinks >= 0 and recent >= 1. O(kept).
  std::vector<Index> operator()(Index keys, std::span<const double> = {}) const {
    check(sinks >= 0 && sinks < kPositionEnd, "StreamingLlm.sinks", sinks, ">= 0");
    check(recent >= 1 && recent < kPositionEnd, "StreamingLlm.recent", recent, ">= 1");
    if (keys <= sinks + recent) return detail::all_keys(keys);
    std::vector<Index> kept = detail::all_keys(sinks);
    for (Index key = keys - recent; key < keys; ++key) kept.push_back(key);
    return kept;
  }
};

/// The last `recent` tokens, and of those before them the `keep` with the most mass (of equals the earlier). The mass
/// is that of all queries so far: add to it at every step, and thin it out with its keys (compact_mass). Zhang et al.,
/// "H2O: Heavy-Hitter Oracle" (arXiv 2306.14048), algorithm 1.
struct HeavyHitters {
  Index keep = 512;
  Index recent = 512;

  /// Throws std::invalid_argument unless keep and recent are >= 0, and the mass is one number for each key, finite and
  /// >= 0. O(keys + keep · log keep).
  std::vector<Index> operator()(Index keys, std::span<const double> mass) const {
    check(keep >= 0 && keep < kPositionEnd, "HeavyHitters.keep", keep, ">= 0");
    check(recent >= 0 && recent < kPositionEnd, "HeavyHitters.recent", recent, ">= 0");
    detail::check_mass(keys, mass);
    if (keys <= keep + recent) return detail::all_keys(keys);
    return detail::first_and_recent(keys - recent, keys, keep, [&](Index a, Index b) {
      const double x = mass[static_cast<std::size_t>(a)], y = mass[static_cast<std::size_t>(b)];
      return x != y ? x > y : a < b;
    });
  }
};

/// The last `window` tokens of a prompt, and of those before them the `keep` with the most mass from the queries of
/// that window (measure it for these alone), where each key counts as the greatest of the `pool` around it: what stands
/// beside an important token stays, too. Of equals the one with more mass of its own, then the earlier. Li et al.,
/// "SnapKV: LLM Knows What You are Looking for Before Generation" (arXiv 2404.14469), listing 1, with max-pooling;
/// there `keep` is max_capacity_prompt − window.
struct SnapKv {
  Index keep = 992;
  Index window = 32;
  Index pool = 7;

  /// Throws std::invalid_argument unless keep >= 0, window >= 1, pool is odd and >= 1, and the mass is one number for
  /// each key, finite and >= 0. O(keys · pool + keep · log keep).
  std::vector<Index> operator()(Index keys, std::span<const double> mass) const {
    check(keep >= 0 && keep < kPositionEnd, "SnapKv.keep", keep, ">= 0");
    check(window >= 1 && window < kPositionEnd, "SnapKv.window", window, ">= 1");
    check(pool >= 1 && pool % 2 == 1, "SnapKv.pool", pool, "odd and >= 1");
    detail::check_mass(keys, mass);
    if (keys <= keep + window) return detail::all_keys(keys);
    const Index prefix = keys - window, side = std::min(pool / 2, prefix);
    std::vector<double> pooled(static_cast<std::size_t>(prefix));
    for (Index key = 0; key < prefix; ++key)
      pooled[static_cast<std::size_t>(key)] = *std::max_element(mass.begin() + std::max<Index>(0, key - side),
                                                                mass.begin() + std::min(prefix, key + side + 1));
    return detail::first_and_recent(prefix, keys, keep, [&](Index a, Index b) {
      const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
      if (pooled[i] != pooled[j]) return pooled[i] > pooled[j];
      return mass[i] != mass[j] ? mass[i] > mass[j] : a < b;
    });
  }
};

/// What evict_tokens is told.
struct Eviction {
  Index layer = 0;                    ///< the model's
  std::span<const double> mass = {};  ///< [kv_heads, keys], or empty for a policy that needs none
  bool by_head = false;               ///< every KV head chooses for itself; otherwise one choice, by the sum of heads
};

/// Keeps what the policy says of one layer of a sequence, by PagedCache::compact. Returns what was kept, [count] or,
/// by head, [kv_heads, count]: for KeptTokens::keep and compact_mass, which keep in step; nothing where the cache has
/// too few pages (a shared page is copied), and then it has not changed. Throws std::invalid_argument as the policy and
/// compact do, for a mass of another size, and where heads of a policy keep different numbers of keys. The policy's
/// time and O(kept · (head_dim + value_dim)).
template <StoredElement T, EvictionPolicy P>
[[nodiscard]] std::optional<std::vector<Index>> evict_tokens(PagedCache<T>& cache, SequenceId id, const P& policy,
                                                             const Eviction& how = {}) {
  const Index keys = cache.length(id, how.layer), heads = cache.view(id, how.layer).kv_heads();
  check(how.mass.empty() || std::ssize(how.mass) == heads * keys, "eviction.mass.size", how.mass.size(), heads * keys);
  const auto of_head = [&](Index h) {
    return how.mass.empty() ? how.mass
                            : how.mass.subspan(static_cast<std::size_t>(h * keys), static_cast<std::size_t>(keys));
  };
  std::vector<Index> kept;
  if (how.by_head) {
    Index count = 0;
    for (Index h = 0; h < heads; ++h) {
      const std::vector<Index> some = policy(keys, of_head(h));
      if (h == 0) count = std::ssize(some);
      check(std::ssize(some) == count, "policy.kept.size", some.size(), count);
      kept.insert(kept.end(), some.begin(), some.end());
    }
  } else {
    std::vector<double> sum(of_head(0).begin(), of_head(0).end());
    for (Index h = 1; h < heads; ++h)
      std::transform(of_head(h).begin(), of_head(h).end(), sum.begin(), sum.begin(), std::plus<>());
    kept = policy(keys, sum);
  }
  if (cache.compact(id, kept, how.layer, how.by_head) != Outcome::kDone) return std::nullopt;
  return kept;
}

/// Takes out the pages of which the policy keeps no token, from all layers of a sequence at once and without a copy, by
/// PagedCache::evict: what stays is what the policy keeps and the rest of its pages. Returns the keys that were kept,
/// ascending, as evict_tokens does. mass: [keys], of all layers and heads together. Throws std::invalid_argument as the
/// policy and evict do, unless all layers have as many tokens, and where the policy's keys do not ascend below that.
/// The policy's time and O(keys).
template <StoredElement T, EvictionPolicy P>
std::vector<Index> evict_pages(PagedCache<T>& cache, SequenceId id, const P& policy,
                               std::span<const double> mass = {}) {
  const Index keys = cache.length(id);
  for (Index layer = 1; layer < cache.layers(); ++layer)
    check(cache.length(id, layer) == keys, "evict_pages.length", cache.length(id, layer), keys);
  Index unit = 1;  // what is whole pages in every group
  for (Index g = 0; g < cache.groups(); ++g) {
    unit = std::lcm(unit, cache.shape(g).page_size);
    check(cache.shape(g).window == 0, "evict.window", cache.shape(g).window, "0: no window");
  }
  std::vector<bool> used(static_cast<std::size_t>(ceil_div(keys, unit)));
  if (keys % unit != 0) used.back() = true;  // not a whole page
  Index least = 0;
  for (const Index key : policy(keys, mass)) {
    check(key >= least, "policy.kept", key, AtLeast{least});
    check(key < keys, "policy.kept", key, Below{keys});
    used[static_cast<std::size_t>(key / unit)] = true;
    least = key + 1;
  }
  std::vector<Index> kept;
  for (Index key = 0; key < keys; ++key)
    if (used[static_cast<std::size_t>(key / unit)]) kept.push_back(key);
  for (Index end = std::ssize(used); end > 0;) {  // from behind, so that what is before stays where it is
    Index begin = end;
    while (begin > 0 && !used[static_cast<std::size_t>(begin - 1)]) --begin;
    if (begin < end) cache.evict(id, {begin * unit, end * unit});
    end = begin - (begin < end ? 0 : 1);
  }
  return kept;
}

/// Thins out a mass, [kv_heads, keys], as its keys were: `kept` is what evict_tokens or evict_pages returned. Throws
/// std::invalid_argument for sizes that do not fit and a key outside. O(kv_heads · keys).
inline void compact_mass(std::vector<double>& mass, Index kv_heads, std::span<const Index> kept, bool by_head = false) {
  check(kv_heads >= 1, "compact_mass.kv_heads", kv_heads, ">= 1");
  check(std::ssize(mass) % kv_heads == 0, "compact_mass.mass.size", mass.size(), MultipleOf{kv_heads});
  const Index lists = by_head ? kv_heads : 1;
  check(std::ssize(kept) % lists == 0, "compact_mass.kept.size", kept.size(), MultipleOf{lists});
  const Index keys = std::ssize(mass) / kv_heads, count = std::ssize(kept) / lists;
  for (const Index key : kept) check(key >= 0 && key < keys, "compact_mass.kept", key, Below{keys});
  std::vector<double> result;
  for (Index h = 0; h < kv_heads; ++h)
    for (Index j = 0; j < count; ++j)
      result.push_back(
          mass[static_cast<std::size_t>(h * keys + kept[static_cast<std::size_t>((by_head ? h * count : 0) + j)])]);
  mass = std::move(result);
}

/// Where the keys of a cache stood in the text, when some are gone: keep one for each layer (or for all, where all keep
/// the same), and change it with the cache. 8 bytes a key, and a head once heads differ. Wrong sizes throw
/// std::invalid_argument, and nothing has changed then.
class KeptTokens {
 public:
  explicit KeptTokens(Index kv_heads = 1) : kv_heads_(kv_heads), positions_(1) {
    check(kv_heads >= 1, "KeptTokens.kv_heads", kv_heads, ">= 1");
  }

  Index keys() const { return std::ssize(positions_[0]); }
  /// The position of the token that comes next: how many came so far.
  Index next() const { return next_; }
  /// [keys], ascending. Valid until the next change.
  std::span<const Index> positions(Index kv_head = 0) const { return list(kv_head); }

  /// After PagedCache::append.
  void append(Index tokens) {
    check(tokens >= 0 && tokens < kPositionEnd - next_, "KeptTokens.tokens", tokens, Below{kPositionEnd - next_});
    for (std::vector<Index>& list : positions_)
      for (Index t = 0; t < tokens; ++t) list.push_back(next_ + t);
    next_ += tokens;
  }
  /// After an eviction: `kept` is what it returned, or what was given to PagedCache::compact. O(keys).
  void keep(std::span<const Index> kept, bool by_head = false) {
    const Index lists = by_head ? kv_heads_ : 1, size = std::ssize(kept);
    check(size % lists == 0, "KeptTokens.kept.size", size, MultipleOf{lists});
    const Index count = size / lists;
    for (Index i = 0; i < size; ++i) {
      const Index key = kept[static_cast<std::size_t>(i)];
      const Index least = i % count == 0 ? 0 : kept[static_cast<std::size_t>(i - 1)] + 1;
      check(key >= least, "KeptTokens.kept", key, AtLeast{least});
      check(key < keys(), "KeptTokens.kept", key, Below{keys()});
    }
    if (by_head && positions_.size() == 1)
      positions_.resize(static_cast<std::size_t>(kv_heads_), std::vector<Index>(positions_[0]));
    for (std::size_t h = 0; h < positions_.size(); ++h) {
      const auto mine =
          kept.subspan(by_head ? h * static_cast<std::size_t>(count) : 0, static_cast<std::size_t>(count));
      std::vector<Index>& list = positions_[h];
      for (std::size_t j = 0; j < mine.size(); ++j) list[j] = list[static_cast<std::size_t>(mine[j])];
      list.resize(mine.size());
    }
  }
  /// After PagedCache::truncate: the first `keys` keys stay, and the text ends where the first of the others stood,
  /// which must be the same for all heads.
  void truncate(Index keys) {
    check(keys >= 0, "KeptTokens.keys", keys, ">= 0");
    if (keys >= this->keys()) return;
    const auto first = static_cast<std::size_t>(keys);
    for (const std::vector<Index>& list : positions_)
      check(list[first] == positions_[0][first], "KeptTokens.keys", keys, "a key that is one token for all heads");
    next_ = positions_[0][first];
    for (std::vector<Index>& list : positions_) list.resize(first);
  }

  /// Calls f(keys, position of the first) for the runs of keys that stood together: with part(keys) of a view, the
  /// position as first_key and next() − queries as first_query, their partial results merge to attention by original
  /// positions. Few runs after StreamingLlm; as many as holes after the others.
  template <class F>
  void for_each_run(F&& f, Index kv_head = 0) const {
    const std::vector<Index>& at = list(kv_head);
    for (std::size_t begin = 0; begin < at.size();) {
      std::size_t end = begin + 1;
      while (end < at.size() && at[end] == at[end - 1] + 1) ++end;
      f(Interval{static_cast<Index>(begin), static_cast<Index>(end)}, at[begin]);
      begin = end;
    }
  }

 private:
  const std::vector<Index>& list(Index kv_head) const {
    check(kv_head >= 0 && kv_head < kv_heads_, "KeptTokens.kv_head", kv_head, Below{kv_heads_});
    return positions_[positions_.size() == 1 ? 0 : static_cast<std::size_t>(kv_head)];
  }

  Index kv_heads_, next_ = 0;
  std::vector<std::vector<Index>> positions_;  // one for all heads, or [kv_heads]
};

}  // namespace longspan::inline LONGSPAN_ISA
