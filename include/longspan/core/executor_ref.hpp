#pragma once
// Any executor behind one type, so that it does not become a template parameter of all that runs on it.

#include <memory>
#include <type_traits>

#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A reference to an Executor, made implicitly; the executor must outlive it. Empty: the caller's thread alone.
class ExecutorRef {
 public:
  ExecutorRef() = default;
  template <Executor E>
  requires(!std::is_same_v<std::remove_const_t<E>, ExecutorRef>) ExecutorRef(E& executor)
      : executor_(const_cast<void*>(static_cast<const void*>(std::addressof(executor)))),
        workers_([](void* e) { return static_cast<Index>(static_cast<E*>(e)->workers()); }),
        for_each_([](void* e, Index n, Task f) { static_cast<E*>(e)->for_each(n, f); }) {}

  Index workers() const { return executor_ ? workers_(executor_) : 1; }
  template <class F>
  void for_each(Index n, F&& f) const {
    if (executor_)
      for_each_(executor_, n, Task(f));
    else
      for (Index task = 0; task < n; ++task) f(task, Index{0});
  }

 private:
  /// A reference to f(task, worker).
  struct Task {
    template <class F>
    explicit Task(F& f)
        : function(std::addressof(f)), call([](const void* g, Index task, Index worker) {
            (*static_cast<F*>(const_cast<void*>(g)))(task, worker);
          }) {}
    void operator()(Index task, Index worker) const { call(function, task, worker); }

    const void* function;
    void (*call)(const void*, Index, Index);
  };

  void* executor_ = nullptr;
  Index (*workers_)(void*) = nullptr;
  void (*for_each_)(void*, Index, Task) = nullptr;
};

}  // namespace longspan::inline LONGSPAN_ISA
