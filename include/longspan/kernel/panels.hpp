#pragma once
// The queries of a task of the wide kernel as lanes: row by row the heads that share a KV head, in panels of as many
// vectors as registers hold. All but the last have the same number: 2 + 2 vectors take less time than 3 + 1.

#include <longspan/kernel/schedule.hpp>

namespace longspan::inline LONGSPAN_ISA {

class Panels {
 public:
  static constexpr Index kRows = kWideRows;  ///< lanes from one panel to the next

  /// Of a task of one KV head; `group` query heads share each.
  Panels(const TaskRange& task, Index group)
      : rows_(task.rows),
        heads_(task.heads.size()),
        first_head_(task.kv_heads.begin * group + task.heads.begin),
        queries_(task.queries()),
        vectors_(ceil_div(queries_, kLanes)),
        size_(count(queries_)),
        panel_vectors_(ceil_div(vectors_, size_)) {}
  static Index count(Index queries) { return ceil_div(queries, kRows); }

  Index size() const { return size_; }
  Index lanes() const { return size_ * kRows; }
  Index queries() const { return queries_; }
  Interval rows() const { return rows_; }
  Index row(Index query) const { return rows_.begin + query / heads_; }
  Index head(Index query) const { return first_head_ + query % heads_; }
  bool one_head() const { return heads_ == 1; }
  /// Rows of the output then lie equally far apart.
  bool even() const { return heads_ == 1 || rows_.size() == 1; }

  /// The first query of a panel, or the number of all for the one behind the last.
  Index first(Index panel) const { return std::min(panel * panel_vectors_ * kLanes, queries_); }
  Index vectors(Index panel) const { return std::min(panel_vectors_, vectors_ - panel * panel_vectors_); }

  /// f(panel, the number of its vectors, as a constant).
  template <class F>
  LONGSPAN_INLINE void for_each(F&& f) const {
    for (Index panel = 0; panel < size_; ++panel)
      unroll<kTileVectors>([&](auto i) LONGSPAN_LAMBDA {
        if (vectors(panel) == i + 1) f(panel, std::integral_constant<int, i + 1>{});
      });
  }
  /// f(panel, the vector's first lane in it).
  template <class F>
  LONGSPAN_INLINE void for_each_vector(F&& f) const {
    for (Index panel = 0; panel < size_; ++panel)
      for (Index lane = 0; lane < vectors(panel) * kLanes; lane += kLanes) f(panel, lane);
  }

 private:
  Interval rows_;
  Index heads_, first_head_;
  Index queries_, vectors_, size_, panel_vectors_;  // vectors: that queries fill
};

}  // namespace longspan::inline LONGSPAN_ISA
