#pragma once
// A source of keys that are rotated as they are read: straight from where another source has them into the words that
// kernels multiply, on their way into registers, a block of one KV head at a time, or all of them before a call.

#include <algorithm>
#include <span>
#include <type_traits>

#include <longspan/core/concepts.hpp>
#include <longspan/core/executor_ref.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/kernel/words.hpp>
#include <longspan/position/block_angles.hpp>
#include <longspan/rotary_schemes.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

/// x, y ← the pair turned, operation by operation as turn_pairs has it.
LONGSPAN_INLINE void turn(Lanes& x, Lanes& y, const Lanes& cosine, const Lanes& sine) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  const Lanes first = fma(x, cosine, -(y * sine));
  y = fma(y, cosine, x * sine);
  x = first;
#else  // fma of lanes is not std::fma
  alignas(64) float row[2 * kLanes], c[kLanes], s[kLanes];
  x.store_aligned(row), y.store_aligned(row + kLanes), cosine.store_aligned(c), sine.store_aligned(s);
  turn_pairs<HalfSplit>(row, kLanes, 0, kLanes, c, s, 1.f, 1.f);
  x = Lanes::load_aligned(row), y = Lanes::load_aligned(row + kLanes);
#endif
}

/// How the angles of a block lie: as keys do. In rows, [64 keys][cosine, sine][pairs]; or in lanes of keys,
/// [pairs][cosine, sine][64 keys].
template <PairLayout Layout>
class KeyAngles {
 public:
  static constexpr Index kBlock = BlockAngles<Layout>::kBlock;

  KeyAngles(const BlockAngles<Layout>& angles, const PositionMap& map, bool rows)
      : angles_(&angles), map_(map), half_(angles.blocks().rotary_dim() / 2), rows_(rows) {}

  Index half() const { return half_; }
  bool rows() const { return rows_; }
  Index floats() const { return angles_->floats(); }
  Index pair_stride() const { return rows_ ? 1 : 2 * kBlock; }
  Index key_stride() const { return rows_ ? 2 * half_ : 1; }
  Index sine() const { return rows_ ? half_ : kBlock; }  ///< how far a sine is behind its cosine

  /// Of the keys at the positions [block, block + 64); `block` is a multiple of 64.
  void fill(Index block, float* to) const {
    const Index first = map_(block);
    bool consecutive = first % kBlock == 0;
    Index at[kBlock];
    for (Index j = 0; j < kBlock; ++j) {
      at[j] = map_(block + j);
      consecutive = consecutive && at[j] == first + j;
    }
    if (consecutive && !rows_) return (*angles_)(first, to);
    constexpr Index kKeys = 16;  // at a time
    Leased<Scratch, KeyAngles> lease;
    float *const cosine = lease->floats(2 * kKeys * half_), *const sine = cosine + kKeys * half_;
    for (Index j = 0; j < kBlock; j += kKeys) {
      angles_->blocks().angles(std::span<const Index>(at + j, kKeys), cosine, sine);
      for (Index i = 0; i < kKeys && rows_; ++i) {
        std::copy_n(cosine + i * half_, half_, to + (j + i) * 2 * half_);
        std::copy_n(sine + i * half_, half_, to + (j + i) * 2 * half_ + half_);
      }
      if (rows_) continue;
      transpose(cosine, half_, kKeys, half_, to + j, 2 * kBlock);
      transpose(sine, half_, kKeys, half_, to + j + kBlock, 2 * kBlock);
    }
  }

 private:
  const BlockAngles<Layout>* angles_;
  PositionMap map_;
  Index half_;
  bool rows_;
};

/// Reads columns of keys (as WordColumns of kernel/products.hpp) and turns them on the way. Of two halves, what comes
/// out of the second waits in memory that stays in the first-level cache until its turn comes.
template <class Words, PairLayout Layout>
struct TurnedColumns {
  static constexpr Index kPer = Words::kPer, kAngle = 2 * BlockAngles<Layout>::kBlock;  // floats of a pair's angles
  const float* angle;  ///< [pairs][cosine, sine][64 keys], of the first key
  Index half;
  float* waiting;  ///< [vectors][words of half a key][lanes]

  TurnedColumns from(Index key) const { return {angle + key, half, waiting}; }

  template <class F>
  LONGSPAN_INLINE void each_part(Index words, F&& f) const {
    const Index turned = 2 * half / kPer, other = turned / 2;
    const float* const angles = angle;
    float* const later = waiting;
    if constexpr (Layout::first(1, 0) == 1) {
      f(0, other, [=](const auto* key, Index d, Index stride, int j) LONGSPAN_LAMBDA {
        Lanes x = held(Words::load(key + d * stride)), y = held(Words::load(key + (d + other) * stride));
        turn_words(x, y, angles + d * kPer * kAngle + j * kLanes);
        store(later + (j * other + d) * kLanes, y);
        return x;
      });
      f(other, turned, [=](const auto*, Index d, Index, int j) LONGSPAN_LAMBDA {
        return load(later + ((j - 1) * other + d) * kLanes);
      });
    } else {
      f(0, turned, [=](const auto* key, Index d, Index stride, int j) LONGSPAN_LAMBDA {
        const float* const at = angles + d * kPer / 2 * kAngle + j * kLanes;
        if constexpr (kPer == 2) {
          return turn_pairs_of(Words::load(key + d * stride), at);
        } else {
          const Index even = d / 2 * 2;
          Lanes x = Words::load(key + even * stride), y = Words::load(key + (even + 1) * stride);
          turn_words(x, y, at);
          return d == even ? x : y;
        }
      });
    }
    f(turned, words,
      [](const auto* key, Index d, Index stride, int) LONGSPAN_LAMBDA { return Words::load(key + d * stride); });
  }

  /// Words of the first and of the second elements of pairs.
  static LONGSPAN_INLINE void turn_words(Lanes& x, Lanes& y, const float* at) {
    if constexpr (kPer == 1) {
      turn_at(x, y, at);
    } else {
      Lanes x0 = Words::earlier(x), y0 = Words::earlier(y), x1 = Words::later(x), y1 = Words::later(y);
      turn_at(x0, y0, at);
      turn_at(x1, y1, at + kAngle);
      x = Words::rounded_pair(x0, x1), y = Words::rounded_pair(y0, y1);
    }
  }
  /// Words each of which is a pair.
  static LONGSPAN_INLINE Lanes turn_pairs_of(const Lanes& words, const float* at) {
    Lanes x = Words::earlier(words), y = Words::later(words);
    turn_at(x, y, at);
    return Words::rounded_pair(x, y);
  }

 private:
  static LONGSPAN_INLINE void turn_at(Lanes& x, Lanes& y, const float* at) {
    turn(x, y, held(load(at)), held(load(at + kAngle / 2)));
  }
};

template <KeyValueSource Source, PairLayout Layout>
class RotatedKeys;

/// Makes rotated keys for one task, a block of one KV head at a time, and keeps the angles of the block for the others.
template <KeyValueSource Source, PairLayout Layout>
class KeyRotator {
 public:
  using Element = typename Source::Element;
  using Keys = RotatedKeys<Source, Layout>;

  static Index floats(Index head_dim) { return 3 * kBlock * head_dim; }
  KeyRotator(const Keys& keys, float* memory, Index kv_head)
      : keys_(keys),
        dim_(keys.head_dim()),
        kv_head_(kv_head),
        angle_(memory),
        words_(memory + kBlock * dim_),
        spare_(words_ + kBlock * dim_) {}

  /// See MakesKeys. In words of bf16 pairs rotated elements are rounded to bf16.
  template <class Words>
  MadeKeys words(Index kv_head, Interval keys, Index) {
    if constexpr (std::is_same_v<Words, WordsOf<Element>>)
      if (const MadeKeys made = keys_.made_before(kv_head_ + kv_head, keys.begin); made.words) return made;
    return make<Words>(kv_head, keys, words_);
  }
  template <class Words>
  bool reads_columns() const {
    return !keys_.table() && !keys_.angles().rows() && fits_words<Words>();
  }
  template <class Words>
  TurnedColumns<Words, Layout> column_reader(Index block) {
    fill(block);
    return {angle_, half(), spare_};
  }
  /// The same, made in `to`: 64 · words of a key floats.
  template <class Words>
  MadeKeys make(Index kv_head, Interval keys, float* to) {
    const KeyAngles<Layout>& angles = keys_.angles();
    const Index words = ceil_div(dim_, Words::kPer), position = keys_.first_key() + keys.begin;
    const Index place = position % kBlock;
    fill(position - place);
    const MadeKeys made{to, angles.rows() ? words : kBlock, angles.rows(), words};
    for (Index i = keys.begin, size; i < keys.end; i += size) {
      const KeyValueRun<Element> run = keys_.run(kv_head_ + kv_head, i);
      const Index at = place + i - keys.begin;
      size = std::min(run.size, keys.end - i);
      if (!made.rows && size >= kLanes && lie_as_words<Words>(run)) {
        in_lanes<Words>(run, size, angle_ + at, to + at);
        continue;
      }
      float* const rows = made.rows ? to + at * words : spare_;
      for (Index j = 0; j < size; ++j) row<Words>(run, j, at + j, rows + j * words);
      if (!made.rows) transpose(rows, words, size, words, to + at, kBlock);
    }
    return made;
  }

 private:
  static constexpr Index kBlock = KeyAngles<Layout>::kBlock;
  static constexpr bool kHalves = Layout::first(1, 0) == 1;

  Index half() const { return keys_.angles().half(); }

  void fill(Index block) {
    if (block != block_) keys_.angles().fill(block_ = block, angle_);
  }
  /// Whether the elements of pairs are in words of which nothing else is a part.
  template <class Words>
  bool fits_words() const {
    return dim_ % Words::kPer == 0 && (!kHalves || half() % Words::kPer == 0);
  }
  template <class Words>
  bool lie_as_words(const KeyValueRun<Element>& run) const {
    return run.key_stride == run.key_pack && run.key_pack == Words::kPer && fits_words<Words>();
  }

  /// Of at least kLanes keys; some may be done twice.
  template <class Words>
  void in_lanes(const KeyValueRun<Element>& run, Index keys, const float* angle, float* to) const {
    for (Index v = 0; v < keys; v += kLanes) {
      const Index j = std::min(v, keys - kLanes);
      const TurnedColumns<Words, Layout> turned{angle + j, half(), spare_};
      turned.each_part(dim_ / Words::kPer, [&](Index begin, Index end, const auto& read) LONGSPAN_LAMBDA {
        for (Index w = begin; w < end; ++w)
          store(to + w * kBlock + j, read(run.key + j * Words::kPer, w, run.dim_stride, 0));
      });
    }
  }

  /// Key j of the run, which is at `place` in the block, as a row.
  template <class Words>
  void row(const KeyValueRun<Element>& run, Index j, Index place, float* words) const {
    using Out = std::conditional_t<Words::kPer == 1, float, bf16>;
    auto* const to = reinterpret_cast<Out*>(words);
    const KeyAngles<Layout>& angles = keys_.angles();
    const float* const cosine = angle_ + place * angles.key_stride();
    if (angles.rows() && run.dim_stride == 1 && run.key_pack == 1) {
      const Element* const in = run.key + j * run.key_stride;
      Index begin = 0;
      if constexpr (kHalves)
        for (; begin + kLanes <= half(); begin += kLanes) {
          Lanes x = load(in + begin), y = load(in + half() + begin);
          turn(x, y, load(cosine + begin), load(cosine + angles.sine() + begin));
          store(to + begin, x);
          store(to + half() + begin, y);
        }
      const RowReader reader(nullptr);
      for (; begin < half(); begin += kAngles)
        turn_row<Layout>(reader, in, to, half(), begin, std::min(kAngles, half() - begin), cosine + begin,
                         cosine + angles.sine() + begin, 1.f, 1.f, 1.f);
      rest_of_row(reader, in, to, 2 * half(), dim_, 1.f);
    } else {
      const auto element = [&](Index d) { return static_cast<float>(*run.key_at(j, d)); };
      for (Index i = 0; i < half(); ++i) {
        const Index a = Layout::first(i, half()), b = Layout::second(i, half());
        const float* const angle = cosine + i * angles.pair_stride();
        float pair[] = {element(a), element(b)};
        turn_pairs<Layout>(pair, 1, 0, 1, angle, angle + angles.sine(), 1.f, 1.f);
        to[a] = static_cast<Out>(pair[0]), to[b] = static_cast<Out>(pair[1]);
      }
      for (Index d = 2 * half(); d < dim_; ++d) to[d] = static_cast<Out>(element(d));
    }
    if (dim_ % Words::kPer != 0) to[dim_] = Out();
  }

  const Keys& keys_;
  Index dim_, kv_head_;
  float *angle_, *words_, *spare_;
  Index block_ = -1;  // whose angles these are
};

/// Some keys of a source, of which key i stands at first_key + i and is rotated to where a PositionMap says. Its runs
/// are the source's. A kernel has the keys of a block made, or they have been made before, all of them in one table.
template <KeyValueSource Source, PairLayout Layout>
class RotatedKeys {
 public:
  using Element = typename Source::Element;

  RotatedKeys(const Source& source, Interval keys, const KeyAngles<Layout>& angles, Index first_key)
      : source_(source), keys_(keys), angles_(angles), first_key_(first_key) {}

  Index keys() const { return keys_.size(); }
  Index kv_heads() const { return source_.kv_heads(); }
  Index head_dim() const { return source_.head_dim(); }
  Index value_dim() const { return source_.value_dim(); }
  KeyValueRun<Element> run(Index kv_head, Index i) const {
    KeyValueRun<Element> run = source_.run(kv_head, keys_.begin + i);
    run.size = std::min(run.size, keys() - i);
    return run;
  }

  static Index key_maker_floats(Index head_dim) { return KeyRotator<Source, Layout>::floats(head_dim); }
  KeyRotator<Source, Layout> key_maker(float* memory, Index kv_head) const { return {*this, memory, kv_head}; }
  const KeyAngles<Layout>& angles() const { return angles_; }
  Index first_key() const { return first_key_; }

  /// All keys made before, block by block in any order, in memory that goes on belonging to the caller.
  Index table_floats() const { return blocks().size() * kv_heads() * block_floats(); }
  void make_table(float* memory, const ExecutorRef& executor) {
    const Interval blocks = this->blocks();
    executor.for_each(blocks.size(), [&](Index block, Index) {
      Leased<Scratch, RotatedKeys> scratch;
      KeyRotator<Source, Layout> rotator = key_maker(scratch->floats(key_maker_floats(head_dim())), 0);
      const Index begin = (blocks.begin + block) * kBlock - first_key_;
      const Interval keys = intersect({begin, begin + kBlock}, {0, this->keys()});
      for (Index h = 0; h < kv_heads(); ++h)
        rotator.template make<WordsOf<Element>>(h, keys, memory + (block * kv_heads() + h) * block_floats());
    });
    table_ = memory;
  }
  bool table() const { return table_ != nullptr; }
  /// The block that key i is in, out of the table.
  MadeKeys made_before(Index kv_head, Index i) const {
    if (!table()) return {};
    const Index block = (first_key_ + i) / kBlock - blocks().begin, words = block_floats() / kBlock;
    return {table_ + (block * kv_heads() + kv_head) * block_floats(), angles_.rows() ? words : kBlock, angles_.rows(),
            words};
  }

 private:
  static constexpr Index kBlock = KeyAngles<Layout>::kBlock;
  Interval blocks() const { return {first_key_ / kBlock, ceil_div(first_key_ + keys(), kBlock)}; }
  Index block_floats() const { return kBlock * ceil_div(head_dim(), WordsOf<Element>::kPer); }

  Source source_;
  Interval keys_;
  KeyAngles<Layout> angles_;
  Index first_key_;
  const float* table_ = nullptr;
};

}  // namespace detail

}  // namespace longspan::inline LONGSPAN_ISA
