// The paged cache against a plain model: what was appended is what is read, pages are accounted for, and what is
// refused changes nothing.

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <support/cases.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>
#include <vector>

namespace longspan::testing {
namespace {

/// Keys and values of a layer of a sequence, token by token.
using Rows = std::vector<std::vector<float>>;
struct Layer {
  Rows keys, values;
  bool operator==(const Layer&) const = default;
};

/// What a view hands out, run by run, kv head by kv head. Checks the runs on the way.
Layer read(const PagedView<float>& view, Index page_size) {
  Layer layer{Rows(static_cast<std::size_t>(view.keys())), Rows(static_cast<std::size_t>(view.keys()))};
  for (Index h = 0; h < view.kv_heads(); ++h)
    for (Index at = 0; at < view.keys();) {
      const auto run = view.run(h, at);
      EXPECT_EQ(run.size, std::min(page_size - at % page_size, view.keys() - at));
      EXPECT_EQ(run.readable, page_size - at % page_size);
      for (Index j = 0; j < run.size; ++j, ++at) {
        auto& key = layer.keys[static_cast<std::size_t>(at)];
        auto& value = layer.values[static_cast<std::size_t>(at)];
        for (Index d = 0; d < view.head_dim(); ++d) key.push_back(run.key[j * run.key_stride + d * run.dim_stride]);
        for (Index d = 0; d < view.value_dim(); ++d) value.push_back(run.value[j * run.value_stride + d]);
      }
    }
  return layer;
}

/// The cache, and a model of it.
class Both {
 public:
  struct Sequence {
    SequenceId id;
    std::vector<Layer> layers;
  };

  explicit Both(const PagedShape& shape) : cache(shape), shape_(cache.shape()) {}

  void open() { sequences.push_back({cache.open(), std::vector<Layer>(static_cast<std::size_t>(shape_.layers))}); }
  void close(std::size_t i) {
    cache.close(sequences[i].id);
    closed.push_back(sequences[i].id);
    sequences.erase(sequences.begin() + static_cast<Index>(i));
  }
  void truncate(std::size_t i, Index tokens) {
    cache.truncate(sequences[i].id, tokens);
    for (Layer& layer : sequences[i].layers)
      if (std::ssize(layer.keys) > tokens) {
        layer.keys.resize(static_cast<std::size_t>(tokens));
        layer.values.resize(static_cast<std::size_t>(tokens));
      }
  }
  /// Whether there was room.
  bool append(std::size_t i, Index layer, Index tokens, Random& random) {
    Sequence& s = sequences[i];
    Layer& model = s.layers[static_cast<std::size_t>(layer)];
    const std::vector<float> keys = random.gaussian(tokens * shape_.kv_heads * shape_.head_dim);
    const std::vector<float> values = random.gaussian(tokens * shape_.kv_heads * shape_.value_dim);
    const Index pages_of_longest = ceil_div(std::max(longest(s), std::ssize(model.keys) + tokens), shape_.page_size);
    const bool room = pages_of_longest - ceil_div(longest(s), shape_.page_size) <= cache.free_pages();
    const Appended outcome = cache.append(s.id, view(keys, tokens, shape_.kv_heads, shape_.head_dim),
                                          view(values, tokens, shape_.kv_heads, shape_.value_dim), layer);
    EXPECT_EQ(outcome, room ? Appended::kDone : Appended::kOutOfPages);
    if (!room) return false;
    for (Index t = 0; t < tokens; ++t) {
      const auto row = [&](const std::vector<float>& x, Index size) {
        return std::vector<float>(x.begin() + t * size, x.begin() + (t + 1) * size);
      };
      model.keys.push_back(row(keys, shape_.kv_heads * shape_.head_dim));
      model.values.push_back(row(values, shape_.kv_heads * shape_.value_dim));
    }
    return true;
  }

  Index longest(const Sequence& s) const {
    Index tokens = 0;
    for (const Layer& layer : s.layers) tokens = std::max(tokens, std::ssize(layer.keys));
    return tokens;
  }

  /// The whole state of the cache as its users can see it, against the model.
  void expect_same() const {
    Index taken = 0;
    for (const Sequence& s : sequences) {
      taken += ceil_div(longest(s), shape_.page_size);
      for (Index l = 0; l < shape_.layers; ++l) {
        const Layer& model = s.layers[static_cast<std::size_t>(l)];
        ASSERT_EQ(cache.length(s.id, l), std::ssize(model.keys));
        ASSERT_EQ(cache.view(s.id, l).keys(), std::ssize(model.keys));
        ASSERT_TRUE(read(cache.view(s.id, l), shape_.page_size) == model) << "slot " << s.id.slot << ", layer " << l;
      }
    }
    ASSERT_EQ(cache.free_pages(), shape_.pages - taken);
    for (const SequenceId id : closed) ASSERT_THROW(cache.length(id), std::invalid_argument);
  }

  PagedCache<float> cache;
  std::vector<Sequence> sequences;
  std::vector<SequenceId> closed;

 private:
  PagedShape shape_;
};

TEST(PagedCache, BehavesAsTheModel) {
  int full = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const PagedShape shape{.pages = random.between(1, 20),
                           .page_size = random.between(1, 20),
                           .kv_heads = random.between(1, 3),
                           .head_dim = random.between(1, 6),
                           .value_dim = random.between(0, 6),
                           .layers = random.between(1, 3)};
    Both both(shape);
    for (int step = 0; step < 120; ++step) {
      const Index count = std::ssize(both.sequences);
      const auto any = [&] { return static_cast<std::size_t>(random.between(0, count - 1)); };
      if (count == 0 || random.chance(0.1))
        both.open();
      else if (random.chance(0.08))
        both.close(any());
      else if (random.chance(0.15))
        both.truncate(any(), random.between(0, 60));
      else
        full += both.append(any(), random.between(0, shape.layers - 1),
                            random.between(0, random.chance(0.1) ? 100 : 25), random)
                    ? 0
                    : 1;
      both.expect_same();
      if (HasFatalFailure() || HasFailure()) {
        ADD_FAILURE() << "step " << step;
        return;
      }
    }
    while (!both.sequences.empty()) both.close(0);
    both.expect_same();
    ASSERT_EQ(both.cache.free_pages(), shape.pages);
  }
  EXPECT_GT(full, 100);  // the load is heavy enough for pages to run out
}

TEST(PagedCache, OutOfPagesChangesNothing) {
  Random random(1);
  Both both({.pages = 5, .page_size = 4, .kv_heads = 2, .head_dim = 3, .value_dim = 2, .layers = 2});
  both.open();
  both.open();
  EXPECT_TRUE(both.append(0, 0, 6, random));   // 2 pages
  EXPECT_TRUE(both.append(1, 1, 9, random));   // 3 pages
  EXPECT_FALSE(both.append(0, 0, 3, random));  // 2 fit in its last page, 3 don't
  both.expect_same();
  EXPECT_FALSE(both.append(0, 1, 9, random));
  EXPECT_FALSE(both.append(1, 0, 100000, random));
  both.expect_same();
  EXPECT_TRUE(both.append(0, 0, 2, random));
  EXPECT_TRUE(both.append(0, 1, 8, random));  // the same pages hold the other layer
  EXPECT_TRUE(both.append(0, 1, 0, random));
  both.expect_same();
  both.truncate(1, 8);  // gives a page back
  EXPECT_TRUE(both.append(0, 0, 3, random));
  both.expect_same();
}

TEST(PagedCache, StaleHandlesAreRefused) {
  PagedCache<float> cache({.pages = 4, .page_size = 4, .kv_heads = 1, .head_dim = 2});
  const cases::Tensors t({1, 3, 1, 1, 2, 2});
  const auto refuses = [&](SequenceId id, const std::string& got, const std::string& wanted) {
    EXPECT_TRUE(refused([&] { (void)cache.length(id); }, "sequence", got, wanted));
    EXPECT_TRUE(refused([&] { (void)cache.view(id); }, "sequence", got, wanted));
    EXPECT_TRUE(refused([&] { (void)cache.append(id, t.k(), t.v()); }, "sequence", got, wanted));
    EXPECT_TRUE(refused([&] { cache.truncate(id, 0); }, "sequence", got, wanted));
    EXPECT_TRUE(refused([&] { cache.close(id); }, "sequence", got, wanted));
  };
  refuses({}, "-1", "one of this cache");
  refuses({3, 1}, "3", "one of this cache");
  const SequenceId first = cache.open();
  ASSERT_EQ(cache.append(first, t.k(), t.v()), Appended::kDone);
  cache.close(first);
  refuses(first, "a closed one", "one that is open");
  const SequenceId second = cache.open();
  EXPECT_EQ(second.slot, first.slot);  // its place is used again, and the old handle still isn't valid
  refuses(first, "a closed one", "one that is open");
  EXPECT_EQ(cache.length(second), 0);
  ASSERT_EQ(cache.append(second, t.k(), t.v()), Appended::kDone);
  EXPECT_EQ(cache.length(second), 3);
  EXPECT_EQ(cache.free_pages(), 3);
}

TEST(PagedCache, BadInput) {
  const auto shape_refused = [](const PagedShape& shape, const char* argument, const std::string& got,
                                const std::string& wanted) {
    EXPECT_TRUE(refused([&] { PagedCache<float> cache(shape); }, argument, got, wanted));
    EXPECT_TRUE(refused([&] { (void)PagedCache<float>::bytes(shape); }, argument, got, wanted));
  };
  const PagedShape good{.pages = 2, .page_size = 4, .kv_heads = 2, .head_dim = 3, .value_dim = 5, .layers = 2};
  for (const auto& [member, name] :
       {std::pair(&PagedShape::pages, "pages"), std::pair(&PagedShape::page_size, "page_size"),
        std::pair(&PagedShape::kv_heads, "kv_heads"), std::pair(&PagedShape::head_dim, "head_dim"),
        std::pair(&PagedShape::layers, "layers")})
    for (const Index bad : {0, -3}) {
      PagedShape shape = good;
      shape.*member = bad;
      shape_refused(shape, (std::string("PagedCache.") + name).c_str(), std::to_string(bad), ">= 1");
    }
  PagedShape shape = good;
  shape.value_dim = -1;
  shape_refused(shape, "PagedCache.value_dim", "-1", ">= 0");
  shape = good;
  shape.pages = Index{1} << 60;
  shape_refused(shape, "PagedCache.bytes", "9.22337204e+18", "below 2^52");

  PagedCache<float> cache(good);
  const SequenceId id = cache.open();
  const std::vector<float> memory(100);
  const auto t = [&](Index tokens, Index heads, Index dim) {
    return TensorView<const float>{memory.data(), tokens, heads, dim, heads * dim, dim};
  };
  ASSERT_EQ(cache.append(id, t(3, 2, 3), t(3, 2, 5)), Appended::kDone);
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(-1, 2, 3), t(-1, 2, 5)); }, "keys.tokens", "-1", ">= 0"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(1, 1, 3), t(1, 2, 5)); }, "keys.heads", "1", "2"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(1, 2, 4), t(1, 2, 5)); }, "keys.dim", "4", "3"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(1, 2, 3), t(2, 2, 5)); }, "values.tokens", "2", "1"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(1, 2, 3), t(1, 3, 5)); }, "values.heads", "3", "2"));
  EXPECT_TRUE(refused([&] { (void)cache.append(id, t(1, 2, 3), t(1, 2, 3)); }, "values.dim", "3", "5"));
  EXPECT_TRUE(refused([&] { cache.truncate(id, -1); }, "truncate.tokens", "-1", ">= 0"));
  for (const Index layer : {-1, 2}) {
    EXPECT_THROW((void)cache.append(id, t(1, 2, 3), t(1, 2, 5), layer), std::invalid_argument);
    EXPECT_THROW((void)cache.view(id, layer), std::invalid_argument);
    EXPECT_THROW((void)cache.length(id, layer), std::invalid_argument);
  }
  EXPECT_EQ(cache.length(id), 3);
  EXPECT_EQ(cache.length(id, 1), 0);
  EXPECT_EQ(cache.free_pages(), 1);
}

TEST(PagedCache, BytesAndShape) {
  EXPECT_EQ(
      PagedCache<float>::bytes({.pages = 3, .page_size = 5, .kv_heads = 2, .head_dim = 7, .value_dim = 4, .layers = 6}),
      3 * 5 * 2 * (7 + 4) * 6 * 4);
  EXPECT_EQ(PagedCache<float>::bytes({.pages = 1, .head_dim = 8}), 64 * 16 * 4);  // value_dim 0: head_dim
  const PagedCache<float> cache({.pages = 2, .head_dim = 8});
  EXPECT_EQ(cache.shape().value_dim, 8);
  EXPECT_EQ(cache.free_pages(), 2);
}

TEST(PagedCache, ViewsStayWhileOthersChange) {
  PagedCache<float> cache({.pages = 60, .page_size = 4, .kv_heads = 1, .head_dim = 2});
  const cases::Tensors t({1, 10, 1, 1, 2, 2});
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, t.k(), t.v()), Appended::kDone);
  const PagedView<float> before = cache.view(id);
  const Layer content = read(before, 4);
  for (int i = 0; i < 15; ++i) ASSERT_EQ(cache.append(cache.open(), t.k(), t.v()), Appended::kDone);
  EXPECT_TRUE(read(before, 4) == content);
  PagedCache<float> moved = std::move(cache);
  EXPECT_TRUE(read(moved.view(id), 4) == content);
  EXPECT_TRUE(read(before, 4) == content);
}

TEST(PagedCache, KeysLieForTheirReaders) {  // [head_dim][page_size] and [page_size][value_dim], on cache lines
  PagedCache<float> cache({.pages = 1, .page_size = 16, .kv_heads = 2, .head_dim = 3, .value_dim = 5});
  const cases::Tensors t({1, 10, 2, 2, 3, 5});
  const SequenceId id = cache.open();
  ASSERT_EQ(cache.append(id, t.k(), t.v()), Appended::kDone);
  const auto run = cache.view(id).run(0, 0);
  EXPECT_EQ(run.key_stride, 1);
  EXPECT_EQ(run.dim_stride, 16);
  EXPECT_EQ(run.value_stride, 5);
  EXPECT_EQ(run.value, run.key + 3 * 16);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(run.key) % 64, 0u);
}

}  // namespace
}  // namespace longspan::testing
