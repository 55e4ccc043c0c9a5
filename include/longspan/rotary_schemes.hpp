#pragma once
// How tokens are placed for a rotary embedding when keys are rotated as they are read. Which position a key has may
// then depend on how far away the query is, and that is how models without any training reach beyond their trained
// length: near tokens keep their distances, far ones get distances that the model knows.
//
// A scheme is a small value with regions(): one or more sets of (query, key) pairs, disjoint, and for each the
// positions that its queries and keys are rotated to. Masks and score functions go on seeing true positions.

#include <algorithm>
#include <limits>
#include <tuple>

#include <longspan/core/runs.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/mask/masks.hpp>
#include <longspan/mask/patterns.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The position that a token at p is rotated to: min((p mod period) / group + shift, most).
struct PositionMap {
  Index period = 0;  ///< 0: none
  Index group = 1;
  Index shift = 0;
  Index most = kUnbounded;

  constexpr Index operator()(Index p) const { return std::min((period == 0 ? p : p % period) / group + shift, most); }
  /// All tokens at one position.
  static constexpr PositionMap constant(Index at) { return {.period = 1, .shift = at}; }
};

/// The pairs that `mask` allows are rotated by these positions.
template <Mask M>
struct Region {
  M mask;
  PositionMap query = {}, key = {};
};

/// Where every token stands; the same as keys that are rotated before they are stored.
struct Consecutive {
  auto regions() const { return std::tuple(Region<Full>{}); }
};

/// Self-extend: distances below `window` as they are, beyond it positions in groups: query q/group + window −
/// window/group, key k/group. Reaches window + (trained − window) · group tokens. Jin et al., "LLM Maybe LongLM:
/// Self-Extend LLM Context Window Without Tuning" (2024), equations 3 and 4. Causal.
struct SelfExtend {
  Index group = 4;
  Index window = 1024;

  /// Throws std::invalid_argument unless group >= 1 and window >= 1.
  auto regions() const {
    check(group >= 1 && group < kPositionEnd, "SelfExtend.group", group, ">= 1");
    check(window >= 1 && window < kPositionEnd, "SelfExtend.window", window, ">= 1");
    auto far = Causal{} & !Window{window};
    return std::tuple(Region<Window>{Window{window}},
                      Region<decltype(far)>{far, {.group = group, .shift = window - window / group}, {.group = group}});
  }
};

/// ReRoPE: distances below `window` as they are, and all others `window`. Su, "Rectified Rotary Position Embeddings"
/// (2023). Causal.
struct ReRope {
  Index window = 1024;

  /// Throws std::invalid_argument unless window >= 1.
  auto regions() const {
    check(window >= 1 && window < kPositionEnd, "ReRope.window", window, ">= 1");
    auto far = Causal{} & !Window{window};
    return std::tuple(Region<Window>{Window{window}},
                      Region<decltype(far)>{far, PositionMap::constant(window), PositionMap::constant(0)});
  }
};

/// Positions inside the cache, as StreamingLLM has them: however long the text is, a query stands at most at
/// sinks + recent − 1, the first `sinks` keys where they are, and the last `recent`, the query's own among them, at
/// their true distances; others are not seen. The same whether the others are still in the cache or evicted
/// (StreamingLlm, kv/eviction.hpp) and however many queries come at once: keys are then numbered as they lie in the
/// cache, of which the first are the sinks and the last follow on one another. Causal. Xiao et al., "Efficient
/// Streaming Language Models with Attention Sinks" (arXiv 2309.17453), section 3.2.
struct CachePositions {
  Index sinks = 4;
  Index recent = 1020;

  /// Throws std::invalid_argument unless sinks >= 0 and recent >= 1.
  auto regions() const {
    check(sinks >= 0 && sinks < kPositionEnd, "CachePositions.sinks", sinks, ">= 0");
    check(recent >= 1 && recent < kPositionEnd, "CachePositions.recent", recent, ">= 1");
    auto far = Sinks{sinks} & !Window{recent};
    return std::tuple(Region<Window>{Window{recent}}, Region<decltype(far)>{far, {.most = sinks + recent - 1}});
  }
};

/// The keys of the chunks that lie at least `first` and at most `last` chunks before the query's; with first = 0 keys
/// behind the query, too. Throws std::invalid_argument unless size >= 1 and 0 <= first <= last.
class ChunksBefore {
 public:
  ChunksBefore(Index size, Index first, Index last = kUnbounded) : size_(size), first_(first), last_(last) {
    check(size >= 1 && size < kPositionEnd, "ChunksBefore.size", size, ">= 1");
    check(first >= 0 && first < kPositionEnd, "ChunksBefore.first", first, ">= 0");
    check(last >= first, "ChunksBefore.last", last, AtLeast{first});
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return allows_by_runs(
        q, k, [this](Index query, Index from) LONGSPAN_LAMBDA { return of(chunk(query), chunk(query), from); },
        [this](Index key, Index from) LONGSPAN_LAMBDA {
          const Index c = chunk(key), end = last_ >= kPositionEnd ? kUnbounded : (c + last_ + 1) * size_;
          return key < 0 ? kNoRun : run_from(from, (c + first_) * size_, end);
        });
  }
  Interval some(Interval q, Index k) const { return of(chunk(q.begin), chunk(q.end - 1), k); }
  Interval every(Interval q, Index k) const { return of(chunk(q.end - 1), chunk(q.begin), k); }
  Index edge_after(Index q) const { return (chunk(q) + 1) * size_; }

 private:
  Index chunk(Index at) const { return floor_div(at, size_); }
  /// From the first chunk that queries of chunk a see to the last that those of chunk b see.
  Interval of(Index a, Index b, Index k) const {
    const Index begin = last_ >= kPositionEnd ? 0 : std::max<Index>(0, a - last_) * size_;
    return run_from(k, begin, std::max<Index>(0, b - first_ + 1) * size_);
  }
  Index size_, first_, last_;
};
static_assert(Mask<ChunksBefore>);

/// Dual chunk attention: keys at k mod chunk; queries of their chunk at q mod chunk, of the chunk before at its true
/// distance as long as that is below `trained`, and of all earlier ones at trained − 1. An et al., "Training-Free
/// Long-Context Scaling of Large Language Models" (2024), section 3 (there s, c and w = c − s). Causal.
struct DualChunk {
  Index chunk = 384;    ///< below the trained length (the paper: three quarters of it)
  Index trained = 512;  ///< the trained length, in tokens

  /// Throws std::invalid_argument unless 1 <= chunk < trained.
  auto regions() const {
    check(trained >= 2 && trained < kPositionEnd, "DualChunk.trained", trained, ">= 2");
    check(chunk >= 1 && chunk < trained, "DualChunk.chunk", chunk, "within [1, trained)");
    const PositionMap inside{.period = chunk}, next{.period = chunk, .shift = chunk, .most = trained - 1};
    return std::tuple(Region<Chunked>{Chunked{chunk}, inside, inside},
                      Region<ChunksBefore>{ChunksBefore{chunk, 1, 1}, next, inside},
                      Region<ChunksBefore>{ChunksBefore{chunk, 2}, PositionMap::constant(trained - 1), inside});
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
