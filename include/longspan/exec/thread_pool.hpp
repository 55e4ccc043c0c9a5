#pragma once
// Workers that are kept between calls.

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// `threads` workers, of which the caller of for_each is the first. Tasks are handed out one at a time, in ascending
/// order, so put the long ones first. A call allocates nothing; waiting workers spin for some microseconds, yielding,
/// then sleep. A call while another is under way (from another thread, or from inside a task, by whatever detour) runs
/// on its caller's thread alone: it never waits for the other.
class ThreadPool {
 public:
  /// Throws std::invalid_argument unless threads >= 1, std::system_error when a thread cannot be had.
  explicit ThreadPool(Index threads) {
    check(threads >= 1 && threads <= kMostThreads, "ThreadPool.threads", threads, "1 … 4096");
    threads_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (Index worker = 1; worker < threads; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  Index workers() const { return static_cast<Index>(threads_.size()) + 1; }

  /// f(task, worker) for every task below n; returns when all have ended. The first exception a task throws is rethrown
  /// here; tasks that have not begun by then are dropped.
  template <class F>
  void for_each(Index n, F&& f) {
    if (n <= 0) return;
    if (threads_.empty() || n == 1 || taken_.exchange(true, std::memory_order_acquire)) {
      for (Index task = 0; task < n; ++task) f(task, Index{0});
      return;
    }
    call_ = [](void* context, Index task, Index worker) {
      (*static_cast<std::remove_reference_t<F>*>(context))(task, worker);
    };
    context_ = const_cast<void*>(static_cast<const void*>(&f));
    tasks_ = n;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<Index>(threads_.size()), std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    work(0);
    wait_until([&] { return busy_.load(std::memory_order_acquire) == 0; }, busy_);
    const std::exception_ptr error = std::exchange(error_, nullptr);
    taken_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

 private:
  static constexpr Index kMostThreads = 4096;
  static constexpr int kSpins = 2000;

  /// Spins on `ready` a while, then sleeps until `value` changes.
  template <class Ready, class T>
  static void wait_until(Ready ready, std::atomic<T>& value) {
    for (int i = 0; i < kSpins; ++i) {
      if (ready()) return;
      if (i % 16 == 15) std::this_thread::yield();
    }
    for (;;) {
      const T seen = value.load(std::memory_order_acquire);
      if (ready()) return;
      value.wait(seen, std::memory_order_acquire);
    }
  }

  void serve(Index worker) {
    std::uint64_t seen = 0;
    for (;;) {
      wait_until([&] { return round_.load(std::memory_order_acquire) != seen; }, round_);
      seen = round_.load(std::memory_order_acquire);
      if (stopping_) return;
      work(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  void work(Index worker) {
    try {
      for (Index task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) call_(context_, task, worker);
    } catch (...) {
      next_.store(tasks_, std::memory_order_relaxed);
      const std::lock_guard first(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void stop() {
    stopping_ = true;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::vector<std::thread> threads_;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  void (*call_)(void*, Index, Index) = nullptr;
  void* context_ = nullptr;
  Index tasks_ = 0;
  bool stopping_ = false;
  std::atomic<bool> taken_{false};                   ///< a call is under way
  alignas(64) std::atomic<std::uint64_t> round_{0};  ///< goes up with every call; what waiting workers watch
  alignas(64) std::atomic<Index> next_{0};
  alignas(64) std::atomic<Index> busy_{0};
};
static_assert(Executor<ThreadPool>);

}  // namespace longspan::inline LONGSPAN_ISA
