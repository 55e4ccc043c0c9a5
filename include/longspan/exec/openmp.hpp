#pragma once
// The threads of the OpenMP runtime, for programs that have them anyway. Empty unless compiled with OpenMP (-fopenmp).

#if defined(_OPENMP)

#include <omp.h>

#include <atomic>
#include <exception>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A team of `threads`, of which the caller of for_each is the first; the runtime keeps the others between calls (how
/// they wait is OMP_WAIT_POLICY's). Tasks are handed out one at a time, in ascending order, so put the long ones first.
/// A call from inside a parallel region, this executor's or any other, runs on its caller's thread alone. Callers on
/// several threads have a team each, as OpenMP has it: where they are many, give them a ThreadPool in common.
class OpenMp {
 public:
  /// Throws std::invalid_argument unless threads >= 1.
  explicit OpenMp(Index threads) : threads_(static_cast<int>(threads)) {
    check(threads >= 1 && threads <= kMostThreads, "OpenMp.threads", threads, "1 … 4096");
  }

  Index workers() const { return threads_; }

  /// f(task, worker) for every task below n; returns when all have ended. The first exception a task throws is rethrown
  /// here; tasks that have not begun by then are dropped.
  template <class F>
  void for_each(Index n, F&& f) const {
    if (n <= 0) return;
    if (threads_ == 1 || n == 1 || omp_in_parallel()) {
      for (Index task = 0; task < n; ++task) f(task, Index{0});
      return;
    }
    std::atomic<Index> next{0};  // schedule(dynamic, 1) promises no order, and has no way out for an exception
    std::atomic<bool> failed{false};
    std::exception_ptr error;
#pragma omp parallel num_threads(threads_)
    {
      const auto worker = static_cast<Index>(omp_get_thread_num());
      try {
        for (Index task; (task = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(task, worker);
      } catch (...) {  // must not leave the region
        next.store(n, std::memory_order_relaxed);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  static constexpr Index kMostThreads = 4096;

  int threads_;
};
static_assert(Executor<const OpenMp>);

}  // namespace longspan::inline LONGSPAN_ISA

#endif
