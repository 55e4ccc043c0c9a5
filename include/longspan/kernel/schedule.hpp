#pragma once
// How a call is cut into tasks: the one description that the flash engine runs and that plan() counts.

#include <longspan/core/periodic.hpp>
#include <longspan/kernel/isa.hpp>
#include <longspan/kernel/problem.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A part of one sequence's work: rows of the heads [heads.begin, heads.end) of each group, for all the KV heads. Wide:
/// of one KV head, and of one head where rows are many.
struct TaskRange {
  Interval rows;
  Interval kv_heads;
  Interval heads;  ///< within a group

  Index queries() const { return rows.size() * kv_heads.size() * heads.size(); }
};

/// How far apart the edges of a mask are from `first` on, where they stand at multiples of that; else 0.
template <Mask M>
Index row_period(const M& mask, Index first) {
  const Index a = edge_after(mask, first), b = a == kUnbounded ? a : edge_after(mask, a);
  if (b == kUnbounded || a % (b - a) != 0) return 0;
  const Index c = edge_after(mask, b);
  return c == kUnbounded || c - b == b - a ? b - a : 0;
}

/// The tasks of one sequence. None of this shows in the bits of the result.
class Schedule {
 public:
  /// `first_query` is the first row's position, `row_period` as edges of the mask are (see below).
  Schedule(Kernel wanted, Shape q, Index keys, Index kv_heads, Index workers, Index first_query, Index row_period)
      : kernel(wanted != Kernel::kAutomatic ? wanted : choose(q.tokens, q.heads / kv_heads)),
        rows_(q.tokens),
        kv_heads_(kv_heads),
        group_(q.heads / kv_heads) {
    // A task takes all it can, unless other workers would have nothing to do.
    const bool splits_suffice = workers == 1 || keys >= kEnoughTasks * workers * kSplit;
    if (kernel == Kernel::kWide) {
      const auto period = [&](Index row) { return floor_div(first_query + row, row_period); };
      if (row_period > 0 && period(0) == period(rows_ - 1)) row_period = 0;  // no edge between the rows
      if (few_rows() && group_ > 1)
        take_heads(splits_suffice && q.dim <= kPanelsDim ? kPanelQueries : kWideRows, row_period);
      else
        task_rows_ = wide_rows(row_period);
      if (row_period > 0 && rows_ > 0) offset_ = floor_mod(first_query, task_rows_);
      return;
    }
    // Keys of all heads are neighbours in memory.
    const auto room = [](Index taken) { return std::max<Index>(1, kQueries / taken); };
    task_heads_ = std::min(group_, kQueries);
    task_rows_ = std::min(std::max<Index>(rows_, 1), room(2 * task_heads_));
    task_kv_heads_ = std::min(splits_suffice ? kv_heads : ceil_div(kv_heads, workers), room(task_heads_ * task_rows_));
  }

  Kernel kernel;

  Index row_tasks() const { return ceil_div(rows_ + offset_, task_rows_); }
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
    const Interval rows = range(row, task_rows_, rows_ + offset_);
    return {{std::max<Index>(rows.begin - offset_, 0), rows.end - offset_},
            range(part / group_parts, task_kv_heads_, kv_heads_),
            range(part % group_parts, task_heads_, group_)};
  }

  /// Fewer than lanes of the wide kernel: its splits of the keys may be tasks.
  bool few_rows() const { return kernel == Kernel::kNarrow || rows_ < kWideRows; }

  static constexpr Index kEnoughTasks = 4;  ///< per worker: with fewer, key splits of a decode are tasks too

 private:
  static constexpr Index kQueries = 128;  ///< of a narrow task: their states stay in the cache
  static constexpr Index kPanelQueries = ceil_div(144, kWideRows) * kWideRows;  ///< of a wide one, in several panels,
  static constexpr Index kPanelsDim = 640;                                      ///< up to this head_dim

  /// The wide kernel pays for whole vectors of queries, the narrow one by the query, a tenth more for each, and more
  /// where it has to transpose keys: from four fifths of the lanes on, wide, so that a call never takes much longer for
  /// a query more (chunk/… in the benchmarks). Fewer than a vector, or 16, are bound by memory, whose order the narrow
  /// kernel reads in.
  static Kernel choose(Index rows, Index group) {
    const Index queries = rows * group, lanes = ceil_div(queries, kLanes) * kLanes;
    const bool fills = queries >= std::max<Index>(kLanes, 16) && queries * 5 >= lanes * 4;
    return rows > kWideRows || fills ? Kernel::kWide : Kernel::kNarrow;
  }

  /// The most that registers hold, unless fewer rows end where the rule of the mask does: a task on both sides of such
  /// an edge visits what either sees.
  static Index wide_rows(Index row_period) {
    for (Index vectors = kTileVectors; vectors > 0 && row_period > 0; --vectors)
      if (row_period % (vectors * kLanes) == 0) return vectors * kLanes;
    return kWideRows;
  }

  /// Heads as lanes: all of a group, if `most` queries hold them, and as many rows as then fit in. Tasks end where the
  /// rule of the mask does, too.
  void take_heads(Index most, Index row_period) {
    const Index parts = ceil_div(group_, most);
    task_heads_ = std::min(group_, ceil_div(ceil_div(group_, parts), kLanes) * kLanes);
    task_rows_ = std::clamp<Index>(most / task_heads_, 1, std::max<Index>(rows_, 1));
    while (row_period % kLanes == 0 && row_period > 0 && row_period % task_rows_ != 0) --task_rows_;
  }

  Index rows_, kv_heads_, group_;
  Index offset_ = 0;  // of the first row in its task: with a period, tasks begin at multiples of their size
  Index task_rows_ = 1, task_kv_heads_ = 1, task_heads_ = 1;
};

}  // namespace longspan::inline LONGSPAN_ISA
