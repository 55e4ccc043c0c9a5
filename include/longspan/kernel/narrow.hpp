#pragma once
// The narrow kernel (decode and a few query rows): keys are lanes, and all query heads of a group share every key.
//
// Cost model: each key and value is read once for all rows and heads of the group, so the bound is memory: per block of
// 64 keys 64·(head_dim + value_dim) elements, against 64/lanes·queries·(head_dim + value_dim) fused multiply-adds. Keys
// in dimension-major pages are loaded as they lie; key rows are transposed in registers for few queries, and into
// scratch for more (about half an instruction an element). While one thing is computed with, the next is fetched.
//
// The order of operations is that of wide.hpp: the bits of a row are the same from either kernel.

#include <longspan/core/scratch.hpp>
#include <longspan/kernel/narrow_softmax.hpp>
#include <longspan/kernel/products.hpp>
#include <longspan/kernel/read_keys.hpp>
#include <longspan/kernel/schedule.hpp>
#include <longspan/kernel/state.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The "queries" of a task: KV head by KV head, row by row, the heads that share the KV head. Memory is read in its own
/// order: where the rows of all KV heads are neighbours ([tokens, heads, dim]), a few keys of all heads at a time (a
/// head at a time would read pieces of a row, and reaches three quarters of the bandwidth); elsewhere a block of one
/// head at a time.
template <class P>
class NarrowKernel {
 public:
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  using Reader = KeyReader<P>;

  /// Value rows of a state are padded to whole vectors.
  static Index padded(Index dim) { return ceil_div(dim, kLanes) * kLanes; }
  /// The state of one task: maxima, sums, value rows, in whole cache lines.
  static Index state_floats(Index queries, Index value_dim) {
    return ceil_div(queries * (padded(value_dim) + 2), 16) * 16;
  }
  static Index scratch_floats(Index queries, Index head_dim, Index value_dim) {
    const Index q = ceil_div(queries, 16) * 16, words = words_of(head_dim);
    return q * (Words::query_words(words) + kBlock + 2) + kCopied * kLanes * 2 * words +
           kBlock / Words::kPer * padded(value_dim) + padded(head_dim) + 2 * state_floats(queries, value_dim) +
           2 * kBlock + Reader::scratch_floats(head_dim);
  }

  NarrowKernel(const P& problem, const TaskRange& task, Scratch& scratch)
      : p_(problem),
        ahead_{problem.source, problem.first_key},
        task_(task),
        rows_(task.rows),
        group_queries_(task.rows.size() * task.heads.size()),
        queries_(task.queries()),
        head_dim_(problem.source.head_dim()),
        value_dim_(problem.source.value_dim()),
        words_(words_of(head_dim_)),
        query_words_(Words::query_words(words_)),
        padded_(padded(value_dim_)),
        reader_(problem, scratch.floats(scratch_floats(queries_, head_dim_, value_dim_))) {
    const Index q = ceil_div(queries_, 16) * 16;
    float* memory = scratch.floats(0) + Reader::scratch_floats(head_dim_);
    const auto take = [&](Index floats) { return std::exchange(memory, memory + floats); };
    key_ = take(kCopied * kLanes * words_);
    encoded_key_ = take(kCopied * kLanes * words_);
    weight_ = take(q * kBlock);
    value_ = take(kBlock / Words::kPer * padded_);
    split_ = take(state_floats(queries_, value_dim_));
    total_ = take(state_floats(queries_, value_dim_));
    query_ = take(q * query_words_);
    rescale_ = take(q);
    weight_scale_ = take(q);
    key_scale_ = take(kBlock);
    value_scale_ = take(kBlock);
    std::fill_n(key_scale_, kBlock, problem.score_factor());
    std::fill_n(value_scale_, kBlock, 1.f);
    float* const exact = take(padded(head_dim_));
    for (Index i = 0; i < queries_; ++i) {
      float* const to = query_ + i * query_words_;
      p_.q.read(row(i), head(i), p_.template query_factor<Words>(), Words::kPer == 1 ? to : exact);
      if constexpr (Words::kPer > 1) Words::encode_query(exact, head_dim_, to);
    }
    with_tile([&](auto queries, auto vectors) {
      tiles_ = ceil_div(group_queries_, queries());
      key_steps_ = tiles_ * kVectors / vectors();
      value_steps_ = tiles_ * Words::kDigits * ceil_div(value_dim_, vectors() * kLanes);
    });
    if (p_.source.keys() == 0) return;
    const auto one = ahead_.run(task_.kv_heads.begin, p_.first_key),
               last = ahead_.run(task_.kv_heads.end - 1, p_.first_key);
    rows_of_keys_ = one.dim_stride == 1;
    interleaved_ = !Words::kWhole && rows_of_keys_ && ahead_.neighbours(last.key - one.key, one.key_stride) > 0 &&
                   ahead_.neighbours(last.value - one.value, one.value_stride) > 0;
  }

  /// All splits, ascending, into the sink.
  void run() {
    clear(total_);
    for (Index key = p_.first_key; key < p_.keys().end;) {
      const Index seen = next_some(p_.mask, p_.positions(rows_), key).begin;  // splits that nobody sees are not visited
      if (seen >= p_.keys().end) break;
      const Index split = seen / kSplit * kSplit;
      run_split(split, split_);
      merge(total_, split_);
      key = split + kSplit;
    }
    store_rows(total_);
  }

  /// The state of the keys [split, split + kSplit) alone. `state` holds state_floats().
  void run_split(Index split, float* state) {
    careful_ = false;
    pass(split, state);
    if (finite(state)) return;
    careful_ = true;  // see wide.hpp: a masked key's value must not spread a NaN
    pass(split, state);
  }

  void clear(float* state) const {
    std::fill_n(maxima(state), queries_, kMinusInfinity);
    std::fill_n(sums(state), queries_, 0.f);
    std::fill_n(values(state), queries_ * padded_, 0.f);
  }

  /// total ← merge(total, part).
  void merge(float* total, float* part) const {
    for (Index i = 0; i < queries_; ++i)
      merge_row(maxima(total)[i], sums(total)[i], values(total) + i * padded_, maxima(part)[i], sums(part)[i],
                values(part) + i * padded_, padded_);
  }

  void store_rows(float* state) const {
    for (Index i = 0; i < queries_; ++i) {
      const float sum = sums(state)[i];
      const Lanes factor = p_.sink.factor(head(i), Lanes(maxima(state)[i]), Lanes(sum));
      float* value = values(state) + i * padded_;
      for (Index d = 0; d < padded_; d += kLanes) store(value + d, fma(load(value + d), factor, Lanes(0.f)));
      p_.sink.rows.write(row(i), head(i), value);
      p_.sink.finish(row(i), head(i), static_cast<double>(maxima(state)[i]), static_cast<double>(sum));
    }
  }

 private:
  static constexpr int kVectors = static_cast<int>(kBlock) / kLanes;  // of keys in a block
  static constexpr int kCopied = Reader::kMakes ? kVectors : 2;       // of keys that are copied at a time
  static constexpr bool kDecoded = ByteElement<Element> && !kLieAsWords<Element>;
  template <int N>
  using Constant = std::integral_constant<int, N>;

  static Index words_of(Index dim) { return ceil_div(dim, Words::kPer); }

  Index row(Index i) const { return rows_.begin + i % group_queries_ / task_.heads.size(); }
  Index head(Index i) const {
    return (task_.kv_heads.begin + i / group_queries_) * p_.group() + task_.heads.begin + i % task_.heads.size();
  }
  float* maxima(float* state) const { return state; }
  float* sums(float* state) const { return state + queries_; }
  float* values(float* state) const { return state + 2 * queries_; }

  void pass(Index split, float* state) {
    clear(state);
    Work work;
    const Interval keys = intersect(p_.keys(), {split, split + kSplit});
    for_each_tile(p_.mask, p_.positions(rows_), keys, [&](const Tile& tile, const Tile& next) {
      const Index heads = interleaved_ ? task_.kv_heads.size() : 1;
      next_key_ = next.keys.empty() ? tile.block + kBlock : next.keys.begin;  // behind the split: a guess
      for (Index h = task_.kv_heads.begin; h < task_.kv_heads.end; h += heads) add_tile(tile, {h, h + heads}, state);
      for (Index h = 0; h < task_.kv_heads.size(); ++h) work.count(tile);
    });
    if (p_.work && !careful_) p_.work->add(work);
  }

  /// f(queries, vectors) of the register tile that suits: a tall one where some queries more fill it, and one with
  /// registers to spare where what is loaded has to be decoded.
  template <class F>
  LONGSPAN_INLINE void with_tile(F&& f) const {
    constexpr int kMany = kIsa.tall_queries, kFew = kIsa.tall_vectors;
    if (group_queries_ > (kDecoded ? kMany / 2 : kIsa.narrow_queries) && (kDecoded || group_queries_ <= kMany))
      f(Constant<kMany>{}, Constant<kFew>{});
    else if constexpr (kDecoded)
      f(Constant<kMany / 2>{}, Constant<2 * kFew>{});
    else
      f(Constant<kIsa.narrow_queries>{}, Constant<kIsa.narrow_vectors>{});
  }

  /// Calls f(integral_constant n, i) for the KV head's queries [i, i + n).
  template <int Tile, int Least, class F>
  LONGSPAN_INLINE void for_each_query(F&& f) const {
    in_tiles<Tile, Least>(first_, first_ + group_queries_, f);
  }

  /// The keys of a tile for some KV heads, in memory's order: regions of keys, then regions of values; while one is
  /// computed with, the next is asked for.
  void add_tile(const Tile& tile, Interval heads, float* state) {
    const Index step = interleaved_ ? kLanes : kBlock;
    const Index start = tile.block + (interleaved_ ? (tile.keys.begin - tile.block) / kLanes * kLanes : 0);
    const auto regions = [&](auto&& f) LONGSPAN_LAMBDA {
      for (Index at = start; at < tile.keys.end; at += step) f(intersect(tile.keys, {at, at + step}));
    };
    const auto for_each_head = [&](auto&& f) LONGSPAN_LAMBDA {
      for (kv_head_ = heads.begin; kv_head_ < heads.end; ++kv_head_) {
        first_ = (kv_head_ - task_.kv_heads.begin) * group_queries_;
        f();
      }
    };

    regions([&](Interval keys) LONGSPAN_LAMBDA {
      Ahead next = keys.end < tile.keys.end ? ahead_.keys({keys.end, keys.end + step}, heads)
                                            : ahead_.values({tile.keys.begin, tile.keys.begin + step}, heads);
      next = next.over(heads.size() * score_steps(ceil_div(keys.size(), kLanes)), score_pace_);
      for_each_head([&]() LONGSPAN_LAMBDA { scores(tile, keys, next); });
    });
    const auto after = [&](Interval keys, Index softmax_steps) LONGSPAN_LAMBDA {
      const Ahead next =
          keys.end < tile.keys.end ? ahead_.values({keys.end, keys.end + step}, heads) : keys_after(tile, heads, step);
      return next.over(heads.size() * (words_of(keys.size()) * value_steps_ + softmax_steps), value_pace_);
    };
    // The softmax asks, too, where lines lie apart; in the one stretch of a page the machine reads ahead by itself.
    Ahead next = after(intersect(tile.keys, {start, start + step}),
                       interleaved_ || Words::kWhole ? group_queries_ * kVectors : 0),
          none;
    for_each_head([&]() LONGSPAN_LAMBDA { softmax(tile, state, interleaved_ || Words::kWhole ? next : none); });
    regions([&](Interval keys) LONGSPAN_LAMBDA {
      if (keys.begin != tile.keys.begin) next = after(keys, 0);
      for_each_head(
          [&]() LONGSPAN_LAMBDA { add_values(tile, keys, keys.begin == tile.keys.begin, values(state), next); });
    });
  }

  /// How often scores() calls Ahead::step for one KV head.
  Index score_steps(Index vectors) const {
    const Index words = Words::kDigits * words_;
    if (!rows_of_keys_) return key_steps_ * words;
    if (group_queries_ <= kIsa.row_queries) return vectors * words;
    return tiles_ * words * ceil_div(vectors, kCopied);
  }

  /// Scores of the keys of a region, by vectors of keys: as they lie where that is dimension-major; transposed in
  /// registers where they are rows and queries are few; else copied, a few vectors at a time, which stay in the
  /// first-level cache.
  void scores(const Tile& tile, Interval keys, Ahead& ahead) {
    const Index first = (keys.begin - tile.block) / kLanes, last = ceil_div(keys.end - tile.block, kLanes);
    if constexpr (kScaled<Element>) read_scales(p_, kv_head_, keys, tile.block, key_scale_, value_scale_);
    if constexpr (Reader::kMakes) {
      made_scores(tile, keys, first, last, ahead);
    } else if (keys == tile.keys && reader_.find(p_, kv_head_, tile)) {
      with_tile([&](auto queries, auto vectors) LONGSPAN_LAMBDA {
        for (Index v = 0; v < kVectors; v += vectors)
          scores<queries(), vectors()>(WordColumns<Words>(), reader_.at() + v, reader_.dim_stride(), v, ahead);
      });
    } else if (group_queries_ <= kIsa.row_queries) {
      for (Index v = first; v < last; ++v) scores_of_rows(tile, v, ahead);
    } else if (last - first == 1) {
      copied_scores<1>(tile, first, ahead);
    } else {
      for (Index v = first / kCopied * kCopied; v < last; v += kCopied) copied_scores<kCopied>(tile, v, ahead);
    }
  }

  /// Of keys that the source makes, in the vectors [first, last) of the block: as they are read where one tile of
  /// queries reads them all, else before that.
  void made_scores(const Tile& tile, Interval keys, Index first, Index last, Ahead& ahead) {
    if constexpr (Reader::kReadsColumns)
      if (group_queries_ <= kIsa.tall_queries && keys == tile.keys && reader_.reads_columns() &&
          reader_.find(p_, kv_head_, tile)) {
        const auto read = reader_.column_reader(tile.block);
        return with_tile([&](auto queries, auto vectors) LONGSPAN_LAMBDA {
          for (Index v = 0; v < kVectors; v += vectors)
            scores<queries(), vectors()>(read.from(v * kLanes), reader_.at() + v, reader_.dim_stride(), v, ahead);
        });
      }
    const MadeKeys made = reader_.columns(p_, kv_head_, keys, key_);
    const auto add = [&](auto queries, auto vectors, Index v) LONGSPAN_LAMBDA {
      const float* at[vectors()];
      for (Index i = 0; i < vectors(); ++i) at[i] = made.words + (v + i) * kLanes;
      scores<queries(), vectors()>(WordColumns<FloatWords>(), at, made.stride, v, ahead);
    };
    if (last - first == 1) return add(Constant<kIsa.narrow_queries>{}, Constant<1>{}, first);
    with_tile([&](auto queries, auto vectors) LONGSPAN_LAMBDA {
      for (Index v = first / vectors * vectors; v < last; v += vectors) add(queries, vectors, v);
    });
  }

  /// Of the vectors of keys [v, v + Vectors), which lie at `key`, as columns that are dim_stride elements apart.
  template <int Queries, int Vectors, class Read, class T>
  void scores(const Read& read, const T* const* key, Index dim_stride, Index v, Ahead& ahead) {
    for_each_query<Queries, least_queries(Queries, Vectors)>([&](auto n, Index i) LONGSPAN_LAMBDA {
      narrow_scores<Words, decltype(n)::value, Vectors>(read, key, dim_stride, words_, query_ + i * query_words_,
                                                        query_words_, weight_ + i * kBlock + v * kLanes, kBlock,
                                                        key_scale_ + v * kLanes, ahead);
    });
  }

  /// Scores of one vector of keys that lie in rows; those that can't be read as a whole vector are copied.
  void scores_of_rows(const Tile& tile, Index v, Ahead& ahead) {
    const Index i = tile.block + v * kLanes - p_.first_key;
    if (i >= 0 && i < p_.source.keys()) {
      const auto run = p_.source.run(kv_head_, i);
      if (run.dim_stride == 1 && run.key_pack == 1 && head_dim_ % Words::kPer == 0 &&
          Reader::whole_vector(run, tile.keys.end - p_.first_key - i))
        return for_each_query<kIsa.row_queries, 1>([&](auto n, Index q) LONGSPAN_LAMBDA {
          narrow_scores_of_rows<Words, decltype(n)::value>(run.key, run.key_stride, words_, query_ + q * query_words_,
                                                           query_words_, weight_ + q * kBlock + v * kLanes, kBlock,
                                                           key_scale_ + v * kLanes, ahead);
        });
    }
    copied_scores<1>(tile, v, ahead);
  }

  /// … and of others: encoded and transposed.
  template <int Vectors>
  void copied_scores(const Tile& tile, Index v, Ahead& ahead) {
    constexpr Index kStride = Vectors * kLanes;
    const Index first = tile.block + v * kLanes;
    copy_keys(p_, kv_head_, intersect(tile.keys, {first, first + kStride}), first, encoded_key_, key_, kStride);
    const float* at[Vectors];
    for (Index i = 0; i < Vectors; ++i) at[i] = key_ + i * kLanes;
    scores<kIsa.narrow_queries, Vectors>(WordColumns<FloatWords>(), at, kStride, v, ahead);
  }

  /// Weights, and each query's running maximum and sum.
  void softmax(const Tile& tile, float* state, Ahead& ahead) {
    if constexpr (kScaled<Element>)  // of other heads since
      if (interleaved_) read_scales(p_, kv_head_, tile.keys, tile.block, key_scale_, value_scale_);
    for_each_query<kSoftmaxQueries, 1>([&](auto n, Index i) LONGSPAN_LAMBDA {
      Index query[n.value], of_head[n.value];
      unroll<n.value>([&](auto q)
                          LONGSPAN_LAMBDA { query[q] = p_.first_query + row(i + q), of_head[q] = head(i + q); });
      narrow_softmax(p_, tile, query, of_head, weight_ + i * kBlock, value_scale_, maxima(state) + i, sums(state) + i,
                     weight_scale_ + i, rescale_ + i, ahead);
    });
  }

  /// Values of a region, in place where they are whole vectors of words, else encoded.
  void add_values(const Tile& tile, Interval keys, bool first, float* out, Ahead& ahead) {
    const float* rescale = first ? rescale_ : nullptr;  // once a tile
    const auto add = [&](const auto& rows, Index key, Index words) LONGSPAN_LAMBDA {
      const auto add_to = [&](auto queries, auto vectors, auto careful, Index i, Index d) LONGSPAN_LAMBDA {
        narrow_values<Words, queries.value, vectors.value, careful.value>(
            rows.from(d), words, weight_ + i * kBlock + (key - tile.block) / Words::kPer, kBlock, weight_scale_ + i,
            out + i * padded_ + d, padded_, rescale ? rescale + i : nullptr, ahead);
      };
      if (careful_) {
        for (Index i = first_; i < first_ + group_queries_; ++i)
          for (Index d = 0; d < padded_; d += kLanes) add_to(Constant<1>{}, Constant<1>{}, std::true_type{}, i, d);
      } else {
        with_tile([&](auto queries, auto vectors) LONGSPAN_LAMBDA {
          const auto columns = [&](auto width, Index d) LONGSPAN_LAMBDA {
            for_each_query<queries(), least_queries(queries(), width())>(
                [&](auto n, Index i) LONGSPAN_LAMBDA { add_to(n, width, std::false_type{}, i, d); });
          };
          Index d = 0;
          for (; d + vectors * kLanes <= padded_; d += vectors * kLanes) columns(vectors, d);
          for (; d < padded_; d += kLanes) columns(Constant<1>{}, d);
        });
      }
      rescale = nullptr;
    };
    if constexpr (!MakesValues<typename P::Source>)
      if (value_dim_ == padded_ && values_are_words(p_, kv_head_, keys, tile.block, Words::kPer == 2))
        return p_.for_each_piece(kv_head_, keys, [&](const auto& run, Index key) LONGSPAN_LAMBDA {
          if constexpr (Words::kPer == 2)
            if (run.value_pack == 1)
              return add(ZippedRows<Words, Element>{run.value, run.value_stride}, key, words_of(run.size));
          add(WordRows<Words, Element>{run.value, run.value_stride}, key, words_of(run.value_first + run.size));
        });
    encode_values(p_, kv_head_, keys, tile.block, value_, padded_);
    add(WordRows<FloatWords, float>{value_, padded_}, keys.begin,
        words_of(keys.end - tile.block) - (keys.begin - tile.block) / Words::kPer);
  }

  bool finite(float* state) const {
    Lanes zero(0.f);
    for (Index d = 0; d < queries_ * padded_; d += kLanes) zero = fma(load(values(state) + d), Lanes(0.f), zero);
    return xsimd::all(zero == Lanes(0.f));
  }

  /// The keys that are read next: of the next heads, or of the first in the next tile.
  Ahead keys_after(const Tile& tile, Interval heads, Index step) const {
    if (heads.end < task_.kv_heads.end)
      return ahead_.keys({tile.keys.begin, tile.keys.begin + step}, {heads.end, heads.end + 1});
    if (next_key_ >= p_.keys().end) return {};
    return ahead_.keys({next_key_, next_key_ + step}, {task_.kv_heads.begin, task_.kv_heads.begin + heads.size()});
  }

  const P& p_;
  AheadOf<typename P::Source> ahead_;
  TaskRange task_;
  Interval rows_;
  Index group_queries_, queries_;                      // of one KV head, of all
  Index tiles_ = 0, key_steps_ = 0, value_steps_ = 0;  // register tiles of queries; steps of a word of keys, of values
  Ahead::Pace score_pace_, value_pace_;
  Index kv_head_ = 0, first_ = 0, next_key_ = 0;  // the KV head at work and its first query; where the next tile is
  Index head_dim_, value_dim_, words_, query_words_, padded_;
  Reader reader_;
  float *key_, *encoded_key_, *weight_, *value_, *split_, *total_, *query_, *rescale_, *weight_scale_, *key_scale_,
      *value_scale_;
  bool rows_of_keys_ = true;  // token-major
  bool careful_ = false;
  bool interleaved_ = false;  // … and the rows of the task's KV heads stand one after another in a token's
};

}  // namespace longspan::inline LONGSPAN_ISA
