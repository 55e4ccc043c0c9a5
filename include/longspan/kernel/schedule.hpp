#pragma once
// How a call is cut into tasks: the one description that the flash engine runs and that plan() counts.

#include <longspan/kernel/isa.hpp>
#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A part of one sequence's work. Wide: rows of one query head. Narrow: rows of the heads [heads.begin, heads.end) of
/// each group, for all the KV heads.
struct TaskRange {
  Interval rows;
  Interval kv_heads;
  Interval heads;  ///< within a group

  Index queries() const { return rows.size() * kv_heads.size() * heads.size(); }
};

/// The tasks of one sequence. None of this shows in the bits of the result.
class Schedule {
 public:
  Schedule(Kernel wanted, Shape q, Index keys, Index kv_heads, Index workers)
      : kernel(wanted != Kernel::kAutomatic ? wanted : choose(q.tokens)),
        rows_(q.tokens),
        kv_heads_(kv_heads),
        group_(q.heads / kv_heads) {
    if (kernel == Kernel::kWide) {
      task_rows_ = kTileVectors * kLanes;
      return;
    }
    // Keys of all heads are neighbours in memory: a task takes all it can, unless other workers would have nothing to
    // do.
    const bool splits_suffice = workers == 1 || keys >= kEnoughTasks * workers * kSplit;
    const auto room = [](Index taken) { return std::max<Index>(1, kQueries / taken); };
    task_heads_ = std::min(group_, kQueries);
    task_rows_ = std::min(std::max<Index>(rows_, 1), room(2 * task_heads_));
    task_kv_heads_ = std::min(splits_suffice ? kv_heads : ceil_div(kv_heads, workers), room(task_heads_ * task_rows_));
  }

  Kernel kernel;

  Index row_tasks() const { return ceil_div(rows_, task_rows_); }
  /// Independent walks over the keys for the same rows.
  Index walks() const { return kv_heads_ * ceil_div(group_, task_heads_); }
  Index tasks() const { return row_tasks() * ceil_div(kv_heads_, task_kv_heads_) * ceil_div(group_, task_heads_); }
  /// The most queries (rows × heads) that a task has.
  Index task_queries() const { return task_rows_ * task_kv_heads_ * task_heads_; }

  /// Tasks of one head stand together, so that workers share its keys in the cache, and late rows come first: under a
  /// causal mask they are the long ones, and short ones last keep all workers busy to the end.
  TaskRange operator[](Index task) const {
    const Index row = row_tasks() - 1 - task % row_tasks(), part = task / row_tasks();
    const Index group_parts = ceil_div(group_, task_heads_);
    const auto range = [](Index i, Index size, Index end) { return Interval{i * size, std::min((i + 1) * size, end)}; };
    return {range(row, task_rows_, rows_), range(part / group_parts, task_kv_heads_, kv_heads_),
            range(part % group_parts, task_heads_, group_)};
  }

  static constexpr Index kEnoughTasks = 4;  ///< per worker: with fewer, key splits of a decode are tasks too

 private:
  static constexpr Index kQueries = 128;  ///< of a narrow task: their states stay in the cache

  /// From about half a vector of rows on, lanes of queries are better filled than a transposed block of keys pays back.
  static Kernel choose(Index rows) { return rows * 2 > kLanes ? Kernel::kWide : Kernel::kNarrow; }

  Index rows_, kv_heads_, group_;
  Index task_rows_ = 1, task_kv_heads_ = 1, task_heads_ = 1;
};

}  // namespace longspan::inline LONGSPAN_ISA
