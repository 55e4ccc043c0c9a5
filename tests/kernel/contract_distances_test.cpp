// The numeric contract with score functions of the distance.

#include <gtest/gtest.h>

#include <support/contract.hpp>

namespace longspan::testing {
namespace {

/// Behind one type, so that kernels are compiled for it once.
TEST(Contract, KerpleAndFire) {
  std::vector<float> weight(8), bias(8), output(32);
  for (std::size_t i = 0; i < output.size(); ++i) output[i] = 0.1f * static_cast<float>(i % 7) - 0.3f;
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = output[i] * 3, bias[i] = output[i + 8];
  const Fire fire({.weight = weight, .bias = bias, .output = output, .output_bias = {0.1f, -0.2f, 0.3f, 0.f}});
  const KerpleLog logarithmic({0.5f, 1.f, 0.1f, 2.f}, {1.f, 0.01f, 0.3f, 2.f});
  const KerplePower power({0.05f, 0.01f, 0.001f, 0.1f}, {1.f, 0.5f, 1.7f, 0.3f});
  // The soft cap ends in a product, which must not be contracted with what comes after it.
  contract::hold("causal, soft cap, kerple, fire", attention(Causal{}, logarithmic, SoftCap{4.f}, power, fire), 4);
}

}  // namespace
}  // namespace longspan::testing
