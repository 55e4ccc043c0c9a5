// Executors: every task once, workers in range, exceptions, nesting, callers from many threads; and a user's own.

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <longspan/core/executor_ref.hpp>
#include <longspan/exec/serial.hpp>
#include <longspan/exec/thread_pool.hpp>
#include <support/count_allocations.hpp>
#include <support/executors.hpp>
#include <support/refused.hpp>
#include <thread>
#include <vector>

namespace longspan::testing {
namespace {

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
  expect_all_workers_work(pool);
}

TEST(ThreadPool, InAscendingOrder) {
  ThreadPool pool(3);
  expect_ascending(pool);
}

TEST(ThreadPool, RefusesNoThreads) {
  for (const Index threads : {0, -1, 4097})
    EXPECT_TRUE(refused([&] { ThreadPool pool(threads); }, "ThreadPool.threads", std::to_string(threads), "1 … 4096"));
}

TEST(ThreadPool, ExceptionsComeBack) {
  ThreadPool pool(3);
  expect_exceptions_come_back(pool);
  expect_the_rest_is_dropped(pool);
}

TEST(ThreadPool, OneOfManyExceptions) {
  ThreadPool pool(3), alone(1);
  expect_one_of_many_exceptions(pool);
  expect_one_of_many_exceptions(alone);
}

TEST(ThreadPool, CallsFromInsideATask) {
  ThreadPool pool(3);
  expect_calls_inside_a_task_are_serial(pool);
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

TEST(ThreadPool, CallersFromManyThreads) {
  ThreadPool pool(3);
  expect_many_callers_do_not_mix(pool);
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
  expect_the_caller_sees_what_tasks_wrote(pool);
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
