// A small part of slow_model_test, for the sanitizers.

#include <support/cache_model.hpp>

namespace longspan::testing {
namespace {

TEST(CacheModel, SomeOperations) { random_load(4, 8000); }

}  // namespace
}  // namespace longspan::testing
