#pragma once
// Key/value sources whose storage isn't known to the compiler: one instantiation of the kernels serves contiguous keys,
// pages, and a user's own.

#include <longspan/core/concepts.hpp>
#include <memory>
#include <utility>

namespace longspan::testing {

template <class T>
class AnySource {
 public:
  using Element = T;

  /// `keeps` lives as long as copies of this do: whatever owns the memory.
  template <KeyValueSource S>
  static AnySource of(const S& source, std::shared_ptr<const void> keeps = {}) {
    AnySource any;
    any.self_ = std::make_shared<Model<S>>(source, std::move(keeps));
    return any;
  }

  Index keys() const { return self_->keys(); }
  Index kv_heads() const { return self_->kv_heads(); }
  Index head_dim() const { return self_->head_dim(); }
  Index value_dim() const { return self_->value_dim(); }
  KeyValueRun<T> run(Index kv_head, Index i) const { return self_->run(kv_head, i); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Index keys() const = 0;
    virtual Index kv_heads() const = 0;
    virtual Index head_dim() const = 0;
    virtual Index value_dim() const = 0;
    virtual KeyValueRun<T> run(Index kv_head, Index i) const = 0;
  };
  template <class S>
  struct Model final : Interface {
    Model(const S& s, std::shared_ptr<const void> k) : source(s), keeps(std::move(k)) {}
    Index keys() const override { return source.keys(); }
    Index kv_heads() const override { return source.kv_heads(); }
    Index head_dim() const override { return source.head_dim(); }
    Index value_dim() const override { return source.value_dim(); }
    KeyValueRun<T> run(Index kv_head, Index i) const override { return source.run(kv_head, i); }
    S source;
    std::shared_ptr<const void> keeps;
  };
  AnySource() = default;
  std::shared_ptr<const Interface> self_;
};
static_assert(KeyValueSource<AnySource<float>>);

}  // namespace longspan::testing
