#pragma once
// The fast engine: exact attention in tiles with a running softmax (FlashAttention, arXiv 2205.14135), cut into tasks
// for an executor. Memory: a few tiles per worker, whatever the number of queries and keys.

#include <algorithm>
#include <vector>

#include <longspan/kernel/narrow.hpp>
#include <longspan/kernel/plan.hpp>
#include <longspan/kernel/schedule.hpp>
#include <longspan/kernel/wide.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// The engine. Its bits do not depend on how a call is cut; `wanted` forces one of its kernels.
struct Flash {
  /// Walks the same schedule and the same tiles as run().
  template <class Batch>
  static Plan plan(const Batch& batch, Kernel wanted, Index workers) {
    Plan plan{.engine = "flash", .isa = kIsa.name};
    bool wide = false, narrow = false;
    for (Index sequence = 0; sequence < batch.size(); ++sequence) {
      const Schedule schedule = batch.schedule(sequence, wanted, workers);
      if (schedule.tasks() == 0) continue;
      (schedule.kernel == Kernel::kWide ? wide : narrow) = true;
      const auto problem = batch[sequence];
      count_problem(plan, problem);
      count_tiles(plan, problem, schedule);
    }
    plan.kernel = wide && narrow ? "wide+narrow" : wide ? "wide" : narrow ? "narrow" : "no";
    return plan;
  }

  /// batch[i] is the Problem of sequence i.
  template <class Batch, class E>
  static void run(const Batch& batch, const E& executor, Kernel wanted) {
    Leased<std::vector<Index>, Flash> lease;  // where each sequence's tasks begin
    std::vector<Index>& starts = *lease;
    starts.assign(1, 0);
    Index floats = 0;  // whichever tasks a worker gets, it takes its memory once
    const Index workers = executor.workers();
    bool few_rows = true;
    for (Index sequence = 0; sequence < batch.size(); ++sequence) {
      const Schedule schedule = batch.schedule(sequence, wanted, workers);
      starts.push_back(starts.back() + schedule.tasks());
      if (schedule.tasks() > 0) floats = std::max(floats, scratch_floats(batch[sequence], schedule));
      few_rows = few_rows && schedule.few_rows();
    }
    const Index tasks = starts.back();
    const auto with_task = [&](Index task, auto&& f) {
      const Index sequence = std::upper_bound(starts.begin(), starts.end(), task) - starts.begin() - 1;
      const Schedule schedule = batch.schedule(sequence, wanted, workers);
      f(batch[sequence], schedule, schedule[task - starts[static_cast<std::size_t>(sequence)]]);
    };

    if (few_rows && workers > 1 && tasks < Schedule::kEnoughTasks * workers &&
        run_splits(batch, tasks, with_task, executor, floats))
      return;
    executor.for_each(tasks, [&](Index task, Index) {
      with_task(task, [floats](const auto& problem, const Schedule& schedule, const TaskRange& range) {
        with_kernel(problem, schedule, range, floats, [](auto& kernel) { kernel.run(); });
      });
    });
  }

 private:
  static constexpr Index kSplitsAtOnce = 8;              ///< per worker: whose states are kept before they merge
  static constexpr Index kSplitFloats = Index{1} << 18;  ///< … and what they take together, but for one each

  /// f(the kernel of a task). A worker takes `floats` once, whichever tasks it gets.
  template <class P, class F>
  static void with_kernel(const P& problem, const Schedule& schedule, const TaskRange& range, Index floats, F&& f) {
    Leased<Scratch, TaskRange> scratch;
    scratch->floats(floats);
    if (schedule.kernel == Kernel::kWide) {
      WideKernel kernel(problem, range, *scratch);
      f(kernel);
    } else {
      NarrowKernel kernel(problem, range, *scratch);
      f(kernel);
    }
  }

  template <class P>
  static void count_tiles(Plan& plan, const P& problem, const Schedule& schedule) {
    const Interval keys = problem.keys();
    const Index blocks = keys.empty() ? 0 : ceil_div(keys.end, kBlock) - keys.begin / kBlock;
    const Index walks = schedule.walks();  // the mask is the same for all heads
    const bool wide = schedule.kernel == Kernel::kWide;
    const double per_pair = 2 * static_cast<double>(problem.source.head_dim() + problem.source.value_dim());
    for (Index task = 0; task < schedule.row_tasks(); ++task) {
      Work work;
      const Index lanes = wide ? kLanes : 1, key_step = wide ? 1 : kLanes;
      Index queries = 0;  // of all heads
      for (Index same = task; same < schedule.tasks(); same += schedule.row_tasks())
        queries += ceil_div(schedule[same].queries(), lanes) * lanes;
      for_each_tile(problem.mask, problem.positions(schedule[task].rows), keys, [&](const Tile& tile, const Tile&) {
        work.count(tile);
        plan.tile_flops += per_pair * static_cast<double>(queries * ceil_div(tile.keys.size(), key_step) * key_step);
      });
      plan.full_tiles += work.full_tiles * walks;
      plan.partial_tiles += work.partial_tiles * walks;
      plan.skipped_tiles += (blocks - work.full_tiles - work.partial_tiles) * walks;
    }
    plan.tasks += schedule.tasks();
    const Index bytes = scratch_floats(problem, schedule) * static_cast<Index>(sizeof(float));
    plan.scratch_bytes = std::max(plan.scratch_bytes, bytes);
  }

  /// Of the largest task.
  template <class P>
  static Index scratch_floats(const P& problem, const Schedule& schedule) {
    const Index head_dim = problem.source.head_dim(), value_dim = problem.source.value_dim();
    return schedule.kernel == Kernel::kWide
               ? WideKernel<P>::scratch_floats(schedule.task_queries(), head_dim, value_dim)
               : NarrowKernel<P>::scratch_floats(schedule.task_queries(), head_dim, value_dim);
  }

  /// Decode with few heads: each task's splits of the keys are tasks of their own, a wave of them at a time, and their
  /// states merge in ascending order, as in NarrowKernel::run, so the bits are the same. False, and nothing done, where
  /// there is but one split.
  template <class Batch, class WithTask, class E>
  static bool run_splits(const Batch& batch, Index tasks, const WithTask& with_task, const E& executor, Index floats) {
    Index most_splits = 0, state_floats = 0;
    for (Index task = 0; task < tasks; ++task)
      with_task(task, [&](const auto& problem, const Schedule& schedule, const TaskRange&) {
        most_splits = std::max(most_splits, ceil_div(problem.keys().end, kSplit) - problem.first_key / kSplit);
        using P = std::remove_cvref_t<decltype(problem)>;
        const auto state =
            schedule.kernel == Kernel::kWide ? WideKernel<P>::state_floats : NarrowKernel<P>::state_floats;
        state_floats = std::max(state_floats, state(schedule.task_queries(), batch.value_dim()));
      });
    if (most_splits <= 1) return false;
    const Index workers = executor.workers(), room = workers * kSplitFloats / state_floats;
    const Index at_once = std::clamp(room / workers * workers, workers, kSplitsAtOnce * workers);
    const Index wave = std::min(most_splits, ceil_div(at_once, tasks));

    Leased<Scratch, Flash> states;  // [tasks][total, then one of each split of the wave]
    float* const memory = states->floats(tasks * (1 + wave) * state_floats);
    const auto state = [&](Index task, Index i) { return memory + (task * (1 + wave) + i) * state_floats; };
    const auto with_kernel_of = [&](Index task, auto&& f) {
      with_task(task, [&](const auto& problem, const Schedule& schedule, const TaskRange& range) {
        with_kernel(problem, schedule, range, floats, f);
      });
    };
    // The first split at or after one in which some task sees a key: waves begin there, so what nobody sees costs
    // nothing.
    const auto next_seen = [&](Index split) {
      Index next = kUnbounded;
      for (Index task = 0; task < tasks; ++task)
        with_task(task, [&](const auto& problem, const Schedule&, const TaskRange& range) {
          const Index from = std::max(split * kSplit, problem.first_key);
          const Index key = next_some(problem.mask, problem.positions(range.rows), from).begin;
          if (key < problem.keys().end) next = std::min(next, key / kSplit);
        });
      return next;
    };

    Index first = next_seen(0);
    for (bool begun = false, more = true; more; begun = true) {
      const bool seen = first != kUnbounded;
      if (seen)
        executor.for_each(tasks * wave, [&](Index i, Index) {
          with_kernel_of(i / wave, [&](auto& kernel) {
            kernel.run_split((first + i % wave) * kSplit, state(i / wave, 1 + i % wave));
          });
        });
      const Index next = seen ? next_seen(first + wave) : kUnbounded;
      more = next != kUnbounded;
      executor.for_each(tasks, [&](Index task, Index) {
        with_kernel_of(task, [&](auto& kernel) {
          if (!begun) kernel.clear(state(task, 0));
          for (Index i = 0; seen && i < wave; ++i) kernel.merge(state(task, 0), state(task, 1 + i));
          if (!more) kernel.store_rows(state(task, 0));
        });
      });
      first = next;
    }
    return true;
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
