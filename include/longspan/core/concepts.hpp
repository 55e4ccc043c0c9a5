#pragma once
// The joints of the house. Policies are small values; kernels know these concepts and never a concrete policy.

#include <concepts>
#include <span>

#include <longspan/core/index.hpp>
#include <longspan/core/position.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Which keys a query sees.
///   allows(q, k)   the definition, on absolute positions: Index, or Position with one side in lanes; what comparing
///                  those gives combines by & | ! with each other and with bool
///   some(Q, k)     the next run of keys at or after k that some query of Q may see (too wide is safe)
///   every(Q, k)    the next run that every query of Q sees (too narrow is safe); any empty interval: no further run
/// Laws: M1 a visible key lies in a run of `some`; M2 a key in a run of `every` is visible to all of Q; M3 runs ascend,
/// are disjoint, and start at or after k.
/// Lanes may hold positions outside the call's queries and keys; their answers are not used, so clamp what you look up.
/// Called from several threads at once. A mask may also say where its queries begin to see by another rule: see
/// edge_after below.
template <class M>
concept Mask = std::copyable<M> && requires(const M& mask, Interval queries, Index k) {
  static_cast<bool>(mask.allows(k, k));
  { mask.some(queries, k) } -> std::same_as<Interval>;
  { mask.every(queries, k) } -> std::same_as<Interval>;
};

/// The first query behind q that sees by another rule than q, kUnbounded if none: mask.edge_after(q), where a mask has
/// it. Between edges, what a query sees only moves on with it. A hint, so any answer behind q is right: compositions
/// read a range of queries in pieces between edges (two queries of a range are often in two documents, or in two rows
/// of blocks), and the wide kernel's tasks end at edges that are regular.
template <Mask M>
Index edge_after(const M& mask, Index q) {
  if constexpr (requires { mask.edge_after(q); })
    return mask.edge_after(q);
  else
    return kUnbounded;
}

/// A mask that is not the same for all rows of a call: at(site) is the Mask of the rows of that head and sequence. The
/// front door takes it apart, so kernels and laws know masks only. heads() and sequences() say how many it is made for
/// (0: any number); kByHead whether heads differ. (See mask/by_site.hpp.)
template <class F>
concept MaskBySite = std::copyable<F> && !Mask<F> && requires(const F& family, Site site) {
  { family.at(site) } -> Mask;
  { family.heads() } -> std::same_as<Index>;
  { family.sequences() } -> std::same_as<Index>;
  { F::kByHead } -> std::convertible_to<bool>;
};

/// A change of the scaled score before the mask: f(score, query, key), f(score, query, key, Index head) or
/// f(score, query, key, Site); `query - key` is the distance in the score's own type. Called with doubles by the
/// definition and with lanes of neighbours by the kernels; as for masks, lanes may hold positions (and then scores)
/// that belong to nobody, and calls come from several threads. A function that is made for some heads only has
/// `heads()`; one with a table has `check_extent(Extent)`, which throws where it does not cover a sequence of the call.
template <class F>
concept ScoreFunction =
    std::copy_constructible<F> && !Mask<F> && (std::invocable<const F&, double, ExactPosition, ExactPosition> ||
                                               std::invocable<const F&, double, ExactPosition, ExactPosition, Index> ||
                                               std::invocable<const F&, double, ExactPosition, ExactPosition, Site>);

/// One more logit for each head in the denominator of its rows, without a key or a value: `logits()`, natural.
template <class L>
concept DenominatorLogits = std::copyable<L> && requires(const L& policy) {
  { policy.logits() } -> std::convertible_to<std::span<const float>>;
};

/// A run of neighbouring keys and their values in the place where they are stored: keys in rows (dim_stride 1) or
/// dimension-major (key_stride key_pack), values in rows. Packs interleave neighbours in a sum, dims of a key and keys
/// of a value, as dot product instructions want them.
template <class Element>
struct KeyValueRun {
  Index size = 0;      ///< keys in the run
  Index readable = 0;  ///< keys whose memory may be read (with a page's unused end), >= size
  const Element* key = nullptr;
  Index key_stride = 0;
  Index dim_stride = 1;
  const Element* value = nullptr;
  Index value_stride = 0;
  Index key_pack = 1;                  ///< dims of one key that are neighbours
  Index value_pack = 1;                ///< values that are neighbours at each dim
  Index value_first = 0;               ///< where in its pack value 0 is; `value` is where the pack begins
  const float* key_scale = nullptr;    ///< of each key, where the element type has scales (kScaled): element × scale
  const float* value_scale = nullptr;  ///< of each value

  /// An element, without its scale.
  double number_of_key(Index j, Index d) const { return static_cast<double>(*key_at(j, d)); }
  double number_of_value(Index j, Index d) const { return static_cast<double>(*value_at(j, d)); }
  float scale_of_key(Index j) const { return key_scale ? key_scale[j] : 1.f; }
  float scale_of_value(Index j) const { return value_scale ? value_scale[j] : 1.f; }
  const Element* key_at(Index j, Index d) const {
    if (key_pack == 1) return key + j * key_stride + d * dim_stride;
    return key + j * key_stride + d / key_pack * dim_stride + d % key_pack;
  }
  const Element* value_at(Index j, Index d) const {
    if (value_pack == 1) return value + j * value_stride + d;
    const Index place = j + value_first;
    return value + place / value_pack * value_stride + d * value_pack + place % value_pack;
  }
};

/// Whether the values of a run are the first elements of its keys, in place (multi-head latent attention).
template <class Element>
bool values_in_keys(const KeyValueRun<Element>& run, Index head_dim, Index value_dim) {
  return run.value == run.key && run.key != nullptr && run.value_stride == run.key_stride && run.dim_stride == 1 &&
         run.key_pack == 1 && run.value_pack == 1 && value_dim <= head_dim;
}

/// Where keys and values are: `run(kv_head, i)` hands out the longest run in place that begins with key i, never an
/// empty one. A small value: it is copied for every task, and read by several threads at once.
template <class S>
concept KeyValueSource = std::copyable<S> && requires(const S& source, Index i) {
  typename S::Element;
  { source.keys() } -> std::same_as<Index>;
  { source.kv_heads() } -> std::same_as<Index>;
  { source.head_dim() } -> std::same_as<Index>;
  { source.value_dim() } -> std::same_as<Index>;
  { source.run(i, i) } -> std::same_as<KeyValueRun<typename S::Element>>;
};

/// Positions of a block of keys that are made.
inline constexpr Index kMadeBlock = 64;

/// Keys of one block as words that a kernel multiplies (kernel/words.hpp), made of what a source holds.
struct MadeKeys {
  const float* words = nullptr;  ///< of the key at the first position of the block
  Index stride = 0;              ///< words from row to row, or from column to column
  bool rows = true;              ///< a row for each key, or a column for each word of all keys
  Index size = 0;                ///< words of a key
};

/// A source whose runs hold what its keys are made of (rotated_keys.hpp, kv/int4_pages.hpp), and not what kernels
/// multiply; values are what runs say, unless it makes those, too. A kernel makes itself a key maker for each task, out
/// of S::key_maker_floats(head_dim) floats, and asks it for keys where it would have read them:
///   words<Words>(kv_head, keys, place)   the keys [keys.begin, keys.end) of the source, which are at positions of one
///                                  block of 64, from `place` of it on, as MadeKeys; valid until the next call
/// source.made_before(kv_head, i), if there is such, are those of the block of key i that are made already (else .words
/// is null): what is fetched ahead then. Where a source's runs are dimension-major and packed as words are, keys can be
/// made as they are read, too:
///   reads_columns<Words>()         whether they can
///   column_reader<Words>(block)    who does, in the place of WordColumns (kernel/products.hpp), for the keys at
///                                  positions [block, block + 64); from(j) is the same from key j of the block on;
///                                  valid until the next call, also of words()
template <class S>
concept MakesKeys = KeyValueSource<S> && requires(const S& source, float* memory, Index kv_head) {
  { S::key_maker_floats(kv_head) } -> std::same_as<Index>;
  source.key_maker(memory, kv_head);  // of the KV heads from this one on
};
/// The same of values: make_values<Words>(kv_head, keys, place, to, stride) writes rows of words, `stride` words apart,
/// from the word that `place` is in on; what is not among `keys` counts as 0.
template <class S>
concept MakesValues = KeyValueSource<S> && requires {
  requires S::kMakesValues;
};

/// Runs f(task, worker) for every task below n, one task at a time on a worker, and brings back what it throws.
template <class E>
concept Executor = requires(E& executor, Index n, void (*f)(Index, Index)) {
  { executor.workers() } -> std::convertible_to<Index>;
  executor.for_each(n, f);
};

}  // namespace longspan::inline LONGSPAN_ISA
