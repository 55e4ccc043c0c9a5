#pragma once
// The one include of Eigen: views over its matrices.

#include <Eigen/Core>
#include <type_traits>

#include <longspan/core/view.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A row-major matrix, map or block [tokens, heads·dim] as [tokens, heads, dim]; const where the matrix is. Throws
/// std::invalid_argument when the columns are not a multiple of `heads`.
template <class M, class Matrix = std::remove_cvref_t<M>>
requires std::is_base_of_v<Eigen::MatrixBase<Matrix>, Matrix>
auto view(M&& matrix, Index heads) {
  static_assert(Matrix::IsRowMajor, "tokens are rows: use a row-major matrix");
  static_assert(Matrix::InnerStrideAtCompileTime == 1, "the elements of a row must be neighbours");
  static_assert(std::is_lvalue_reference_v<M> || !std::is_base_of_v<Eigen::PlainObjectBase<Matrix>, Matrix>,
                "a view of a temporary matrix would dangle");
  check(heads >= 1, "view.heads", heads, ">= 1");
  check(matrix.cols() % heads == 0, "view.matrix.cols", matrix.cols(), MultipleOf{heads});
  const Index dim = matrix.cols() / heads;
  using T = std::remove_pointer_t<decltype(matrix.data())>;
  return TensorView<T>{matrix.data(), matrix.rows(), heads, dim, matrix.outerStride(), dim};
}

}  // namespace longspan::inline LONGSPAN_ISA
