// decode/mla/<type>/h<heads>/n<keys>/t<threads>: multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv
// 2405.04434): one query token, `heads` query heads over one row of 576 elements a token, of which the first 512 are
// the value, in latent pages. Compared with arithmetic or memory, whichever takes longer at its limit.

#include <memory>

#include <longspan/longspan.hpp>
#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

constexpr Index kDim = 576, kValueDim = 512, kPage = 64;

template <class T>
Workload workload(Index n, Index heads, Index threads) {
  struct Call {
    ls::PagedCache<T> cache;
    ls::SequenceId sequence;
    std::vector<float> q, out;
  };
  const auto call = std::make_shared<Call>(
      Call{ls::PagedCache<T>(
               {.pages = n / kPage, .page_size = kPage, .head_dim = kDim, .value_dim = kValueDim, .latent = true}),
           {},
           cases::normal(heads * kDim, 3),
           std::vector<float>(static_cast<std::size_t>(heads * kValueDim))});
  call->sequence = call->cache.open();
  for (Index done = 0, chunk; done < n; done += chunk) {
    chunk = std::min<Index>(4096, n - done);
    const std::vector<float> rows = cases::normal(chunk * kDim, static_cast<std::uint64_t>(done) + 1);
    ls::check(call->cache.append(call->sequence, ls::view(rows, chunk, 1, kDim)) == ls::Appended::kDone,
              "latent benchmark", "no page left", "pages for all keys");
  }
  const auto attention = ls::attention(ls::Causal{});
  const ls::Options options{.executor = pool(threads)};
  const ls::Plan plan = attention.plan(ls::Shape{1, heads, kDim}, call->cache.view(call->sequence), options);
  Workload w{.limit = std::is_same_v<T, float> ? Limit::kFmaPeak : Limit::kDotPeak, .threads = threads};
  w.pairs = plan.pairs;
  w.flops = plan.flops;
  w.bytes = static_cast<double>(n * kDim) * sizeof(T);
  w.scratch_bytes = plan.scratch_bytes;
  if (w.bytes / read_bandwidth(threads) > w.flops / probe(w.limit, threads)) w.limit = Limit::kReadBandwidth;
  w.call = [=] {
    attention(ls::view(call->q, 1, heads, kDim), call->cache.view(call->sequence),
              ls::view(call->out, 1, heads, kValueDim), options);
  };
  return w;
}

template <class T>
void add(std::vector<Row>& rows, Index n, Index heads, Index threads) {
  const auto of = [](const char* what, Index number) { return what + std::to_string(number); };
  rows.push_back({std::string("decode/mla/") + kTypeName<T> + of("/h", heads) + of("/n", n) + of("/t", threads),
                  [=] { return workload<T>(n, heads, threads); }});
}

}  // namespace

std::vector<Row> latent_rows() {
  std::vector<Row> rows;
  for (const Index threads : {1, 2})
    for (const Index heads : {16, 32, 64, 128}) {
      add<ls::bf16>(rows, 32768, heads, threads);
      add<float>(rows, 32768, heads, threads);
    }
  return rows;
}

}  // namespace bench
