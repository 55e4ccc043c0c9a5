// Flash and decode against the definition, composed at random: masks, score functions, sinks, batches, sources,
// threads.

#include <fuzz/differential.hpp>

namespace longspan::testing {
namespace {

using namespace fuzz;

/// The whole case: the definition over the tensors as they are, flash over what stores them.
template <class M>
void hold(const M& mask, const Case& c, Random& random, std::uint64_t seed, ThreadPool& pool, std::string& what) {
  const Data data(c, random, seed);
  std::vector<AnySource<float>> plain, sources;
  for (const cases::Tensors& t : data.tensors) {
    plain.push_back(AnySource<float>::of(Contiguous(t.k(), t.v())));
    sources.push_back(stored<float>(t, random, what));
  }
  const Result exact = by<Naive>(mask, c, data, plain, c.options);
  Options options = c.options;
  if (random.chance(0.5)) options.executor = pool;
  compare(c, data, by<Flash>(mask, c, data, sources, options), exact, 0);
}

TEST(Differential, FlashAndDecodeAgainstTheDefinition) {
  ThreadPool three(3);
  run_cases("differential_test", 0.75, [&](std::uint64_t seed, std::string& what) {
    Random random(seed);
    const bool by_heads = random.chance(0.1);
    const Case c = random_case(random, by_heads);
    what = c.name();
    if (by_heads)
      hold(by_head(c.shape().heads, [&](Index h) { return c.masks[static_cast<std::size_t>(h)].mask; }), c, random,
           seed, three, what);
    else
      hold(c.masks[0].mask, c, random, seed, three, what);
  });
}

}  // namespace
}  // namespace longspan::testing
