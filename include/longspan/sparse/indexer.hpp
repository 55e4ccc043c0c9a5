#pragma once
// Which keys each query reads, by a small scorer that was learned for it: the lightning indexer of DeepSeek Sparse
// Attention (DeepSeek-V3.2, arXiv 2512.02556, equation 1).

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <longspan/core/executor_ref.hpp>
#include <longspan/core/key_columns.hpp>
#include <longspan/core/rows.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/kernel/products.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

struct ScoredKey {
  float score;
  Index key;
  /// A total order: of equal scores the earlier key is the better.
  bool operator<(const ScoredKey& other) const {
    return score > other.score || (score == other.score && key < other.key);
  }
};

/// The `count` best of what is offered, in memory for twice as many: when that is full, the worse half is forgotten,
/// and its best is what others have to beat.
class Best {
 public:
  Best(ScoredKey* memory, Index count) : memory_(memory), count_(count) {}

  /// Keys first, first + 1, …; they ascend from one call to the next. NaN and −inf are never taken.
  void offer(const float* scores, Index first, Index keys) {
    for (Index j = 0; j < keys; j += kLanes) {
      if (j + kLanes <= keys && !xsimd::any(load(scores + j) > Lanes(floor_))) continue;
      for (Index i = j; i < std::min(j + Index{kLanes}, keys); ++i)
        if (scores[i] > floor_) {
          memory_[size_++] = {scores[i], first + i};
          if (size_ == 2 * count_) shrink();
        }
    }
  }
  /// … in any order.
  void merge(std::span<const ScoredKey> keys) {
    for (const ScoredKey& key : keys) {
      if (size_ == 2 * count_) shrink();
      memory_[size_++] = key;
    }
  }
  /// What is left, in any order.
  std::span<const ScoredKey> result() {
    if (size_ > count_) shrink();
    return {memory_, static_cast<std::size_t>(size_)};
  }

 private:
  void shrink() {
    std::nth_element(memory_, memory_ + count_ - 1, memory_ + size_);
    size_ = count_;
    floor_ = memory_[count_ - 1].score;  // those still to come are later keys: an equal score is not enough
  }

  ScoredKey* memory_;
  Index count_, size_ = 0;
  float floor_ = kMinusInfinity;
};

/// I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]) for one query and a block of keys in columns: a chain of fused
/// multiply-adds over the dimensions, and one over the heads.
class IndexScores {
 public:
  static constexpr Index kBlock = 64;

  /// `dots` holds kTogether · kBlock floats.
  static void add_up(const float* columns, Index dim, const float* query, const float* weights, Index heads,
                     float* dots, float* scores) {
    std::fill_n(scores, kBlock, 0.f);
    Index h = 0;
    for (; h + kTogether <= heads; h += kTogether)
      add_heads<kTogether>(columns, dim, query + h * dim, weights + h, dots, scores);
    unroll<kTogether - 1>([&](auto n) LONGSPAN_LAMBDA {
      constexpr int kRest = decltype(n)::value + 1;
      if (heads - h == kRest) add_heads<kRest>(columns, dim, query + h * dim, weights + h, dots, scores);
    });
  }
  static constexpr int kTogether = kIsa.narrow_queries;

 private:
  template <int Heads>
  static void add_heads(const float* columns, Index dim, const float* query, const float* weights, float* dots,
                        float* scores) {
    constexpr int kVectors = kIsa.narrow_vectors;
    Ahead nothing;
    for (Index j = 0; j < kBlock; j += kVectors * kLanes) {
      const float* at[kVectors];
      for (Index v = 0; v < kVectors; ++v) at[v] = columns + j + v * kLanes;
      narrow_scores<FloatWords, Heads, kVectors>(WordColumns<FloatWords>(), at, kBlock, dim, query, dim, dots + j,
                                                 kBlock, nullptr, nothing);
    }
    for (Index j = 0; j < kBlock; j += kLanes) {
      Lanes sum = load(scores + j);
      for (int h = 0; h < Heads; ++h)  // max in this order: NaN stays
        sum = fma(Lanes(weights[h]), xsimd::max(Lanes(0.f), load(dots + h * kBlock + j)), sum);
      store(scores + j, sum);
    }
  }
};

}  // namespace detail

/// The keys with the largest index scores I[t, s] = Σ_h w[t, h] · relu(q[t, h] · k[s]) of each query, among those up to
/// its own position. Of equal scores the lower key is taken. A score that is NaN or −inf is never among them. (The
/// model's indexer computes in fp8 and scales w by constants, which change no order.)
struct LightningIndexer {
  Index count = 2048;                     ///< of keys for each query
  std::optional<Index> first_query = {};  ///< the position of query 0, >= 0; default: queries at the end of the keys

  /// q [queries, index heads, dim], weights [queries, index heads], keys: a source with one KV head (its values are not
  /// read), lists [queries, count]: the numbers of the keys, ascending, −1 behind them; what KeyLists takes. Scores are
  /// in float: a chain over dims, one over heads; so lists do not depend on threads or on other queries. O(queries ·
  /// keys · heads · dim) time; memory: 2 · count candidates for each query at work. Throws std::invalid_argument for
  /// count < 1, first_query < 0, more than one KV head, and for shapes that do not agree, before anything is written.
  template <KeyValueSource Source>
  void operator()(QueryTensor q, std::span<const float> weights, const Source& keys, std::span<std::int64_t> lists,
                  ExecutorRef executor = {}) const {
    check_arguments(q, weights, keys, lists);
    const Index rows = q.tokens, all = keys.keys(), most = std::min(count, std::max<Index>(all, 1));
    const Index first = first_query.value_or(all - rows);
    // Keys are put into columns once for some rows; where rows are few, parts of the keys are tasks of their own.
    const Index together = std::min<Index>(kRows, std::max<Index>(1, rows / (2 * executor.workers())));
    const Index chunks = ceil_div(rows, together), blocks = ceil_div(all, kBlock);
    const Index wanted = chunks >= 2 * executor.workers() || executor.workers() == 1
                             ? 1
                             : ceil_div(4 * executor.workers(), std::max<Index>(chunks, 1));
    const Index parts = std::clamp<Index>(wanted, 1, std::max<Index>(1, blocks));
    const auto seen = [&](Index row) { return std::clamp<Index>(first + row + 1, 0, all); };
    const auto write = [&](Index row, std::span<const detail::ScoredKey> best) {
      const auto to = lists.begin() + row * count;
      std::fill_n(to, count, -1);
      std::transform(best.begin(), best.end(), to, [](const detail::ScoredKey& k) { return k.key; });
      std::sort(to, to + std::ssize(best));
    };

    Leased<std::vector<detail::ScoredKey>, LightningIndexer> of_parts;  // [rows][parts][most], where there are several
    Leased<std::vector<Index>, LightningIndexer> sizes;
    if (parts > 1) of_parts->resize(static_cast<std::size_t>(rows * parts * most));
    if (parts > 1) sizes->resize(static_cast<std::size_t>(rows * parts));
    executor.for_each(chunks * parts, [&](Index task, Index) {
      const Index part = task % parts;
      const Interval some{task / parts * together, std::min(rows, (task / parts + 1) * together)};
      const Interval range{blocks * part / parts * kBlock, std::min(all, blocks * (part + 1) / parts * kBlock)};
      choose(q, weights, keys, some, range, most, seen, [&](Index row, std::span<const detail::ScoredKey> best) {
        if (parts == 1) return write(row, best);
        std::copy(best.begin(), best.end(), of_parts->begin() + (row * parts + part) * most);
        (*sizes)[static_cast<std::size_t>(row * parts + part)] = std::ssize(best);
      });
    });
    if (parts == 1) return;
    executor.for_each(rows, [&](Index row, Index) {
      Leased<std::vector<detail::ScoredKey>, Source> memory;
      memory->resize(static_cast<std::size_t>(2 * most));
      detail::Best best(memory->data(), most);
      for (Index i = row * parts; i < (row + 1) * parts; ++i)
        best.merge(std::span(*of_parts).subspan(static_cast<std::size_t>(i * most),
                                                static_cast<std::size_t>((*sizes)[static_cast<std::size_t>(i)])));
      write(row, best.result());
    });
  }

 private:
  static constexpr Index kBlock = detail::IndexScores::kBlock, kRows = 8;

  template <KeyValueSource Source>
  void check_arguments(const QueryTensor& q, std::span<const float> weights, const Source& keys,
                       std::span<std::int64_t> lists) const {
    check(count >= 1 && count < kPositionEnd, "LightningIndexer.count", count, "within [1, 2^52)");
    const Index first = first_query.value_or(0);
    check(first >= 0 && first < kPositionEnd, "LightningIndexer.first_query", first, "within [0, 2^52)");
    check(q.tokens >= 0, "q.tokens", q.tokens, ">= 0");
    check(q.heads >= 1, "q.heads", q.heads, ">= 1");
    check(q.dim >= 1, "q.dim", q.dim, ">= 1");
    check(keys.kv_heads() == 1, "keys.kv_heads", keys.kv_heads(), 1);
    check(keys.head_dim() == q.dim, "keys.head_dim", keys.head_dim(), q.dim);
    check(std::ssize(weights) == q.tokens * q.heads, "weights.size", weights.size(), q.tokens * q.heads);
    check(std::ssize(lists) == q.tokens * count, "lists.size", lists.size(), q.tokens * count);
  }

  /// Calls f(row, the best of the keys `range`) for some rows.
  template <KeyValueSource Source, class Seen, class F>
  static void choose(const QueryTensor& q, std::span<const float> weights, const Source& keys, Interval rows,
                     Interval range, Index most, const Seen& seen, F&& f) {
    const Index dim = q.dim, heads = q.heads;
    Leased<Scratch, LightningIndexer> scratch;
    Leased<std::vector<detail::ScoredKey>, Source> memory;
    memory->resize(static_cast<std::size_t>(rows.size() * 2 * most));
    float* const columns =
        scratch->floats(dim * kBlock + rows.size() * heads * dim + (detail::IndexScores::kTogether + 1) * kBlock);
    float* const scores = columns + dim * kBlock;
    float* const dots = scores + kBlock;
    float* const queries = dots + detail::IndexScores::kTogether * kBlock;
    std::fill_n(columns, dim * kBlock, 0.f);
    std::vector<detail::Best> best;
    for (Index row = rows.begin; row < rows.end; ++row) {
      const Index at = row - rows.begin;
      for (Index h = 0; h < heads; ++h) q.read(row, h, 1.f, queries + (at * heads + h) * dim);
      best.emplace_back(memory->data() + at * 2 * most, most);
    }
    const Index end = std::min(range.end, rows.empty() ? 0 : seen(rows.end - 1));
    for (Index block = range.begin; block < end; block += kBlock) {
      const Index size = std::min(kBlock, end - block);
      for (Index j = 0; j < size;) {
        const auto run = keys.run(0, block + j);
        const Index some = std::min(run.size, size - j);
        key_columns(run, some, dim, columns + j, kBlock);
        j += some;
      }
      for (Index row = rows.begin; row < rows.end; ++row) {
        const Index at = row - rows.begin, visible = std::min(size, seen(row) - block);
        if (visible <= 0) continue;
        detail::IndexScores::add_up(columns, dim, queries + at * heads * dim, weights.data() + row * heads, heads, dots,
                                    scores);
        best[static_cast<std::size_t>(at)].offer(scores, block, visible);
      }
    }
    for (Index row = rows.begin; row < rows.end; ++row)
      f(row, best[static_cast<std::size_t>(row - rows.begin)].result());
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
