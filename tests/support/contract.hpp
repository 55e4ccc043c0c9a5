#pragma once
// The numeric contract for one attention: everything that must not change a bit, changed.

#include <gtest/gtest.h>

#include <longspan/longspan.hpp>
#include <memory>
#include <string>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/near.hpp>
#include <vector>

namespace longspan::testing::contract {

/// Some query heads out of a result.
inline Result heads_of(const Result& r, Index queries, Index heads, Interval chosen, Index dim) {
  Result cut;
  for (Index i = 0; i < queries; ++i)
    for (Index h = chosen.begin; h < chosen.end; ++h) {
      const auto row = r.out.begin() + (i * heads + h) * dim;
      cut.out.insert(cut.out.end(), row, row + dim);
      cut.lse.push_back(r.lse[static_cast<std::size_t>(i * heads + h)]);
    }
  return cut;
}
template <class T>
TensorView<T> heads_of(TensorView<T> t, Interval heads) {
  return {t.row(0, heads.begin), t.tokens, heads.size(), t.dim, t.token_stride, t.head_stride};
}

inline const char* name(Kernel kernel) {
  return kernel == Kernel::kWide ? "wide" : kernel == Kernel::kNarrow ? "narrow" : "automatic";
}
inline constexpr Kernel kKernels[] = {Kernel::kAutomatic, Kernel::kWide, Kernel::kNarrow};

/// Kernels, pages, threads.
template <class Attend>
void kernels_pages_threads(const Attend& attend, const cases::Tensors& t, ThreadPool& two, ThreadPool& three) {
  const Contiguous contiguous(t.k(), t.v());
  const Result wanted = run(attend, t.q(), contiguous, {.kernel = Kernel::kWide});
  const auto over = [&](const auto& source, const std::string& what) {
    for (const Kernel kernel : kKernels) {
      EXPECT_TRUE(same_bits(run(attend, t.q(), source, {.kernel = kernel}), wanted)) << what << ", " << name(kernel);
      for (ThreadPool* pool : {&two, &three})
        EXPECT_TRUE(same_bits(run(attend, t.q(), source, {.executor = *pool, .kernel = kernel}), wanted))
            << what << ", " << name(kernel) << ", " << pool->workers() << " threads";
    }
  };
  over(contiguous, "contiguous");
  for (const Index page_size : {16, 64, 100})
    over(Pages(t.k(), t.v(), page_size).view(), "pages of " + std::to_string(page_size));
}

/// One prefill against the same tokens in chunks, contiguous and from a cache that grows.
template <class Attend>
void chunks(const Attend& attend, const cases::Tensors& t) {
  const cases::Shape& s = t.shape;
  const Result whole = run(attend, t.q(), Contiguous(t.k(), t.v()));
  const Index before = s.keys - s.queries;
  for (const Index chunk : {1, 13, 64}) {
    const Index page_size = chunk == 13 ? 100 : 16;
    PagedCache<float> cache({.pages = ceil_div(s.keys, page_size),
                             .page_size = page_size,
                             .kv_heads = s.kv_heads,
                             .head_dim = s.head_dim,
                             .value_dim = s.value_dim});
    const SequenceId chat = cache.open();
    ASSERT_EQ(cache.append(chat, t.k().slice({0, before}), t.v().slice({0, before})), Appended::kDone);
    for (Index begin = 0; begin < s.queries; begin += chunk) {
      const Interval rows{begin, std::min(begin + chunk, s.queries)};
      const Interval keys{0, before + rows.end}, fresh{before + rows.begin, before + rows.end};
      const Result wanted = rows_of(whole, rows, s.heads, s.value_dim);
      ASSERT_TRUE(same_bits(run(attend, t.q().slice(rows), Contiguous(t.k().slice(keys), t.v().slice(keys))), wanted))
          << "chunks of " << chunk << ", row " << begin;
      ASSERT_EQ(cache.append(chat, t.k().slice(fresh), t.v().slice(fresh)), Appended::kDone);
      ASSERT_TRUE(same_bits(run(attend, t.q().slice(rows), cache.view(chat)), wanted))
          << "chunks of " << chunk << " in pages, row " << begin;
    }
  }
}

/// A sequence alone against the same one among seven of other lengths, with threads.
template <class Attend>
void batches(const Attend& attend, Index keys, Index heads, Index kv_heads, ThreadPool& two, ThreadPool& three) {
  const Index lengths[] = {1, 70, 3, keys, 500, 64, 2049}, most_queries = 70;
  for (const Index queries : {Index{1}, Index{5}, most_queries}) {
    std::vector<Index> cumulative_queries{0}, cumulative_keys{0};
    for (const Index length : lengths) {
      cumulative_queries.push_back(cumulative_queries.back() + std::min(length, queries));
      cumulative_keys.push_back(cumulative_keys.back() + length);
    }
    const cases::Tensors t({cumulative_queries.back(), cumulative_keys.back(), heads, kv_heads, 24, 20}, 7);
    const Contiguous together(t.k(), t.v());
    std::vector<std::unique_ptr<Pages>> pages;
    std::vector<PagedView<float>> views;
    std::vector<Result> alone;
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
      const Contiguous source = together.slice({cumulative_keys[i], cumulative_keys[i + 1]});
      alone.push_back(run(attend, t.q().slice({cumulative_queries[i], cumulative_queries[i + 1]}), source));
      const Interval keys_of_i{cumulative_keys[i], cumulative_keys[i + 1]};
      pages.push_back(std::make_unique<Pages>(t.k().slice(keys_of_i), t.v().slice(keys_of_i), i % 2 ? 16 : 100));
      views.push_back(pages.back()->view());
    }
    Serial serial;
    for (const ExecutorRef executor : {ExecutorRef(serial), ExecutorRef(two), ExecutorRef(three)}) {
      Result all =
          run(attend, t.q(), together,
              {.executor = executor, .cumulative_queries = cumulative_queries, .cumulative_keys = cumulative_keys});
      Result paged{nans(std::ssize(all.out)), nans(std::ssize(all.lse))};
      attend(t.q(), std::span<const PagedView<float>>(views), view(paged.out, cumulative_queries.back(), heads, 20),
             {.lse = paged.lse, .executor = executor, .cumulative_queries = cumulative_queries});
      for (std::size_t i = 0; i < std::size(lengths); ++i) {
        const Interval rows{cumulative_queries[i], cumulative_queries[i + 1]};
        const auto where = [&] {
          return "sequence " + std::to_string(i) + ", " + std::to_string(queries) + " queries, " +
                 std::to_string(executor.workers()) + " threads";
        };
        EXPECT_TRUE(same_bits(rows_of(all, rows, heads, 20), alone[i])) << where();
        EXPECT_TRUE(same_bits(rows_of(paged, rows, heads, 20), alone[i])) << where() << ", pages";
      }
    }
  }
}

/// Query heads of a group together against some of them, or fewer rows, alone. (Only where scores don't depend on the
/// head.)
template <class Attend>
void heads_alone(const Attend& attend, const cases::Tensors& t) {
  const cases::Shape& s = t.shape;
  const Index group = s.heads / s.kv_heads;
  const Result whole = run(attend, t.q(), Contiguous(t.k(), t.v()));
  for (Index h = 0; h < s.heads; ++h) {
    const Interval kv_head{h / group, h / group + 1};
    for (const Kernel kernel : kKernels)
      EXPECT_TRUE(same_bits(run(attend, heads_of(t.q(), {h, h + 1}),
                                Contiguous(heads_of(t.k(), kv_head), heads_of(t.v(), kv_head)), {.kernel = kernel}),
                            heads_of(whole, s.queries, s.heads, {h, h + 1}, s.value_dim)))
          << s.name() << ", head " << h << ", " << name(kernel);
  }
}

/// Everything above, below and across the border of blocks and splits. `heads` is what the scores are made for, or 0.
template <class Attend>
void hold(const std::string& policies, const Attend& attend, Index heads = 0) {
  SCOPED_TRACE(policies);
  ThreadPool two(2), three(3);
  const Index h = heads ? heads : 4;
  const cases::Shape shapes[] = {
      {70, 70, h, h, 24, 20},  {130, 333, h, 1, 33, 17}, {5, 100, h, h, 16, 16},
      {1, 65, h, 1, 24, 20},   {60, 2100, h, 1, 24, 20}, {3, 4200, h, h / 2, 24, 20},  // beyond one split, and two
      {1, 8500, h, 1, 24, 40},                                                         // decode with splits in parallel
      {2, 36000, h, 1, 8, 8},                                                          // … in more than one wave
  };
  for (const cases::Shape& shape : shapes) {
    SCOPED_TRACE(shape.name());
    kernels_pages_threads(attend, cases::Tensors(shape, 3), two, three);
  }
  chunks(attend, cases::Tensors({150, 150, h, h / 2, 24, 20}, 5));
  chunks(attend, cases::Tensors({66, 2100, h, h, 24, 20}, 5));
  batches(attend, 4200, h, h / 2, two, three);
  if (heads == 0) {
    for (const cases::Shape& shape : {cases::Shape{1, 2100, 130, 1, 24, 20}, {3, 4200, 48, 2, 24, 20}}) {  // as lanes
      SCOPED_TRACE(shape.name());
      kernels_pages_threads(attend, cases::Tensors(shape, 3), two, three);
    }
    heads_alone(attend, cases::Tensors({2, 2200, 32, 1, 24, 20}, 9));
    heads_alone(attend, cases::Tensors({40, 130, 7, 1, 24, 20}, 9));
    heads_alone(attend, cases::Tensors({3, 2200, 12, 2, 24, 20}, 9));
  }
}

}  // namespace longspan::testing::contract
