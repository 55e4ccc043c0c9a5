#pragma once
// Learned attention sinks.

#include <cmath>
#include <span>
#include <vector>

#include <longspan/core/check.hpp>
#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// A learned logit for each query head that takes part in the softmax of each of its rows and has no value (gpt-oss):
/// out = Σ exp(s_j) v_j / (exp(logit) + Σ exp(s_j)), and LSE is the logarithm of that denominator. A row that sees
/// nothing is zeros, and its LSE is the logit. −inf: no sink. Score functions and masks don't apply to it. It enters
/// when a row is finished, so partial results carry it along, and their merge counts it once. Throws
/// std::invalid_argument unless there is at least one and each is finite or −inf.
class SinkLogits {
 public:
  explicit SinkLogits(std::vector<float> logits) : logits_(std::move(logits)) {
    check(!logits_.empty(), "SinkLogits.size", logits_.size(), ">= 1");
    for (const float x : logits_)
      check(std::isfinite(x) || (std::isinf(x) && x < 0), "SinkLogits", x, "finite, or -inf");
  }

  std::span<const float> logits() const { return logits_; }

 private:
  std::vector<float> logits_;
};
static_assert(DenominatorLogits<SinkLogits>);

}  // namespace longspan::inline LONGSPAN_ISA
