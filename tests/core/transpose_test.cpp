// transpose in core/transpose.hpp: every small size, with strides, writing nothing beside its result and reading
// nothing beside its input.

#include <gtest/gtest.h>

#include <longspan/core/transpose.hpp>
#include <memory>
#include <support/near.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

void check_transpose(Index rows, Index columns, Index in_pad, Index out_pad) {
  const Index in_stride = columns + in_pad, out_stride = rows + out_pad;
  Random random(61);
  // Memory of exactly the size that may be read, so that the address sanitizer sees a load behind it.
  const Index in_size = rows == 0 || columns == 0 ? 0 : (rows - 1) * in_stride + columns;
  const std::vector<float> values = random.gaussian(in_size);
  const std::unique_ptr<float[]> in(new float[static_cast<std::size_t>(in_size)]);
  std::copy(values.begin(), values.end(), in.get());
  const float untouched = -12345.f;
  std::vector<float> out(static_cast<std::size_t>(columns * out_stride + 16), untouched), wanted = out;
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < columns; ++c)
      wanted[static_cast<std::size_t>(c * out_stride + r)] = in[static_cast<std::size_t>(r * in_stride + c)];
  transpose(in.get(), in_stride, rows, columns, out.data(), out_stride);
  ASSERT_TRUE(same_bits(out, wanted)) << rows << "×" << columns << ", strides " << in_stride << " and " << out_stride;
}

TEST(Transpose, AllSmallSizes) {
  for (Index rows = 0; rows <= 37; ++rows)
    for (Index columns = 0; columns <= 37; ++columns)
      for (const Index in_pad : {0, 1, 5})
        for (const Index out_pad : {0, 1, 7}) check_transpose(rows, columns, in_pad, out_pad);
}

TEST(Transpose, SizesOfTheKernels) {
  for (const Index rows : {47, 48, 49, 63, 64})
    for (const Index columns : {64, 80, 96, 127, 128, 130}) check_transpose(rows, columns, 0, 64 - rows);
}

}  // namespace
}  // namespace longspan::testing
