// Random load on a cache and its prefix index against a naive model: content, reference counts, the free list.

#include <support/cache_model.hpp>

namespace longspan::testing {
namespace {

TEST(CacheModel, AMillionOperationsForEachSeed) {
  for (const std::uint64_t seed : {1, 2, 3}) random_load(seed, 1000000);
}

}  // namespace
}  // namespace longspan::testing
