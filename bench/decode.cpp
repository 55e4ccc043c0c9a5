// decode/<source>/<type>/g<group>/n<keys>/t<threads>: one query token, eight KV heads of dimension 128, `group` query
// heads for each. At n32768 keys and values are 268 MB: nothing is left in a cache from one call to the next.
// decode/prefix/{separate,shared}/…: 32 sequences of 128 tokens over a common prompt of 8192, called as a batch, and
// with the prompt read once. decode/batch8/…: eight sequences of 1K to 64K keys in one paged cache. chunk/…/q<queries>:
// some tokens at the end, as speculative decoding and chunked prefill have them. decode/quest10/…: a tenth of the
// pages, and choosing them; decode/listed2048{,paged}/…: 2048 keys of all, drawn at random; to be compared in time with
// decode/{paged,contiguous}/…/n65536 (bytes are those that are read).

#include <memory>
#include <random>

#include "support/cases.hpp"
#include "workload.hpp"

namespace bench {
namespace {

namespace ls = longspan;

constexpr Index kKvHeads = 8, kDim = 128, kPage = 64;

std::vector<float> numbers(Index tokens, std::uint64_t seed) { return cases::normal(tokens * kKvHeads * kDim, seed); }
auto tokens(const std::vector<float>& memory, Index n) { return ls::view(memory, n, kKvHeads, kDim); }

/// Calls f(keys, values, first token) for n tokens, as a prefill in chunks would.
template <class F>
void for_each_chunk(Index n, F&& f) {
  for (Index done = 0, chunk; done < n; done += chunk) {
    chunk = std::min<Index>(4096, n - done);
    const auto seed = static_cast<std::uint64_t>(done);
    const std::vector<float> keys = numbers(chunk, seed + 1), values = numbers(chunk, seed + 2);
    f(tokens(keys, chunk), tokens(values, chunk), done);
  }
}

/// Keys and values in two tensors of the caller's, in the kind of memory that a cache would take.
template <class T>
class ContiguousStore {
 public:
  using Element = T;
  static constexpr const char* kName = "contiguous";
  explicit ContiguousStore(Index n) : n_(n), keys_(n * kKvHeads * kDim), values_(n * kKvHeads * kDim) {
    for_each_chunk(n, [&](const auto& keys, const auto& values, Index first) {
      const Index size = keys.tokens * kKvHeads * kDim, at = first * kKvHeads * kDim;
      ls::convert(keys.data, size, keys_.data() + at);
      ls::convert(values.data, size, values_.data() + at);
    });
  }
  auto source() const {
    const auto view = [&](const ls::LargeArray<T>& memory) {
      return ls::TensorView<const T>(ls::view(memory.span(), n_, kKvHeads, kDim));
    };
    return ls::Contiguous(view(keys_), view(values_));
  }

 private:
  Index n_;
  ls::LargeArray<T> keys_, values_;
};

/// The same number of tokens in pages of a cache; or several sequences.
template <class T>
class PagedStore {
 public:
  using Element = T;
  static constexpr const char* kName = "paged";
  explicit PagedStore(Index n) : PagedStore(std::vector<Index>{n}) {}
  explicit PagedStore(const std::vector<Index>& lengths)
      : cache_({.pages = pages(lengths), .page_size = kPage, .kv_heads = kKvHeads, .head_dim = kDim}) {
    for (const Index n : lengths) {
      sequences_.push_back(cache_.open());
      for_each_chunk(n, [&](const auto& keys, const auto& values, Index) {
        ls::check(cache_.append(sequences_.back(), keys, values) == ls::Appended::kDone, "decode benchmark",
                  "no page left", "pages for all keys");
      });
    }
  }
  auto source() const { return cache_.view(sequences_[0]); }
  auto sources() const {
    std::vector<ls::PagedView<T>> all;
    for (const ls::SequenceId id : sequences_) all.push_back(cache_.view(id));
    return all;
  }

 private:
  static Index pages(const std::vector<Index>& lengths) {
    Index sum = 0;
    for (const Index n : lengths) sum += ls::ceil_div(n, kPage);
    return sum;
  }
  ls::PagedCache<T> cache_;
  std::vector<ls::SequenceId> sequences_;
};

struct Kept {
  std::string name;
  std::shared_ptr<void> store;
} kept;

/// The store of `size`: keys, or the length of each sequence. One store is kept until another is asked for: rows with
/// the same keys follow each other.
template <class Store, class Size>
std::shared_ptr<const Store> store(const std::string& name, const Size& size) {
  if (kept.name != name) {
    kept = {};
    kept = {name, std::make_shared<Store>(size)};
  }
  return std::static_pointer_cast<const Store>(kept.store);
}

template <class T>
std::string store_name(const char* store, Index n) {
  return std::string(store) + "/" + kTypeName<T> + "/n" + std::to_string(n);
}

class ForkedStore;

/// Of a key or a value, with its scales.
template <class T>
constexpr double row_bytes() {
  constexpr Index kGroups = std::is_same_v<T, ls::i4> ? ls::ceil_div(kDim, ls::i4::kGroup) : 0;
  return static_cast<double>(kDim * sizeof(T)) / ls::kHeld<T> + (ls::kScaled<T> ? sizeof(float) : 0) + 2 * kGroups;
}

/// `queries` tokens at the end of each source; `shared`: what sequences have in common is read once.
template <class Source, class Store>
Workload attend(std::shared_ptr<const Store> stored, std::vector<Source> sources, Index queries, Index group,
                Index threads, bool shared = false) {
  const Index heads = kKvHeads * group, count = std::ssize(sources), rows = queries * count;
  struct Call {
    std::shared_ptr<const Store> stored;
    std::vector<Source> sources;
    std::vector<Index> cumulative;
    std::vector<float> q, out;
  };
  const auto call = std::make_shared<Call>(Call{std::move(stored),
                                                std::move(sources),
                                                {},
                                                cases::normal(rows * heads * kDim, 3),
                                                std::vector<float>(static_cast<std::size_t>(rows * heads * kDim))});
  for (Index i = 0; i <= count; ++i) call->cumulative.push_back(i * queries);
  const ls::Options options{.executor = pool(threads), .cumulative_queries = call->cumulative};
  const auto attention = ls::attention(ls::Causal{});
  const std::span<const Source> all(call->sources);
  const ls::Plan plan = attention.plan(ls::Shape{rows, heads, kDim}, all, options);
  Workload w{.limit = Limit::kReadBandwidth, .threads = threads};
  w.pairs = plan.pairs;
  w.flops = plan.flops;
  using Element = typename Store::Element;
  for (const Source& source : all) w.bytes += static_cast<double>(source.keys() * kKvHeads * 2) * row_bytes<Element>();
  w.scratch_bytes = plan.scratch_bytes;
  w.call = [=] {
    const ls::TensorView<const float> q = ls::view(call->q, rows, heads, kDim);
    const auto out = ls::view(call->out, rows, heads, kDim);
    if constexpr (std::is_same_v<Store, ForkedStore>)
      if (shared) return void(ls::attend_shared(attention, q, all, out, options));
    attention(q, all, out, options);
  };
  return w;
}

std::string threads_of(Index threads) { return "/t" + std::to_string(threads); }

template <class Store>
void add(std::vector<Row>& rows, const std::string& prefix, Index n, Index queries, Index group, Index threads) {
  rows.push_back({prefix + "/n" + std::to_string(n) + threads_of(threads), [=] {
                    const auto stored = store<Store>(store_name<typename Store::Element>(Store::kName, n), n);
                    return attend(stored, std::vector{stored->source()}, queries, group, threads);
                  }});
}

template <class Store>
void add_decode(std::vector<Row>& rows, Index n) {
  for (const Index threads : {1, 2})
    for (const Index group : {1, 4, 7, 8})
      add<Store>(rows,
                 std::string("decode/") + Store::kName + "/" + kTypeName<typename Store::Element> + "/g" +
                     std::to_string(group),
                 n, 1, group, threads);
}

template <class T>
void add_batch(std::vector<Row>& rows) {
  for (const Index threads : {1, 2})
    rows.push_back({std::string("decode/batch8/") + kTypeName<T> + "/g1" + threads_of(threads), [=] {
                      const std::vector<Index> lengths{1024, 2048, 4096, 8192, 16384, 32768, 49152, 65536};
                      const auto stored = store<PagedStore<T>>(store_name<T>("batch", 8), lengths);
                      return attend(stored, stored->sources(), 1, 1, threads);
                    }});
}

/// 32 forks of one prompt.
class ForkedStore {
 public:
  using Element = float;
  static constexpr Index kSequences = 32, kPrompt = 8192, kOwn = 128;
  explicit ForkedStore(Index)
      : cache_({.pages = (kPrompt + kSequences * kOwn) / kPage,
                .page_size = kPage,
                .kv_heads = kKvHeads,
                .head_dim = kDim}) {
    const ls::SequenceId prompt = cache_.open();
    const auto append = [&](ls::SequenceId id, Index n) {
      for_each_chunk(n, [&](const auto& keys, const auto& values, Index) {
        ls::check(cache_.append(id, keys, values) == ls::Appended::kDone, "decode benchmark", "no page left",
                  "pages for all keys");
      });
    };
    append(prompt, kPrompt);
    for (Index i = 0; i < kSequences; ++i) {
      const ls::SequenceId id = cache_.fork(prompt);
      append(id, kOwn);
      sources_.push_back(cache_.view(id));
    }
  }
  const std::vector<ls::PagedView<float>>& sources() const { return sources_; }

 private:
  ls::PagedCache<float> cache_;
  std::vector<ls::PagedView<float>> sources_;
};

void add_prefix(std::vector<Row>& rows, Index group) {
  for (const bool shared : {false, true})
    rows.push_back(
        {std::string("decode/prefix/") + (shared ? "shared" : "separate") + "/f32/g" + std::to_string(group) + "/t1",
         [=] {
           const auto stored = store<ForkedStore>("forked", Index{0});
           return attend(stored, stored->sources(), 1, group, 1, shared);
         }});
}

/// A paged sequence with the bounds of its pages.
template <class T>
class BoundedStore : public PagedStore<T> {
 public:
  explicit BoundedStore(Index n) : PagedStore<T>(n) { bounds.update(this->source()); }
  ls::PageBounds bounds;
};

/// One query of `group` heads for each KV head, and what comes of it.
struct OneQuery {
  explicit OneQuery(Index group)
      : heads(kKvHeads * group), q(cases::normal(heads * kDim, 3)), out(static_cast<std::size_t>(heads * kDim)) {}
  ls::TensorView<const float> query() const { return ls::view(q, 1, heads, kDim); }
  ls::TensorView<float> output() { return ls::view(out, 1, heads, kDim); }
  Index heads;
  std::vector<float> q, out;
};

Workload part_of_keys(Index keys, Index group, std::size_t element, Index threads) {
  Workload w{.limit = Limit::kReadBandwidth, .threads = threads};
  w.pairs = keys * kKvHeads * group;
  w.flops = 4. * static_cast<double>(w.pairs * kDim);
  w.bytes = static_cast<double>(keys * kKvHeads * 2 * kDim) * static_cast<double>(element);
  return w;
}

template <class T>
void add_quest(std::vector<Row>& rows, Index n, Index group, Index threads) {
  const std::string end = std::string("/") + kTypeName<T> + "/g" + std::to_string(group) + "/n" + std::to_string(n);
  rows.push_back({"decode/quest10" + end + threads_of(threads), [=] {
                    const auto stored = store<BoundedStore<T>>(store_name<T>("bounded", n), n);
                    const auto call = std::make_shared<OneQuery>(group);
                    const auto chosen = std::make_shared<ls::ChosenPages>();
                    const ls::Quest quest{.pages = n / kPage / 10};
                    Workload w = part_of_keys(quest.pages * kPage, group, sizeof(T), threads);
                    w.bytes += static_cast<double>(stored->bounds.bytes());
                    w.call = [=] {
                      quest(stored->bounds, call->query(), *chosen, pool(threads));
                      ls::attend_pages(ls::attention(), call->query(), stored->source(), *chosen, call->output(),
                                       {.executor = pool(threads)});
                    };
                    return w;
                  }});
}

template <class Store>
void add_listed(std::vector<Row>& rows, const char* name, Index n, Index group, Index threads) {
  using T = typename Store::Element;
  constexpr Index kListed = 2048;
  const std::string end = std::string("/") + kTypeName<T> + "/g" + std::to_string(group) + "/n" + std::to_string(n);
  rows.push_back({std::string("decode/") + name + end + threads_of(threads), [=] {
                    const auto stored = store<Store>(store_name<T>(Store::kName, n), n);
                    const auto call = std::make_shared<OneQuery>(group);
                    std::vector<std::int64_t> numbers(static_cast<std::size_t>(n));
                    for (Index i = 0; i < n; ++i) numbers[static_cast<std::size_t>(i)] = i;
                    std::shuffle(numbers.begin(), numbers.end(), std::mt19937_64(1));
                    numbers.resize(kListed);
                    const auto lists = std::make_shared<ls::KeyLists>(numbers, 1, n);
                    Workload w = part_of_keys(kListed, group, sizeof(T), threads);
                    w.call = [=] {
                      ls::attend_listed(ls::attention(), call->query(), stored->source(), *lists, call->output(),
                                        {.executor = pool(threads)});
                    };
                    return w;
                  }});
}

/// A part of 64K keys, and all of them.
template <class T>
void add_sparse_reading(std::vector<Row>& rows) {
  constexpr Index kKeys = 65536, kGroup = 4;
  const std::string type = std::string("/") + kTypeName<T> + "/g4";
  for (const Index threads : {1, 2}) add_quest<T>(rows, kKeys, kGroup, threads);
  for (const Index threads : {1, 2}) {
    add<PagedStore<T>>(rows, "decode/paged" + type, kKeys, 1, kGroup, threads);
    add_listed<PagedStore<T>>(rows, "listed2048paged", kKeys, kGroup, threads);
  }
  for (const Index threads : {1, 2}) {
    add<ContiguousStore<T>>(rows, "decode/contiguous" + type, kKeys, 1, kGroup, threads);
    add_listed<ContiguousStore<T>>(rows, "listed2048", kKeys, kGroup, threads);
  }
}

template <class Store>
void add_chunks(std::vector<Row>& rows) {
  for (const Index queries : {1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 17, 24, 32, 33, 48, 49, 64})
    add<Store>(rows, std::string("chunk/") + Store::kName + "/f32/g4/q" + std::to_string(queries), 8192, queries, 4, 1);
}

}  // namespace

std::vector<Row> decode_rows() {
  std::vector<Row> rows;
  for (const Index n : {8192, 32768, 131072}) {
    add_decode<ContiguousStore<float>>(rows, n);
    add_decode<ContiguousStore<ls::bf16>>(rows, n);
    add_decode<PagedStore<float>>(rows, n);
    add_decode<PagedStore<ls::bf16>>(rows, n);
    add_decode<PagedStore<ls::e4m3>>(rows, n);
    add_decode<PagedStore<ls::i8>>(rows, n);
    add_decode<PagedStore<ls::i4>>(rows, n);
  }
  add_batch<float>(rows);
  add_batch<ls::bf16>(rows);
  add_sparse_reading<float>(rows);
  add_sparse_reading<ls::bf16>(rows);
  for (const Index group : {1, 4}) add_prefix(rows, group);
  add_chunks<ContiguousStore<float>>(rows);
  add_chunks<PagedStore<float>>(rows);
  return rows;
}

}  // namespace bench
