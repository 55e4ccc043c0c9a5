// prefill/<engine>/<type>/d<dim>/<mask>/n<tokens>/t<threads>: as many queries as keys, two heads. (documents16x1024 and
// blocksparse64x64 are so at n16384, and their beginnings below.) prefill/paged/…: by flash, over pages of that type.
// call/…: the price of a small call, see us_above_half_peak.

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

/// Queries, keys and values of T, and an output of T.
template <class T>
struct Rounded {
  explicit Rounded(const cases::Shape& s) : tensors(s) {
    round(tensors.q_memory, q_memory);
    round(tensors.k_memory, k_memory);
    round(tensors.v_memory, v_memory);
    out_memory.resize(tensors.out_memory.size());
  }
  auto q() const { return like(q_memory, tensors.q()); }
  auto k() const { return like(k_memory, tensors.k()); }
  auto v() const { return like(v_memory, tensors.v()); }
  auto out() {
    const auto o = tensors.out();
    return ls::view(out_memory, o.tokens, o.heads, o.dim);
  }

  cases::Tensors tensors;
  std::vector<T> q_memory, k_memory, v_memory, out_memory;

 private:
  static void round(const std::vector<float>& from, std::vector<T>& to) {
    to.resize(from.size());
    ls::convert(from.data(), std::ssize(from), to.data());
  }
  template <class View>
  static ls::TensorView<const T> like(const std::vector<T>& memory, const View& v) {
    return ls::view(memory, v.tokens, v.heads, v.dim);
  }
};
template <class T>
using TensorsOf = std::conditional_t<std::is_same_v<T, float>, cases::Tensors, Rounded<T>>;

template <class Engine, class T = float, class M, class Functions>
void add(std::vector<Row>& rows, const cases::Case<M, Functions>& c, Index threads) {
  const cases::Shape& s = c.shape;
  const std::string name = std::string("prefill/") + kEngineName<Engine> + "/" + kTypeName<T> + "/d" +
                           std::to_string(s.head_dim) + "/" + c.policies() + "/n" + std::to_string(s.queries) + "/t" +
                           std::to_string(threads);
  rows.push_back({name, [c, threads] {
                    const ls::Options options{.executor = pool(threads)};
                    const ls::Plan plan = c.template plan<Engine>(options);
                    Workload w{.limit = Limit::kFmaPeak, .threads = threads};
                    w.pairs = plan.pairs;
                    w.flops = plan.flops;
                    w.bytes = plan.bytes;
                    w.scratch_bytes = plan.scratch_bytes;
                    const auto t = std::make_shared<TensorsOf<T>>(c.shape);
                    w.call = [t, options, attend = c.template attention<Engine>()] {
                      attend(t->q(), t->k(), t->v(), t->out(), options);
                    };
                    return w;
                  }});
}

/// Float queries over pages of T.
template <class T>
void add_paged(std::vector<Row>& rows, const cases::Shape& s, Index threads) {
  rows.push_back(
      {std::string("prefill/paged/") + kTypeName<T> + "/d" + std::to_string(s.head_dim) + "/causal/n" +
           std::to_string(s.queries) + "/t" + std::to_string(threads),
       [s, threads] {
         struct Stored {
           explicit Stored(const cases::Shape& s)
               : tensors(s),
                 cache({.pages = ls::ceil_div(s.keys, 64), .kv_heads = s.kv_heads, .head_dim = s.head_dim}),
                 id(cache.open()) {
             ls::check(cache.append(id, tensors.k(), tensors.v()) == ls::Outcome::kDone, "prefill benchmark",
                       "no page left", "pages for all keys");
           }
           cases::Tensors tensors;
           ls::PagedCache<T> cache;
           ls::SequenceId id;
         };
         const auto stored = std::make_shared<Stored>(s);
         const ls::Options options{.executor = pool(threads)};
         const auto attend = ls::attention(ls::Causal{});
         const ls::Plan plan = attend.plan(stored->tensors.q().shape(), stored->cache.view(stored->id), options);
         Workload w{.limit = Limit::kFmaPeak, .threads = threads};
         w.pairs = plan.pairs;
         w.flops = plan.flops;
         w.bytes = plan.bytes;
         w.scratch_bytes = plan.scratch_bytes;
         w.call = [=] { attend(stored->tensors.q(), stored->cache.view(stored->id), stored->tensors.out(), options); };
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
    for (const Index n : {64, 256, 1024, 4096, 8192, 16384})
      for (const Index dim : {64, 128})
        cases::for_each(cases::timed_masks(), [&](const auto& mask) {
          const cases::Case c{mask, none, square(n, dim)};
          add<ls::Flash>(rows, c, threads);
          if (n <= 4096) add<ls::Naive>(rows, c, threads);
        });
    const cases::Named causal{"causal", ls::Causal{}};
    for (const Index dim : {80, 96, 256}) add<ls::Flash>(rows, cases::Case{causal, none, square(4096, dim)}, threads);
    const cases::Named full{"full", ls::Full{}};
    for (const Index n : {4096, 16384}) {
      add<ls::Flash, ls::bf16>(rows, cases::Case{full, none, square(n, 128)}, threads);
      add<ls::Flash, ls::bf16>(rows, cases::Case{causal, none, square(n, 128)}, threads);
      add<ls::Flash, ls::f16>(rows, cases::Case{causal, none, square(n, 128)}, threads);
    }
    const cases::Shape shape = square(4096, 128);
    add_paged<float>(rows, shape, threads);
    add_paged<ls::bf16>(rows, shape, threads);
    add_paged<ls::e4m3>(rows, shape, threads);
    add_paged<ls::i8>(rows, shape, threads);
    add_paged<ls::i4>(rows, shape, threads);
    cases::for_each(cases::scores(shape.heads), [&](const auto& functions) {
      if constexpr (!cases::kNoScores<std::decay_t<decltype(functions)>>)
        add<ls::Flash>(rows, cases::Case{causal, functions, shape}, threads);
    });
  }
  const cases::Shape small{.queries = 16, .keys = 16, .heads = 8, .kv_heads = 8, .head_dim = 64, .value_dim = 64};
  add<ls::Flash>(rows, cases::Case{cases::Named{"causal", ls::Causal{}}, none, small}, 1);
  rows.back().name = "call/flash/f32/d64/h8/causal/n16/t1";
  return rows;
}

}  // namespace bench
