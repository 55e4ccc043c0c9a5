// Sequences that share pages: their common part is read once, and the bits are those of separate calls.

#include <gtest/gtest.h>

#include <longspan/exec/thread_pool.hpp>
#include <longspan/kv/paged.hpp>
#include <longspan/mask/algebra.hpp>
#include <longspan/score/scores.hpp>
#include <longspan/shared_prefix.hpp>
#include <support/near.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

/// Sequences with a prompt in common, and queries at their ends.
template <class T>
struct Conversations {
  static constexpr Index kHeads = 4, kKvHeads = 2, kDim = 16;

  Conversations(Index prompt, std::vector<Index> tails, std::vector<Index> queries)
      : cache({.pages = 1000, .page_size = 48, .kv_heads = kKvHeads, .head_dim = kDim}) {
    Random random(5);
    const auto add = [&](SequenceId id, Index tokens) {
      const std::vector<float> k = random.gaussian(tokens * kKvHeads * kDim),
                               v = random.gaussian(tokens * kKvHeads * kDim);
      const auto of = [&](const std::vector<float>& x) {
        return TensorView<const float>(view(x, tokens, kKvHeads, kDim));
      };
      if (cache.append(id, of(k), of(v)) != Outcome::kDone) throw std::logic_error("too few pages");
    };
    const SequenceId first = cache.open();
    add(first, prompt);
    for (const Index tail : tails) {
      const SequenceId id = cache.fork(first);
      add(id, tail);
      sources.push_back(cache.view(id));
    }
    for (const Index count : queries) cumulative.push_back(cumulative.back() + count);
    q = random.gaussian(cumulative.back() * kHeads * kDim);
  }

  template <class Attend>
  void check(const Attend& attend, Index shared, Options options = {}) const {
    const Index rows = cumulative.back();
    std::vector<float> out(q.size()), wanted(q.size());
    std::vector<float> lse(static_cast<std::size_t>(rows * kHeads)), wanted_lse(lse.size());
    const TensorView<const float> queries = view(q, rows, kHeads, kDim);
    const std::span<const PagedView<T>> all(sources);
    options.cumulative_queries = cumulative;
    options.lse = wanted_lse;
    attend(queries, all, view(wanted, rows, kHeads, kDim), options);
    options.lse = lse;
    const Plan plan = plan_shared(attend, queries.shape(), all, options);
    EXPECT_EQ(plan.shared_keys, shared);
    EXPECT_EQ(attend.plan(queries.shape(), all, options).bytes - plan.bytes,
              static_cast<double>((std::ssize(all) - 1) * shared * kKvHeads * 2 * kDim) * sizeof(T));
    EXPECT_EQ(plan.explain().find("shared") != std::string::npos, shared > 0);
    EXPECT_EQ(attend_shared(attend, queries, all, view(out, rows, kHeads, kDim), options), shared);
    EXPECT_TRUE(same_bits(out, wanted));
    EXPECT_TRUE(same_bits(lse, wanted_lse));
  }

  PagedCache<T> cache;
  std::vector<PagedView<T>> sources;
  std::vector<Index> cumulative{0};
  std::vector<float> q;
};

template <class T>
void check_sharing() {
  ThreadPool two(2);
  const Conversations<T> some(4200, {1, 40, 128, 3000, 700}, {1, 1, 1, 1, 1});
  some.check(attention(Causal{}), 4096);
  some.check(attention(), 4096);
  some.check(attention(Causal{}), 4096, {.executor = two});
  some.check(attention(Window{9000}), 4096);
  const Conversations<T> ragged(2100, {60, 5, 20, 9}, {50, 0, 3, 2});
  ragged.check(attention(Causal{}), 2048);
  ragged.check(attention(Causal{}), 2048, {.first_query = 2110});
  Conversations<T>(2100, {3000, 2500}, {3, 40}).check(attention(Causal{}), 2048);  // tails of more than a split
}
TEST(SharedPrefix, ReadOnceWithTheSameBits) {
  check_sharing<float>();
  check_sharing<bf16>();
}

TEST(SharedPrefix, OnlyWhatAllSee) {
  const Conversations<float> some(4200, {1, 40, 128}, {1, 1, 1});
  some.check(attention(Window{100}), 0);
  // From the end of what is shared all of it is seen, but not from where the queries stand; and the other way round.
  some.check(attention(Window{4150}), 0);
  some.check(attention(Causal{} & !Window{100}), 0);
  some.check(attention(Window{200} | Sinks{4}), 0);
  some.check(attention(Causal{}, SoftCap{20}), 0);
  Conversations<float>(2000, {1, 40, 3000}, {1, 1, 1}).check(attention(Causal{}), 0);  // less than a split
  Conversations<float>(2100, {3}, {1}).check(attention(Causal{}), 0);
  some.check(attention(Causal{}), 0, {.first_query = 3000});  // the queries stand inside of what is shared
}

TEST(SharedPrefix, KeysOfTheSamePages) {
  const Conversations<float> some(100, {1, 40, 3}, {1, 1, 1});
  const auto& s = some.sources;
  EXPECT_EQ(s[0].shared_keys(s[0]), 101);
  EXPECT_EQ(s[0].shared_keys(s[1]), 96);  // two pages of 48; the third was copied
  EXPECT_EQ(s[0].part({10, 101}).shared_keys(s[1].part({10, 140})), 86);
  EXPECT_EQ(s[0].part({10, 101}).shared_keys(s[1]), 0);
  const Conversations<float> others(100, {1}, {1});
  EXPECT_EQ(s[0].shared_keys(others.sources[0]), 0);
}

}  // namespace
}  // namespace longspan::testing
