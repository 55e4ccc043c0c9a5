#pragma once
// Masks that are given pair by pair.

#include <bit>
#include <cstdint>
#include <memory>

#include <longspan/core/concepts.hpp>
#include <longspan/core/runs.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Where a dense mask stands: `queries` rows from position first_query on, `keys` columns from first_key on.
struct DenseShape {
  Index queries = 0;
  Index keys = 0;
  Index first_query = 0;
  Index first_key = 0;
};

/// A bit for each (query, key); outside of it nothing is seen.
///
/// `some` and `every` are exact, 64 keys a step: O(queries in the range · keys passed over / 64). `allows` in lanes
/// reads two words: bits are kept by query and by key. Memory: queries·keys/4 bytes; copies share it.
class DenseMask {
 public:
  /// From a function (row, column) -> bool, asked once for each pair.
  /// All three throw std::invalid_argument unless the shape has no negative size and positions lie below 2^52.
  template <std::predicate<Index, Index> F>
  DenseMask(const DenseShape& shape, F&& sees) : shape_(checked(shape)) {
    auto table = std::make_shared<Table>(shape);
    for (Index r = 0; r < shape.queries; ++r)
      for (Index c = 0; c < shape.keys; ++c)
        if (sees(r, c)) table->by_query.set(r, c), table->by_key.set(c, r);
    for (Index r = shape.queries - 1; r >= 0; --r) {
      const bool like_next = r + 1 < shape.queries && table->by_query.equal(r, r + 1);
      table->edges[static_cast<std::size_t>(r)] = like_next ? table->edges[static_cast<std::size_t>(r) + 1] : r + 1;
    }
    table_ = table;
  }
  /// From bytes, [queries, keys]: 0 is not seen.
  static DenseMask from_bytes(const DenseShape& shape, std::span<const unsigned char> bytes) {
    check_size("DenseMask.bytes.size", std::ssize(bytes), shape.queries, checked(shape).keys);
    return {shape, [&](Index r, Index c) { return bytes[static_cast<std::size_t>(r * shape.keys + c)] != 0; }};
  }
  /// From bits, [queries, ceil(keys / 64)]: key c is bit c mod 64 of word c / 64.
  static DenseMask from_bits(const DenseShape& shape, std::span<const std::uint64_t> words) {
    const Index stride = ceil_div(checked(shape).keys, 64);
    check_size("DenseMask.bits.size", std::ssize(words), shape.queries, stride);
    return {shape, [&](Index r, Index c) {
              return (words[static_cast<std::size_t>(r * stride + c / 64)] >> (c % 64) & 1) != 0;
            }};
  }

  LONGSPAN_INLINE auto allows(const auto& q, const auto& k) const {
    if constexpr (kInLanes<std::decay_t<decltype(q)>>)
      return lanes(table_->by_key.window(place(k) - shape_.first_key, place(q) - shape_.first_query));
    else if constexpr (kInLanes<std::decay_t<decltype(k)>>)
      return lanes(table_->by_query.window(place(q) - shape_.first_query, place(k) - shape_.first_key));
    else
      return (table_->by_query.window(place(q) - shape_.first_query, place(k) - shape_.first_key) & 1) != 0;
  }
  Interval some(Interval q, Index k) const {
    return next(intersect(rows_of(q), {0, shape_.queries}), k, [](std::uint64_t a, std::uint64_t b) { return a | b; });
  }
  Interval every(Interval q, Index k) const {
    return next(rows_of(q), k, [](std::uint64_t a, std::uint64_t b) { return a & b; });
  }
  Index edge_after(Index q) const {
    const Index row = q - shape_.first_query;
    if (row < 0) return shape_.first_query;
    return row < shape_.queries ? table_->edges[static_cast<std::size_t>(row)] + shape_.first_query : kUnbounded;
  }

 private:
  /// Rows of bits, in whole words, zeros behind.
  class Bits {
   public:
    Bits(Index rows, Index columns)
        : rows_(rows), words_(ceil_div(columns, 64)), bits_(static_cast<std::size_t>(rows * words_)) {}

    void set(Index row, Index column) {
      bits_[static_cast<std::size_t>(row * words_ + column / 64)] |= std::uint64_t{1} << (column % 64);
    }
    Index words() const { return words_; }
    std::uint64_t word(Index row, Index i) const {
      return row >= 0 && row < rows_ && i >= 0 && i < words_ ? bits_[static_cast<std::size_t>(row * words_ + i)] : 0;
    }
    /// The 64 bits from a column on; zeros outside.
    std::uint64_t window(Index row, Index column) const {
      const Index i = column >> 6, shift = column & 63;
      return shift == 0 ? word(row, i) : word(row, i) >> shift | word(row, i + 1) << (64 - shift);
    }
    bool equal(Index a, Index b) const {
      return std::equal(bits_.begin() + a * words_, bits_.begin() + (a + 1) * words_, bits_.begin() + b * words_);
    }

   private:
    Index rows_, words_;
    std::vector<std::uint64_t> bits_;
  };
  struct Table {
    explicit Table(const DenseShape& s)
        : by_query(s.queries, s.keys), by_key(s.keys, s.queries), edges(static_cast<std::size_t>(s.queries)) {}
    Bits by_query, by_key;
    std::vector<Index> edges;
  };

  static DenseShape checked(DenseShape shape) {
    const auto side = [](const char* size, Index count, const char* first, Index begin) {
      check(count >= 0 && count <= kPositionEnd, size, count, "within [0, 2^52]");
      check(begin >= 0 && begin <= kPositionEnd, first, begin, "within [0, 2^52]");
    };
    side("DenseShape.queries", shape.queries, "DenseShape.first_query", shape.first_query);
    side("DenseShape.keys", shape.keys, "DenseShape.first_key", shape.first_key);
    LONGSPAN_OPAQUE(shape.queries);  // g++ 12.2 at -O3 for AVX-512 copies a constant {n, n, 0, 0} as {n, n, n, n}
    return shape;
  }
  static void check_size(const char* argument, Index size, Index rows, Index stride) {
    const bool holds = rows == 0 || stride == 0 ? size == 0 : size % rows == 0 && size / rows == stride;
    check(holds, argument, size, "the size of the shape");
  }

  Interval rows_of(Interval q) const { return {q.begin - shape_.first_query, q.end - shape_.first_query}; }

  /// Lane i: bit i.
  static LONGSPAN_INLINE LaneTruth lanes(std::uint64_t bits) {
    using Whole = xsimd::batch<std::int32_t>;
    static_assert(Whole::size == kLanes);
    alignas(64) std::int32_t bit[kLanes];
    for (int i = 0; i < kLanes; ++i) bit[i] = std::int32_t{1} << i;  // a constant
    const Whole all(static_cast<std::int32_t>(static_cast<std::uint32_t>(bits)));
    return {xsimd::to_float(all & Whole::load_aligned(bit)) != Lanes(0.f)};
  }

  /// The next run of ones in what `op` makes of the rows.
  template <class Op>
  Interval next(Interval rows, Index k, Op op) const {
    if (rows.empty()) return kNoRun;
    const Bits& bits = table_->by_query;
    const auto word = [&](Index i) {
      std::uint64_t all = bits.word(rows.begin, i);
      for (Index r = rows.begin + 1; r < rows.end; ++r) all = op(all, bits.word(r, i));
      return all;
    };
    const Index from = std::max<Index>(0, k - shape_.first_key);
    Index i = from / 64;
    if (i >= bits.words()) return kNoRun;
    std::uint64_t ones = word(i) & ~std::uint64_t{0} << (from % 64);
    while (ones == 0 && ++i < bits.words()) ones = word(i);
    if (ones == 0) return kNoRun;
    const Index begin = i * 64 + std::countr_zero(ones);
    // Zeros at and behind begin: none in this word, so on with the next.
    std::uint64_t zeros = ~ones & ~std::uint64_t{0} << (begin % 64);
    while (zeros == 0 && ++i < bits.words()) zeros = ~word(i);
    const Index end = zeros == 0 ? bits.words() * 64 : i * 64 + std::countr_zero(zeros);
    return {begin + shape_.first_key, end + shape_.first_key};
  }

  DenseShape shape_;
  std::shared_ptr<const Table> table_;
};

}  // namespace longspan::inline LONGSPAN_ISA
