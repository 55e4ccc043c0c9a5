#pragma once
// Pages of four bits: where they hold what, and how kernels get whole numbers of eight bits out of them.
//
// As PageLayout says, keys stand dimension-major and values token-major, but in bytes of two codes, so that a vector of
// bytes is two vectors of words: keys [head_dim/8][page_size][4], a byte for dims d and d + 4 of eight; values
// [page_size/8][value_dim][4], a byte for tokens t and t + 4 of eight. Before them scales, of keys and of values, and
// groups, [dim/32][page_size] of steps and as many first numbers, of keys and of values.

#include <utility>

#include <longspan/core/int4.hpp>
#include <longspan/kv/page_layout.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Part of a page, for what makes words of it; and for Ahead, which reads bytes.
template <>
struct KeyValueRun<i4> {
  Index size = 0, readable = 0;
  const i4* key = nullptr;
  Index key_stride = 4, dim_stride = 0;
  const i4* value = nullptr;
  Index value_stride = 0;
  Index key_pack = 8, value_pack = 8, value_first = 0;
  const float *key_scale = nullptr, *value_scale = nullptr;
  const std::uint8_t *key_group = nullptr, *value_group = nullptr;  ///< steps; `groups` bytes on, the first numbers
  Index group_stride = 0, key_groups = 0, value_groups = 0;         ///< from one group to the next; bytes of all steps

  /// See KeyValueRun.
  int number_of_key(Index j, Index d) const {
    return number(key[d / 8 * dim_stride + j * 4 + d % 4], d % 8 / 4, key_group, j, d, key_groups);
  }
  int number_of_value(Index j, Index d) const {
    const Index place = value_first + j;
    return number(value[place / 8 * value_stride + d * 4 + place % 4], place % 8 / 4, value_group, j, d, value_groups);
  }
  float scale_of_key(Index j) const { return key_scale[j]; }
  float scale_of_value(Index j) const { return value_scale[j]; }

 private:
  int number(i4 byte, Index upper, const std::uint8_t* groups, Index j, Index d, Index all) const {
    const std::uint8_t* step = groups + d / i4::kGroup * group_stride + j;
    return i4::Group{*step, static_cast<std::int8_t>(step[all])}.number(upper ? byte.bits >> 4 : byte.bits & 15);
  }
};

template <>
struct PageLayout<i4> {
  Index page_size = 0, head_dim = 0, value_dim = 0;
  Index key_pack = 8, value_pack = 8;
  Index keys_begin = 0, values_begin = 0, key_groups_begin = 0, value_groups_begin = 0;
  Index head_bytes = 0;

  PageLayout() = default;
  explicit PageLayout(const PagedShape& shape)
      : page_size(shape.page_size),
        head_dim(shape.head_dim),
        value_dim(shape.value_dim != 0 ? shape.value_dim : shape.head_dim) {
    const auto place = [&](Index bytes) { return std::exchange(head_bytes, ceil_div(head_bytes + bytes, 4) * 4); };
    place(2 * page_size * kScale);
    key_groups_begin = place(2 * key_groups());
    value_groups_begin = place(2 * value_groups());
    keys_begin = place(ceil_div(head_dim, 8) * page_size * 4);
    values_begin = place(ceil_div(page_size, 8) * value_dim * 4);
  }

  KeyValueRun<i4> run(const std::byte* head, Index at, Index left) const {
    const auto* scales = reinterpret_cast<const float*>(head);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(head);
    return {.size = std::min(page_size - at, left),
            .readable = page_size - at,
            .key = reinterpret_cast<const i4*>(head + keys_begin) + at * 4,
            .dim_stride = page_size * 4,
            .value = reinterpret_cast<const i4*>(head + values_begin) + at / 8 * value_dim * 4,
            .value_stride = value_dim * 4,
            .value_first = at % 8,
            .key_scale = scales + at,
            .value_scale = scales + page_size + at,
            .key_group = bytes + key_groups_begin + at,
            .value_group = bytes + value_groups_begin + at,
            .group_stride = page_size,
            .key_groups = key_groups(),
            .value_groups = value_groups()};
  }

  template <class K, class V>
  void store(std::byte* head, Index at, const K* key, const V* value) const {
    auto* scales = reinterpret_cast<float*>(head);
    scales[at] = i4::encode(
        key, head_dim, [&](Index d, std::uint8_t code) { put(key_byte(head, at, d), d % 8 / 4, code); },
        [&](Index g) { return groups(head + key_groups_begin, key_groups(), at, g); });
    scales[page_size + at] = i4::encode(
        value, value_dim, [&](Index d, std::uint8_t code) { put(value_byte(head, at, d), at % 8 / 4, code); },
        [&](Index g) { return groups(head + value_groups_begin, value_groups(), at, g); });
  }

  void copy(const std::byte* from, Index from_at, std::byte* to, Index at) const {
    auto* const source = const_cast<std::byte*>(from);
    const auto code = [](const i4& byte, Index upper) {
      return static_cast<std::uint8_t>(upper ? byte.bits >> 4 : byte.bits & 15);
    };
    for (Index d = 0; d < head_dim; ++d)
      put(key_byte(to, at, d), d % 8 / 4, code(key_byte(source, from_at, d), d % 8 / 4));
    for (Index d = 0; d < value_dim; ++d)
      put(value_byte(to, at, d), at % 8 / 4, code(value_byte(source, from_at, d), from_at % 8 / 4));
    for (const Index begin : {Index{0}, page_size})
      reinterpret_cast<float*>(to)[begin + at] = reinterpret_cast<const float*>(from)[begin + from_at];
    for (const Interval rows : {Interval{key_groups_begin, key_groups_begin + 2 * key_groups()},
                                Interval{value_groups_begin, value_groups_begin + 2 * value_groups()}})
      for (Index row = rows.begin; row < rows.end; row += page_size) to[row + at] = from[row + from_at];
  }

 private:
  static constexpr Index kScale = static_cast<Index>(sizeof(float));

  Index key_groups() const { return ceil_div(head_dim, i4::kGroup) * page_size; }
  Index value_groups() const { return ceil_div(value_dim, i4::kGroup) * page_size; }
  i4& key_byte(std::byte* head, Index at, Index d) const {
    return reinterpret_cast<i4*>(head + keys_begin)[(d / 8 * page_size + at) * 4 + d % 4];
  }
  i4& value_byte(std::byte* head, Index at, Index d) const {
    return reinterpret_cast<i4*>(head + values_begin)[(at / 8 * value_dim + d) * 4 + at % 4];
  }
  static void put(i4& byte, Index upper, std::uint8_t code) {
    byte.bits = static_cast<std::uint8_t>(upper ? (byte.bits & 15) | code << 4 : (byte.bits & 0xf0) | code);
  }
  /// Where group g of token `at` goes.
  struct Slot {
    std::uint8_t *step, *first;
    void operator=(const i4::Group& group) const {
      *step = group.step;
      *first = static_cast<std::uint8_t>(group.first);
    }
  };
  Slot groups(std::byte* steps, Index all, Index at, Index g) const {
    auto* const step = reinterpret_cast<std::uint8_t*>(steps) + g * page_size + at;
    return {step, step + all};
  }
};

/// Makes words of a source of i4.
template <class Source>
class FourBitMaker {
 public:
  FourBitMaker(const Source& source, float* memory, Index first_head)
      : source_(source), memory_(memory), first_head_(first_head) {}

  static Index floats(Index head_dim) { return ceil_div(head_dim, 8) * 8 * kMadeBlock; }

  /// Columns. See MakesKeys.
  template <class Words>
  MadeKeys words(Index kv_head, Interval keys, Index place) {
    const Index head = first_head_ + kv_head, dim = source_.head_dim();
    for (Index i = keys.begin, size; i < keys.end; i += size) {
      const auto run = source_.run(head, i);
      const Index to = place + i - keys.begin;
      size = std::min(run.size, keys.end - i);
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
      if constexpr (Words::kWhole) {
        // vectors of keys as they stand in the block, of which all may be read and written
        if (to % kLanes == 0 && run.readable >= ceil_div(size, kLanes) * kLanes) {
          for (Index j = 0; j < size; j += kLanes) make_vector(run, j, dim, memory_ + to + j);
          continue;
        }
      }
#endif
      for (Index j = 0; j < size; ++j)
        for (Index d = 0; d < ceil_div(dim, Words::kPer); ++d) {
          typename Words::Number word[Words::kPer] = {};
          for (Index e = 0; e < Words::kPer && d * Words::kPer + e < dim; ++e)
            word[e] = static_cast<typename Words::Number>(run.number_of_key(j, d * Words::kPer + e));
          std::memcpy(memory_ + d * kMadeBlock + to + j, word, sizeof word);
        }
    }
    return {memory_, kMadeBlock, false, ceil_div(dim, Words::kPer)};
  }

  /// The values of `keys`, of which the first is at `place` of the block, as rows of words from the word of that place
  /// on; see encode_values.
  template <class Words>
  static void values(const Source& source, Index kv_head, Interval keys, Index place, float* to, Index stride) {
    constexpr Index kPer = Words::kPer;
    const Index dim = source.value_dim(), first = place / kPer;
    const Index rows = ceil_div(place + keys.size(), kPer) - first;
    if (place % kPer != 0) std::fill_n(to, stride, 0.f);
    if ((place + keys.size()) % kPer != 0) std::fill_n(to + (rows - 1) * stride, stride, 0.f);
    for (Index r = 0; r < rows && stride > dim; ++r) std::fill_n(to + r * stride + dim, stride - dim, 0.f);
    for (Index i = keys.begin, size; i < keys.end; i += size) {
      const auto run = source.run(kv_head, i);
      const Index at = place + i - keys.begin;
      size = std::min(run.size, keys.end - i);
      Index j = 0;
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
      if constexpr (Words::kWhole)
        if (run.value_first == 0 && at % kPer == 0)
          for (; j + 8 <= size; j += 8) make_values(run, j, dim, to + ((at + j) / kPer - first) * stride, stride);
#endif
      for (; j < size; ++j)
        for (Index d = 0; d < dim; ++d) {
          auto* const word = reinterpret_cast<std::byte*>(to + ((at + j) / kPer - first) * stride + d);
          const auto number = static_cast<typename Words::Number>(run.number_of_value(j, d));
          std::memcpy(word + (at + j) % kPer * static_cast<Index>(sizeof number), &number, sizeof number);
        }
    }
  }

 private:
#if defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
  /// 16 keys.
  static void make_vector(const KeyValueRun<i4>& run, Index j, Index dim, float* to) {
    const auto bytes = [](const std::uint8_t* p) LONGSPAN_LAMBDA {  // each of 16 bytes in all four of a word
      const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
      return _mm512_mullo_epi32(x, _mm512_set1_epi32(0x01010101));
    };
    for (Index begin = 0; begin < dim; begin += i4::kGroup) {
      const std::uint8_t* const group = run.key_group + begin / i4::kGroup * run.group_stride + j;
      const FourBits numbers(bytes(group), bytes(group + run.key_groups));
      for (Index d = begin; d < std::min(begin + i4::kGroup, dim); d += 8) {
        const __m512i codes = _mm512_loadu_si512(run.key + d / 8 * run.dim_stride + j * 4);
        _mm512_storeu_si512(to + d / 4 * kMadeBlock, numbers.lower(codes));
        _mm512_storeu_si512(to + (d / 4 + 1) * kMadeBlock, numbers.upper(codes));
      }
    }
  }
  /// 8 tokens.
  static void make_values(const KeyValueRun<i4>& run, Index j, Index dim, float* to, Index stride) {
    const i4* const row = run.value + j / 8 * run.value_stride;
    for (Index begin = 0; begin < dim; begin += i4::kGroup) {
      const std::uint8_t* const group = run.value_group + begin / i4::kGroup * run.group_stride + j;
      const auto four = [](const std::uint8_t* p) LONGSPAN_LAMBDA {  // tokens
        std::int32_t word;
        std::memcpy(&word, p, sizeof word);
        return _mm512_set1_epi32(word);
      };
      const FourBits earlier(four(group), four(group + run.value_groups));
      const FourBits later(four(group + 4), four(group + 4 + run.value_groups));
      for (Index d = begin; d < std::min(begin + i4::kGroup, dim); d += kLanes) {
        const Index left = dim - d;
        const auto mask = static_cast<__mmask16>(left >= kLanes ? 0xffff : (1 << left) - 1);
        const __m512i codes = _mm512_maskz_loadu_epi32(mask, row + d * 4);
        _mm512_mask_storeu_epi32(to + d, mask, earlier.lower(codes));
        _mm512_mask_storeu_epi32(to + stride + d, mask, later.upper(codes));
      }
    }
  }
#endif

  Source source_;
  float* memory_;
  Index first_head_;
};

}  // namespace longspan::inline LONGSPAN_ISA
