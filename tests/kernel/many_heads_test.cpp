// Many query heads over one KV head (multi-query attention, MLA's absorbed form): heads are lanes of the wide kernel.
// Against the definition, over two tensors of which one is a view of the other, and over latent pages; the bits of a
// row, whatever computes it; what plan() says.

#include <gtest/gtest.h>

#include <string>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

/// Rows [keys, kv_heads, head_dim] whose first value_dim elements are the values: in a tensor, and in latent pages
/// whose unused ends hold NaN.
template <class T>
class LatentRows {
 public:
  LatentRows(const cases::Shape& s, std::uint64_t seed, Index page_size = 64)
      : shape(s),
        q_(cases::normal(s.queries * s.heads * s.head_dim, seed)),
        rows_(static_cast<std::size_t>(s.keys * s.kv_heads * s.head_dim)),
        cache_({.pages = ceil_div(s.keys, page_size) + 1,
                .page_size = page_size,
                .kv_heads = s.kv_heads,
                .head_dim = s.head_dim,
                .value_dim = s.value_dim,
                .latent = true}) {
    const std::vector<float> rows = cases::normal(std::ssize(rows_), seed + 1);
    convert(rows.data(), std::ssize(rows), rows_.data());
    const SequenceId spoilt = cache_.open();
    const std::vector<float> bad = nans(page_size * s.kv_heads * s.head_dim);
    while (cache_.append(spoilt, view(bad, page_size, s.kv_heads, s.head_dim)) == Outcome::kDone) continue;
    cache_.close(spoilt);
    id_ = cache_.open();
    if (cache_.append(id_, keys()) != Outcome::kDone) throw std::logic_error("LatentRows: too few pages");
  }
  TensorView<const float> q() const { return view(q_, shape.queries, shape.heads, shape.head_dim); }
  TensorView<const T> keys() const { return view(rows_, shape.keys, shape.kv_heads, shape.head_dim); }
  TensorView<const T> values() const {
    TensorView<const T> v = keys();
    v.dim = shape.value_dim;
    return v;
  }
  Contiguous<T> contiguous() const { return {keys(), values()}; }
  PagedView<T> paged() const { return cache_.view(id_); }
  /// Key j holds this, in all heads.
  void spoil(Index j, float x) {
    std::fill_n(rows_.begin() + j * shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim, T(x));
    cache_.truncate(id_, 0);
    if (cache_.append(id_, keys()) != Outcome::kDone) throw std::logic_error("LatentRows: too few pages");
  }

  cases::Shape shape;

 private:
  std::vector<float> q_;
  std::vector<T> rows_;
  PagedCache<T> cache_;
  SequenceId id_;
};

/// Attention by an engine over any source, with policies behind one type.
template <class Engine, class Source>
Result attend(TensorView<const float> q, const Source& source, const AnyMask& mask, const AnyScore& scores,
              const Options& options = {}, const std::vector<float>& logits = {}) {
  return scores.none() ? run(Attention<Engine, AnyMask, ScoreChain<>>(mask, ScoreChain<>(), logits), q, source, options)
                       : run(Attention<Engine, AnyMask, ScoreChain<AnyScore>>(mask, ScoreChain(scores), logits), q,
                             source, options);
}

struct Policies {
  std::string name;
  AnyMask mask;
  AnyScore scores = {};
};
std::vector<Policies> policies(Index heads) {
  return {{"causal", AnyMask::of(Causal{})},
          {"window 70", AnyMask::of(Window{70})},
          {"sinks | window", AnyMask::of(Window{33} | Sinks{4})},
          {"documents", AnyMask::of(Causal{} & Documents(std::vector<Index>{0, 30, 299, 331, 5000}))},
          {"alibi", AnyMask::of(Causal{}), AnyScore::of(std::tuple(Alibi(heads)))},
          {"window, soft cap, alibi", AnyMask::of(Window{70}), AnyScore::of(std::tuple(SoftCap{3.f}, Alibi(heads)))}};
}

/// `tolerance`: of max|v|, where scores are small.
template <class T>
void check_against_definition(double tolerance) {
  for (const Index heads : {16, 24, 128})
    for (const Index queries : {1, 2, 3, 4})
      for (const auto& [keys, kv_heads] : {std::pair<Index, Index>{333, 1}, {333, 2}, {2100, 1}}) {
        if (keys > 333 && queries % 3 != 1) continue;
        const LatentRows<T> rows({queries, keys, heads * kv_heads, kv_heads, 40, 32}, 3, queries == 2 ? 100 : 16);
        for (const Policies& p : policies(heads * kv_heads)) {
          SCOPED_TRACE(rows.shape.name() + " " + p.name + ", seed 3");
          const Result exact = attend<Naive>(rows.q(), rows.contiguous(), p.mask, p.scores);
          for (const Kernel kernel : {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow}) {
            const Result flash = attend<Flash>(rows.q(), rows.contiguous(), p.mask, p.scores, {.kernel = kernel});
            ASSERT_TRUE(same_bits(attend<Flash>(rows.q(), rows.paged(), p.mask, p.scores, {.kernel = kernel}), flash));
            for (std::size_t i = 0; i < exact.out.size(); ++i)
              ASSERT_TRUE(error_in(flash.out[i], static_cast<double>(exact.out[i]), 1) <= tolerance * 3.5)
                  << "element " << i << ": got " << flash.out[i] << ", expected " << exact.out[i];
            for (std::size_t i = 0; i < exact.lse.size(); ++i)
              ASSERT_TRUE(error_in(flash.lse[i], static_cast<double>(exact.lse[i]), 1) <= 4 * tolerance)
                  << "LSE " << i << ": got " << flash.lse[i] << ", expected " << exact.lse[i];
          }
        }
      }
}
TEST(ManyHeads, FloatsAsDefined) { check_against_definition<float>(2e-6); }
TEST(ManyHeads, Bf16AsDefined) { check_against_definition<bf16>(kPack<bf16> == 1 ? 2e-6 : 4 * 0x1p-9); }

/// The bits of heads alone by the narrow kernel are wanted from everything.
template <class T>
void check_bits(Index heads, Index queries, Index keys) {
  ThreadPool two(2), three(3);
  const cases::Shape shape{queries, keys, heads, 1, 40, 32};
  std::vector<float> logits = cases::normal(heads, 5);
  logits[0] = kMinusInfinity;
  for (const Policies& p : policies(heads)) {
    SCOPED_TRACE(shape.name() + " " + p.name + ", seed 7");
    Result wanted;
    for (const Index page_size : {64, 100, 7}) {
      const LatentRows<T> rows(shape, 7, page_size);
      if (wanted.out.empty())
        wanted = attend<Flash>(rows.q(), rows.contiguous(), p.mask, p.scores, {.kernel = Kernel::kNarrow}, logits);
      const auto over = [&](const auto& source, const std::string& what) {
        for (const Kernel kernel : {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow})
          for (ThreadPool* pool : {static_cast<ThreadPool*>(nullptr), &two, &three}) {
            Options options{.kernel = kernel};
            if (pool) options.executor = *pool;
            ASSERT_TRUE(same_bits(attend<Flash>(rows.q(), source, p.mask, p.scores, options, logits), wanted))
                << what << ", kernel " << static_cast<int>(kernel) << ", " << (pool ? pool->workers() : 1)
                << " threads";
          }
      };
      over(rows.contiguous(), "contiguous");
      over(rows.paged(), "pages of " + std::to_string(page_size));
      for (Index row = 0; row < queries; ++row) {  // one at a time, over the keys up to its own
        const Index end = keys - queries + row + 1;
        const Interval one{row, row + 1};
        ASSERT_TRUE(same_bits(
            attend<Flash>(rows.q().slice(one), rows.contiguous().slice({0, end}), p.mask, p.scores, {}, logits),
            rows_of(wanted, one, heads, shape.value_dim)))
            << "row " << row << " alone";
      }
    }
  }
}
TEST(ManyHeads, BitsOfFloats) {
  check_bits<float>(24, 3, 333);
  check_bits<float>(150, 2, 200);
  check_bits<float>(16, 4, 6200);  // three splits and a bit
  check_bits<float>(128, 1, 4200);
}
TEST(ManyHeads, BitsOfBf16) {
  check_bits<bf16>(24, 3, 333);
  check_bits<bf16>(128, 1, 4200);
}

TEST(ManyHeads, AHeadAlone) {
  const LatentRows<float> rows({3, 2200, 40, 1, 40, 32}, 9);
  const AnyMask mask = AnyMask::of(Causal{});
  const Result all = attend<Flash>(rows.q(), rows.paged(), mask, {}, {.kernel = Kernel::kWide});
  for (Index h = 0; h < 40; ++h) {
    TensorView<const float> q = rows.q();
    q.data = q.row(0, h);
    q.heads = 1;
    const Result one = attend<Flash>(q, rows.paged(), mask, {});
    for (Index row = 0; row < 3; ++row)
      for (Index d = 0; d < 32; ++d)
        ASSERT_EQ(one.out[static_cast<std::size_t>(row * 32 + d)],
                  all.out[static_cast<std::size_t>((row * 40 + h) * 32 + d)])
            << "head " << h << ", row " << row << ", seed 9";
  }
}

TEST(ManyHeads, AMaskedKeyMayBeAnything) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    LatentRows<float> rows({3, 300, 24, 1, 40, 32}, 4);
    const AnyMask mask = AnyMask::of(Window{60} | Sinks{2});
    const Result wanted = attend<Flash>(rows.q(), rows.contiguous(), mask, {}, {.kernel = Kernel::kNarrow});
    rows.spoil(100, bad);
    rows.spoil(2, bad);  // in a block of which something is seen
    for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow}) {
      EXPECT_TRUE(same_bits(attend<Flash>(rows.q(), rows.contiguous(), mask, {}, {.kernel = kernel}), wanted));
      EXPECT_TRUE(same_bits(attend<Flash>(rows.q(), rows.paged(), mask, {}, {.kernel = kernel}), wanted));
    }
  }
}

TEST(ManyHeads, PartsMergeAndOutputsAreRounded) {
  const LatentRows<bf16> rows({2, 500, 24, 1, 40, 32}, 6);
  const auto attention_to = attention(Causal{}, SinkLogits(cases::normal(24, 8)));
  const Result whole = run(attention_to, rows.q(), rows.contiguous(), {.kernel = Kernel::kNarrow});
  std::vector<bf16> rounded(whole.out.size());
  attention_to(rows.q(), rows.paged(), view(rounded, 2, 24, 32), {.kernel = Kernel::kWide});
  for (std::size_t i = 0; i < rounded.size(); ++i) ASSERT_EQ(rounded[i].bits, bf16(whole.out[i]).bits) << i;

  Partial sum(2, 24, 32);
  for (const Interval keys : {Interval{0, 130}, Interval{130, 500}})
    sum = merge(sum, attention_to.partial(rows.q(), rows.paged().part(keys),
                                          {.first_query = 498, .first_key = keys.begin, .kernel = Kernel::kWide}));
  Result merged{nans(std::ssize(whole.out)), nans(std::ssize(whole.lse))};
  sum.finish(view(merged.out, 2, 24, 32), merged.lse);
  for (std::size_t i = 0; i < merged.out.size(); ++i)
    ASSERT_TRUE(error_in(merged.out[i], static_cast<double>(whole.out[i]), 1) <= 4 * 0x1p-9 * 3.5) << i;
}

TEST(ManyHeads, ThePlanIsWhatRuns) {
  ThreadPool two(2);
  const auto attention_to = attention(Causal{});
  for (const Index heads : {8, 16, 128, 300})
    for (const Index queries : {1, 4})
      for (const bool threads : {false, true}) {
        const LatentRows<bf16> rows({queries, 6200, heads, 1, 576, 512}, 2);
        Options options;
        if (threads) options.executor = two;
        SCOPED_TRACE(rows.shape.name() + (threads ? " 2 threads" : ""));
        const Plan plan = attention_to.plan(rows.q().shape(), rows.paged(), options);
        EXPECT_STREQ(plan.kernel, queries * heads >= 16 ? "wide" : "narrow");
        EXPECT_LE(plan.scratch_bytes, 2 << 20);
        EXPECT_EQ(plan.bytes, 4. * static_cast<double>(queries * heads * (576 + 512)) + 2. * 6200 * 576);  // once
        EXPECT_EQ(plan.bytes, attention_to.plan(rows.q().shape(), rows.contiguous(), options).bytes);
        if (heads % 16 == 0 && queries == 1) {
          EXPECT_EQ(plan.tile_flops, 2. * static_cast<double>(heads * queries) * 6200 * (576 + 512));
        }
        Work work;
        options.work = &work;
        std::vector<float> out(static_cast<std::size_t>(queries * heads * 512));
        attention_to(rows.q(), rows.paged(), view(out, queries, heads, 512), options);
        EXPECT_EQ(work.full_tiles, plan.full_tiles);
        EXPECT_EQ(work.partial_tiles, plan.partial_tiles);
      }
}

}  // namespace
}  // namespace longspan::testing
