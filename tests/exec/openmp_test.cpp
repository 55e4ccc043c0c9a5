// The OpenMP executor: as the ThreadPool's test, and the bits of an attention on it. Built where OpenMP is.

#include <gtest/gtest.h>

#include <atomic>
#include <longspan/core/executor_ref.hpp>
#include <longspan/exec/openmp.hpp>
#include <longspan/longspan.hpp>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/count_allocations.hpp>
#include <support/executors.hpp>
#include <support/refused.hpp>
#include <thread>
#include <vector>

namespace longspan::testing {
namespace {

static_assert(Executor<OpenMp> && Executor<const OpenMp>);

/// Workers that the runtime may not make fewer (OMP_DYNAMIC, OMP_THREAD_LIMIT).
class OpenMpExecutor : public ::testing::Test {
 protected:
  void SetUp() override {
    omp_set_dynamic(0);
    omp_set_max_active_levels(2);  // a team inside a team would be had
    if (omp_get_thread_limit() < 3) GTEST_SKIP() << "OMP_THREAD_LIMIT is " << omp_get_thread_limit();
  }
  OpenMp three{3};
};

TEST_F(OpenMpExecutor, EachTaskOnce) {
  for (const Index threads : {1, 2, 3, 8}) {
    OpenMp team(threads);
    EXPECT_EQ(team.workers(), threads);
    ExecutorRef ref(team);
    EXPECT_EQ(ref.workers(), threads);
    for (const Index n : {0, 1, 2, 3, 7, 100, 5000}) {
      expect_each_once(team, n);
      expect_each_once(ref, n);
    }
  }
}

TEST_F(OpenMpExecutor, AllWorkersWork) { expect_all_workers_work(three); }

TEST_F(OpenMpExecutor, InAscendingOrder) { expect_ascending(three); }

TEST_F(OpenMpExecutor, RefusesNoThreads) {
  for (const Index threads : {Index{0}, Index{-1}, Index{4097}, (Index{1} << 32) + 1})
    EXPECT_TRUE(refused([&] { OpenMp team(threads); }, "OpenMp.threads", std::to_string(threads), "1 … 4096"));
}

TEST_F(OpenMpExecutor, ExceptionsComeBack) {
  expect_exceptions_come_back(three);
  expect_the_rest_is_dropped(three);
}

TEST_F(OpenMpExecutor, OneOfManyExceptions) {
  OpenMp alone(1);
  expect_one_of_many_exceptions(three);
  expect_one_of_many_exceptions(alone);
}

TEST_F(OpenMpExecutor, CallsFromInsideATask) { expect_calls_inside_a_task_are_serial(three); }

TEST_F(OpenMpExecutor, CallsFromAParallelRegionOfTheUsers) {
  std::atomic<int> wrong{0};
  std::atomic<Index> sum{0};
#pragma omp parallel num_threads(2)
  {
    const std::thread::id thread = std::this_thread::get_id();
    three.for_each(10, [&](Index task, Index worker) {
      if (worker != 0 || std::this_thread::get_id() != thread) ++wrong;
      sum += task;
    });
  }
  EXPECT_EQ(sum, 2 * 45);
  EXPECT_EQ(wrong, 0);
}

TEST_F(OpenMpExecutor, CallersFromManyThreads) { expect_many_callers_do_not_mix(three); }

TEST_F(OpenMpExecutor, TheCallerSeesWhatTasksWrote) { expect_the_caller_sees_what_tasks_wrote(three); }

TEST_F(OpenMpExecutor, KeepsItsThreads) {
  static thread_local bool known;
  std::atomic<Index> fresh{0};
  const auto call = [&] {
    std::atomic<Index> arrived{0};
    three.for_each(3, [&](Index, Index) {
      if (!known) ++fresh;
      known = true;
      ++arrived;
      while (arrived < 3) std::this_thread::yield();
    });
  };
  call();
  fresh = 0;
  for (int i = 0; i < 10; ++i) call();
  EXPECT_EQ(fresh, 0);
}

TEST_F(OpenMpExecutor, AllocatesNothingPerCall) {
  std::atomic<Index> sum{0};
  const auto call = [&] {
    three.for_each(100, [&](Index task, Index) { sum += task; });
    ExecutorRef(three).for_each(100, [&](Index task, Index) { sum += task; });
  };
  call();
  EXPECT_EQ(allocated(call).calls, 0);
}

TEST_F(OpenMpExecutor, TheSameBitsAsSerial) {
  Serial serial;
  const auto attend = attention(Window{3000} | Sinks{4}, Alibi{4});
  for (const cases::Shape& shape : {cases::Shape{300, 300, 4, 2, 64, 64}, cases::Shape{1, 9000, 4, 2, 24, 20}}) {
    const cases::Tensors t(shape);
    const Contiguous source(t.k(), t.v());
    const Result wanted = run(attend, t.q(), source, {.executor = serial});
    for (const Index threads : {1, 2, 3}) {
      OpenMp team(threads);
      EXPECT_TRUE(same_bits(run(attend, t.q(), source, {.executor = team}), wanted)) << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace longspan::testing
