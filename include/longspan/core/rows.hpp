#pragma once
// Queries and outputs: tensors whose element type is known at run time. Each row is read or written once a call, so a
// switch there costs nothing, and kernels are not instantiated once more for every type.

#include <type_traits>

#include <longspan/core/elements.hpp>
#include <longspan/core/view.hpp>

namespace longspan::inline LONGSPAN_ISA {

template <bool Const>
class AnyTensor {
  template <class T>
  using Pointer = std::conditional_t<Const, const T*, T*>;
  enum class Type : std::uint8_t { kFloat, kBf16, kF16 };

 public:
  AnyTensor() = default;
  template <class T>
  requires ElementType<std::remove_const_t<T>> &&(Const || !std::is_const_v<T>)AnyTensor(const TensorView<T>& t)
      : tokens(t.tokens),
        heads(t.heads),
        dim(t.dim),
        data_(t.data),
        type_(std::is_same_v<std::remove_const_t<T>, float>  ? Type::kFloat
              : std::is_same_v<std::remove_const_t<T>, bf16> ? Type::kBf16
                                                             : Type::kF16),
        token_stride_(t.token_stride),
        head_stride_(t.head_stride) {}

  Index tokens = 0;
  Index heads = 0;
  Index dim = 0;

  Shape shape() const { return {tokens, heads, dim}; }
  Index element_size() const { return type_ == Type::kFloat ? 4 : 2; }
  AnyTensor slice(Interval rows) const {
    AnyTensor part = *this;
    part.tokens = rows.size();
    visit([&](auto data) { part.data_ = data + rows.begin * token_stride_; });
    return part;
  }

  /// One of the heads.
  AnyTensor head(Index h) const {
    AnyTensor part = *this;
    part.heads = 1;
    visit([&](auto data) { part.data_ = data + h * head_stride_; });
    return part;
  }

  /// Of one token: its heads by groups, [heads / group, group, dim].
  AnyTensor by_group(Index group) const {
    AnyTensor groups = *this;
    groups.tokens = heads / group;
    groups.heads = group;
    groups.token_stride_ = group * head_stride_;
    return groups;
  }

  /// The row's elements, each multiplied by `scale`.
  void read(Index token, Index head, float scale, float* to) const requires Const {
    visit([&](auto data) { convert(data + at(token, head), dim, to, scale); });
  }
  /// Rounded to the nearest.
  void write(Index token, Index head, const float* from) const requires(!Const) {
    visit([&](auto data) { convert(from, dim, data + at(token, head)); });
  }
  /// The row in place if it is made of floats, else null.
  Pointer<float> floats(Index token, Index head) const {
    return type_ == Type::kFloat ? static_cast<Pointer<float>>(data_) + at(token, head) : nullptr;
  }
  /// Asks for the cache lines of a row.
  void prefetch_row(Index token, Index head) const {
    visit([&](auto data) {
      for (Index d = 0; d < dim; d += 64 / element_size()) prefetch<!Const>(data + at(token, head) + d);
    });
  }

 private:
  Index at(Index token, Index head) const { return token * token_stride_ + head * head_stride_; }
  template <class F>
  void visit(F&& f) const {
    switch (type_) {
      case Type::kFloat:
        return f(static_cast<Pointer<float>>(data_));
      case Type::kBf16:
        return f(static_cast<Pointer<bf16>>(data_));
      case Type::kF16:
        return f(static_cast<Pointer<f16>>(data_));
    }
  }

  Pointer<void> data_ = nullptr;
  Type type_ = Type::kFloat;
  Index token_stride_ = 0;
  Index head_stride_ = 0;
};
using QueryTensor = AnyTensor<true>;
using OutputTensor = AnyTensor<false>;

}  // namespace longspan::inline LONGSPAN_ISA
