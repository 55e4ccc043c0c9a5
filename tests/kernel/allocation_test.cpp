// No allocation in the second call, and memory that doesn't grow with the number of keys: counted by operator new.

#include <gtest/gtest.h>

#include <atomic>
#include <longspan/longspan.hpp>
#include <support/cases.hpp>
#include <support/count_allocations.hpp>
#include <thread>
#include <vector>

namespace longspan::testing {
namespace {

/// A pool in whose calls every worker takes a task, so that one call is enough for all to have their memory: a task
/// waits until each worker has one.
class AllWork {
 public:
  explicit AllWork(ThreadPool& pool) : pool_(pool) {}
  Index workers() const { return pool_.workers(); }
  template <class F>
  void for_each(Index n, F&& f) {
    std::atomic<Index> arrived{0};
    pool_.for_each(n, [&](Index task, Index worker) {
      if (n >= workers() && arrived.fetch_add(1) < workers())
        while (arrived.load() < workers()) std::this_thread::yield();
      f(task, worker);
    });
  }

 private:
  ThreadPool& pool_;
};

TEST(Allocation, OperatorsCount) {
  EXPECT_EQ(allocated([] {
              std::vector<int> x(3);
              [[maybe_unused]] int* volatile seen = x.data();
            }).calls,
            1);
  EXPECT_GE(allocated([] {
              std::vector<int> x(3);
              [[maybe_unused]] int* volatile seen = x.data();
            }).bytes,
            12);
  EXPECT_EQ(allocated([] { Scratch().floats(7); }).calls, 1);
}

/// A first call may allocate, the following must not.
template <class F>
void expect_none_after_first(const char* what, F&& call) {
  call();
  for (int i = 2; i <= 4; ++i) EXPECT_EQ(allocated(call).calls, 0) << what << ", call " << i;
}

TEST(Allocation, NoneInTheSecondCall) {
  ThreadPool pool(2);
  AllWork all(pool);
  std::vector<float> lse;
  const auto attend = attention(Window{3000} | Sinks{4}, SoftCap{30.f}, Alibi{8});
  const auto each_executor = [&](const char* what, const cases::Shape& shape) {
    cases::Tensors t(shape);
    lse.resize(static_cast<std::size_t>(shape.queries * shape.heads));
    expect_none_after_first(what, [&] { attend(t.q(), t.k(), t.v(), t.out(), {.lse = lse}); });
    expect_none_after_first(what, [&] { attend(t.q(), t.k(), t.v(), t.out(), {.lse = lse, .executor = all}); });
  };
  each_executor("prefill", {300, 300, 8, 2, 64, 64});
  each_executor("decode", {1, 300, 8, 2, 64, 64});
  each_executor("decode over splits", {1, 20000, 8, 2, 24, 24});
  each_executor("many rows, narrow and wide", {9, 5000, 8, 8, 33, 17});
}

TEST(Allocation, NoneInTheSecondBatch) {
  ThreadPool pool(2);
  AllWork all(pool);
  const auto attend = attention(Causal{});
  const std::vector<Index> queries{0, 1, 70, 70, 75}, keys{0, 5000, 5100, 5103, 5200};
  cases::Tensors t({75, 5200, 4, 2, 24, 24});
  expect_none_after_first("ragged", [&] {
    attend(t.q(), t.k(), t.v(), t.out(), {.executor = all, .cumulative_queries = queries, .cumulative_keys = keys});
  });

  PagedCache<float> cache({.pages = 800, .page_size = 16, .kv_heads = 2, .head_dim = 24});
  std::vector<PagedView<float>> views;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    const SequenceId id = cache.open();
    ASSERT_EQ(cache.append(id, t.k().slice({keys[i], keys[i + 1]}), t.v().slice({keys[i], keys[i + 1]})),
              Appended::kDone);
    views.push_back(cache.view(id));
  }
  const std::vector<Index> one_each{0, 1, 2, 3, 4};
  expect_none_after_first("paged decode", [&] {
    attend(t.q().slice({0, 4}), std::span<const PagedView<float>>(views), t.out().slice({0, 4}),
           {.executor = all, .cumulative_queries = one_each});
  });
}

TEST(Allocation, NoneInACacheWhosePagesAreTaken) {
  PagedCache<float> cache({.pages = 10, .page_size = 16, .kv_heads = 1, .head_dim = 8});
  const SequenceId id = cache.open();
  const cases::Tensors t({1, 1, 1, 1, 8, 8});
  ASSERT_EQ(cache.append(id, t.k(), t.v()), Appended::kDone);
  EXPECT_EQ(allocated([&] {
              for (int i = 0; i < 15; ++i) (void)cache.append(id, t.k(), t.v());
              (void)cache.view(id).keys();
              cache.truncate(id, 3);
            }).calls,
            0);
  EXPECT_EQ(cache.length(id), 3);
}

/// Bytes of a first call, on a thread that has no memory yet.
template <class F>
long first_call_bytes(F&& call) {
  long bytes = 0;
  std::thread([&] { bytes = allocated(call).bytes; }).join();
  return bytes;
}

TEST(Allocation, IndependentOfKeys) {
  const auto attend = attention(Causal{});
  for (const Index queries : {1, 3, 100}) {
    long bytes = -1;
    Index scratch = -1;
    for (const Index keys : {256, 4096, 65536}) {
      cases::Tensors t({queries, keys, 4, 2, 16, 16});
      const Plan plan = attend.plan(t.q().shape(), t.k(), t.v());
      const long now = first_call_bytes([&] { attend(t.q(), t.k(), t.v(), t.out()); });
      if (bytes < 0) bytes = now, scratch = plan.scratch_bytes;
      EXPECT_EQ(now, bytes) << queries << " queries, " << keys << " keys";
      EXPECT_EQ(plan.scratch_bytes, scratch) << queries << " queries, " << keys << " keys";
      EXPECT_GE(now, plan.scratch_bytes) << "what the plan says";
      // besides the scratch: where tasks begin, and a smaller scratch where the first task is a remainder of rows
      EXPECT_LE(now, 2 * plan.scratch_bytes + 256);
    }
  }
  // As many queries as keys, too.
  long bytes = -1;
  for (const Index keys : {256, 1024}) {
    cases::Tensors t({keys, keys, 2, 2, 16, 16});
    const long now = first_call_bytes([&] { attend(t.q(), t.k(), t.v(), t.out()); });
    if (bytes < 0) bytes = now;
    EXPECT_EQ(now, bytes) << keys << " queries and keys";
  }
}

/// Says that it has two workers, as a pool does, but runs on this thread.
struct TwoInOne {
  static Index workers() { return 2; }
  template <class F>
  void for_each(Index n, F&& f) const {
    Serial().for_each(n, f);
  }
};

TEST(Allocation, SplitsInParallelAreBounded) {
  const auto attend = attention(Causal{});
  long bytes = -1;
  for (const Index keys : {65536, 131072, 262144}) {
    cases::Tensors t({1, keys, 4, 2, 8, 8});
    const long now = first_call_bytes([&] {
      TwoInOne two;
      attend(t.q(), t.k(), t.v(), t.out(), {.executor = two});
    });
    if (bytes < 0) bytes = now;
    EXPECT_EQ(now, bytes) << keys << " keys";
    EXPECT_LE(now, 1 << 20);
  }
}

}  // namespace
}  // namespace longspan::testing
