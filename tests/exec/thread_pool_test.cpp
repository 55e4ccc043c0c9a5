// Executors: every task once, workers in range, exceptions, nesting, callers from many threads; and a user's own.

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <longspan/core/executor_ref.hpp>
#include <longspan/exec/serial.hpp>
#include <longspan/exec/thread_pool.hpp>
#include <mutex>
#include <stdexcept>
#include <support/count_allocations.hpp>
#include <support/refused.hpp>
#include <thread>
#include <vector>

namespace longspan::testing {
namespace {

/// Every task once, on a worker of the range that does nothing else at the time.
template <class E>
void expect_each_once(E& executor, Index n) {
  std::vector<std::atomic<int>> done(static_cast<std::size_t>(n)),
      at_work(static_cast<std::size_t>(executor.workers()));
  std::atomic<int> wrong{0};
  executor.for_each(n, [&](Index task, Index worker) {
    if (task < 0 || task >= n || worker < 0 || worker >= executor.workers()) {
      ++wrong;
      return;
    }
    if (at_work[static_cast<std::size_t>(worker)].fetch_add(1) != 0) ++wrong;
    ++done[static_cast<std::size_t>(task)];
    at_work[static_cast<std::size_t>(worker)].fetch_sub(1);
  });
  EXPECT_EQ(wrong, 0) << n << " tasks";
  for (std::size_t i = 0; i < done.size(); ++i) ASSERT_EQ(done[i], 1) << "task " << i << " of " << n;
}

/// A user's: nothing but what the concept asks for, and not copyable.
class Backwards {
 public:
  Backwards() = default;
  Backwards(const Backwards&) = delete;
  int workers() { return 1; }
  template <class F>
  void for_each(Index n, F f) {
    ++calls;
    while (n > 0) f(--n, Index{0});
  }
  int calls = 0;
};
static_assert(Executor<Backwards>);
static_assert(Executor<const Serial> && Executor<ThreadPool> && Executor<ExecutorRef>);
static_assert(!std::is_constructible_v<ExecutorRef, ThreadPool>, "a pool that dies at once");

TEST(Executors, EachTaskOnce) {
  for (const Index threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.workers(), threads);
    ExecutorRef ref(pool);
    EXPECT_EQ(ref.workers(), threads);
    for (const Index n : {0, 1, 2, 3, 7, 100, 5000}) {
      expect_each_once(pool, n);
      expect_each_once(ref, n);
    }
  }
  Serial serial;
  Backwards backwards;
  ExecutorRef none, to_serial(serial), to_backwards(backwards);
  for (const Index n : {0, 1, 100}) {
    expect_each_once(serial, n);
    expect_each_once(none, n);
    expect_each_once(to_serial, n);
    expect_each_once(to_backwards, n);
  }
  EXPECT_EQ(backwards.calls, 3);
  EXPECT_EQ(none.workers(), 1);
}

TEST(Executors, ARefOfARefIsTheSameExecutor) {
  Backwards backwards;
  const ExecutorRef ref(backwards);
  ExecutorRef copy = ref;
  std::vector<Index> order;
  copy.for_each(3, [&](Index task, Index) { order.push_back(task); });
  EXPECT_EQ(order, (std::vector<Index>{2, 1, 0}));
}

TEST(Serial, InOrder) {
  std::vector<Index> order;
  Serial().for_each(3, [&](Index task, Index) { order.push_back(task); });
  EXPECT_EQ(order, (std::vector<Index>{0, 1, 2}));
}

TEST(ThreadPool, AllWorkersWork) {
  ThreadPool pool(3);
  std::atomic<int> arrived{0};
  pool.for_each(3, [&](Index, Index) {  // ends only when three tasks run at the same time
    ++arrived;
    while (arrived < 3) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 3);
}

TEST(ThreadPool, RefusesNoThreads) {
  for (const Index threads : {0, -1, 4097})
    EXPECT_TRUE(refused([&] { ThreadPool pool(threads); }, "ThreadPool.threads", std::to_string(threads), "1 … 4096"));
}

TEST(ThreadPool, ExceptionsComeBack) {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    const Index bad = round % 50;
    std::atomic<int> ran{0};
    try {
      pool.for_each(50, [&](Index task, Index) {
        ++ran;
        if (task == bad) throw std::runtime_error("task " + std::to_string(task));
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "task " + std::to_string(bad));
    }
    EXPECT_GE(ran, 1);
    EXPECT_LE(ran, 50);
    expect_each_once(pool, 20);
  }
}

TEST(ThreadPool, OneOfManyExceptions) {
  ThreadPool pool(3);
  for (int round = 0; round < 100; ++round)
    EXPECT_THROW(pool.for_each(30, [](Index, Index) { throw std::out_of_range("all"); }), std::out_of_range);
  for (const Index n : {1, 2}) EXPECT_THROW(pool.for_each(n, [](Index, Index) { throw 7; }), int);
  ThreadPool alone(1);
  EXPECT_THROW(alone.for_each(5, [](Index, Index) { throw 7; }), int);
  expect_each_once(pool, 100);
  expect_each_once(alone, 100);
}

TEST(ThreadPool, CallsFromInsideATask) {
  ThreadPool pool(3);
  std::atomic<Index> sum{0};
  pool.for_each(20, [&](Index outer, Index) {
    pool.for_each(10, [&](Index inner, Index worker) {
      EXPECT_EQ(worker, 0);
      sum += outer * 10 + inner;
    });
  });
  EXPECT_EQ(sum, 199 * 200 / 2);
  EXPECT_THROW(pool.for_each(20, [&](Index, Index) { pool.for_each(2, [](Index, Index) { throw 7; }); }), int);
  expect_each_once(pool, 100);
}

TEST(ThreadPool, OnePoolInsideAnother) {
  ThreadPool outer(2), inner(2);
  std::atomic<Index> sum{0};
  outer.for_each(20, [&](Index, Index) { inner.for_each(10, [&](Index i, Index) { sum += i; }); });
  EXPECT_EQ(sum, 20 * 45);
}

/// Reaches a pool from inside its own task, through another one.
Index sum_through_another_pool() {
  ThreadPool a(2), b(2);
  std::atomic<Index> sum{0};
  const auto add = [&](Index i, Index) { sum += i; };
  a.for_each(4, [&](Index, Index) { b.for_each(4, [&](Index, Index) { a.for_each(4, add); }); });
  return sum;
}

// It must not wait for the call that it is a part of. In a process of its own: a deadlock ends with the alarm.
TEST(ThreadPoolDeathTest, BackToItsOwnPoolThroughAnother) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto in_time = [] {
    ::alarm(20);
    std::_Exit(sum_through_another_pool() == 4 * 4 * 6 ? 0 : 1);
  };
  EXPECT_EXIT(in_time(), ::testing::ExitedWithCode(0), "");
}

TEST(ThreadPool, CallersFromManyThreadsTakeTurns) {
  ThreadPool pool(3);
  std::atomic<Index> sum{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&, c] {
      for (int round = 0; round < 300; ++round) {
        std::vector<Index> mine(40);
        const auto fill = [&](Index task, Index) {
          if (c == 3 && task == 20 && round % 10 == 0) throw c;
          mine[static_cast<std::size_t>(task)] = task;
        };
        try {
          pool.for_each(40, fill);
          for (const Index task : mine) sum += task;
          if (c == 3 && round % 10 == 0) ++wrong;
        } catch (int thrower) {
          if (thrower != c) ++wrong;  // another caller's exception
          sum += 780;
        }
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * 300 * 780);
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, SleepsAndWakes) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // long enough for the workers to sleep
    expect_each_once(pool, 7);
  }
  for (int i = 0; i < 50; ++i) ThreadPool unused(3);  // ends while its threads begin
}

TEST(ThreadPool, TheCallerSeesWhatTasksWrote) {
  ThreadPool pool(3);
  std::vector<Index> x(1000);
  for (Index round = 1; round <= 200; ++round) {
    pool.for_each(1000, [&](Index task, Index) { x[static_cast<std::size_t>(task)] += task; });
    for (Index i = 0; i < 1000; ++i) ASSERT_EQ(x[static_cast<std::size_t>(i)], round * i);
  }
}

TEST(ThreadPool, AllocatesNothingPerCall) {
  ThreadPool pool(3);
  std::atomic<Index> sum{0};
  const auto call = [&] {
    pool.for_each(100, [&](Index task, Index) { sum += task; });
    ExecutorRef(pool).for_each(100, [&](Index task, Index) { sum += task; });
  };
  call();
  EXPECT_EQ(allocated(call).calls, 0);
  EXPECT_EQ(allocated([] {
              std::vector<int> counts(1);
              [[maybe_unused]] int* volatile seen = counts.data();
            }).calls,
            1);
}

}  // namespace
}  // namespace longspan::testing
