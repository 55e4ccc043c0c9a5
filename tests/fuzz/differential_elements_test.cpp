// The same with keys and values of 16 bits.

#include <fuzz/differential.hpp>

namespace longspan::testing {
namespace {

using namespace fuzz;

template <class T>
void hold(const Case& c, Random& random, std::uint64_t seed, ThreadPool& pool, std::string& what, double tolerance) {
  Data data(c, random, seed);
  data.round<T>();
  std::vector<AnySource<float>> plain;
  std::vector<AnySource<T>> sources;
  for (const cases::Tensors& t : data.tensors) {
    plain.push_back(AnySource<float>::of(Contiguous(t.k(), t.v())));
    sources.push_back(stored<T>(t, random, what));
  }
  const AnyMask& mask = c.masks[0].mask;
  const Result exact = by<Naive>(mask, c, data, plain, c.options);
  Options options = c.options;
  if (random.chance(0.5)) options.executor = pool;
  compare(c, data, by<Flash>(mask, c, data, sources, options), exact, tolerance);
}

TEST(Differential, ElementsOf16Bits) {
  ThreadPool three(3);
  run_cases("differential_elements_test", 0.25, [&](std::uint64_t seed, std::string& what) {
    Random random(seed);
    Case c = random_case(random, false);
    what = c.name();
    // With dot products of bf16, weights are rounded to 8 bits.
    if (random.chance(0.5))
      hold<bf16>(c, random, seed, three, what += ", bf16", kPack<bf16> == 1 ? 0 : 4 * 0x1p-9);
    else
      hold<f16>(c, random, seed, three, what += ", f16", 0);
  });
}

}  // namespace
}  // namespace longspan::testing
