// One writer, many readers of sequences that it leaves alone: the content stays what it was. Built with
// LONGSPAN_SANITIZE_THREADS, the thread sanitizer watches.

#include <gtest/gtest.h>

#include <atomic>
#include <support/numbered.hpp>
#include <support/random.hpp>
#include <thread>

namespace longspan::testing {
namespace {

TEST(Concurrent, ReadersOfWhatIsNotChanged) {
  constexpr std::uint64_t kSeed = 3;
  PagedCache<float> cache({.pages = 200, .page_size = 4, .kv_heads = 2, .head_dim = 2});
  std::vector<SequenceId> quiet;
  std::vector<PagedView<float>> views;
  for (Index i = 0; i < 6; ++i) {  // of lengths that end inside pages
    quiet.push_back(i % 2 == 0 ? cache.open() : cache.fork(quiet.back()));
    if (i % 2 == 0) {
      ASSERT_EQ(append(cache, quiet.back(), numbers(100 * i, 100 * i + 18 + i)), Outcome::kDone);
    }
  }
  std::vector<Numbers> content;
  for (const SequenceId id : quiet) {
    views.push_back(cache.view(id));
    content.push_back(read(views.back()));
  }

  std::atomic<bool> stop = false;
  std::atomic<Index> rounds = 0;
  std::vector<std::thread> readers;
  for (int r = 0; r < 3; ++r)
    readers.emplace_back([&] {
      while (!stop || rounds < 3) {
        for (std::size_t i = 0; i < views.size(); ++i) EXPECT_EQ(read(views[i]), content[i]);
        ++rounds;
      }
    });

  Random random(kSeed);
  std::vector<SequenceId> busy;
  for (int step = 0; step < 4000; ++step) {  // forks of what is being read, copies of the pages that they share
    if (busy.size() < 4) busy.push_back(cache.fork(quiet[static_cast<std::size_t>(random.between(0, 5))]));
    SequenceId& id = busy[static_cast<std::size_t>(random.between(0, std::ssize(busy) - 1))];
    const Index length = cache.length(id);
    switch (random.between(0, 4)) {
      case 0:
        cache.truncate(id, random.between(0, length));
        break;
      case 1:
        cache.close(id);
        id = cache.open();
        break;
      case 2:
        if (length >= 8) cache.evict(id, {4, 8});
        break;
      case 3:
        if (length >= 3) (void)cache.compact(id, Numbers{0, 2});
        break;
      default:
        (void)append(cache, id, numbers(5000, 5000 + random.between(1, 9)));
    }
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  for (const SequenceId id : busy) cache.close(id);
  for (const SequenceId id : quiet) cache.close(id);
  EXPECT_EQ(cache.free_pages(), 200) << "seed " << kSeed;
}

}  // namespace
}  // namespace longspan::testing
