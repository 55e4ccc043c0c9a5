// One mistake at a time, chosen by a macro; each ends in a message that says what to do (CMakeLists.txt here).

#include <longspan/longspan.hpp>

namespace ls = longspan;

void mistake(ls::TensorView<const float> q, ls::TensorView<const float> k, ls::TensorView<float> out);
void mistake(ls::TensorView<const float> q, ls::TensorView<const float> k, ls::TensorView<float> out) {
#if defined(TWO_MASKS)
  ls::attention(ls::Causal{}, ls::Window{8})(q, k, k, out);
#elif defined(MASK_IN_PARTS)
  ls::attention(ls::Window{8}, ls::SoftCap{30.f}, ls::Sinks{4})(q, k, k, out);
#elif defined(TWO_SINKS)
  const ls::SinkLogits sinks({1.f});
  ls::attention(sinks, ls::Causal{}, sinks)(q, k, k, out);
#elif defined(NO_POLICY)
  ls::attention(ls::Causal{}, 30.f)(q, k, k, out);
#elif defined(WRITES_TO_CONST)
  ls::attention(ls::Causal{})(q, k, k, q);
#elif defined(DANGLING_MATRIX)
  (void)ls::view(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(2, 4), 2);
#elif defined(COLUMN_MAJOR)
  Eigen::MatrixXf matrix(2, 4);
  (void)ls::view(matrix, 2);
#else
  ls::attention(ls::Causal{} & ls::Window{8})(q, k, k, out);
#endif
}
