// prefill/<engine>/<type>/d<dim>/<mask>/n<tokens>/t<threads>: as many queries as keys, two heads. (documents16x1024 and
// blocksparse64x64 are so at n16384, and their beginnings below.)

#include <memory>

#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

template <class Engine>
constexpr const char* kEngineName = "flash";
template <>
constexpr const char* kEngineName<ls::Naive> = "naive";

template <class Engine, class M, class Functions>
void add(std::vector<Row>& rows, const cases::Case<M, Functions>& c, Index threads) {
  const cases::Shape& s = c.shape;
  const std::string name = std::string("prefill/") + kEngineName<Engine> + "/f32/d" + std::to_string(s.head_dim) + "/" +
                           c.policies() + "/n" + std::to_string(s.queries) + "/t" + std::to_string(threads);
  rows.push_back({name, [c, threads] {
                    const ls::Options options{.executor = pool(threads)};
                    const ls::Plan plan = c.template plan<Engine>(options);
                    Workload w{.limit = Limit::kFmaPeak, .threads = threads};
                    w.pairs = plan.pairs;
                    w.flops = plan.flops;
                    w.bytes = plan.bytes;
                    w.scratch_bytes = plan.scratch_bytes;
                    const auto t = std::make_shared<cases::Tensors>(c.shape);
                    w.call = [t, options, attend = c.template attention<Engine>()] {
                      attend(t->q(), t->k(), t->v(), t->out(), options);
                    };
                    return w;
                  }});
}

cases::Shape square(Index n, Index dim) {
  return {.queries = n, .keys = n, .heads = 2, .kv_heads = 2, .head_dim = dim, .value_dim = dim};
}

}  // namespace

std::vector<Row> prefill_rows() {
  std::vector<Row> rows;
  const cases::Named none{"none", std::tuple{}};
  for (const Index threads : {1, 2}) {
    for (const Index n : {1024, 4096, 8192, 16384})
      for (const Index dim : {64, 128})
        cases::for_each(cases::timed_masks(), [&](const auto& mask) {
          const cases::Case c{mask, none, square(n, dim)};
          add<ls::Flash>(rows, c, threads);
          if (n <= 4096) add<ls::Naive>(rows, c, threads);
        });
    const cases::Named causal{"causal", ls::Causal{}};
    for (const Index dim : {80, 96, 256}) add<ls::Flash>(rows, cases::Case{causal, none, square(4096, dim)}, threads);
    const cases::Shape shape = square(4096, 128);
    cases::for_each(cases::scores(shape.heads), [&](const auto& functions) {
      if constexpr (!cases::kNoScores<std::decay_t<decltype(functions)>>)
        add<ls::Flash>(rows, cases::Case{causal, functions, shape}, threads);
    });
  }
  return rows;
}

}  // namespace bench
