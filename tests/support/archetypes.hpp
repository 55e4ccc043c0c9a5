#pragma once
// Policies as a user would write them, with nothing but what the concepts ask for: no default constructor, no
// comparison, no name from the library except its words. Whatever the library takes must take these.

#include <algorithm>
#include <limits>
#include <longspan/core/concepts.hpp>
#include <longspan/core/view.hpp>
#include <utility>
#include <vector>

namespace archetypes {

using longspan::Index;
using longspan::Interval;

/// The keys within `radius` of the query, on both sides. Its verdicts are as bad as the laws allow: `some` begins too
/// early, ends too late and comes in touching pieces; `every` is too narrow.
class SymmetricWindow {
 public:
  SymmetricWindow() = delete;
  explicit SymmetricWindow(Index radius) : radius_(radius) {}
  bool operator==(const SymmetricWindow&) const = delete;

  auto allows(const auto& q, const auto& k) const { return (k <= q + radius_) & (k > q - (radius_ + 1)); }
  Interval some(Interval q, Index k) const {
    const Index begin = std::max({k, q.begin - radius_ - 3, Index{0}}), end = q.end + radius_ + 5;
    if (begin >= end) return longspan::kNoRun;
    return {begin, std::min(end, begin / kPiece * kPiece + kPiece)};
  }
  Interval every(Interval q, Index k) const {
    const Index begin = std::max({k, q.end - radius_, Index{0}}), end = q.begin + radius_ - 1;
    return begin < end ? Interval{begin, end} : longspan::kNoRun;
  }

 private:
  static constexpr Index kPiece = 7;
  Index radius_;
};

/// Forgets slowly: a score function with head, written once for scalars and lanes.
class Recency {
 public:
  Recency() = delete;
  explicit Recency(float rate) : rate_(rate) {}

  auto operator()(auto score, auto query, auto key) const { return score - rate_ * (query - key); }

 private:
  float rate_;
};

/// The same as a lambda that depends on the head.
inline auto recency_by_head(float rate) {
  return [rate](auto score, auto query, auto key, Index head) {
    return score - (rate * static_cast<float>(head + 1)) * (query - key);
  };
}

/// Keys dimension-major in pages of 16 places of which only some are taken, a NaN in each of the others: what a cache
/// with shared or evicted tokens might hand out. Every second page has rows of another length.
class HalfFullPages {
 public:
  using Element = float;

  HalfFullPages(longspan::TensorView<const float> k, longspan::TensorView<const float> v)
      : kv_heads_(k.heads), head_dim_(k.dim), value_dim_(v.dim) {
    for (Index first = 0, n = 0; first < k.tokens; ++n) {
      const Index taken = std::min(1 + (n * 7 + 4) % kPlaces, k.tokens - first), stride = kPlaces + n % 2 * 8;
      Page page{first, taken, stride, {}, {}};
      page.keys.assign(static_cast<std::size_t>(kv_heads_ * head_dim_ * stride), kNan);
      page.values.assign(static_cast<std::size_t>(kv_heads_ * value_dim_ * kPlaces), kNan);
      for (Index h = 0; h < kv_heads_; ++h)
        for (Index j = 0; j < taken; ++j) {
          for (Index d = 0; d < head_dim_; ++d)
            page.keys[static_cast<std::size_t>((h * head_dim_ + d) * stride + j)] = k.row(first + j, h)[d];
          std::copy_n(v.row(first + j, h), value_dim_, page.values.begin() + (h * kPlaces + j) * value_dim_);
        }
      pages_.push_back(std::move(page));
      first += taken;
    }
    keys_ = k.tokens;
  }

  Index keys() const { return keys_; }
  Index kv_heads() const { return kv_heads_; }
  Index head_dim() const { return head_dim_; }
  Index value_dim() const { return value_dim_; }
  longspan::KeyValueRun<float> run(Index kv_head, Index i) const {
    std::size_t n = 0;
    while (pages_[n].first + pages_[n].taken <= i) ++n;
    const Page& p = pages_[n];
    const Index at = i - p.first;
    return {.size = p.taken - at,
            .readable = kPlaces - at,
            .key = p.keys.data() + kv_head * head_dim_ * p.stride + at,
            .key_stride = 1,
            .dim_stride = p.stride,
            .value = p.values.data() + (kv_head * kPlaces + at) * value_dim_,
            .value_stride = value_dim_};
  }

 private:
  static constexpr Index kPlaces = 16;
  static constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  struct Page {
    Index first, taken, stride;
    std::vector<float> keys, values;
  };
  std::vector<Page> pages_;
  Index keys_ = 0, kv_heads_, head_dim_, value_dim_;
};

static_assert(longspan::KeyValueSource<HalfFullPages>);
static_assert(longspan::Mask<SymmetricWindow>);
static_assert(longspan::ScoreFunction<Recency>);
static_assert(longspan::ScoreFunction<decltype(recency_by_head(1.f))>);
static_assert(!longspan::Mask<Recency>);
static_assert(!longspan::ScoreFunction<SymmetricWindow>);

}  // namespace archetypes
