#pragma once
// Score functions whose type isn't known to the compiler: one instantiation of the kernels serves a whole table of
// them.

#include <longspan/core/position.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/kernel/problem.hpp>
#include <memory>
#include <support/any_mask.hpp>
#include <tuple>
#include <type_traits>

namespace longspan::testing {

/// A chain of score functions behind one type, which is a score function itself; or none, which is not to be called.
class AnyScore {
 public:
  AnyScore() = default;
  template <class... F>
  static AnyScore of(const std::tuple<F...>& functions) {
    AnyScore any;
    any.self_ = std::apply(
        [](const F&... f) { return std::make_shared<Model<ScoreChain<F...>>>(ScoreChain<F...>(f...)); }, functions);
    return any;
  }

  bool none() const { return !self_; }
  template <class Score, class Query, class Key>
  Score operator()(const Score& score, const Query& q, const Key& k, Site site) const {
    if constexpr (std::is_same_v<Score, double>)
      return self_->exact(score, q, k, site);
    else if constexpr (std::is_same_v<Query, Position<Lanes>>)
      return self_->queries_in_lanes(score, q, k, site);
    else
      return self_->keys_in_lanes(score, q, k, site);
  }
  void check_extent(const Extent& extent) const {
    if (self_) self_->check_extent(extent);
  }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void check_extent(const Extent& extent) const = 0;
    virtual double exact(double score, ExactPosition q, ExactPosition k, Site site) const = 0;
    virtual Lanes queries_in_lanes(const Lanes& score, const Position<Lanes>& q, const OnePlace& k,
                                   Site site) const = 0;
    virtual Lanes keys_in_lanes(const Lanes& score, const OnePlace& q, const Position<Lanes>& k, Site site) const = 0;
  };
  template <class Chain>
  struct Model final : Interface {
    explicit Model(const Chain& c) : chain(c) {}
    void check_extent(const Extent& extent) const override {
      chain.check_heads(extent.heads);
      chain.check_extent(extent);
    }
    double exact(double score, ExactPosition q, ExactPosition k, Site site) const override {
      return chain(score, q, k, site);
    }
    Lanes queries_in_lanes(const Lanes& score, const Position<Lanes>& q, const OnePlace& k, Site site) const override {
      return chain(score, q, k, site);
    }
    Lanes keys_in_lanes(const Lanes& score, const OnePlace& q, const Position<Lanes>& k, Site site) const override {
      return chain(score, q, k, site);
    }
    Chain chain;
  };
  std::shared_ptr<const Interface> self_;
};
static_assert(ScoreFunction<AnyScore>);

}  // namespace longspan::testing
