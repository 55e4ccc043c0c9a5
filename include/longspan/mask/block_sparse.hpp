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

  Interval queries_of(Index row) const { return {row * block_queries, (row + 1) * block_queries}; }
  Interval keys_of(Index column) const { return {column * block_keys, (column + 1) * block_keys}; }
};

/// The blocks of a grid as runs of positions: what masks by blocks are made of, and a mask that may be empty.
class BlockTable {
 public:
  /// for_each(grid, add) calls add(row, column) for each block, rows and their columns ascending.
  template <class ForEach>
  BlockTable(const BlockGrid& grid, ForEach&& for_each) : grid_(checked(grid)) {
    const auto runs = std::make_shared<Runs>();
    runs->keys.resize(static_cast<std::size_t>(grid.rows));
    runs->queries.resize(static_cast<std::size_t>(grid.columns));
    for_each(grid, [&](Index row, Index column) {
      check(row >= 0 && row < grid.rows, "BlockSparse.rows", row, Below{grid.rows});
      check(column >= 0 && column < grid.columns, "BlockSparse.columns", column, Below{grid.columns});
      append_run(runs->keys[static_cast<std::size_t>(row)], grid.keys_of(column));
      append_run(runs->queries[static_cast<std::size_t>(column)], grid.queries_of(row));
      ++blocks_;
    });
    runs_ = runs;
  }
  /// A for_each from a function (row, column) -> bool, asked once for each block.
  template <std::predicate<Index, Index> F>
  static auto where(F has) {
    return [has](const BlockGrid& grid, auto&& add) {
      for (Index r = 0; r < grid.rows; ++r)
        for (Index c = 0; c < grid.columns; ++c)
          if (has(r, c)) add(r, c);
    };
  }

  Index blocks() const { return blocks_; }
  Interval queries() const { return {0, grid_.rows * grid_.block_queries}; }
  Interval keys() const { return {0, grid_.columns * grid_.block_keys}; }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    const auto keys_of = [this](Index query, Index from) LONGSPAN_LAMBDA {
      return query < 0 ? kNoRun : next(runs_->keys, query / grid_.block_queries, from);
    };
    const auto queries_of = [this](Index key, Index from) LONGSPAN_LAMBDA {
      return key < 0 ? kNoRun : next(runs_->queries, key / grid_.block_keys, from);
    };
    return allows_by_runs(q, k, keys_of, queries_of);
  }
  Interval some(Interval q, Index k) const {
    const Interval seeing = intersect(q, queries());
    return seeing.empty() ? kNoRun : next_of_any(rows_of(seeing), row(), k);
  }
  Interval every(Interval q, Index k) const {
    return queries().contains(q) ? next_of_all(rows_of(q), row(), k) : kNoRun;
  }
  Index edge_after(Index q) const {
    if (q < 0) return 0;
    return q < queries().end ? (q / grid_.block_queries + 1) * grid_.block_queries : kUnbounded;
  }

 protected:
  static BlockGrid checked(BlockGrid grid) {
    const auto side = [](const char* blocks, Index count, const char* block, Index size) {
      check(size >= 1, block, size, ">= 1");
      check(count >= 1, blocks, count, ">= 1");
      check(count <= kPositionEnd / size, blocks, count, "at most 2^52 positions");
    };
    side("BlockGrid.rows", grid.rows, "BlockGrid.block_queries", grid.block_queries);
    side("BlockGrid.columns", grid.columns, "BlockGrid.block_keys", grid.block_keys);
    LONGSPAN_OPAQUE(grid.rows);  // against wrong code of g++ 12.2: see dense.hpp
    return grid;
  }

 private:
  using Rows = std::vector<std::vector<Interval>>;
  struct Runs {
    Rows keys, queries;  // of each block row, of each block column
  };
  struct Row {
    const Rows& rows;
    Interval operator()(Index i, Index k) const { return next(rows, i, k); }
  };

  Row row() const { return {runs_->keys}; }
  Interval rows_of(Interval q) const { return {q.begin / grid_.block_queries, (q.end - 1) / grid_.block_queries + 1}; }
  static Interval next(const Rows& rows, Index i, Index at) {
    return i < std::ssize(rows) ? next_run(rows[static_cast<std::size_t>(i)], at) : kNoRun;
  }

  BlockGrid grid_;
  Index blocks_ = 0;
  std::shared_ptr<const Runs> runs_;
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
class BlockSparse : public BlockTable {
 public:
  /// From CSR: row r has the blocks columns[row_offsets[r]] … columns[row_offsets[r+1] - 1], which ascend.
  BlockSparse(const BlockGrid& grid, std::span<const Index> row_offsets, std::span<const Index> columns)
      : BlockSparse(Made{}, grid, [&](const BlockGrid&, auto&& add) {
          check(std::ssize(row_offsets) == grid.rows + 1, "BlockSparse.row_offsets.size", row_offsets.size(),
                grid.rows + 1);
          check_cumulative("BlockSparse.row_offsets", row_offsets);
          check(row_offsets.back() == std::ssize(columns), "BlockSparse.row_offsets", row_offsets.back(),
                columns.size());
          for (Index r = 0, i = 0; r < grid.rows; ++r)
            for (Index least = 0; i < row_offsets[static_cast<std::size_t>(r) + 1]; ++i) {
              const Index column = columns[static_cast<std::size_t>(i)];
              check(column >= least, "BlockSparse.columns", column, AtLeast{least});
              add(r, column);
              least = column + 1;
            }
        }) {}

  /// From a function (row, column) -> bool, asked once for each block.
  template <std::predicate<Index, Index> F>
  BlockSparse(const BlockGrid& grid, F&& has)
      : BlockSparse(Made{}, grid, where([&has](Index r, Index c) { return has(r, c); })) {}

  /// From a byte for each block, [rows, columns]: 0 is not seen.
  static BlockSparse from_dense(const BlockGrid& grid, std::span<const unsigned char> blocks) {
    const Index size = std::ssize(blocks), rows = checked(grid).rows;
    check(size % rows == 0 && size / rows == grid.columns, "BlockSparse.blocks.size", size, "rows · columns");
    return {grid, [&](Index r, Index c) { return blocks[static_cast<std::size_t>(r * grid.columns + c)] != 0; }};
  }

  /// From a list of (row, column) in any order.
  static BlockSparse from_list(const BlockGrid& grid, std::span<const std::pair<Index, Index>> blocks) {
    std::vector<std::pair<Index, Index>> sorted(blocks.begin(), blocks.end());
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    return {Made{}, grid, [&](const BlockGrid&, auto&& add) {
              for (const auto& [r, c] : sorted) add(r, c);
            }};
  }

 private:
  struct Made {};
  template <class ForEach>
  BlockSparse(Made, const BlockGrid& grid, ForEach&& for_each) : BlockTable(grid, for_each) {
    check(blocks() > 0, "BlockSparse.blocks", blocks(), ">= 1");
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
