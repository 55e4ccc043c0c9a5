#pragma once
// The wide kernel (prefill): queries are lanes.
//
// Cost model, per block of 64 keys and 3 vectors of queries: 64·3·(head_dim + value_dim) fused multiply-adds, each fed
// by a third of a broadcast load and an eighth of a vector load, against 64·3 exponentials of about 12 operations: for
// head_dim 128 the exponentials are 4% of the work and everything else is FMA at the peak. Queries and output are
// transposed, [dim][queries], so that keys and values are read in place as scalars, every running statistic is a
// vector, and there is no horizontal operation anywhere. Elements that are no words (kernel/words.hpp) are encoded a
// block at a time, which is 6% of the time with dot products of bf16.
//
// Order of operations (the numeric contract, shared with narrow.hpp): a score is one FMA chain over d ascending; a
// value is one FMA chain over keys ascending (where words hold more, a chain of words); a block's sum adds the weights
// of keys j, j+16, j+32, j+48, then folds the halves of those 16. A tile that is skipped and a tile whose keys are all
// masked leave the same bits.

#include <longspan/core/scratch.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/kernel/products.hpp>
#include <longspan/kernel/read_keys.hpp>
#include <longspan/kernel/schedule.hpp>
#include <longspan/kernel/state.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Up to kTileVectors vectors of queries of one head at a time; bits don't depend on the number.
template <class P>
class WideKernel {
 public:
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  static constexpr Index kRows = kWideRows;

  static Index scratch_floats(Index head_dim, Index value_dim) {
    const Index words = words_of(head_dim), query_words = Words::query_words(words);
    return kRows * (query_words + kBlock + value_dim + std::max(query_words, value_dim) + 3) +
           kBlock * (words + (kAreWords<Element> ? 0 : value_dim)) + (Words::kPer == 1 ? 0 : Words::kDigits * kDigit) +
           2 * kBlock + KeyReader<P>::scratch_floats(head_dim);
  }

  WideKernel(const P& problem, const TaskRange& task, Scratch& scratch)
      : p_(problem),
        ahead_{problem.source, problem.first_key},
        head_(task.kv_heads.begin * problem.group() + task.heads.begin),
        kv_head_(task.kv_heads.begin),
        rows_(task.rows),
        vectors_(static_cast<int>(ceil_div(task.rows.size(), kLanes))),
        head_dim_(problem.source.head_dim()),
        value_dim_(problem.source.value_dim()),
        words_(words_of(head_dim_)),
        query_words_(Words::query_words(words_)),
        reader_(problem, scratch.floats(scratch_floats(head_dim_, value_dim_))) {
    float* memory = scratch.floats(0) + KeyReader<P>::scratch_floats(head_dim_);
    const auto take = [&](Index floats) { return std::exchange(memory, memory + floats); };
    query_ = take(query_words_ * kRows);
    weight_ = take(kBlock * kRows);
    total_value_ = take(value_dim_ * kRows);
    value_ = take(std::max(query_words_, value_dim_) * kRows);
    rescale_ = take(kRows);
    weight_scale_ = take(kRows);
    largest_ = take(kRows);
    weight_word_ = Words::kPer == 1 ? weight_ : take(Words::kDigits * kDigit);
    encoded_key_ = take(kBlock * words_);
    key_scale_ = take(kBlock);
    value_scale_ = take(kBlock);
    std::fill_n(key_scale_, kBlock, problem.score_factor());
    std::fill_n(value_scale_, kBlock, 1.f);
    if constexpr (!kAreWords<Element>) encoded_value_ = take(kBlock * value_dim_);
  }

  /// Attention of the rows (at most kRows of them) over all keys, into the problem's sink.
  void run() {
    load_queries();
    pass();
    for (Index r = rows_.begin; r < rows_.end; ++r) p_.sink.rows.prefetch_row(r, head_);
    // 0·NaN: a masked key's weight of exactly 0 spreads what is not finite in its value to rows that don't see it.
    // Nothing else makes such a row, so it is looked for once, at the end, and the rows are done again with care.
    if (!finite()) {
      careful_ = true;
      pass();
    }
    store_rows();
  }

 private:
  template <int N>
  using Constant = std::integral_constant<int, N>;

  static constexpr Index kDigit = kRows * kBlock / Words::kPer;  // floats of the words of all weights

  static Index words_of(Index dim) { return ceil_div(dim, Words::kPer); }

  Interval head() const { return {kv_head_, kv_head_ + 1}; }

  /// f(the number of vectors, as a constant).
  template <class F>
  LONGSPAN_INLINE void with_vectors(F&& f) const {
    unroll<kTileVectors>([&](auto i) LONGSPAN_LAMBDA {
      if (vectors_ == i + 1) f(Constant<i + 1>{});
    });
  }

  void load_queries() {
    const Index rows = rows_.size();
    for (Index r = rows_.begin; r < rows_.end; ++r) p_.q.prefetch_row(r, head_);
    float *row = query_, *encoded = value_;  // both free yet
    for (Index r = 0; r < rows; ++r) {
      float* to = encoded + r * query_words_;
      if constexpr (Words::kPer == 1) row = to;
      p_.q.read(rows_.begin + r, head_, p_.template query_factor<Words>(), row);
      if constexpr (Words::kPer > 1) Words::encode_query(row, head_dim_, to);
    }
    if (rows % kLanes != 0) std::fill_n(query_, query_words_ * kRows, 0.f);
    transpose(encoded, query_words_, rows, query_words_, query_, kRows);
  }

  /// Splits in ascending order, each from an empty state, merged into the total.
  void pass() {
    std::fill_n(total_max_, vectors_, Lanes(kMinusInfinity));
    std::fill_n(total_sum_, vectors_, Lanes(0.f));
    const Interval positions = p_.positions(rows_);
    Work work;
    Index split = -1;
    bool first = true;
    for_each_tile(p_.mask, positions, p_.keys(), [&](const Tile& tile, const Tile& next) {
      if (const Index s = tile.block / kSplit; s != split) {
        if (split >= 0) end_split(first), first = false;
        split = s;
        fresh_ = true;
        std::fill_n(max_, vectors_, Lanes(kMinusInfinity));
        std::fill_n(sum_, vectors_, Lanes(0.f));
      }
      scores(tile);
      if (!P::Scores::kEmpty || !tile.full) adjust(tile);
      const bool grew = softmax(tile);
      values(tile, grew, next);
      fresh_ = false;
      work.count(tile);
    });
    if (p_.work && !careful_) p_.work->add(work);
    if (split >= 0)
      end_split(first);
    else
      std::fill_n(total_value_, value_dim_ * kRows, 0.f);
  }

  void end_split(bool first) {
    if (first) {  // merge with the identity
      std::swap(value_, total_value_);
      std::copy_n(max_, vectors_, total_max_);
      std::copy_n(sum_, vectors_, total_sum_);
      return;
    }
    for (int i = 0; i < vectors_; ++i) {
      const Merged<Lanes> m(total_max_[i], total_sum_[i], max_[i], sum_[i]);
      for (Index d = 0; d < value_dim_; ++d) {
        float* total = total_value_ + d * kRows + i * kLanes;
        store(total, fma(load(value_ + d * kRows + i * kLanes), m.of_b, load(total) * m.of_a));
      }
      total_max_[i] = m.max;
      total_sum_[i] = m.sum;
    }
  }

  void scores(const Tile& tile) {
    Ahead ahead = ahead_.values(tile.keys, head())
                      .over(ceil_div(tile.keys.size(), kTileKeys) * words_ * Words::kDigits, value_pace_);
    for (int i = 0; i < vectors_; ++i) max_[i].store_aligned(largest_ + i * kLanes);
    if constexpr (kScaled<Element>) read_scales(p_, kv_head_, tile.keys, tile.block, key_scale_, value_scale_);
    const auto add = [&](auto rows, const auto* key, Index stride, Interval keys) LONGSPAN_LAMBDA {
      const Index place = keys.begin - tile.block;
      with_vectors([&](auto vectors) LONGSPAN_LAMBDA {
        wide_scores<Words, kTileKeys, vectors.value, rows.value>(
            reinterpret_cast<const std::byte*>(key), stride * static_cast<Index>(sizeof(*key)), keys.size(), words_,
            query_, weight_ + place * kRows, largest_, key_scale_ + place, ahead);
      });
    };
    if constexpr (KeyReader<P>::kMakes) {
      const MadeKeys made = reader_.words(p_, kv_head_, tile.keys);
      const Index place = tile.keys.begin - tile.block;
      if (made.rows) return add(std::true_type{}, made.words + place * made.stride, made.stride, tile.keys);
      add(std::false_type{}, made.words + place, made.stride, tile.keys);
    } else {
      p_.for_each_piece(kv_head_, tile.keys, [&](const auto& run, Index first) LONGSPAN_LAMBDA {
        const Interval keys{first, first + run.size};
        if constexpr (kLieAsWords<Element>) {
          if (run.dim_stride == 1 && run.key_pack == 1 && head_dim_ % Words::kPer == 0)
            return add(std::true_type{}, run.key, run.key_stride, keys);
          if (run.key_stride == run.key_pack && run.key_pack == Words::kPer)
            return add(std::false_type{}, run.key, run.dim_stride, keys);
        }
        if (encode_keys(run, run.size, head_dim_, encoded_key_, words_, kBlock))
          add(std::true_type{}, encoded_key_, words_, keys);
        else
          add(std::false_type{}, encoded_key_, kBlock, keys);
      });
    }
  }

  /// Score functions, and the mask where the tile is partial.
  void adjust(const Tile& tile) {
    const Index first = p_.first_query + rows_.begin;
    for (int i = 0; i < vectors_; ++i) {
      const Position<Lanes> q{first, iota() + Lanes(static_cast<float>(i * kLanes))};
      Lanes largest = max_[i];
      for (Index key = tile.keys.begin; key < tile.keys.end; ++key) {
        float* at = weight_ + (key - tile.block) * kRows + i * kLanes;
        const Position<float> k{key, 0.f};
        const Lanes score = finish_scores(p_, Lanes::load_aligned(at), q, k, head_, tile.full);
        score.store_aligned(at);
        largest = xsimd::max(largest, score);
      }
      largest.store_aligned(largest_ + i * kLanes);
    }
  }

  /// Weights, running maximum and sum. True when some row's maximum grew, so that values have to be rescaled.
  bool softmax(const Tile& tile) {
    // Whole groups of 16 keys, for the order of the sum; a key that is not the tile's weighs exactly nothing.
    constexpr Index kGroup = 16, kSums = kFixedOrder ? kGroup / 2 : 2;
    const Index from = tile.keys.begin - tile.block, to = tile.keys.end - tile.block;
    const Index begin = from / kGroup * kGroup, end = ceil_div(to, kGroup) * kGroup;
    std::fill(weight_ + begin * kRows, weight_ + from * kRows, kMinusInfinity);
    std::fill(weight_ + to * kRows, weight_ + end * kRows, kMinusInfinity);

    bool grew = false;
    for (int i = 0; i < vectors_; ++i) {
      const Lanes largest = Lanes::load_aligned(largest_ + i * kLanes), shift = Merged<Lanes>::finite(largest);
      const Lanes rescale = exp2(max_[i] - shift);
      Lanes sum[2][kSums];  // of the keys j, j+16, j+32, j+48
      unroll<2>([&](auto half) LONGSPAN_LAMBDA {
        unroll<kSums>([&](auto j) LONGSPAN_LAMBDA { sum[half][j] = Lanes(0.f); });
        for (Index key = begin + half * (kGroup / 2); key < end; key += kGroup) {
          const float* score = weight_ + key * kRows + i * kLanes;
          float* word = weight_word_ + key / Words::kPer * kRows + i * kLanes;
          [[maybe_unused]] Lanes earlier(0.f);
          unroll<kGroup / 2>([&](auto j) LONGSPAN_LAMBDA {
            const Lanes exact = exp2(Lanes::load_aligned(score + j * kRows) - shift);
            Lanes weight = Words::weight(exact);
            sum[half][j % kSums] = sum[half][j % kSums] + (kScaled<Element> ? exact : weight);
            if constexpr (kScaled<Element>) weight = Words::weight(scaled_weight(exact, Lanes(value_scale_[key + j])));
            if constexpr (Words::kWhole)
              weight.store_aligned(weight_ + (key + j) * kRows + i * kLanes);
            else if constexpr (Words::kPer == 1)
              weight.store_aligned(word + j * kRows);
            else if constexpr (j % 2 == 0)
              earlier = weight;
            else
              Words::pair(earlier, weight).store_aligned(word + j / 2 * kRows);
          });
        }
      });
      unroll<kSums>([&](auto j) LONGSPAN_LAMBDA { sum[0][j] = sum[0][j] + sum[1][j]; });
      if constexpr (kFixedOrder) {
        unroll<4>([&](auto j) LONGSPAN_LAMBDA { sum[0][j] = sum[0][j] + sum[0][j + 4]; });
        unroll<2>([&](auto j) LONGSPAN_LAMBDA { sum[0][j] = sum[0][j] + sum[0][j + 2]; });
      }
      sum_[i] = fma(sum_[i], rescale, sum[0][0] + sum[0][1]);
      grew = grew | !xsimd::all(largest == max_[i]);  // no jump
      max_[i] = largest;
      rescale.store_aligned(rescale_ + i * kLanes);
      if constexpr (Words::kWhole) store_digits({begin, end}, i);
    }
    return grew;
  }

  /// Words of the weights of a vector of queries.
  void store_digits(Interval keys, int i) {
    const auto weight = [&](Index key) LONGSPAN_LAMBDA { return load(weight_ + key * kRows + i * kLanes); };
    Lanes largest(0.f);
    for (Index key = keys.begin; key < keys.end; ++key) largest = Words::larger(largest, weight(key));
    const Lanes by = Words::inverse(largest);
    for (Index key = keys.begin; key < keys.end; key += 4) {
      float* const upper = weight_word_ + key / 4 * kRows + i * kLanes;
      Words::store_digits({weight(key), weight(key + 1), weight(key + 2), weight(key + 3)}, by, upper, upper + kDigit);
    }
    Words::scale(largest).store_aligned(weight_scale_ + i * kLanes);
  }

  void values(const Tile& tile, bool grew, const Tile& next) {
    Start start = fresh_ ? Start::kZero : grew ? Start::kRescale : Start::kKeep;
    Ahead ahead = next.keys.empty() ? Ahead{} : ahead_.keys(next.keys, head());
    ahead = ahead.over(ceil_div(value_dim_, kTileKeys) * words_of(tile.keys.size()) * Words::kDigits, key_pace_);
    const auto add = [&](const auto* value, Index stride, Index words, const float* weight) LONGSPAN_LAMBDA {
      const auto add_to = [&](auto dims, auto vectors, auto careful) LONGSPAN_LAMBDA {
        wide_values<Words, dims.value, vectors.value, careful.value>(
            reinterpret_cast<const std::byte*>(value), stride * static_cast<Index>(sizeof(*value)), words, value_dim_,
            weight, kDigit, weight_scale_, value_, start, rescale_, ahead);
      };
      if (careful_)
        add_to(Constant<1>{}, Constant<kTileVectors>{}, std::true_type{});
      else
        with_vectors([&](auto vectors) LONGSPAN_LAMBDA { add_to(Constant<kTileKeys>{}, vectors, std::false_type{}); });
      start = Start::kKeep;
    };
    if constexpr (kLieAsWords<Element>) {
      if (values_are_words(p_, kv_head_, tile.keys, tile.block, false))
        return p_.for_each_piece(kv_head_, tile.keys, [&](const auto& run, Index first) LONGSPAN_LAMBDA {
          add(run.value, run.value_stride, words_of(run.value_first + run.size),
              weight_word_ + (first - tile.block) / Words::kPer * kRows);
        });
    }
    if constexpr (!kAreWords<Element>) {
      encode_values(p_, kv_head_, tile.keys, tile.block, encoded_value_, value_dim_);
      const Index first = (tile.keys.begin - tile.block) / Words::kPer;
      add(encoded_value_, value_dim_, words_of(tile.keys.end - tile.block) - first, weight_word_ + first * kRows);
    }
  }

  bool finite() const {
    Lanes zero(0.f);
    for (Index d = 0; d < value_dim_; ++d)
      for (int i = 0; i < vectors_; ++i)
        zero = fma(Lanes::load_aligned(total_value_ + d * kRows + i * kLanes), Lanes(0.f), zero);
    return xsimd::all(zero == Lanes(0.f));
  }

  void store_rows() {
    alignas(64) float max[kRows], sum[kRows];
    for (int i = 0; i < vectors_; ++i) {
      const Lanes factor = p_.sink.factor(head_, total_max_[i], total_sum_[i]);
      for (Index d = 0; d < value_dim_; ++d) {
        float* at = total_value_ + d * kRows + i * kLanes;
        fma(Lanes::load_aligned(at), factor, Lanes(0.f)).store_aligned(at);  // + 0: a zero is +0 in both kernels
      }
      total_max_[i].store_aligned(max + i * kLanes);
      total_sum_[i].store_aligned(sum + i * kLanes);
    }
    const Index rows = rows_.size();
    if (float* const first = p_.sink.rows.floats(rows_.begin, head_)) {
      const Index stride = rows > 1 ? p_.sink.rows.floats(rows_.begin + 1, head_) - first : 0;
      transpose(total_value_, kRows, value_dim_, rows, first, stride);
    } else {
      transpose(total_value_, kRows, value_dim_, rows, value_, value_dim_);
      for (Index r = 0; r < rows; ++r) p_.sink.rows.write(rows_.begin + r, head_, value_ + r * value_dim_);
    }
    for (Index r = 0; r < rows; ++r)
      p_.sink.finish(rows_.begin + r, head_, static_cast<double>(max[r]), static_cast<double>(sum[r]));
  }

  const P& p_;
  AheadOf<typename P::Source> ahead_;
  Index head_, kv_head_;
  Interval rows_;
  int vectors_;  // that the rows fill
  Index head_dim_, value_dim_, words_, query_words_;
  KeyReader<P> reader_;
  float *query_, *weight_, *value_, *total_value_, *rescale_, *weight_scale_, *largest_;
  float *weight_word_, *encoded_key_, *encoded_value_ = nullptr, *key_scale_,
                                      *value_scale_;  // encoded: what can't be read where it is
  Ahead::Pace key_pace_, value_pace_;
  Lanes max_[kTileVectors], sum_[kTileVectors], total_max_[kTileVectors], total_sum_[kTileVectors];
  bool fresh_ = true, careful_ = false;
};

}  // namespace longspan::inline LONGSPAN_ISA
