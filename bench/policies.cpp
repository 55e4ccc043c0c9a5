// prefill/…/densebits90/n<tokens>/t1: a DenseMask that is causal, but for a tenth of its 64×64 blocks of pairs, which
// are drawn bit by bit; to be compared per pair with prefill/…/causal. prefill/…/causal+alibilambda/…: ALiBi from a
// user's function, to be compared with prefill/…/causal+alibi. decode/tree64/…: speculative decoding, a tree of 64
// tokens over the keys.

#include <memory>
#include <random>

#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

/// One call as a row: the plan's numbers, and tensors that live as long as it does.
template <class M, class... F>
Workload workload(const M& mask, const cases::Shape& shape, Limit limit, Index threads, const F&... functions) {
  const ls::Options options{.executor = pool(threads)};
  const cases::Case c{cases::Named{"", mask}, cases::Named{"none", std::tuple{}}, shape};
  const ls::Plan plan = c.template plan<ls::Flash>(options);
  Workload w{.limit = limit, .threads = threads};
  w.pairs = plan.pairs;
  w.flops = plan.flops;
  w.bytes = plan.bytes;
  w.scratch_bytes = plan.scratch_bytes;
  const auto t = std::make_shared<cases::Tensors>(shape);
  w.call = [t, options, attend = ls::attention(mask, functions...)] {
    attend(t->q(), t->k(), t->v(), t->out(), options);
  };
  return w;
}

/// ALiBi as a user would write it.
auto alibi_lambda(Index heads) {
  std::vector<float> slopes;
  for (Index h = 0; h < heads; ++h) slopes.push_back(static_cast<float>(ls::Alibi(heads).slope(h)));
  return [slopes](auto score, auto query, auto key, Index head) {
    return score - slopes[static_cast<std::size_t>(head)] * (query - key);
  };
}

/// A tenth of the blocks below the diagonal has bits that are drawn, half of them set.
ls::DenseMask dense_bits(Index n) {
  std::mt19937_64 draw(1);
  const Index words = ls::ceil_div(n, 64);
  std::vector<std::uint64_t> bits(static_cast<std::size_t>(n * words));
  for (Index block = 0; block < words; ++block)
    for (Index w = 0; w <= block; ++w) {
      const bool mixed = draw() % 10 == 0;
      for (Index q = block * 64; q < std::min((block + 1) * 64, n); ++q) {
        const std::uint64_t all = w < block ? ~std::uint64_t{0} : ~std::uint64_t{0} >> (63 - q % 64);
        bits[static_cast<std::size_t>(q * words + w)] = mixed ? all & draw() : all;
      }
    }
  return ls::DenseMask::from_bits({n, n}, bits);
}

/// A tree in which node i hangs below node (i − 1) / 2.
auto binary_tree(Index first, Index nodes) {
  std::vector<Index> parents{-1};
  for (Index i = 1; i < nodes; ++i) parents.push_back((i - 1) / 2);
  return ls::tree(first, parents);
}

}  // namespace

std::vector<Row> policy_rows() {
  std::vector<Row> rows;
  for (const Index n : {4096, 16384})
    rows.push_back({"prefill/flash/f32/d128/densebits90/n" + std::to_string(n) + "/t1", [n] {
                      return workload(dense_bits(n), {n, n, 2, 2, 128, 128}, Limit::kFmaPeak, 1);
                    }});
  rows.push_back({"prefill/flash/f32/d128/causal+alibilambda/n4096/t1", [] {
                    return workload(ls::Causal{}, {4096, 4096, 2, 2, 128, 128}, Limit::kFmaPeak, 1, alibi_lambda(2));
                  }});
  for (const Index group : {1, 4}) {
    constexpr Index kKeys = 32768, kNodes = 64;
    // 64 queries on each key: arithmetic is what binds here, so that is the limit
    rows.push_back({"decode/tree64/f32/g" + std::to_string(group) + "/n32768/t1", [group] {
                      const cases::Shape shape{kNodes, kKeys, 8 * group, 8, 128, 128};
                      return workload(binary_tree(kKeys - kNodes, kNodes), shape, Limit::kFmaPeak, 1);
                    }});
  }
  return rows;
}

}  // namespace bench
