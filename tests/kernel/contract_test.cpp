// The numeric contract (design: section 6), bit for bit: a row's bits depend on its query, keys and policies only.
// Policies are concrete here, so that what the compiler makes of them inlined is what is compared.

#include <gtest/gtest.h>

#include <support/contract.hpp>

namespace longspan::testing {
namespace {

TEST(Contract, Causal) { contract::hold("causal", attention(Causal{})); }

TEST(Contract, SinksAndWindow) { contract::hold("sinks | window", attention(Window{70} | Sinks{4})); }

}  // namespace
}  // namespace longspan::testing
