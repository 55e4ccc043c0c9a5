#pragma once
// Attention over keys that are stored as the model made them, without positions, and rotated as they are read. The
// cache then never has to be rewritten: not when dynamic NTK changes the frequencies, nor when tokens are evicted or
// move, nor where a key's position depends on the query (rotary_schemes.hpp).

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <longspan/attention.hpp>
#include <longspan/core/scratch.hpp>
#include <longspan/core/transpose.hpp>
#include <longspan/position/rope.hpp>
#include <longspan/rotary_schemes.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {

/// How rotated keys lie: as the source's do, so that kernels read them as they read those. In rows, [keys, kv_heads,
/// head_dim]; or dimension-major as in a PagedCache, [block of 64 keys][kv_heads][head_dim / pack][64 keys][pack].
struct RotatedLayout {
  static constexpr Index kBlock = 64;
  Index kv_heads, head_dim;
  Index pack = 0;  ///< 0: in rows

  template <class Element>
  static RotatedLayout of(const auto& source) {
    RotatedLayout layout{source.kv_heads(), source.head_dim()};
    if (source.keys() == 0) return layout;
    const KeyValueRun<Element> run = source.run(0, 0);
    if (run.key_stride == run.key_pack && layout.head_dim % run.key_pack == 0) layout.pack = run.key_pack;
    return layout;
  }
  Index elements(Index keys) const { return ceil_div(keys, kBlock) * kBlock * kv_heads * head_dim; }
  /// Where dims [pack · r, pack · (r + 1)) of key i are.
  Index at(Index kv_head, Index i, Index r) const {
    if (pack == 0) return (i * kv_heads + kv_head) * head_dim + r;
    return ((i / kBlock * kv_heads + kv_head) * (head_dim / pack) + r) * kBlock * pack + i % kBlock * pack;
  }
};

/// Some keys of a source, rotated, in memory of their own; its values in place.
template <KeyValueSource Source>
class RotatedKeys {
 public:
  using Element = typename Source::Element;

  RotatedKeys(const Source& source, Interval keys, const Element* rotated, const RotatedLayout& layout)
      : source_(source), keys_(keys), rotated_(rotated), layout_(layout) {}

  Index keys() const { return keys_.size(); }
  Index kv_heads() const { return source_.kv_heads(); }
  Index head_dim() const { return source_.head_dim(); }
  Index value_dim() const { return source_.value_dim(); }
  KeyValueRun<Element> run(Index kv_head, Index i) const {
    KeyValueRun<Element> run = source_.run(kv_head, keys_.begin + i);
    run.size = std::min(run.size, keys() - i);
    run.readable = run.size;
    run.key = rotated_ + layout_.at(kv_head, i, 0);
    if (layout_.pack == 0) {
      run.key_stride = kv_heads() * head_dim();
      run.dim_stride = run.key_pack = 1;
    } else {
      const Index left = RotatedLayout::kBlock - i % RotatedLayout::kBlock;
      run.readable = std::min(source_readable(kv_head, i), left);
      run.size = std::min(run.size, left);
      run.key_stride = run.key_pack = layout_.pack;
      run.dim_stride = RotatedLayout::kBlock * layout_.pack;
    }
    return run;
  }

 private:
  Index source_readable(Index kv_head, Index i) const { return source_.run(kv_head, keys_.begin + i).readable; }

  Source source_;
  Interval keys_;
  const Element* rotated_;
  RotatedLayout layout_;
};

/// Rotates keys block by block out of a source.
template <PairLayout Layout>
class KeyRotator {
 public:
  KeyRotator(const RopeBlocks<Layout>& rope, const RotatedLayout& layout) : rope_(rope), layout_(layout) {}

  /// Keys `some` of the source, of one block of `keys`, to where they lie in `rotated`; key i is rotated to at[i -
  /// some.begin].
  template <class Source, class Element>
  void block(const Source& source, Interval keys, Interval some, std::span<const Index> at, Element* rotated) const {
    const Index first = some.begin - keys.begin, heads = layout_.kv_heads, dim = layout_.head_dim;
    if (!in_lanes()) {  // as rows, and back if they don't lie so
      Element* const rows = rotated + layout_.at(0, first, 0);
      Leased<std::vector<Element>, KeyRotator> elsewhere;
      if (layout_.pack != 0) elsewhere->resize(static_cast<std::size_t>(some.size() * heads * dim));
      Element* const to = layout_.pack == 0 ? rows : elsewhere->data();
      each_run(source, some, [&](Index h, Index i, const auto& run, Index size) {
        for (Index j = 0; j < size; ++j)
          for (Index d = 0; d < dim; ++d) to[((i - some.begin + j) * heads + h) * dim + d] = *run.key_at(j, d);
      });
      rope_.rotate(TensorView<Element>{to, some.size(), heads, dim, heads * dim, dim}, at);
      for (Index j = 0; j < some.size() && layout_.pack != 0; ++j)
        for (Index h = 0; h < heads; ++h)
          for (Index d = 0; d < dim; ++d)
            rotated[layout_.at(h, first + j, d / layout_.pack) + d % layout_.pack] = to[(j * heads + h) * dim + d];
      return;
    }
    const Index half = rope_.rotary_dim() / 2, pack = layout_.pack;
    Leased<Scratch, KeyRotator> lease;
    constexpr Index kBlock = RotatedLayout::kBlock;
    float* const rows = lease->floats(5 * kBlock * half);
    float *const row_sine = rows + kBlock * half, *const cosine = row_sine + kBlock * half,
                 *const sine = cosine + kBlock * half, *const lanes = sine + kBlock * half;
    rope_.angles(at, rows, row_sine);
    for (const auto& [from, to] : {std::pair(rows, cosine), std::pair(row_sine, sine)}) {  // to lanes of keys
      transpose(from, half, some.size(), half, pack == 1 ? to : lanes, kBlock);
      for (Index i = 0; i < half && pack > 1; ++i) {
        float* const packed = to + i / pack * kBlock * pack + i % pack;
        for (Index j = 0; j < some.size(); ++j) packed[j * pack] = lanes[i * kBlock + j];
      }
    }
    each_run(source, some, [&](Index h, Index i, const auto& run, Index size) {
      const auto rotated_at = [&](Index r) { return rotated + layout_.at(h, i - keys.begin, r); };
      const Index angle = (i - some.begin) * pack;
      for (Index r = 0; r < half / pack; ++r) {
        const Index a = Layout::first(r, half / pack), b = Layout::second(r, half / pack);
        turn_lanes(run.key + a * run.dim_stride, run.key + b * run.dim_stride, rotated_at(a), rotated_at(b),
                   size * pack, cosine + r * RotatedLayout::kBlock * pack + angle,
                   sine + r * RotatedLayout::kBlock * pack + angle);
      }
      for (Index r = 2 * half / pack; r < dim / pack; ++r)
        std::copy_n(run.key + r * run.dim_stride, size * pack, rotated_at(r));
    });
  }

 private:
  /// Whether the two elements of a pair stand in two rows of lanes of keys.
  bool in_lanes() const {
    const Index half = rope_.rotary_dim() / 2;
    return layout_.pack == 1 || (layout_.pack > 1 && std::is_same_v<Layout, HalfSplit> && half % layout_.pack == 0);
  }

  /// Calls f(kv_head, first key, run, size) for the pieces of `some` in which keys lie together.
  template <class Source, class F>
  void each_run(const Source& source, Interval some, F&& f) const {
    for (Index h = 0; h < layout_.kv_heads; ++h)
      for (Index i = some.begin, size; i < some.end; i += size) {
        const auto run = source.run(h, i);
        size = std::min(run.size, some.end - i);
        f(h, i, run, size);
      }
  }

  /// turn_pairs of rotations.hpp, operation by operation, where neighbours are keys.
  template <class Element>
  static void turn_lanes(const Element* x, const Element* y, Element* to_x, Element* to_y, Index count,
                         const float* __restrict cosine, const float* __restrict sine) {
    constexpr Index kAhead = 4096 / sizeof(Element);  // rows follow each other, so this is some rows on
    for (Index i = 0; i < count; i += 64 / static_cast<Index>(sizeof(Element)))
      prefetch(x + i + kAhead), prefetch(y + i + kAhead);
    if constexpr (std::is_same_v<Element, float>) {
      turn(x, y, to_x, to_y, count, cosine, sine);
    } else {
      alignas(64) float a[2 * RotatedLayout::kBlock], b[2 * RotatedLayout::kBlock];  // all there are of a row
      convert(x, count, a), convert(y, count, b);
      turn(a, b, a, b, count, cosine, sine);
      convert(a, count, to_x), convert(b, count, to_y);
    }
  }
  static LONGSPAN_INLINE void turn(const float* x, const float* y, float* to_x, float* to_y, Index count,
                                   const float* __restrict cosine, const float* __restrict sine) {
    Index i = 0;
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)  // else fma of lanes is not std::fma's
    for (; i + kLanes <= count; i += kLanes) {
      const Lanes c = load(cosine + i), s = load(sine + i), first = load(x + i), second = load(y + i);
      store(to_x + i, fma(first, c, -(second * s)));
      store(to_y + i, fma(second, c, first * s));
    }
#endif
    for (; i < count; ++i) {
      const float c = cosine[i], s = sine[i], first = x[i], second = y[i];
      to_x[i] = std::fma(first, c, -(second * s));
      to_y[i] = std::fma(second, c, first * s);
    }
  }

  const RopeBlocks<Layout>& rope_;
  RotatedLayout layout_;
};

}  // namespace detail

/// Attention whose queries and keys are rotated as they are read; made by rotary_attention(…).
///
/// Calls are those of Attention (attention.hpp) with keys and queries that are not rotated yet; query i and key j are
/// rotated to where they stand, as first_query and first_key say, or to where the scheme places them. Not for ragged
/// batches. Bits: those of attention over the keys rotated by rope.blocks() and rounded to their element type, so they
/// don't depend on threads, pages or chunks; with a scheme of several regions their states merge in a fixed order.
/// Memory: the rotated queries, as many rotated keys (2048 at least, and no more with several regions), and for more
/// keys than those two partial results. Throws std::invalid_argument as Attention, and for positions below 0 or beyond
/// kRopeEnd, before anything is written.
template <class Engine, PairLayout Layout, class Regions>
class RotaryAttention {
 public:
  /// `Regions` is a tuple of detail::RegionAttention.
  RotaryAttention(RopeBlocks<Layout> rope, Regions regions) : rope_(std::move(rope)), regions_(std::move(regions)) {}

  template <class K = const float, class V = const float>
  void operator()(QueryTensor q, TensorView<K> keys, TensorView<V> values, OutputTensor out,
                  const Options& options = {}) const {
    (*this)(q, Contiguous(keys, values), out, options);
  }
  template <KeyValueSource Source>
  void operator()(QueryTensor q, const Source& source, OutputTensor out, const Options& options = {}) const {
    using Element = typename Source::Element;
    const Interval keys{options.first_key, options.first_key + source.keys()};
    const Index first_query = options.first_query.value_or(keys.end - q.tokens);
    const Interval places{first_query, first_query + q.tokens};
    check_call(q, source, out, options, places);

    // Segments end where the kernels' splits do, so a row's states merge as they do inside of one call. Where there is
    // one region a segment may as well be several splits: as many as there are queries, which take as much memory.
    const Index segment = kRegions > 1 ? kSplit : std::max<Index>(1, ceil_div(q.tokens, kSplit)) * kSplit;
    const auto end_of = [&](Index begin) { return std::min((begin / segment + 1) * segment, keys.end); };
    const auto layout = detail::RotatedLayout::of<Element>(source);
    Leased<std::vector<Element>, RotaryAttention> rotated;
    Leased<std::vector<float>, RopeBlocks<Layout>> queries;
    at_least(*rotated, layout.elements(std::min(segment, source.keys())));
    at_least(*queries, q.tokens * q.heads * q.dim);
    const TensorView<float> rows{queries->data(), q.tokens, q.heads, q.dim, q.heads * q.dim, q.dim};
    const auto rotated_keys = [&](const PositionMap& map, Interval part) {
      const Interval some{part.begin - keys.begin, part.end - keys.begin};
      rotate_keys(source, some, keys.begin, map, layout, rotated->data(), options.executor);
      return detail::RotatedKeys<Source>(source, some, rotated->data(), layout);
    };
    Options part = options;

    if (kRegions == 1 && !places.empty() && !keys.empty() && end_of(keys.begin) == keys.end) {
      const auto& one = std::get<0>(regions_);
      part.first_query = places.begin;
      rotate_queries(q, one.region.query, places, rows, options.executor);
      one.attend(rows, rotated_keys(one.region.key, keys), out, part);
      return;
    }
    part.lse = {};
    Partial total(q.tokens, q.heads, source.value_dim());
    for (Index begin = keys.begin; begin < keys.end; begin = end_of(begin))
      each_region([&](const auto& one) {
        const Interval seeing = queries_that_see(one.region.mask, places, {begin, end_of(begin)});
        if (seeing.empty()) return;
        const Interval some{seeing.begin - places.begin, seeing.end - places.begin};
        rotate_queries(q.slice(some), one.region.query, seeing, rows.slice(some), options.executor);
        part.first_key = begin;
        part.first_query = seeing.begin;
        detail::merge_into(
            total, some.begin,
            one.attend.partial(rows.slice(some), rotated_keys(one.region.key, {begin, end_of(begin)}), part));
      });
    detail::finish_into(total, out, options.lse);
  }

 private:
  static constexpr std::size_t kRegions = std::tuple_size_v<Regions>;
  static constexpr Index kSplit = 2048, kTask = detail::RotatedLayout::kBlock;  // keys

  template <class T>
  static void at_least(std::vector<T>& memory, Index size) {
    if (std::ssize(memory) < size) memory.resize(static_cast<std::size_t>(size));
  }

  /// Without the blocks of queries at both ends that see none of these keys.
  template <Mask M>
  static Interval queries_that_see(const M& mask, Interval queries, Interval keys) {
    const auto sees = [&](Interval some) { return next_some(mask, some, keys.begin).begin < keys.end; };
    while (!queries.empty() && !sees({queries.begin, std::min(queries.begin + kTask, queries.end)}))
      queries.begin += kTask;
    while (!queries.empty() && !sees({std::max(queries.end - kTask, queries.begin), queries.end})) queries.end -= kTask;
    return queries;
  }

  template <class F>
  void each_region(F&& f) const {
    std::apply([&](const auto&... one) { (f(one), ...); }, regions_);
  }

  template <class Source>
  void check_call(QueryTensor q, const Source& source, OutputTensor out, const Options& options,
                  Interval places) const {
    check(options.cumulative_queries.empty() && options.cumulative_keys.empty(), "options.cumulative_queries",
          "a ragged batch", "one sequence");
    check(q.dim >= rope_.rotary_dim(), "q.dim", q.dim, AtLeast{rope_.rotary_dim()});
    check(places.begin >= 0 && places.end <= kRopeEnd, "options.first_query", places.begin, "queries within [0, 2^40)");
    check(options.first_key >= 0 && options.first_key + source.keys() <= kRopeEnd, "options.first_key",
          options.first_key, "keys within [0, 2^40)");
    check(out.tokens == q.tokens, "out.tokens", out.tokens, q.tokens);
    check(out.heads == q.heads, "out.heads", out.heads, q.heads);
    check(out.dim == source.value_dim(), "out.dim", out.dim, source.value_dim());
    Options whole = options;
    whole.first_query = places.begin;
    each_region([&](const auto& one) {  // what Attention itself asks of a call
      detail::Batch(q.shape(), std::span<const Source>(&source, 1), whole, one.region.mask, one.scores, {});
    });
  }

  void rotate_queries(QueryTensor q, const PositionMap& map, Interval places, TensorView<float> rows,
                      const ExecutorRef& executor) const {
    executor.for_each(ceil_div(q.tokens, kTask), [&](Index task, Index) {
      const Interval some{task * kTask, std::min((task + 1) * kTask, q.tokens)};
      Index at[kTask];
      for (Index t = some.begin; t < some.end; ++t) {
        at[t - some.begin] = map(places.begin + t);
        for (Index h = 0; h < q.heads; ++h) q.read(t, h, 1.f, rows.row(t, h));
      }
      rope_.rotate(rows.slice(some), std::span<const Index>(at, static_cast<std::size_t>(some.size())));
    });
  }

  template <class Source>
  void rotate_keys(const Source& source, Interval keys, Index first_key, const PositionMap& map,
                   const detail::RotatedLayout& layout, typename Source::Element* rotated,
                   const ExecutorRef& executor) const {
    const detail::KeyRotator<Layout> rotator(rope_, layout);
    executor.for_each(ceil_div(keys.size(), kTask), [&](Index task, Index) {
      const Interval some{keys.begin + task * kTask, std::min(keys.begin + (task + 1) * kTask, keys.end)};
      Index at[kTask];
      for (Index i = some.begin; i < some.end; ++i) at[i - some.begin] = map(first_key + i);
      rotator.block(source, keys, some, std::span<const Index>(at, static_cast<std::size_t>(some.size())), rotated);
    });
  }

  RopeBlocks<Layout> rope_;
  Regions regions_;
};

namespace detail {
/// A region of the scheme and the caller's mask, and attention over both.
template <class M, class Scores, class Attend>
struct RegionAttention {
  Region<M> region;
  Scores scores;
  Attend attend;
};

template <class Engine, class M, class... Policies>
auto region_attention(const Region<M>& region, const Policies&... policies) {
  const auto masks = std::tuple_cat(mask_of(policies)...);
  const auto functions = std::tuple_cat(score_of(policies)...);
  const auto over = [&](const auto& mask) {
    auto scores = std::apply([](const auto&... f) { return ScoreChain(f...); }, functions);
    auto attend = std::apply([&](const auto&... f) { return attention<Engine>(mask, f...); }, functions);
    using Both = std::decay_t<decltype(mask)>;
    return RegionAttention<Both, decltype(scores), decltype(attend)>{
        {mask, region.query, region.key}, std::move(scores), std::move(attend)};
  };
  if constexpr (std::tuple_size_v<decltype(masks)> == 0)
    return over(region.mask);
  else if constexpr (std::is_same_v<M, Full>)
    return over(std::get<0>(masks));
  else
    return over(std::get<0>(masks) & region.mask);
}
}  // namespace detail

/// Attention by a rotary embedding, a scheme that places tokens (rotary_schemes.hpp) and the policies of attention(…):
/// at most one mask, and any number of score functions. Masks and score functions see true positions. Throws what the
/// scheme throws. For dynamic NTK and LongRoPE give it the Rope of the present length; it costs about a 64-token
/// rotation to make.
template <class Engine = Flash, PairLayout Layout, class Scheme, class... Policies>
auto rotary_attention(const Rope<Layout>& rope, const Scheme& scheme, const Policies&... policies) {
  static_assert((... && (Mask<Policies> || ScoreFunction<Policies>)),
                "rotary_attention(rope, scheme, policies…): a policy is a mask or a score function");
  static_assert((0 + ... + (Mask<Policies> ? 1 : 0)) <= 1, "two masks: write a & b, or a | b");
  auto regions = std::apply(
      [&](const auto&... region) { return std::tuple(detail::region_attention<Engine>(region, policies...)...); },
      scheme.regions());
  return RotaryAttention<Engine, Layout, decltype(regions)>(rope.blocks(), std::move(regions));
}

}  // namespace longspan::inline LONGSPAN_ISA
