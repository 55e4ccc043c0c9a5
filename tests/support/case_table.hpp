#pragma once
// The case table with its policies as they are, inlined into the kernels by the compiler, against the definition. (Most
// tests of the kernels hide policies behind one type.) In two parts, since it is the compiler that is slow here.

#include <gtest/gtest.h>

#include <support/calls.hpp>
#include <support/cases.hpp>

namespace longspan::testing {

/// The cases with score functions, or those without. Returns how many there were.
template <bool kWithScores>
int compare_case_table() {
  int ran = 0;
  for (const cases::Shape& shape : {cases::Shape{70, 150, 4, 2, 24, 20}, cases::Shape{3, 2100, 4, 2, 24, 20}})
    cases::for_each_case(shape, [&](const auto& one) {
      if constexpr (cases::kNoScores<std::decay_t<decltype(one.functions)>> != kWithScores) {
        ++ran;
        const cases::Tensors t(one.shape);
        const Contiguous source(t.k(), t.v());
        const Result exact = run(one.template attention<Naive>(), t.q(), source);
        const Call call{.q = t.q(),
                        .k = t.k(),
                        .v = t.v(),
                        .mask = AnyMask::of(one.mask.policy),
                        .scores = AnyScore::of(one.functions.policy)};
        for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
          EXPECT_TRUE(call.close(run(one.attention(), t.q(), source, {.kernel = kernel}), exact)) << one.name();
        EXPECT_TRUE(call.close(call.by_definition(), exact)) << one.name() << " behind one type";
      }
    });
  return ran;
}

}  // namespace longspan::testing
