#pragma once
// Masks by blocks: which blocks of keys a block of queries sees.

#include <algorithm>
#include <memory>
#include <utility>

#include <longspan/core/concepts.hpp>
#include <longspan/core/interval_algebra.hpp>
#include <longspan/core/runs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// How positions are cut into blocks: block row r holds the queries [r·block_queries, (r+1)·block_queries), block
/// column c the keys [c·block_keys, (c+1)·block_keys).
struct BlockGrid {
  Index rows = 0;
  Index columns = 0;
  Index block_queries = 64;
  Index block_keys = 64;
};

/// A query sees the keys of the blocks that its block row has; outside of the grid nothing is seen. With Causal by &
/// where the diagonal blocks are to be causal. (FlexAttention's BlockMask, FlashInfer's BSR.)
///
/// `some` and `every` are exact: O(log runs) of a block row for a range of queries inside one, and over several an
/// exact walk of their union or intersection, which visits nothing that none of them has. `allows` is O(log runs), in
/// lanes for each run that meets them. Memory: 32 bytes a run of neighbouring blocks; copies share it.
///
/// All ways to make one throw std::invalid_argument where the grid is empty or reaches beyond 2^52, where a block lies
/// outside of it, and where there is no block at all.
class BlockSparse {
 public:
  /// From CSR: row r has the blocks columns[row_offsets[r]] … columns[row_offsets[r+1] - 1], which ascend.
  BlockSparse(const BlockGrid& grid, std::span<const Index> row_offsets, std::span<const Index> columns)
      : grid_(checked(grid)) {
    check(std::ssize(row_offsets) == grid.rows + 1, "BlockSparse.row_offsets.size", row_offsets.size(), grid.rows + 1);
    check_cumulative("BlockSparse.row_offsets", row_offsets);
    check(row_offsets.back() == std::ssize(columns), "BlockSparse.row_offsets", row_offsets.back(), columns.size());
    fill([&](auto&& add) {
      for (Index r = 0, i = 0; r < grid.rows; ++r)
        for (Index least = 0; i < row_offsets[static_cast<std::size_t>(r) + 1]; ++i) {
          const Index column = columns[static_cast<std::size_t>(i)];
          check(column >= least, "BlockSparse.columns", column, AtLeast{least});
          add(r, column);
          least = column + 1;
        }
    });
  }

  /// From a function (row, column) -> bool, asked once for each block.
  template <std::predicate<Index, Index> F>
  BlockSparse(const BlockGrid& grid, F&& has) : grid_(checked(grid)) {
    fill([&](auto&& add) {
      for (Index r = 0; r < grid.rows; ++r)
        for (Index c = 0; c < grid.columns; ++c)
          if (has(r, c)) add(r, c);
    });
  }

  /// From a byte for each block, [rows, columns]: 0 is not seen.
  static BlockSparse from_dense(const BlockGrid& grid, std::span<const unsigned char> blocks) {
    const Index size = std::ssize(blocks), rows = checked(grid).rows;
    check(size % rows == 0 && size / rows == grid.columns, "BlockSparse.blocks.size", size, "rows · columns");
    return {grid, [&](Index r, Index c) { return blocks[static_cast<std::size_t>(r * grid.columns + c)] != 0; }};
  }

  /// From a list of (row, column) in any order.
  static BlockSparse from_list(const BlockGrid& grid, std::span<const std::pair<Index, Index>> blocks) {
    BlockSparse mask(grid);
    std::vector<std::pair<Index, Index>> sorted(blocks.begin(), blocks.end());
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    mask.fill([&](auto&& add) {
      for (const auto& [r, c] : sorted) add(r, c);
    });
    return mask;
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    return allows_by_runs(
        q, k, [this](Index query, Index from) { return keys_of(query, from); },
        [this](Index key, Index from) { return queries_of(key, from); });
  }
  Interval some(Interval q, Index k) const {
    const Interval seen = intersect(q, queries());
    if (seen.empty()) return kNoRun;
    return next_of_any(
        rows_of(seen), [this](Index row, Index at) { return next_in_row(table_->keys, row, at); }, k);
  }
  Interval every(Interval q, Index k) const {
    if (!queries().contains(q)) return kNoRun;
    return next_of_all(
        rows_of(q), [this](Index row, Index at) { return next_in_row(table_->keys, row, at); }, k);
  }
  Index same_until(Index q) const {
    if (q < 0) return 0;
    return q < queries().end ? (q / grid_.block_queries + 1) * grid_.block_queries : kUnbounded;
  }

 private:
  /// Runs of positions: of keys by block row, of queries by block column.
  struct Table {
    std::vector<std::vector<Interval>> keys, queries;
  };

  explicit BlockSparse(const BlockGrid& grid) : grid_(checked(grid)) {}

  static const BlockGrid& checked(const BlockGrid& grid) {
    const auto side = [](const char* blocks, Index count, const char* block, Index size) {
      check(size >= 1, block, size, ">= 1");
      check(count >= 1, blocks, count, ">= 1");
      check(count <= kPositionEnd / size, blocks, count, "at most 2^52 positions");
    };
    side("BlockGrid.rows", grid.rows, "BlockGrid.block_queries", grid.block_queries);
    side("BlockGrid.columns", grid.columns, "BlockGrid.block_keys", grid.block_keys);
    return grid;
  }

  /// for_each(add) calls add(row, column) for each block, rows and their columns ascending.
  template <class ForEach>
  void fill(ForEach&& for_each) {
    const auto table = std::make_shared<Table>();
    table->keys.resize(static_cast<std::size_t>(grid_.rows));
    table->queries.resize(static_cast<std::size_t>(grid_.columns));
    Index blocks = 0;
    for_each([&](Index row, Index column) {
      check(row >= 0 && row < grid_.rows, "BlockSparse.rows", row, Below{grid_.rows});
      check(column >= 0 && column < grid_.columns, "BlockSparse.columns", column, Below{grid_.columns});
      append_run(table->keys[static_cast<std::size_t>(row)], block(column, grid_.block_keys));
      append_run(table->queries[static_cast<std::size_t>(column)], block(row, grid_.block_queries));
      ++blocks;
    });
    check(blocks > 0, "BlockSparse.blocks", blocks, ">= 1");
    table_ = table;
  }
  static Interval block(Index i, Index size) { return {i * size, (i + 1) * size}; }

  Interval queries() const { return {0, grid_.rows * grid_.block_queries}; }
  Interval rows_of(Interval q) const { return {q.begin / grid_.block_queries, (q.end - 1) / grid_.block_queries + 1}; }
  Interval keys_of(Index query, Index k) const {
    return query < 0 ? kNoRun : next_in_row(table_->keys, query / grid_.block_queries, k);
  }
  Interval queries_of(Index key, Index q) const {
    return key < 0 ? kNoRun : next_in_row(table_->queries, key / grid_.block_keys, q);
  }
  static Interval next_in_row(const std::vector<std::vector<Interval>>& rows, Index row, Index at) {
    return row < std::ssize(rows) ? next_run(rows[static_cast<std::size_t>(row)], at) : kNoRun;
  }

  BlockGrid grid_;
  std::shared_ptr<const Table> table_;
};

}  // namespace longspan::inline LONGSPAN_ISA
