// Keys that are rotated as they are read: against the definition, against keys that were rotated before, and for the
// schemes that place a key by its distance.

#include <gtest/gtest.h>

#include <longspan/exec/thread_pool.hpp>
#include <longspan/kv/paged.hpp>
#include <longspan/position/by_length.hpp>
#include <longspan/rotary_attention.hpp>
#include <support/any_mask.hpp>
#include <support/near.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

constexpr Index kHeads = 4, kKvHeads = 2, kDim = 16, kValueDim = 8;

/// A scheme with three regions of one type, so that kernels are compiled once for all of them.
struct AnyScheme {
  std::vector<Region<AnyMask>> list;

  template <class Scheme>
  static AnyScheme of(const Scheme& scheme) {
    AnyScheme any;
    std::apply(
        [&](const auto&... r) {
          (any.list.push_back({AnyMask::of(Causal{} & r.mask), r.query, r.key}), ...);
        },
        scheme.regions());
    while (any.list.size() < 3) any.list.push_back({AnyMask::of(!Full{})});
    return any;
  }
  auto regions() const { return std::tuple(list[0], list[1], list[2]); }
};
auto attend_by(const Rope<HalfSplit>& rope, const auto& scheme) {
  return rotary_attention(rope, AnyScheme::of(scheme));
}

struct Tensors {
  Index queries, keys;
  std::vector<float> q, k, v;

  Tensors(Index queries_, Index keys_, std::uint64_t seed = 81) : queries(queries_), keys(keys_) {
    Random random(seed);
    q = random.gaussian(queries * kHeads * kDim);
    k = random.gaussian(keys * kKvHeads * kDim);
    v = random.gaussian(keys * kKvHeads * kValueDim);
  }
  auto q_view() const { return view(q, queries, kHeads, kDim); }
  auto k_view() const { return view(k, keys, kKvHeads, kDim); }
  auto v_view() const { return view(v, keys, kKvHeads, kValueDim); }
  Contiguous<float> source() const { return {k_view(), v_view()}; }
};

struct Result {
  std::vector<float> out, lse;
  bool operator==(const Result& other) const {
    return static_cast<bool>(same_bits(out, other.out)) && static_cast<bool>(same_bits(lse, other.lse));
  }
};

template <class Attend, class Source>
Result run(const Attend& attend, TensorView<const float> q, const Source& source, Options options = {}) {
  Result r{std::vector<float>(static_cast<std::size_t>(q.tokens * kHeads * kValueDim)),
           std::vector<float>(static_cast<std::size_t>(q.tokens * kHeads))};
  options.lse = r.lse;
  attend(q, source, view(r.out, q.tokens, kHeads, kValueDim), options);
  return r;
}

/// Where a query and a key are rotated to.
using Places = std::pair<Index, Index>;

/// The definition, in double: causal attention whose scores are of rows rotated to places(q, k).
template <class F>
std::vector<double> definition(const Tensors& t, const std::vector<double>& frequencies, F places) {
  std::vector<double> out;
  const Index half = kDim / 2;
  for (Index i = 0; i < t.queries; ++i)
    for (Index h = 0; h < kHeads; ++h) {
      const Index q = t.keys - t.queries + i, g = h / (kHeads / kKvHeads);
      std::vector<double> scores, values(kValueDim, 0.0);
      for (Index k = 0; k <= q; ++k) {
        const auto [at_q, at_k] = places(q, k);
        const float *x = t.q_view().row(i, h), *y = t.k_view().row(k, g);
        double score = 0;
        for (Index d = 0; d < half; ++d) {
          const double angle = static_cast<double>(at_q - at_k) * frequencies[static_cast<std::size_t>(d)];
          const double dot = static_cast<double>(x[d]) * y[d] + static_cast<double>(x[d + half]) * y[d + half];
          const double cross = static_cast<double>(x[d]) * y[d + half] - static_cast<double>(x[d + half]) * y[d];
          score += dot * std::cos(angle) + cross * std::sin(angle);
        }
        scores.push_back(score / std::sqrt(static_cast<double>(kDim)));
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (Index k = 0; k <= q; ++k) {
        const double weight = std::exp(scores[static_cast<std::size_t>(k)] - most);
        sum += weight;
        for (Index d = 0; d < kValueDim; ++d) values[static_cast<std::size_t>(d)] += weight * t.v_view().row(k, g)[d];
      }
      for (const double x : values) out.push_back(x / sum);
    }
  return out;
}

template <class Scheme, class F>
void is_defined(const Scheme& scheme, F places) {
  const Rope<HalfSplit> rope(kDim, 10000.0);
  const std::vector<double> f(rope.inverse_frequencies().begin(), rope.inverse_frequencies().end());
  const auto attend = attend_by(rope, scheme);
  for (const auto& [queries, keys] : {std::pair<Index, Index>{300, 300}, {3, 2500}, {1, 1}}) {
    const Tensors t(queries, keys);
    const Result got = run(attend, t.q_view(), t.source());
    EXPECT_TRUE(near(got.out, definition(t, f, places), 4e-6)) << queries << ", " << keys;
  }
}

TEST(Schemes, AreDefined) {
  is_defined(Consecutive{}, [](Index q, Index k) { return Places{q, k}; });
  for (const auto& [group, window] : {std::pair<Index, Index>{4, 64}, {3, 50}, {8, 1000}, {1, 7}})
    is_defined(SelfExtend{group, window}, [g = group, w = window](Index q, Index k) {
      return q - k < w ? Places{q, k} : Places{q / g + w - w / g, k / g};
    });
  for (const Index window : {1, 60, 700})
    is_defined(ReRope{window}, [w = window](Index q, Index k) { return Places{std::min(q - k, w), 0}; });
  for (const auto& [chunk, trained] : {std::pair<Index, Index>{48, 64}, {100, 150}, {700, 1000}})
    is_defined(DualChunk{chunk, trained}, [s = chunk, c = trained](Index q, Index k) {
      if (q / s == k / s) return Places{q % s, k % s};
      if (q / s == k / s + 1) return Places{std::min(q % s + s, c - 1), k % s};
      return Places{c - 1, k % s};
    });
}

/// No distance that the model doesn't know, however long the text.
TEST(Schemes, StayWithinTheTrainedLength) {
  const DualChunk dual{.chunk = 48, .trained = 64};
  const SelfExtend extend{.group = 8, .window = 24};  // reaches 24 + (64 − 24) · 8 tokens
  const auto most = [](const auto& scheme, Index length) {
    Index largest = 0;
    std::apply(
        [&](const auto&... r) {
          const auto look = [&](const auto& region) {
            for (Index q = 0; q < length; ++q)
              for (Index k = 0; k <= q; ++k)
                if (static_cast<bool>((Causal{} & region.mask).allows(q, k)))
                  largest = std::max(largest, region.query(q) - region.key(k));
          };
          (look(r), ...);
        },
        scheme.regions());
    return largest;
  };
  EXPECT_EQ(most(dual, 500), 63);
  EXPECT_LE(most(extend, 24 + 40 * 8), 64);
  EXPECT_EQ(most(ReRope{.window = 40}, 500), 40);
}

TEST(Schemes, RegionsAreAPartition) {
  const auto partition = [](const auto& scheme) {
    for (Index q = 0; q < 300; ++q)
      for (Index k = 0; k < 300; ++k) {
        const int regions =
            std::apply([&](const auto&... r) { return (0 + ... + (static_cast<bool>(r.mask.allows(q, k)) ? 1 : 0)); },
                       scheme.regions());
        ASSERT_LE(regions, 1) << q << ", " << k;
        ASSERT_TRUE(regions == 1 || k > q) << q << ", " << k;
      }
  };
  partition(SelfExtend{.group = 4, .window = 31});
  partition(ReRope{.window = 31});
  partition(DualChunk{.chunk = 37, .trained = 64});
}

TEST(Schemes, BadNumbersAreRefused) {
  for (const Index bad : {0, -1}) {
    EXPECT_TRUE(refused([&] { (void)SelfExtend{.group = bad}.regions(); }, "SelfExtend.group", bad, ">= 1"));
    EXPECT_TRUE(refused([&] { (void)SelfExtend{.window = bad}.regions(); }, "SelfExtend.window", bad, ">= 1"));
    EXPECT_TRUE(refused([&] { (void)ReRope{.window = bad}.regions(); }, "ReRope.window", bad, ">= 1"));
    EXPECT_TRUE(
        refused([&] { (void)DualChunk{.chunk = bad}.regions(); }, "DualChunk.chunk", bad, "within [1, trained)"));
    EXPECT_TRUE(refused([&] { ChunksBefore(bad, 0); }, "ChunksBefore.size", bad, ">= 1"));
  }
  EXPECT_TRUE(refused([] { (void)DualChunk{.chunk = 512}.regions(); }, "DualChunk.chunk", 512, "within [1, trained)"));
  EXPECT_TRUE(refused([] { (void)DualChunk{.trained = 1}.regions(); }, "DualChunk.trained", 1, ">= 2"));
  EXPECT_TRUE(refused([] { ChunksBefore(4, -1); }, "ChunksBefore.first", -1, ">= 0"));
  EXPECT_TRUE(refused([] { ChunksBefore(4, 2, 1); }, "ChunksBefore.last", 1, ">= 2"));
}

/// Un-rotated keys, contiguous or paged, read by any number of threads, in one call or in chunks: the bits of a cache
/// of keys that were rotated before.
TEST(RotateOnRead, HasTheBitsOfARotatedCache) {
  const Rope<HalfSplit> rope(kDim, 10000.0, Linear{.factor = 2});
  const auto rotating = attend_by(rope, Consecutive{});
  const auto plain = attention(AnyMask::of(Causal{}));
  const Tensors t(200, 5000);
  Tensors rotated = t;
  rope.blocks().rotate(view(rotated.q, t.queries, kHeads, kDim), t.keys - t.queries);
  rope.blocks().rotate(view(rotated.k, t.keys, kKvHeads, kDim), 0);
  const Result wanted = run(plain, rotated.q_view(), rotated.source());
  EXPECT_TRUE(run(rotating, t.q_view(), t.source()) == wanted);
  ThreadPool pool(3);
  EXPECT_TRUE(run(rotating, t.q_view(), t.source(), {.executor = pool}) == wanted);
  EXPECT_TRUE(run(rotating, t.q_view(), t.source(), {.kernel = Kernel::kNarrow}) == wanted);

  PagedCache<float> cache(
      {.pages = 60, .page_size = 100, .kv_heads = kKvHeads, .head_dim = kDim, .value_dim = kValueDim});
  const SequenceId chat = cache.open();
  for (Index begin = 0; begin < t.keys;) {
    const Interval some{begin, std::min<Index>(t.keys, begin + (begin < 4800 ? 600 : 50))};
    ASSERT_EQ(cache.append(chat, t.k_view().slice(some), t.v_view().slice(some)), Appended::kDone);
    begin = some.end;
    if (begin <= t.keys - t.queries) continue;
    const Interval rows{some.begin - (t.keys - t.queries), some.end - (t.keys - t.queries)};
    const Result part = run(rotating, t.q_view().slice(rows), cache.view(chat), {.executor = pool});
    const auto from = static_cast<std::size_t>(rows.begin * kHeads * kValueDim);
    EXPECT_TRUE(same_bits(part.out, std::span(wanted.out).subspan(from, part.out.size()))) << some.begin;
  }
  EXPECT_TRUE(run(rotating, t.q_view(), cache.view(chat)) == wanted);
}

/// Dynamic NTK in a cache that grows: at every length the bits of a computation from nothing at that length, although
/// every length has frequencies of its own.
TEST(RotateOnRead, DynamicNtkAtEveryLength) {
  const Tensors t(150, 150, 82);
  PagedCache<float> cache(
      {.pages = 20, .page_size = 16, .kv_heads = kKvHeads, .head_dim = kDim, .value_dim = kValueDim});
  const SequenceId chat = cache.open();
  const auto plain = attention(AnyMask::of(Causal{}));
  std::vector<float> before;
  for (Index n = 1; n <= t.keys; ++n) {
    ASSERT_EQ(cache.append(chat, t.k_view().slice({n - 1, n}), t.v_view().slice({n - 1, n})), Appended::kDone);
    const Rope<HalfSplit> rope(kDim, 10000.0, DynamicNtk{.factor = 2, .original_context = 64, .length = n});
    const Result grown = run(attend_by(rope, Consecutive{}), t.q_view().slice({n - 1, n}), cache.view(chat));

    std::vector<float> q(t.q.begin(), t.q.begin() + n * kHeads * kDim),
        k(t.k.begin(), t.k.begin() + n * kKvHeads * kDim);
    rope.blocks().rotate(view(q, n, kHeads, kDim), 0);
    rope.blocks().rotate(view(k, n, kKvHeads, kDim), 0);
    const Contiguous<float> fresh(view(std::as_const(k), n, kKvHeads, kDim), t.v_view().slice({0, n}));
    const Result whole = run(plain, view(std::as_const(q), n, kHeads, kDim), fresh);
    EXPECT_TRUE(same_bits(grown.out, std::span(whole.out).last(grown.out.size()))) << n;
    EXPECT_TRUE(same_bits(grown.lse, std::span(whole.lse).last(grown.lse.size()))) << n;
  }
}

TEST(RotateOnRead, OnlyDifferencesOfPositionsCount) {
  const Tensors t(100, 300, 83);
  const auto attend = attend_by(Rope<HalfSplit>(kDim, 10000.0), Consecutive{});
  const Result here = run(attend, t.q_view(), t.source());
  for (const Index far : {Index{1000000}, (Index{1} << 30) - 300}) {
    const Result there = run(attend, t.q_view(), t.source(), {.first_key = far});
    for (std::size_t i = 0; i < here.out.size(); ++i) EXPECT_TRUE(std::abs(there.out[i] - here.out[i]) <= 1e-6);
  }
}

/// What rotated keys of elements T are like: of the words that kernels multiply.
template <class T>
using Rotated = std::conditional_t<WordsOf<T>::kPer == 1, float, bf16>;

template <class To, class From>
std::vector<To> as(const std::vector<From>& from) {
  std::vector<To> to;
  for (const From x : from) to.push_back(static_cast<To>(static_cast<float>(x)));
  return to;
}

/// Keys and values of elements T in rows or in pages of any size, in which keys lie dimension-major and packed, rotated
/// in lanes of keys or as rows, by either kernel, for queries that share a pass over the keys and for more: the bits of
/// attention over keys that were rotated before.
template <class T, class Layout>
void has_the_bits_of_rotated_keys() {
  for (const Index rotary : {16, 12, 10}) {  // 10: half a pair of packed dims
    const Rope<Layout> rope(rotary, 10000.0, Linear{.factor = 3});
    const auto attend = rotary_attention(rope, AnyScheme::of(Consecutive{}));
    const auto plain = attention(AnyMask::of(Causal{}));
    for (const Index queries : {1, 3, 9, 20}) {
      const Tensors t(queries, 2300, 86);
      const std::vector<T> k = as<T>(t.k), v = as<T>(t.v);
      std::vector<Rotated<T>> rotated = as<Rotated<T>>(k);
      const std::vector<Rotated<T>> same = as<Rotated<T>>(v);
      std::vector<float> q = t.q;
      rope.blocks().rotate(view(q, queries, kHeads, kDim), 1000 + t.keys - queries);
      rope.blocks().rotate(view(rotated, t.keys, kKvHeads, kDim), 1000);
      const auto in = [&](const auto& x, Index dim) { return view(x, t.keys, kKvHeads, dim); };
      const Contiguous<Rotated<T>> stored(in(std::as_const(rotated), kDim), in(same, kValueDim));
      const Result wanted = run(plain, view(std::as_const(q), queries, kHeads, kDim), stored, {.first_key = 1000});
      const auto expect = [&](const auto& source, const char* where, Index page_size) {
        for (const Kernel kernel : {Kernel::kNarrow, Kernel::kWide})
          EXPECT_TRUE(run(attend, t.q_view(), source, {.first_key = 1000, .kernel = kernel}) == wanted)
              << where << page_size << ", rotary " << rotary << ", " << queries << " queries, "
              << (kernel == Kernel::kWide ? "wide" : "narrow");
      };
      if constexpr (ElementType<T>) expect(Contiguous<T>(in(k, kDim), in(v, kValueDim)), "rows", 0);
      for (const Index page_size : {16, 64, 100, 7}) {
        PagedCache<T> cache({.pages = t.keys / page_size + 1,
                             .page_size = page_size,
                             .kv_heads = kKvHeads,
                             .head_dim = kDim,
                             .value_dim = kValueDim});
        const SequenceId raw = cache.open();
        ASSERT_EQ(cache.append(raw, in(t.k, kDim), in(t.v, kValueDim)), Appended::kDone);
        expect(cache.view(raw), "pages of ", page_size);
      }
    }
  }
}
TEST(RotateOnRead, Floats) {
  has_the_bits_of_rotated_keys<float, HalfSplit>();
  has_the_bits_of_rotated_keys<float, Adjacent>();
}
TEST(RotateOnRead, SixteenBits) {
  has_the_bits_of_rotated_keys<bf16, HalfSplit>();
  has_the_bits_of_rotated_keys<bf16, Adjacent>();
  has_the_bits_of_rotated_keys<f16, HalfSplit>();
}
TEST(RotateOnRead, EightBits) {
  has_the_bits_of_rotated_keys<e4m3, HalfSplit>();
  has_the_bits_of_rotated_keys<e5m2, Adjacent>();
}

/// Several regions, many queries over more keys than they have memory for, or each alone: one set of bits.
TEST(RotateOnRead, RegionsInAnyCut) {
  const Rope<HalfSplit> rope(kDim, 10000.0);
  const Tensors t(40, 5000, 88);
  ThreadPool pool(3);
  PagedCache<float> cache(
      {.pages = 79, .page_size = 64, .kv_heads = kKvHeads, .head_dim = kDim, .value_dim = kValueDim});
  const SequenceId raw = cache.open();
  ASSERT_EQ(cache.append(raw, t.k_view(), t.v_view()), Appended::kDone);
  const auto check = [&](const auto& scheme, const char* name) {
    const auto attend = attend_by(rope, scheme);
    const Result wanted = run(attend, t.q_view(), t.source());
    EXPECT_TRUE(run(attend, t.q_view(), t.source(), {.executor = pool, .kernel = Kernel::kNarrow}) == wanted) << name;
    for (Index i = 0; i < t.queries; i += 13) {
      const Index at = t.keys - t.queries + i;
      const auto from = static_cast<std::size_t>(i * kHeads * kValueDim);
      const auto expect = [&](const Result& one) {
        EXPECT_TRUE(same_bits(one.out, std::span(wanted.out).subspan(from, one.out.size()))) << name << ", " << i;
      };
      const auto q = t.q_view().slice({i, i + 1});
      expect(run(attend, q, t.source(), {.executor = pool, .first_query = at}));
      expect(run(attend, q, cache.view(raw), {.first_query = at}));
    }
  };
  check(SelfExtend{.group = 4, .window = 2100}, "self-extend");
  check(ReRope{.window = 600}, "rerope");
  check(DualChunk{.chunk = 448, .trained = 600}, "dual chunk");
  check(CachePositions{.sinks = 4, .recent = 1000}, "cache positions");
}

/// The engine that is the definition has the keys that kernels have.
TEST(RotateOnRead, ByTheDefinition) {
  const Rope<HalfSplit> rope(kDim, 10000.0);
  const Tensors t(2, 150, 89);
  PagedCache<bf16> cache({.pages = 3, .page_size = 64, .kv_heads = kKvHeads, .head_dim = kDim, .value_dim = kValueDim});
  const SequenceId raw = cache.open();
  ASSERT_EQ(cache.append(raw, t.k_view(), t.v_view()), Appended::kDone);
  const AnyScheme scheme = AnyScheme::of(ReRope{.window = 70});
  const Result exact = run(rotary_attention<Naive>(rope, scheme), t.q_view(), cache.view(raw));
  const Result fast = run(rotary_attention(rope, scheme), t.q_view(), cache.view(raw));
  EXPECT_TRUE(
      near(fast.out, std::vector<double>(exact.out.begin(), exact.out.end()), WordsOf<bf16>::kPer == 1 ? 4e-6 : 0.02));
}

TEST(RotateOnRead, PoliciesSeeTruePositions) {
  // A window of the caller's over self-extend: what it cuts off is not seen, wherever it would be rotated to.
  const Rope<HalfSplit> rope(kDim, 10000.0);
  Tensors t(1, 400, 85);
  const auto attend =
      rotary_attention(rope, AnyScheme::of(SelfExtend{.group = 4, .window = 32}), AnyMask::of(Window{100}));
  const Result before = run(attend, t.q_view(), t.source());
  std::fill_n(t.k.begin(), 300 * kKvHeads * kDim, 9.f);
  EXPECT_TRUE(run(attend, t.q_view(), t.source()) == before);
  std::fill_n(t.k.begin(), 301 * kKvHeads * kDim, 9.f);
  EXPECT_FALSE(run(attend, t.q_view(), t.source()) == before);
}

TEST(RotateOnRead, NothingToDoAndBadInput) {
  const Rope<HalfSplit> rope(kDim, 10000.0);
  const auto attend = attend_by(rope, Consecutive{});
  const Tensors none(0, 5), no_keys(2, 0);
  EXPECT_NO_THROW(run(attend, none.q_view(), none.source()));
  const Result zeros = run(attend, no_keys.q_view(), no_keys.source(), {.first_query = 0});
  for (const float x : zeros.out) EXPECT_EQ(x, 0.f);
  for (const float x : zeros.lse) EXPECT_EQ(x, kMinusInfinity);

  const Tensors t(2, 5);
  std::vector<float> out(2 * kHeads * kValueDim, 7.f), lse(3);
  const std::vector<float> untouched = out;
  const auto call = [&](const Options& options, Index out_tokens = 2) {
    attend(t.q_view(), t.source(),
           TensorView<float>{out.data(), out_tokens, kHeads, kValueDim, kHeads * kValueDim, kValueDim}, options);
  };
  const std::vector<Index> starts{0, 2};
  EXPECT_TRUE(refused([&] { call({.cumulative_queries = starts}); }, "options.cumulative_queries", "a ragged batch",
                      "one sequence"));
  EXPECT_TRUE(refused([&] { call({.first_query = -1}); }, "options.first_query", -1, "queries within [0, 2^40)"));
  EXPECT_TRUE(refused([&] { call({.first_query = kRopeEnd - 1}); }, "options.first_query", kRopeEnd - 1,
                      "queries within [0, 2^40)"));
  EXPECT_TRUE(refused([&] { call({.first_query = 5, .first_key = kRopeEnd - 4}); }, "options.first_key", kRopeEnd - 4,
                      "keys within [0, 2^40)"));
  EXPECT_TRUE(refused([&] { call({}, 3); }, "out.tokens", 3, 2));
  EXPECT_TRUE(refused([&] { call({.lse = lse}); }, "options.lse.size", 3, 8));
  EXPECT_TRUE(refused([&] { call({.scale = -1.f}); }, "options.scale", -1, "finite and > 0"));
  const auto wide = attend_by(Rope<HalfSplit>(kDim + 2, 10000.0), Consecutive{});
  EXPECT_TRUE(refused([&] { run(wide, t.q_view(), t.source()); }, "q.dim", kDim, AtLeast{kDim + 2}));
  EXPECT_TRUE(same_bits(out, untouched));
}

}  // namespace
}  // namespace longspan::testing
