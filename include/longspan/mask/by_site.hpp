#pragma once
// Masks that differ from head to head, or from sequence to sequence of a batch, and their algebra with & | ! among
// themselves and with masks that don't.

#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>
#include <longspan/mask/algebra.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
template <class M>
std::vector<M> some_masks(const char* argument, std::vector<M> masks) {
  check(!masks.empty(), argument, masks.size(), ">= 1");
  return masks;
}
}  // namespace detail

/// masks[h] is the mask of query head h. (LongNet's offsets by head, heads that retrieve and heads that look near by.)
/// Masks are of one type, so combine: (by_head of windows) | Causal{}, say. A call does one head after another, so
/// heads that share keys don't share the reading of them: give one mask where all see the same. Throws
/// std::invalid_argument where there is none; a call with another number of heads is refused.
template <Mask M>
class ByHead {
 public:
  static constexpr bool kByHead = true;

  explicit ByHead(std::vector<M> masks) : masks_(detail::some_masks("ByHead.masks.size", std::move(masks))) {}

  M at(Site site) const { return masks_[static_cast<std::size_t>(site.head)]; }
  Index heads() const { return std::ssize(masks_); }
  Index sequences() const { return 0; }

 private:
  std::vector<M> masks_;
};

/// masks[i] is the mask of sequence i of a batch, in that sequence's own positions. Throws std::invalid_argument where
/// there is none; a call with another number of sequences is refused.
template <Mask M>
class BySequence {
 public:
  static constexpr bool kByHead = false;

  explicit BySequence(std::vector<M> masks) : masks_(detail::some_masks("BySequence.masks.size", std::move(masks))) {}

  M at(Site site) const { return masks_[static_cast<std::size_t>(site.sequence)]; }
  Index heads() const { return 0; }
  Index sequences() const { return std::ssize(masks_); }

 private:
  std::vector<M> masks_;
};

namespace detail {
template <class M>
auto made(Index count, const auto& make) {
  std::vector<M> masks;
  for (Index i = 0; i < count; ++i) masks.push_back(make(i));
  return masks;
}
template <class F>
using MadeBy = std::invoke_result_t<const F&, Index>;

/// What a part of an expression is for a site.
template <Mask M>
const M& mask_at(const M& mask, Site) {
  return mask;
}
template <MaskBySite F>
auto mask_at(const F& family, Site site) {
  return family.at(site);
}
template <class M>
concept AnyKindOfMask = Mask<M> || MaskBySite<M>;
}  // namespace detail

/// … from a function head -> mask, asked once for each.
template <class F>
auto by_head(Index heads, const F& make) {
  return ByHead(detail::made<detail::MadeBy<F>>(heads, make));
}
/// … from a function sequence -> mask.
template <class F>
auto by_sequence(Index sequences, const F& make) {
  return BySequence(detail::made<detail::MadeBy<F>>(sequences, make));
}

/// An expression over masks of which some differ by site: Op of what its parts are there. Throws std::invalid_argument
/// where two parts are made for different numbers of heads or sequences.
template <class Op, detail::AnyKindOfMask... Parts>
class BySite {
  template <class M>
  static constexpr bool has_heads() {
    if constexpr (MaskBySite<M>) return M::kByHead;
    return false;
  }

 public:
  static constexpr bool kByHead = (... || has_heads<Parts>());

  explicit BySite(Parts... parts) : parts_(std::move(parts)...) {
    std::apply([&](const Parts&... p) { (agree(p), ...); }, parts_);
  }

  auto at(Site site) const {
    return std::apply([&](const Parts&... p) { return Op{}(detail::mask_at(p, site)...); }, parts_);
  }
  Index heads() const { return heads_; }
  Index sequences() const { return sequences_; }

 private:
  template <class M>
  void agree(const M& part) {
    if constexpr (MaskBySite<M>) {
      const auto one = [](const char* what, Index& all, Index count) {
        check(all == 0 || count == 0 || all == count, what, count, all);
        all = std::max(all, count);
      };
      one("mask heads", heads_, part.heads());
      one("mask sequences", sequences_, part.sequences());
    }
  }
  std::tuple<Parts...> parts_;
  Index heads_ = 0, sequences_ = 0;
};

template <detail::AnyKindOfMask A, detail::AnyKindOfMask B>
requires MaskBySite<A> || MaskBySite<B>
auto operator&(A a, B b) { return BySite<std::bit_and<>, A, B>(std::move(a), std::move(b)); }
template <detail::AnyKindOfMask A, detail::AnyKindOfMask B>
requires MaskBySite<A> || MaskBySite<B>
auto operator|(A a, B b) { return BySite<std::bit_or<>, A, B>(std::move(a), std::move(b)); }
template <MaskBySite M>
auto operator!(M m) {
  return BySite<std::logical_not<>, M>(std::move(m));
}

}  // namespace longspan::inline LONGSPAN_ISA
