#pragma once
// Keys that a kernel does not multiply where they lie.

#include <longspan/core/transpose.hpp>
#include <longspan/kernel/words.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Where the keys of a block are, for the kernel with keys in lanes; and what a source that makes its keys makes for
/// one task.
template <class P>
class KeyReader {
  using Source = typename P::Source;
  using Element = typename Source::Element;
  using Words = WordsOf<Element>;
  struct None {};
  static auto make(const Source& source, float* memory) {
    if constexpr (MakesKeys<Source>)
      return source.key_maker(memory, 0);
    else
      return None();
  }
  using Maker = decltype(make(std::declval<const Source&>(), nullptr));
  static_assert(kBlock == kMadeBlock);

 public:
  static constexpr bool kMakes = MakesKeys<Source>;
  static constexpr bool kReadsColumns = requires(Maker maker) { maker.template reads_columns<Words>(); };

  static Index scratch_floats(Index head_dim) {
    if constexpr (kMakes)
      return Source::key_maker_floats(head_dim);
    else
      return 0;
  }
  KeyReader(const P& problem, float* memory) : maker_(make(problem.source, memory)) {}

  /// A vector of keys may be read from where this run begins, and holds all of the `wanted` ones.
  static bool whole_vector(const KeyValueRun<Element>& run, Index wanted) {
    return run.readable >= kLanes && run.size >= std::min<Index>(kLanes, wanted);
  }
  /// Sets at() and dim_stride(), where each vector of the block's keys is, dimension-major, if the source has them so.
  /// The keys of a vector that nobody asked for may be anything.
  bool find(const P& problem, Index kv_head, const Tile& tile) {
    const Index first = (tile.keys.begin - tile.block) / kLanes, last = ceil_div(tile.keys.end - tile.block, kLanes);
    for (Index v = first; v < last; ++v) {
      const Index i = tile.block + v * kLanes - problem.first_key;
      if (i < 0) return false;
      const auto run = problem.source.run(kv_head, i);
      if (run.key_stride != run.key_pack || run.key_pack != Words::kPer ||
          !whole_vector(run, tile.keys.end - problem.first_key - i))
        return false;
      if (v > first && run.dim_stride != dim_stride_) return false;
      at_[v] = run.key;
      dim_stride_ = run.dim_stride;
    }
    std::fill_n(at_, first, at_[first]);
    std::fill(at_ + last, at_ + kVectors, at_[first]);
    return true;
  }
  const Element* const* at() const { return at_; }
  Index dim_stride() const { return dim_stride_; }

  /// Whether keys that were found so can be made as they are read, and who reads them: as WordColumns (products.hpp).
  bool reads_columns() const requires kMakes {
    if constexpr (kReadsColumns) return maker_.template reads_columns<Words>();
    return false;
  }
  auto column_reader(Index block) requires kMakes {
    if constexpr (kReadsColumns) return maker_.template column_reader<Words>(block);
  }

  /// The keys at the positions `keys`, all of one block.
  MadeKeys words(const P& problem, Index kv_head, Interval keys) requires kMakes {
    const Index first = problem.first_key;
    return maker_.template words<Words>(kv_head, {keys.begin - first, keys.end - first}, keys.begin % kBlock);
  }
  /// … as columns in any case; `memory` is for kBlock keys.
  MadeKeys columns(const P& problem, Index kv_head, Interval keys, float* memory) requires kMakes {
    const MadeKeys made = words(problem, kv_head, keys);
    if (!made.rows) return made;
    const Index place = keys.begin % kBlock, dim = ceil_div(problem.source.head_dim(), Words::kPer);
    transpose(made.words + place * made.stride, made.stride, keys.size(), dim, memory + place, kBlock);
    return {memory, kBlock, false, dim};
  }

 private:
  static constexpr int kVectors = static_cast<int>(kBlock) / kLanes;  // of keys in a block

  Maker maker_;
  const Element* at_[kVectors] = {};
  Index dim_stride_ = 0;
};

}  // namespace longspan::inline LONGSPAN_ISA
