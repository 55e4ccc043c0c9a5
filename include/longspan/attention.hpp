#pragma once
// The front door: policies in, a callable out. It checks every argument before anything is written, and hands the
// engine a batch of problems.

#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include <longspan/core/executor_ref.hpp>
#include <longspan/core/runs.hpp>
#include <longspan/kernel/flash.hpp>
#include <longspan/kernel/naive.hpp>
#include <longspan/kernel/one_head.hpp>
#include <longspan/kv/contiguous.hpp>
#include <longspan/mask/masks.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// What a call may be told besides its tensors; all optional.
struct Options {
  std::span<float> lse = {};        ///< [queries, heads]: natural logarithm of the softmax denominator
  ExecutorRef executor = {};        ///< default: the caller's thread
  std::optional<float> scale = {};  ///< softmax scale, finite and > 0; default 1/sqrt(head_dim)
  std::optional<Index> first_query =
      {};  ///< position of each first query, >= 0; default: queries at the end (below 0 where they are more)
  Index first_key = 0;                             ///< position of each sequence's first key, >= 0
  std::span<const Index> cumulative_queries = {};  ///< ragged batch: sequence i has queries [c[i], c[i+1])
  std::span<const Index> cumulative_keys = {};     ///< … and keys [c[i], c[i+1]) of one contiguous source
  Kernel kernel = Kernel::kAutomatic;              ///< of the flash engine
  Work* work = nullptr;                            ///< the tiles that the kernels visit are added to it
};

namespace detail {

/// The mask that problems have: that of a policy, or what it is made of at one site.
template <class M>
struct MaskOf {
  using Type = M;
};
template <MaskBySite M>
struct MaskOf<M> {
  using Type = decltype(std::declval<const M&>().at(Site{}));
};

/// The problems of one call, one for each sequence: `sources` holds one per sequence, or one that cumulative_keys cuts.
/// Where the mask differs by head, one for each sequence and query head.
template <KeyValueSource Source, class M, class Scores>
class Batch {
  using SiteMask = typename MaskOf<M>::Type;
  static constexpr bool kByHead = [] {
    if constexpr (MaskBySite<M>) return M::kByHead;
    return false;
  }();
  using Part = std::conditional_t<kByHead, OneHead<Source>, Source>;

 public:
  Batch(Shape q, std::span<const Source> sources, const Options& options, const M& mask, const Scores& scores,
        std::span<const float> logits)
      : shape_(q), sources_(sources), options_(options), mask_(mask), scores_(scores) {
    check_shapes();
    check_sequences();
    if (options.scale)
      check(std::isfinite(*options.scale) && *options.scale > 0, "options.scale", *options.scale, "finite and > 0");
    const auto position = [](const char* name, Index first) {
      check(first >= 0 && first < kPositionEnd, name, first, "within [0, 2^52)");
    };
    position("options.first_key", options.first_key);
    position("options.first_query", options.first_query.value_or(0));
    check(options.lse.empty() || static_cast<Index>(options.lse.size()) == q.tokens * q.heads, "options.lse.size",
          options.lse.size(), q.tokens * q.heads);
    scores.check_heads(q.heads);
    check(logits.empty() || std::ssize(logits) == q.heads, "sink logits heads", logits.size(), q.heads);
    for (Index i = 0; i < sequences(); ++i) {
      const Index rows = queries(i).size(), keys = source(i).keys(), at = first_query(rows, keys);
      scores.check_extent({q.heads, i, {at, at + rows}, {options.first_key, options.first_key + keys}});
    }
    if constexpr (MaskBySite<M>) {
      check(mask.heads() == 0 || mask.heads() == q.heads, "mask heads", mask.heads(), q.heads);
      check(mask.sequences() == 0 || mask.sequences() == sequences(), "mask sequences", mask.sequences(), sequences());
      for (Index i = 0; i < size(); ++i) masks_.push_back(mask.at(site(i)));
    }
  }

  Index size() const { return sequences() * parts(); }
  Index kv_heads() const { return sources_.empty() ? 1 : sources_[0].kv_heads(); }
  Index value_dim() const { return sources_.empty() ? 0 : sources_[0].value_dim(); }
  Schedule schedule(Index i, Kernel wanted, Index workers) const {
    const Index sequence = site(i).sequence;
    const Shape q{queries(sequence).size(), kByHead ? 1 : shape_.heads, shape_.dim};
    const Index keys = source(sequence).keys(), first = first_query(q.tokens, keys);
    return {wanted, q, keys, kByHead ? 1 : kv_heads(), workers, first, row_period(mask(i), first)};
  }
  Problem<Part, SiteMask, Scores> operator[](Index i) const {
    const Site at = site(i);
    const Interval rows = queries(at.sequence);
    const Source from = source(at.sequence);
    const float scale = options_.scale.value_or(static_cast<float>(1 / std::sqrt(static_cast<double>(shape_.dim))));
    const auto problem = [&](const QueryTensor& q, const Part& part, const RowSink& sink) {
      return Problem<Part, SiteMask, Scores>{q.slice(rows),
                                             part,
                                             mask(i),
                                             scores_,
                                             sink.slice(rows),
                                             scale,
                                             first_query(rows.size(), from.keys()),
                                             options_.first_key,
                                             options_.work,
                                             at};
    };
    if constexpr (kByHead)
      return problem(q_.head(at.head), {from, at.head / (shape_.heads / kv_heads())}, sink_.head(at.head));
    else
      return problem(q_, from, sink_);
  }

  /// Where the data are: after the checks, so that nothing is touched before they pass.
  Batch& with(QueryTensor q, RowSink sink) {
    q_ = q;
    sink_ = sink;
    return *this;
  }

 private:
  bool ragged() const { return !options_.cumulative_queries.empty(); }
  Index sequences() const { return ragged() ? static_cast<Index>(options_.cumulative_queries.size()) - 1 : 1; }
  Index parts() const { return kByHead ? shape_.heads : 1; }
  Site site(Index i) const { return {i % parts(), i / parts()}; }
  const SiteMask& mask(Index i) const {
    if constexpr (MaskBySite<M>)
      return masks_[static_cast<std::size_t>(i)];
    else
      return mask_;
  }
  Interval queries(Index i) const {
    if (!ragged()) return {0, shape_.tokens};
    const auto at = static_cast<std::size_t>(i);
    return {options_.cumulative_queries[at], options_.cumulative_queries[at + 1]};
  }
  Index first_query(Index queries, Index keys) const {
    return options_.first_query.value_or(options_.first_key + keys - queries);
  }
  Source source(Index i) const {
    const auto at = static_cast<std::size_t>(i);
    if constexpr (requires(const Source& s) { s.slice(Interval{}); })
      if (!options_.cumulative_keys.empty())
        return sources_[0].slice({options_.cumulative_keys[at], options_.cumulative_keys[at + 1]});
    return sources_[at];
  }

  void check_shapes() const {
    check(shape_.tokens >= 0, "q.tokens", shape_.tokens, ">= 0");
    check(shape_.heads >= 1, "q.heads", shape_.heads, ">= 1");
    check(shape_.dim >= 1, "q.dim", shape_.dim, ">= 1");
    for (const Source& s : sources_) {
      check(s.keys() >= 0 && s.keys() < kPositionEnd, "keys", s.keys(), "within [0, 2^52)");
      check(s.kv_heads() >= 1, "kv_heads", s.kv_heads(), ">= 1");
      check(s.value_dim() >= 1, "value_dim", s.value_dim(), ">= 1");
      check(s.head_dim() == shape_.dim, "keys.head_dim", s.head_dim(), shape_.dim);
      check(shape_.heads % s.kv_heads() == 0, "q.heads", shape_.heads, MultipleOf{s.kv_heads()});
      check(s.kv_heads() == kv_heads(), "sources.kv_heads", s.kv_heads(), kv_heads());
      check(s.value_dim() == value_dim(), "sources.value_dim", s.value_dim(), value_dim());
    }
  }

  void check_sequences() const {
    const auto sources = static_cast<Index>(sources_.size());
    if (!ragged()) {
      check(sources == 1, "options.cumulative_queries.size", 0, sources + 1);
      check(options_.cumulative_keys.empty(), "options.cumulative_keys.size", options_.cumulative_keys.size(),
            "0 without cumulative_queries");
      return;
    }
    check_lengths("options.cumulative_queries", options_.cumulative_queries, shape_.tokens);
    if (options_.cumulative_keys.empty()) {
      check(sources == sequences(), "sources.size", sources, sequences());
      return;
    }
    check(sources == 1, "sources.size", sources, "1 with cumulative_keys");
    check(
        requires(const Source& s) { s.slice(Interval{}); }, "options.cumulative_keys", "a source that cannot be sliced",
        "contiguous keys and values");
    check(options_.cumulative_keys.size() == options_.cumulative_queries.size(), "options.cumulative_keys.size",
          options_.cumulative_keys.size(), options_.cumulative_queries.size());
    check_lengths("options.cumulative_keys", options_.cumulative_keys, sources_[0].keys());
  }

  /// Lengths so far, to all there is.
  static void check_lengths(const char* name, std::span<const Index> lengths, Index total) {
    check_cumulative(name, lengths);
    check(lengths.back() == total, name, lengths.back(), total);
  }

  Shape shape_;
  std::span<const Source> sources_;
  const Options& options_;
  const M& mask_;
  const Scores& scores_;
  std::vector<SiteMask> masks_;  // one for each problem, where they differ
  QueryTensor q_;
  RowSink sink_;
};

}  // namespace detail

/// Attention with the policies it was made from; made by attention(…). A small value: copy it, keep it, call it from
/// any number of threads.
///
/// Every call: q [queries, heads, head_dim], keys [keys, kv_heads, head_dim], values [keys, kv_heads, value_dim], out
/// [queries, heads, value_dim]; head h reads KV head h / (heads / kv_heads). Query i stands at position first_key +
/// keys − queries + i unless options say otherwise. softmax(scores(scale · q·kᵀ) where the mask allows) · values; a row
/// that sees nothing is zeros with LSE −inf. Zero queries or keys are valid. Throws std::invalid_argument, naming the
/// argument, the value and what was expected, before anything is written. Error of Flash: 2e-6 · max|v|, or 4·2^-24·S ·
/// max|v| where S, the row's largest |score|, is larger than 8. Queries, keys and values, and output may each be float,
/// bf16 or f16, keys and values also of eight bits (core/bytes.hpp) or four (core/int4.hpp): arithmetic is in float,
/// and an output of 16 bits is rounded once. With AVX512_BF16, where keys are bf16, e4m3 or e5m2, weights and float
/// queries are rounded to bf16: 2^-7 · max|v|, and what the rounding of the query does to a score, at most 2^-8 · scale
/// · Σ|q_d·k_d|. With AVX512_VNNI, where they are i8 or i4, both become whole numbers of 16 bits: 2^-10 · max|v|, and
/// of a score at most 2^-16 · scale · max|q_d| · Σ|k_d|. Its bits depend on the row's query, keys and policies only:
/// not on threads, batch, pages or chunks. O(visible pairs) time, memory independent of queries and keys, and no
/// allocation by a thread after its first task of a size (Naive: a few doubles a key, every row; masks by head or
/// sequence: one of each, every call). What a policy or the executor throws comes back; `out` and LSE then hold
/// anything.
template <class Engine, class M, class Scores>
requires Mask<M> || MaskBySite<M>
class Attention {
 public:
  /// `logits`: a learned sink for each query head, or none.
  Attention(M mask, Scores scores, std::vector<float> logits = {})
      : mask_(std::move(mask)), scores_(std::move(scores)), logits_(std::move(logits)) {}

  template <class K = const float, class V = const float>
  void operator()(QueryTensor q, TensorView<K> keys, TensorView<V> values, OutputTensor out,
                  const Options& options = {}) const {
    (*this)(q, Contiguous(keys, values), out, options);
  }
  /// Keys and values from one source: contiguous, a view of a paged cache, or a user's own.
  template <KeyValueSource Source>
  void operator()(QueryTensor q, const Source& source, OutputTensor out, const Options& options = {}) const {
    (*this)(q, std::span<const Source>(&source, 1), out, options);
  }
  /// A ragged batch of one source per sequence; queries as options.cumulative_queries says.
  template <KeyValueSource Source>
  void operator()(QueryTensor q, std::span<const Source> sources, OutputTensor out, const Options& options = {}) const {
    detail::Batch batch(q.shape(), sources, options, mask_, scores_, logits_);
    check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
    check(out.heads == q.heads, "out.heads", out.heads, q.heads);
    check(sources.empty() || out.dim == batch.value_dim(), "out.dim", out.dim, batch.value_dim());
    Engine::run(batch.with(q, {out, options.lse.data(), nullptr, nullptr, logits_}), options.executor, options.kernel);
  }

  /// The same over some of the keys, to be merged with the result over others (see merge): give each its first_key, and
  /// both the same first_query. options.lse is not written.
  template <class K = const float, class V = const float>
  Partial partial(QueryTensor q, TensorView<K> keys, TensorView<V> values, const Options& options = {}) const {
    return partial(q, Contiguous(keys, values), options);
  }
  template <KeyValueSource Source>
  Partial partial(QueryTensor q, const Source& source, const Options& options = {}) const {
    return partial(q, std::span<const Source>(&source, 1), options);
  }
  template <KeyValueSource Source>
  Partial partial(QueryTensor q, std::span<const Source> sources, const Options& options = {}) const {
    detail::Batch batch(q.shape(), sources, options, mask_, scores_, logits_);
    Partial result(q.tokens, q.heads, batch.value_dim());
    Engine::run(batch.with(q, result.sink()), options.executor, options.kernel);
    result.logits = logits_;
    return result;
  }

  /// What a call would do. O(queries · runs of the mask); for Flash also the tiles it will visit, exactly.
  template <class K = const float, class V = const float>
  Plan plan(Shape q, TensorView<K> keys, TensorView<V> values, const Options& options = {}) const {
    return plan(q, Contiguous(keys, values), options);
  }
  template <KeyValueSource Source>
  Plan plan(Shape q, const Source& source, const Options& options = {}) const {
    return plan(q, std::span<const Source>(&source, 1), options);
  }
  template <KeyValueSource Source>
  Plan plan(Shape q, std::span<const Source> sources, const Options& options = {}) const {
    detail::Batch batch(q, sources, options, mask_, scores_, logits_);
    const TensorView<const float> queries{nullptr, q.tokens, q.heads, q.dim, 0, 0};
    const TensorView<float> out{nullptr, q.tokens, q.heads, 0, 0, 0};
    return Engine::plan(batch.with(queries, {out}), options.kernel, options.executor.workers());
  }

  const M& mask() const { return mask_; }
  const std::vector<float>& logits() const { return logits_; }

 private:
  M mask_;
  Scores scores_;
  std::vector<float> logits_;
};

namespace detail {
template <class T>
inline constexpr bool kIsMask = Mask<T> || MaskBySite<T>;
template <class T>
auto mask_of(T policy) {
  if constexpr (kIsMask<T>)
    return std::tuple<T>(std::move(policy));
  else
    return std::tuple<>();
}
template <class T>
auto score_of(T policy) {
  if constexpr (ScoreFunction<T>)
    return std::tuple<T>(std::move(policy));
  else
    return std::tuple<>();
}
template <class T>
void take_logits(std::vector<float>& logits, const T& policy) {
  if constexpr (DenominatorLogits<T>) logits.assign(policy.logits().begin(), policy.logits().end());
}
}  // namespace detail

/// Attention by an engine (Flash, or Naive for the definition) with at most one mask, any number of score functions,
/// which run left to right, and at most one set of learned sinks, in any order. Without a mask every query sees every
/// key.
template <class Engine = Flash, class... Policies>
auto attention(Policies... policies) {
  static_assert((... && (detail::kIsMask<Policies> || ScoreFunction<Policies> || DenominatorLogits<Policies>)),
                "a policy is a mask or a score function: see core/concepts.hpp");
  static_assert((0 + ... + (detail::kIsMask<Policies> ? 1 : 0)) <= 1, "two masks: write a & b, or a | b");
  static_assert((0 + ... + (DenominatorLogits<Policies> ? 1 : 0)) <= 1, "two sets of learned sinks: a head has one");
  std::vector<float> logits;
  (detail::take_logits(logits, policies), ...);
  auto mask = std::tuple_cat(detail::mask_of(policies)..., std::tuple<Full>());
  auto scores = std::apply([](auto... f) { return ScoreChain(std::move(f)...); },
                           std::tuple_cat(detail::score_of(std::move(policies))...));
  using M = std::tuple_element_t<0, decltype(mask)>;
  return Attention<Engine, M, decltype(scores)>(std::get<0>(std::move(mask)), std::move(scores), std::move(logits));
}

}  // namespace longspan::inline LONGSPAN_ISA
