// decode/<source>/<type>/g<group>/n<keys>/t<threads>: one query token, eight KV heads of dimension 128, `group` query
// heads for each. At n32768 keys and values are 268 MB: nothing is left in a cache from one call to the next.

#include <memory>

#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

constexpr Index kKvHeads = 8, kDim = 128, kPage = 64;

std::vector<float> numbers(Index tokens, std::uint64_t seed) { return cases::normal(tokens * kKvHeads * kDim, seed); }
auto tokens(const std::vector<float>& memory, Index n) { return ls::view(memory, n, kKvHeads, kDim); }

/// Keys and values in two tensors of the caller's, in the kind of memory that a cache would take.
class ContiguousStore {
 public:
  static constexpr const char* kName = "contiguous";
  explicit ContiguousStore(Index n) : n_(n), keys_(n * kKvHeads * kDim), values_(n * kKvHeads * kDim) {
    cases::fill_normal(keys_.span(), 1);
    cases::fill_normal(values_.span(), 2);
  }
  auto source() const {
    const auto view = [&](const ls::LargeArray<float>& memory) { return ls::view(memory.span(), n_, kKvHeads, kDim); };
    return ls::Contiguous(view(keys_), view(values_));
  }

 private:
  Index n_;
  ls::LargeArray<float> keys_, values_;
};

/// The same number of tokens in pages of a cache, appended as a prefill in chunks would.
class PagedStore {
 public:
  static constexpr const char* kName = "paged";
  explicit PagedStore(Index n)
      : cache_({.pages = ls::ceil_div(n, kPage), .page_size = kPage, .kv_heads = kKvHeads, .head_dim = kDim}),
        chat_(cache_.open()) {
    for (Index done = 0, chunk; done < n; done += chunk) {
      chunk = std::min<Index>(4096, n - done);
      const auto seed = static_cast<std::uint64_t>(done);
      const std::vector<float> keys = numbers(chunk, seed + 1), values = numbers(chunk, seed + 2);
      ls::check(cache_.append(chat_, tokens(keys, chunk), tokens(values, chunk)) == ls::Appended::kDone,
                "decode benchmark", "no page left", "pages for all keys");
    }
  }
  auto source() const { return cache_.view(chat_); }

 private:
  ls::PagedCache<float> cache_;
  ls::SequenceId chat_;
};

struct Kept {
  std::string name;
  std::shared_ptr<void> store;
} kept;

/// The store of n keys. One store is kept until another is asked for: rows with the same keys follow each other.
template <class Store>
std::shared_ptr<const Store> store(Index n) {
  std::string name = Store::kName + std::to_string(n);
  if (kept.name != name) {
    kept = {};
    kept = {std::move(name), std::make_shared<Store>(n)};
  }
  return std::static_pointer_cast<const Store>(kept.store);
}

template <class Store>
Workload decode(Index group, Index n, Index threads) {
  const ls::Options options{.executor = pool(threads)};
  const auto stored = store<Store>(n);
  const auto attend = ls::attention(ls::Causal{});
  const Index heads = kKvHeads * group;
  const ls::Plan plan = attend.plan(ls::Shape{1, heads, kDim}, stored->source(), options);
  Workload w{.limit = Limit::kReadBandwidth, .threads = threads};
  w.pairs = plan.pairs;
  w.flops = plan.flops;
  w.bytes = static_cast<double>(n * kKvHeads * 2 * kDim) * sizeof(float);
  w.scratch_bytes = plan.scratch_bytes;
  struct Row {
    std::vector<float> q, out;
  };
  const auto row = std::make_shared<Row>(Row{cases::normal(heads * kDim, 3), std::vector<float>(heads * kDim)});
  w.call = [=] {
    attend(ls::TensorView<const float>(ls::view(row->q, 1, heads, kDim)), stored->source(),
           ls::view(row->out, 1, heads, kDim), options);
  };
  return w;
}

template <class Store>
void add(std::vector<Row>& rows, Index n) {
  for (const Index threads : {1, 2})
    for (const Index group : {1, 4, 7, 8})
      rows.push_back({std::string("decode/") + Store::kName + "/f32/g" + std::to_string(group) + "/n" +
                          std::to_string(n) + "/t" + std::to_string(threads),
                      [=] { return decode<Store>(group, n, threads); }});
}

}  // namespace

std::vector<Row> decode_rows() {
  std::vector<Row> rows;
  for (const Index n : {32768, 131072}) {
    add<ContiguousStore>(rows, n);
    add<PagedStore>(rows, n);
  }
  return rows;
}

}  // namespace bench
