#pragma once
// What every executor with several workers must do, in any way it likes.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <longspan/core/concepts.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace longspan::testing {

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

/// Ends only when as many tasks run at the same time as there are workers, and then each has a number of its own.
template <class E>
void expect_all_workers_work(E& executor) {
  const Index workers = executor.workers();
  std::vector<std::atomic<int>> tasks_of(static_cast<std::size_t>(workers));
  std::atomic<Index> arrived{0};
  executor.for_each(workers, [&](Index, Index worker) {
    ++tasks_of[static_cast<std::size_t>(worker)];
    ++arrived;
    while (arrived < workers) std::this_thread::yield();
  });
  for (const std::atomic<int>& tasks : tasks_of) EXPECT_EQ(tasks, 1);
}

/// None is handed out before those below it, and so each worker's tasks ascend.
template <class E>
void expect_ascending(E& executor) {
  for (int round = 0; round < 50; ++round) {
    constexpr Index kTasks = 200;
    std::atomic<Index> begun{0};
    std::atomic<int> wrong{0};
    std::vector<Index> last(static_cast<std::size_t>(executor.workers()), -1);
    executor.for_each(kTasks, [&](Index task, Index worker) {
      // each other worker may hold one task that was handed out before and has not begun
      if (task > begun.fetch_add(1) + executor.workers() - 1) ++wrong;
      Index& before = last[static_cast<std::size_t>(worker)];
      if (task <= before) ++wrong;
      before = task;
    });
    ASSERT_EQ(wrong, 0);
  }
}

/// The task's own exception, and a usable executor afterwards.
template <class E>
void expect_exceptions_come_back(E& executor) {
  for (int round = 0; round < 200; ++round) {
    const Index bad = round % 50;
    std::atomic<int> ran{0};
    try {
      executor.for_each(50, [&](Index task, Index) {
        ++ran;
        if (task == bad) throw std::runtime_error("task " + std::to_string(task));
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), "task " + std::to_string(bad));
    }
    EXPECT_GE(ran, 1);
    EXPECT_LE(ran, 50);
    expect_each_once(executor, 20);
  }
}

/// Where every task throws, one exception comes back.
template <class E>
void expect_one_of_many_exceptions(E& executor) {
  for (int round = 0; round < 100; ++round)
    EXPECT_THROW(executor.for_each(30, [](Index, Index) { throw std::out_of_range("all"); }), std::out_of_range);
  for (const Index n : {1, 2}) EXPECT_THROW(executor.for_each(n, [](Index, Index) { throw 7; }), int);
  expect_each_once(executor, 100);
}

/// Tasks that have not begun when one throws are dropped.
template <class E>
void expect_the_rest_is_dropped(E& executor) {
  std::atomic<Index> ran{0};
  std::atomic<bool> thrown{false};
  const auto one_throws = [&](Index task, Index) {
    ++ran;
    if (task == 0) {
      while (ran < 2) std::this_thread::yield();  // another has begun with the rest
      thrown = true;
      throw 7;
    }
    while (!thrown) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until it has arrived
  };
  EXPECT_THROW(executor.for_each(500, one_throws), int);
  EXPECT_LE(ran, 100);
}

/// A call from inside a task runs on the thread of that task, as worker 0.
template <class E>
void expect_calls_inside_a_task_are_serial(E& executor) {
  std::atomic<Index> sum{0};
  std::atomic<int> wrong{0};
  executor.for_each(20, [&](Index outer, Index) {
    const std::thread::id thread = std::this_thread::get_id();
    executor.for_each(10, [&](Index inner, Index worker) {
      if (worker != 0 || std::this_thread::get_id() != thread) ++wrong;
      sum += outer * 10 + inner;
    });
  });
  EXPECT_EQ(sum, 199 * 200 / 2);
  EXPECT_EQ(wrong, 0);
  EXPECT_THROW(executor.for_each(20, [&](Index, Index) { executor.for_each(2, [](Index, Index) { throw 7; }); }), int);
  expect_each_once(executor, 100);
}

/// Callers on several threads at once: each has its own tasks done, and its own exceptions.
template <class E>
void expect_many_callers_do_not_mix(E& executor) {
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
          executor.for_each(40, fill);
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

/// What tasks wrote is seen after the call.
template <class E>
void expect_the_caller_sees_what_tasks_wrote(E& executor) {
  std::vector<Index> x(1000);
  for (Index round = 1; round <= 200; ++round) {
    executor.for_each(1000, [&](Index task, Index) { x[static_cast<std::size_t>(task)] += task; });
    for (Index i = 0; i < 1000; ++i) ASSERT_EQ(x[static_cast<std::size_t>(i)], round * i);
  }
}

}  // namespace longspan::testing
