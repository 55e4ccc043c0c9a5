#pragma once
// The wide kernel (prefill, and decode where many heads share a KV head): queries are lanes.
//
// Cost model, per block of 64 keys and 3 vectors of queries: 64·3·(head_dim + value_dim) fused multiply-adds, each fed
// by a third of a broadcast load and an eighth of a vector load, against 64·3 exponentials of about 12 operations: for
// head_dim 128 the exponentials are 4% of the work and everything else is FMA at the peak. Queries and output are
// transposed, [dim][queries], so that keys and values are read in place as scalars, every running statistic is a
// vector, and there is no horizontal operation anywhere. Elements that are no words (kernel/words.hpp) are encoded a
// block at a time, which is 6% of the time with dot products of bf16; where a task has more queries than registers
// hold, panels of them take turns on a block, which is read and encoded once for all.
//
// Order of operations (the numeric contract, shared with narrow.hpp): a score is one FMA chain over d ascending; a
// value is one FMA chain over keys ascending (where words hold more, a chain of words); a block's sum adds the weights
// of keys j, j+16, j+32, j+48, then folds the halves of those 16. A tile that is skipped and a tile whose keys are all
// masked leave the same bits.

#include <longspan/core/scratch.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/kernel/panel_scores.hpp>
#include <longspan/kernel/panels.hpp>
#include <longspan/kernel/products.hpp>
#include <longspan/kernel/read_keys.hpp>
#include <longspan/kernel/state.hpp>
#include <longspan/kernel/tiles.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Statistics and values of a state are [panels][…][kRows]; bits don't depend on the number of panels.
template <class P>
class WideKernel {
 public:
  using Element = typename P::Source::Element;
  using Words = WordsOf<Element>;
  static constexpr Index kRows = Panels::kRows;

  static Index state_floats(Index queries, Index value_dim) { return Panels::count(queries) * kRows * (value_dim + 2); }
  static Index scratch_floats(Index queries, Index head_dim, Index value_dim) {
    const Index words = words_of(head_dim), query_words = Words::query_words(words), panels = Panels::count(queries),
                state = state_floats(queries, value_dim);
    return panels * kRows * (query_words + kBlock + 3) + state + std::max(state, kRows * query_words) +
           kBlock * (words + (kAreWords<Element> ? 0 : value_dim)) +
           (Words::kPer == 1 ? 0 : panels * Words::kDigits * kDigit) + 2 * kBlock +
           KeyReader<P>::scratch_floats(head_dim);
  }

  WideKernel(const P& problem, const TaskRange& task, Scratch& scratch)
      : p_(problem),
        ahead_{problem.source, problem.first_key},
        kv_head_(task.kv_heads.begin),
        panels_(task, problem.group()),
        head_dim_(problem.source.head_dim()),
        value_dim_(problem.source.value_dim()),
        words_(words_of(head_dim_)),
        query_words_(Words::query_words(words_)),
        reader_(problem, scratch.floats(scratch_floats(panels_.queries(), head_dim_, value_dim_))) {
    float* memory = scratch.floats(0) + KeyReader<P>::scratch_floats(head_dim_);
    const auto take = [&](Index floats) { return std::exchange(memory, memory + floats); };
    const Index lanes = panels_.lanes(), state = state_floats(panels_.queries(), value_dim_);
    query_ = take(lanes * query_words_);
    weight_ = take(lanes * kBlock);
    total_ = take(state);
    split_ = take(std::max(state, kRows * query_words_));
    rescale_ = take(lanes);
    weight_scale_ = take(lanes);
    largest_ = take(lanes);
    weight_word_ = Words::kPer == 1 ? weight_ : take(panels_.size() * Words::kDigits * kDigit);
    encoded_key_ = take(kBlock * words_);
    key_scale_ = take(kBlock);
    value_scale_ = take(kBlock);
    std::fill_n(key_scale_, kBlock, problem.score_factor());
    std::fill_n(value_scale_, kBlock, 1.f);
    if constexpr (!kAreWords<Element>) encoded_value_ = take(kBlock * value_dim_);
    load_queries();
  }

  /// Attention of the queries over all keys, into the problem's sink.
  void run() {
    with_care([&] { all_splits(); }, total_);
    for (Index i = 0; i < panels_.queries(); ++i) p_.sink.rows.prefetch_row(panels_.row(i), panels_.head(i));
    store_rows(total_);
  }

  /// The state of the keys [split, split + kSplit) alone. `state` holds state_floats().
  void run_split(Index split, float* state) {
    with_care([&] { pass(split, state); }, state);
  }

  void clear(float* state) const {
    clear_statistics(state);
    std::fill_n(values(state, 0), panels_.lanes() * value_dim_, 0.f);
  }

  /// total ← merge(total, part).
  void merge(float* total, const float* part) const {
    panels_.for_each_vector([&](Index panel, Index lane) {
      const Index at = panel * kRows + lane;
      float *const max = maxima(total) + at, *const sum = sums(total) + at;
      const Merged<Lanes> m(load(max), load(sum), load(maxima(part) + at), load(sums(part) + at));
      float* to = values(total, panel) + lane;
      const float* from = values(part, panel) + lane;
      for (Index d = 0; d < value_dim_; ++d, to += kRows, from += kRows)
        store(to, fma(load(from), m.of_b, load(to) * m.of_a));
      store(max, m.max);
      store(sum, m.sum);
    });
  }

  void store_rows(float* state) {
    for (Index panel = 0; panel < panels_.size(); ++panel) {
      const Index first = panels_.first(panel), size = panels_.first(panel + 1) - first;
      float* const value = values(state, panel);
      const float *const max = maxima(state) + panel * kRows, *const sum = sums(state) + panel * kRows;
      float* const logit = largest_ + panel * kRows;  // free by now
      for (Index i = 0; i < size && !p_.sink.logits.empty(); ++i)
        logit[i] = p_.sink.logits[static_cast<std::size_t>(panels_.head(first + i))];
      for (Index lane = 0; lane < size; lane += kLanes) {
        const Lanes factor = p_.sink.factor(load(logit + lane), load(max + lane), load(sum + lane));
        for (float* at = value + lane; at < value + value_dim_ * kRows; at += kRows)
          store(at, fma(load(at), factor, Lanes(0.f)));  // + 0: a zero is +0 in both kernels
      }
      const auto row_at = [&](Index i) { return p_.sink.rows.floats(panels_.row(i), panels_.head(i)); };
      if (float* const to = row_at(first); to && panels_.even()) {
        transpose(value, kRows, value_dim_, size, to, size > 1 ? row_at(first + 1) - to : 0);
      } else {
        float* const row_of = split_;  // free, too
        transpose(value, kRows, value_dim_, size, row_of, value_dim_);
        for (Index i = 0; i < size; ++i)
          p_.sink.rows.write(panels_.row(first + i), panels_.head(first + i), row_of + i * value_dim_);
      }
      for (Index i = 0; i < size; ++i)
        p_.sink.finish(panels_.row(first + i), panels_.head(first + i), static_cast<double>(max[i]),
                       static_cast<double>(sum[i]));
    }
  }

 private:
  template <int N>
  using Constant = std::integral_constant<int, N>;

  static constexpr Index kDigit = kRows * kBlock / Words::kPer;  // floats of the words of a panel's weights

  /// Of a register tile, or value dims: with one vector of queries, twice as many, or sums would wait for each other.
  static constexpr int keys_of(int vectors) { return vectors == 1 ? 2 * kTileKeys : kTileKeys; }
  static Index words_of(Index dim) { return ceil_div(dim, Words::kPer); }

  Interval kv_head() const { return {kv_head_, kv_head_ + 1}; }
  float* maxima(float* state) const { return state; }
  float* sums(float* state) const { return state + panels_.lanes(); }
  float* values(float* state, Index panel) const { return state + 2 * panels_.lanes() + panel * value_dim_ * kRows; }
  const float* maxima(const float* state) const { return maxima(const_cast<float*>(state)); }
  const float* sums(const float* state) const { return sums(const_cast<float*>(state)); }
  const float* values(const float* state, Index panel) const { return values(const_cast<float*>(state), panel); }
  float* weights(Index panel, Index key) const { return weight_ + (panel * kBlock + key) * kRows; }
  float* weight_words(Index panel, Index word) const {
    return weight_word_ + panel * Words::kDigits * kDigit + word * kRows;
  }

  /// Of all panels together, over this many keys or value dims.
  Index register_tiles(Index columns) const {
    Index tiles = 0;
    panels_.for_each([&](Index, auto vectors) { tiles += ceil_div(columns, Index{keys_of(vectors.value)}); });
    return tiles;
  }
  Ahead keys_ahead(Interval keys) const { return keys.begin >= p_.keys().end ? Ahead{} : ahead_.keys(keys, kv_head()); }

  void load_queries() {
    for (Index i = 0; i < panels_.queries(); ++i) p_.q.prefetch_row(panels_.row(i), panels_.head(i));
    float* const encoded = split_;  // free yet
    for (Index panel = 0; panel < panels_.size(); ++panel) {
      const Index first = panels_.first(panel), size = panels_.first(panel + 1) - first;
      float* const query = query_ + panel * query_words_ * kRows;
      for (Index i = 0; i < size; ++i) {
        float *const to = encoded + i * query_words_, *const exact = Words::kPer == 1 ? to : query;
        p_.q.read(panels_.row(first + i), panels_.head(first + i), p_.template query_factor<Words>(), exact);
        if constexpr (Words::kPer > 1) Words::encode_query(exact, head_dim_, to);
      }
      if (size % kLanes != 0) std::fill_n(query, query_words_ * kRows, 0.f);
      transpose(encoded, query_words_, size, query_words_, query, kRows);
    }
  }

  void clear_statistics(float* state) const {
    std::fill_n(maxima(state), panels_.lanes(), kMinusInfinity);
    std::fill_n(sums(state), panels_.lanes(), 0.f);
  }

  /// 0·NaN: a masked key's weight of exactly 0 spreads what is not finite in its value to rows that don't see it.
  /// Nothing else makes such a row, so it is looked for once, at the end, and f() is done again with care.
  template <class F>
  void with_care(F&& f, const float* state) {
    careful_ = false;
    f();
    if (finite(state)) return;
    careful_ = true;
    f();
  }

  /// Splits in ascending order, each from an empty state, merged into the total.
  void all_splits() {
    bool first = true;
    for (Index key = p_.first_key; key < p_.keys().end; first = false) {
      const Interval rows = p_.positions(panels_.rows());
      const Index seen = next_some(p_.mask, rows, key).begin;  // splits that nobody sees are not visited
      if (seen >= p_.keys().end) break;
      const Index split = seen / kSplit * kSplit;
      pass(split, first ? total_ : split_);  // the first merges with the identity
      if (!first) merge(total_, split_);
      key = split + kSplit;
    }
    if (first) clear(total_);
  }

  void pass(Index split, float* state) {
    clear_statistics(state);
    fresh_ = true;
    Work work;
    const Interval keys = intersect(p_.keys(), {split, split + kSplit}), rows = p_.positions(panels_.rows());
    const Index behind = std::min(next_some(p_.mask, rows, keys.end).begin, p_.keys().end);
    for_each_tile(p_.mask, rows, keys, [&](const Tile& tile, const Tile& next) {
      const Index next_key = next.keys.empty() ? behind : next.keys.begin;
      scores(tile, next_key, state);
      if (!P::Scores::kEmpty || !tile.full) adjust(tile, state);
      const bool grew = softmax(tile, state);
      values(tile, grew, next_key, state);
      fresh_ = false;
      work.count(tile);
    });
    if (p_.work && !careful_) p_.work->add(work);
    if (fresh_) clear(state);
  }

  void scores(const Tile& tile, Index next_key, const float* state) {
    // Where values are in keys (core/concepts.hpp), they are here already: half of the next keys comes in their stead.
    latent_ = values_in_keys(p_.source.run(kv_head_, tile.keys.begin - p_.first_key), head_dim_, value_dim_);
    Ahead ahead = latent_ ? keys_ahead({next_key, next_key + kBlock / 2}) : ahead_.values(tile.keys, kv_head());
    ahead = ahead.over(register_tiles(tile.keys.size()) * words_ * Words::kDigits, value_pace_);
    std::copy_n(maxima(state), panels_.lanes(), largest_);
    if constexpr (kScaled<Element>) read_scales(p_, kv_head_, tile.keys, tile.block, key_scale_, value_scale_);
    const auto add = [&](auto rows, const auto* key, Index stride, Interval keys) LONGSPAN_LAMBDA {
      const Index place = keys.begin - tile.block;
      panels_.for_each([&](Index panel, auto vectors) LONGSPAN_LAMBDA {
        wide_scores<Words, keys_of(vectors.value), vectors.value, rows.value>(
            reinterpret_cast<const std::byte*>(key), stride * static_cast<Index>(sizeof(*key)), keys.size(), words_,
            query_ + panel * query_words_ * kRows, weights(panel, place), largest_ + panel * kRows, key_scale_ + place,
            ahead);
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
  void adjust(const Tile& tile, const float* state) {
    panels_.for_each_vector([&](Index panel, Index lane) LONGSPAN_LAMBDA {
      const Index at = panel * kRows + lane;
      const Lanes max = Lanes::load_aligned(maxima(state) + at);
      const Index query = panels_.first(panel) + lane;
      float* const block = weights(panel, 0) + lane;
      const Lanes largest = panels_.one_head() ? finish_rows(p_, tile, panels_, query, block, max)
                                               : finish_queries(p_, tile, panels_, query, block, max);
      largest.store_aligned(largest_ + at);
    });
  }

  /// Weights, running maximum and sum. True when some row's maximum grew, so that values have to be rescaled.
  bool softmax(const Tile& tile, float* state) {
    // Whole groups of 16 keys, for the order of the sum; a key that is not the tile's weighs exactly nothing.
    constexpr Index kGroup = 16, kSums = kFixedOrder ? kGroup / 2 : 2;
    const Index from = tile.keys.begin - tile.block, to = tile.keys.end - tile.block;
    const Index begin = from / kGroup * kGroup, end = ceil_div(to, kGroup) * kGroup;
    for (Index panel = 0; panel < panels_.size(); ++panel) {
      std::fill(weights(panel, begin), weights(panel, from), kMinusInfinity);
      std::fill(weights(panel, to), weights(panel, end), kMinusInfinity);
    }

    bool grew = false;
    panels_.for_each_vector([&](Index panel, Index lane) LONGSPAN_LAMBDA {
      const Index at = panel * kRows + lane;
      float *const max = maxima(state) + at, *const total = sums(state) + at;
      const Lanes largest = Lanes::load_aligned(largest_ + at), shift = Merged<Lanes>::finite(largest);
      const Lanes before = Lanes::load_aligned(max), rescale = exp2(before - shift);
      Lanes sum[2][kSums];  // of the keys j, j+16, j+32, j+48
      unroll<2>([&](auto half) LONGSPAN_LAMBDA {
        unroll<kSums>([&](auto j) LONGSPAN_LAMBDA { sum[half][j] = Lanes(0.f); });
        for (Index key = begin + half * (kGroup / 2); key < end; key += kGroup) {
          const float* score = weights(panel, key) + lane;
          float* word = weight_words(panel, key / Words::kPer) + lane;
          [[maybe_unused]] Lanes earlier(0.f);
          unroll<kGroup / 2>([&](auto j) LONGSPAN_LAMBDA {
            const Lanes exact = exp2(Lanes::load_aligned(score + j * kRows) - shift);
            Lanes weight = Words::weight(exact);
            sum[half][j % kSums] = sum[half][j % kSums] + (kScaled<Element> ? exact : weight);
            if constexpr (kScaled<Element>) weight = Words::weight(scaled_weight(exact, Lanes(value_scale_[key + j])));
            if constexpr (Words::kWhole)
              weight.store_aligned(weights(panel, key + j) + lane);
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
      fma(Lanes::load_aligned(total), rescale, sum[0][0] + sum[0][1]).store_aligned(total);
      grew = grew | !xsimd::all(largest == before);  // no jump
      largest.store_aligned(max);
      rescale.store_aligned(rescale_ + at);
      if constexpr (Words::kWhole)
        Words::store_digits(weights(panel, 0) + lane, kRows, {begin, end}, weight_words(panel, 0) + lane, kDigit)
            .store_aligned(weight_scale_ + at);
    });
    return grew;
  }

  void values(const Tile& tile, bool grew, Index next_key, float* state) {
    Start start = fresh_ ? Start::kZero : grew ? Start::kRescale : Start::kKeep;
    Ahead ahead = keys_ahead({next_key + (latent_ ? kBlock / 2 : 0), next_key + kBlock});
    ahead = ahead.over(register_tiles(value_dim_) * words_of(tile.keys.size()) * Words::kDigits, key_pace_);
    const auto add = [&](const auto* value, Index stride, Index words, Index place) LONGSPAN_LAMBDA {
      const auto add_to = [&](Index panel, auto dims, auto vectors, auto careful) LONGSPAN_LAMBDA {
        wide_values<Words, dims.value, vectors.value, careful.value>(
            reinterpret_cast<const std::byte*>(value), stride * static_cast<Index>(sizeof(*value)), words, value_dim_,
            weight_words(panel, place), kDigit, weight_scale_ + panel * kRows, values(state, panel), start,
            rescale_ + panel * kRows, ahead);
      };
      if (careful_)
        for (Index panel = 0; panel < panels_.size(); ++panel)
          add_to(panel, Constant<1>{}, Constant<kTileVectors>{}, std::true_type{});
      else
        panels_.for_each([&](Index panel, auto vectors) LONGSPAN_LAMBDA {
          add_to(panel, Constant<keys_of(vectors.value)>{}, vectors, std::false_type{});
        });
      start = Start::kKeep;
    };
    if constexpr (kLieAsWords<Element>)
      if (values_are_words(p_, kv_head_, tile.keys, tile.block, false))
        return p_.for_each_piece(kv_head_, tile.keys, [&](const auto& run, Index key) LONGSPAN_LAMBDA {
          add(run.value, run.value_stride, words_of(run.value_first + run.size), (key - tile.block) / Words::kPer);
        });
    if constexpr (!kAreWords<Element>) {
      encode_values(p_, kv_head_, tile.keys, tile.block, encoded_value_, value_dim_);
      const Index first = (tile.keys.begin - tile.block) / Words::kPer;
      add(encoded_value_, value_dim_, words_of(tile.keys.end - tile.block) - first, first);
    }
  }

  bool finite(const float* state) const {
    Lanes zero(0.f);
    panels_.for_each_vector([&](Index panel, Index lane) {
      const float* at = values(state, panel) + lane;
      for (Index d = 0; d < value_dim_; ++d) zero = fma(Lanes::load_aligned(at + d * kRows), Lanes(0.f), zero);
    });
    return xsimd::all(zero == Lanes(0.f));
  }

  const P& p_;
  AheadOf<typename P::Source> ahead_;
  Index kv_head_;
  Panels panels_;
  Index head_dim_, value_dim_, words_, query_words_;
  KeyReader<P> reader_;
  Ahead::Pace key_pace_, value_pace_;
  float *query_, *weight_, *total_, *split_, *rescale_, *weight_scale_, *largest_;
  float *weight_word_, *encoded_key_, *encoded_value_ = nullptr, *key_scale_,
                                      *value_scale_;  // encoded: what can't be read where it is
  bool fresh_ = true, careful_ = false, latent_ = false;
};

}  // namespace longspan::inline LONGSPAN_ISA
