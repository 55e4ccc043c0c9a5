// contract/{on,off}/…: what the fixed order of operations costs. This file is compiled twice; LONGSPAN_FREE_ORDER
// leaves the order of sums to what is fastest and keeps one state for all keys.

#include <memory>

#include <longspan/longspan.hpp>
#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

#if defined(LONGSPAN_FREE_ORDER)
const std::string kSwitch = "contract/off/";
#else
const std::string kSwitch = "contract/on/";
#endif

Row row(const std::string& name, Limit limit, const cases::Shape& shape) {
  return {kSwitch + name, [=] {
            const cases::Case c{cases::Named{"causal", ls::Causal{}}, cases::Named{"none", std::tuple{}}, shape};
            const ls::Plan plan = c.plan();
            const auto t = std::make_shared<cases::Tensors>(shape);
            Workload w{.limit = limit};
            w.pairs = plan.pairs;
            w.flops = plan.flops;
            w.bytes = plan.bytes;
            w.scratch_bytes = plan.scratch_bytes;
            w.call = [t, attend = c.attention()] { attend(t->q(), t->k(), t->v(), t->out()); };
            return w;
          }};
}

std::vector<Row> rows() {
  const Index n = 16384, d = 128;
  return {
      row("wide/n4096", Limit::kFmaPeak, {4096, 4096, 1, 1, d, d}),
      row("wide/n16384", Limit::kFmaPeak, {n, n, 1, 1, d, d}),
      row("narrow/g1/n16384", Limit::kReadBandwidth, {1, n, 8, 8, d, d}),
      row("narrow/g8/n16384", Limit::kReadBandwidth, {1, n, 64, 8, d, d}),
  };
}

}  // namespace

#if defined(LONGSPAN_FREE_ORDER)
std::vector<Row> contract_rows_off() { return rows(); }
#else
std::vector<Row> contract_rows_on() { return rows(); }
#endif

}  // namespace bench
