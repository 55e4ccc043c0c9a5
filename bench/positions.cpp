// rope/<angles>/<type>/<layout>: rotary embedding of 4096 tokens × 32 heads × 128 in place, against a copy of as many
// bytes: angles computed for each token, out of a table of all positions, or out of a small one (blocks).
// table/<kind>/n<positions>: making the angles. rotate/<prefill|decode>/<stored|read>/…: attention over keys that were
// rotated before they were stored, and over un-rotated ones that are rotated as they are read.

#include <memory>

#include <longspan/longspan.hpp>
#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

constexpr Index kDim = 128, kHeads = 32, kTokens = 4096;

template <class Layout>
constexpr const char* kLayoutName = "half_split";
template <>
constexpr const char* kLayoutName<ls::Adjacent> = "adjacent";

template <class T, class Layout>
void add_rope(std::vector<Row>& rows) {
  const auto add = [&](const char* angles, auto make) {
    rows.push_back({std::string("rope/") + angles + "/" + kTypeName<T> + "/" + kLayoutName<Layout>, [=] {
                      struct Call {
                        decltype(make(ls::Rope<Layout>(kDim, 10000))) rope;
                        ls::LargeArray<T> rows;
                      };
                      const auto call = std::make_shared<Call>(
                          Call{make(ls::Rope<Layout>(kDim, 10000)), ls::LargeArray<T>(kTokens * kHeads * kDim)});
                      Workload w{.limit = Limit::kCopyBandwidth};
                      w.bytes = 2.0 * kTokens * kHeads * kDim * sizeof(T);
                      w.call = [call] { call->rope.rotate(ls::view(call->rows.span(), kTokens, kHeads, kDim), 1000); };
                      return w;
                    }});
  };
  add("computed", [](const ls::Rope<Layout>& rope) { return rope; });
  add("table", [](const ls::Rope<Layout>& rope) { return rope.table({0, 8192}); });
  add("blocks", [](const ls::Rope<Layout>& rope) { return rope.blocks(); });
}

void add_tables(std::vector<Row>& rows) {
  const auto add = [&](const char* name, auto make, double bytes) {
    rows.push_back({name, [=] {
                      const auto rope = std::make_shared<ls::Rope<ls::HalfSplit>>(kDim, 10000);
                      Workload w{.limit = Limit::kCopyBandwidth};
                      w.bytes = bytes;
                      w.call = [=] { make(*rope); };
                      return w;
                    }});
  };
  add(
      "table/all/n131072",
      [](const auto& rope) {
        return rope.table({0, 131072});
      },
      131072.0 * kDim * 4);
  add(
      "table/blocks/any", [](const auto& rope) { return rope.blocks(); }, 16.0 * kDim * 8);
}

template <class T>
void add_attention(std::vector<Row>& rows, const std::string& name, Limit limit, Index queries, Index keys, Index heads,
                   Index kv_heads, bool paged) {
  for (const bool read : {false, true})
    rows.push_back(
        {"rotate/" + name + (read ? "/read/" : "/stored/") + kTypeName<T> + "/d128/n" + std::to_string(keys), [=] {
           struct Call {
             std::vector<float> q, out;
             std::vector<T> k, v;
             std::unique_ptr<ls::PagedCache<T>> cache;
             ls::SequenceId id;
           };
           const auto call = std::make_shared<Call>();
           call->q = cases::normal(queries * heads * kDim, 1);
           call->out.resize(call->q.size());
           const auto fill = [&](std::vector<T>& to, std::uint64_t seed) {
             const std::vector<float> x = cases::normal(keys * kv_heads * kDim, seed);
             to.resize(x.size());
             ls::convert(x.data(), std::ssize(x), to.data());
           };
           fill(call->k, 2), fill(call->v, 3);
           const auto k = ls::view(std::as_const(call->k), keys, kv_heads, kDim);
           const auto v = ls::view(std::as_const(call->v), keys, kv_heads, kDim);
           if (paged) {
             call->cache = std::make_unique<ls::PagedCache<T>>(ls::PagedShape{
                 .pages = ls::ceil_div(keys, 64), .page_size = 64, .kv_heads = kv_heads, .head_dim = kDim});
             call->id = call->cache->open();
             ls::check(call->cache->append(call->id, k, v) == ls::Appended::kDone, "benchmark", "full", "pages");
           }
           Workload w{.limit = limit};
           const auto attend = ls::attention(ls::Causal{});
           const ls::Plan plan = attend.plan(ls::Shape{queries, heads, kDim}, ls::Contiguous(k, v));
           w.pairs = plan.pairs;
           w.flops = plan.flops;
           w.bytes = 2.0 * static_cast<double>(keys * kv_heads * kDim) * sizeof(T);
           const auto calls = [=](const auto& policy) {
             return [=] {
               const auto q = ls::view(std::as_const(call->q), queries, heads, kDim);
               const auto out = ls::view(call->out, queries, heads, kDim);
               if (paged)
                 policy(q, call->cache->view(call->id), out);
               else
                 policy(q, ls::Contiguous(k, v), out);
             };
           };
           if (read)
             w.call =
                 calls(ls::rotary_attention(ls::Rope<ls::HalfSplit>(kDim, 10000), ls::Consecutive{}, ls::Causal{}));
           else
             w.call = calls(attend);
           return w;
         }});
}

}  // namespace

std::vector<Row> position_rows() {
  std::vector<Row> rows;
  add_rope<float, ls::HalfSplit>(rows);
  add_rope<float, ls::Adjacent>(rows);
  add_rope<ls::bf16, ls::HalfSplit>(rows);
  add_rope<ls::bf16, ls::Adjacent>(rows);
  add_tables(rows);
  add_attention<float>(rows, "prefill", Limit::kFmaPeak, 4096, 4096, 2, 2, false);
  add_attention<float>(rows, "decode", Limit::kReadBandwidth, 1, 32768, 32, 8, true);
  add_attention<ls::bf16>(rows, "decode", Limit::kReadBandwidth, 1, 32768, 32, 8, true);
  return rows;
}

}  // namespace bench
