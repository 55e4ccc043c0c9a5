// Snapshots: what comes back, and that neither a kill, a damaged byte nor a full disk goes unnoticed or costs the old
// one.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <longspan/kv/snapshot.hpp>
#include <string>
#include <support/numbered.hpp>
#include <support/random.hpp>
#include <support/refused.hpp>

namespace longspan::testing {
namespace {

class Snapshots : public ::testing::Test {
 protected:
  Snapshots() { std::filesystem::create_directories(folder_); }
  ~Snapshots() override { std::filesystem::remove_all(folder_); }

  static PagedCache<float> filled(Index first, std::vector<SnapshotEntry>& entries, Index tokens = 50) {
    PagedCache<float> cache({.pages = 2 * tokens, .page_size = 4, .kv_heads = 2, .head_dim = 4, .layers = 2});
    const SequenceId a = cache.open();
    for (Index layer : {0, 1}) EXPECT_EQ(append(cache, a, numbers(first, first + tokens), layer), Outcome::kDone);
    const SequenceId b = cache.fork(a);
    cache.truncate(b, 30);
    for (Index layer : {0, 1}) EXPECT_EQ(append(cache, b, numbers(900, 907), layer), Outcome::kDone);
    entries = {{a}, {b, kTokens}};
    return cache;
  }
  void save(Index first, Index tokens = 50) const {
    std::vector<SnapshotEntry> entries;
    const PagedCache<float> cache = filled(first, entries, tokens);
    save_snapshot<float>(path_, cache, entries);
  }
  /// The first number in the file, all of which must be as it was saved.
  Index loaded(Index tokens = 50) const {
    const Snapshot<float> snapshot(path_);
    const Numbers a = read(snapshot.view(0, 1));
    EXPECT_EQ(a, numbers(a.at(0), a.at(0) + tokens));
    EXPECT_EQ(read(snapshot.view(0, 0)), a);
    Numbers b = numbers(a.at(0), a.at(0) + 30);
    for (const Index n : numbers(900, 907)) b.push_back(n);
    EXPECT_EQ(read(snapshot.view(1, 1)), b);
    EXPECT_TRUE(std::ranges::equal(snapshot.tokens(1), kTokens));
    return a.at(0);
  }

  static inline const std::vector<Token> kTokens{5, -1, 2147483647};
  const std::string folder_ = ::testing::TempDir() + "longspan_snapshot_" + std::to_string(::getpid());
  const std::string path_ = folder_ + "/a.snapshot";
};

TEST_F(Snapshots, ComeBack) {
  save(100);
  EXPECT_EQ(loaded(), 100);
  const Snapshot<float> snapshot(path_);
  PagedCache<float> cache({.pages = 16, .page_size = 4, .kv_heads = 2, .head_dim = 4, .layers = 2});
  const auto ids = snapshot.load(cache);
  ASSERT_TRUE(ids.has_value());
  EXPECT_EQ(cache.free_pages(), 16 - 13 - 3);  // shared pages once
  EXPECT_EQ(read(cache.view(ids->at(0), 1)), numbers(100, 150));
  ASSERT_EQ(append(cache, ids->at(1), {}), Outcome::kDone);
  EXPECT_FALSE(snapshot.load(cache).has_value());  // no room: nothing changed
  EXPECT_EQ(cache.free_pages(), 0);
  cache.close(ids->at(0));
  cache.close(ids->at(1));
  EXPECT_EQ(cache.free_pages(), 16);
  PagedCache<float> other({.pages = 16, .page_size = 8, .kv_heads = 2, .head_dim = 4, .layers = 2});
  EXPECT_TRUE(
      refused([&] { (void)snapshot.load(other); }, "load.cache.shape", "another shape", "that of the snapshot"));
}

TEST_F(Snapshots, OfGroupsWithWindows) {
  const std::vector<PagedShape> groups{{.pages = 9, .page_size = 4, .head_dim = 3, .layers = 2, .window = 6},
                                       {.pages = 30, .page_size = 8, .kv_heads = 2, .head_dim = 5, .value_dim = 1}};
  PagedCache<bf16> cache(groups, {0, 2, 1, 2});
  const SequenceId id = cache.open(), empty = cache.open();
  for (Index at = 0; at < 7; ++at) {  // numbers that bf16 holds
    ASSERT_EQ(append(cache, id, {at}, 0, 0), Outcome::kDone);
    ASSERT_EQ(append(cache, id, {at}, 1, 1), Outcome::kDone);
    ASSERT_EQ(append(cache, id, {at}, 2, 0), Outcome::kDone);
  }
  ASSERT_EQ(append(cache, id, Numbers(9, 3), 0, 0), Outcome::kDone);
  ASSERT_EQ(append(cache, id, Numbers(9, 3), 2, 0), Outcome::kDone);
  ASSERT_EQ(append(cache, id, {4}, 0, 0), Outcome::kDone);
  EXPECT_GT(cache.view(id, 0).first_key(), 0);
  const std::vector<SnapshotEntry> entries{{id}, {empty}};
  save_snapshot<bf16>(path_, cache, entries);
  const Snapshot<bf16> snapshot(path_);
  PagedCache<bf16> again(groups, {0, 2, 1, 2});
  const auto ids = snapshot.load(again);
  ASSERT_TRUE(ids.has_value());
  for (Index layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(read(again.view(ids->at(0), layer)), read(cache.view(id, layer)));
    EXPECT_EQ(read(snapshot.view(0, layer)), read(cache.view(id, layer)));
    EXPECT_EQ(snapshot.view(0, layer).first_key(), cache.view(id, layer).first_key());
    EXPECT_EQ(again.length(ids->at(1), layer), 0);
  }
  EXPECT_THROW(Snapshot<float>{path_}, SnapshotError);
}

TEST_F(Snapshots, EveryFlippedBitIsSeen) {
  save(100);
  std::vector<char> good;
  {
    std::ifstream in(path_, std::ios::binary);
    good.assign(std::istreambuf_iterator<char>(in), {});
  }
  Random random(6);
  const auto expect_refused = [&](const std::vector<char>& bytes, const std::string& what) {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), std::ssize(bytes));
    try {
      const Snapshot<float> snapshot(path_);
      ADD_FAILURE() << what << " was not seen (seed 6)";
    } catch (const SnapshotError&) {
    }
  };
  const auto flip = [&](std::size_t byte, int bit) {
    std::vector<char> bytes = good;
    bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << bit));
    expect_refused(bytes, "bit " + std::to_string(bit) + " of byte " + std::to_string(byte));
  };
  for (int i = 0; i < 2000; ++i) flip(static_cast<std::size_t>(random.between(0, std::ssize(good) - 1)), i % 8);
  for (std::size_t byte = 0; byte < 64; ++byte) flip(byte, static_cast<int>(byte % 8));
  for (int i = 0; i < 50; ++i)
    expect_refused({good.begin(), good.begin() + random.between(0, std::ssize(good) - 1)}, "a cut");
  std::ofstream(path_, std::ios::binary).write(good.data(), std::ssize(good));
  EXPECT_EQ(loaded(), 100);
  EXPECT_THROW(Snapshot<float>{folder_ + "/none"}, std::system_error);
}

TEST_F(Snapshots, AKillLeavesTheOldOrTheNew) {
#if defined(__SANITIZE_ADDRESS__)
  constexpr Index kMany = 500;
#else
  constexpr Index kMany = 10000;
#endif
  save(0, kMany);
  std::vector<SnapshotEntry> entries;
  Random random(7);
  double whole = 0;
  int old = 0, fresh = 0;
  Index now = 0;
  for (int i = 0; i < 201; ++i) {
    const Index next = 1 + i;
    const PagedCache<float> cache = filled(next, entries, kMany);
    const auto start = std::chrono::steady_clock::now();
    const ::pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        save_snapshot<float>(path_, cache, entries);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    if (i > 0) {
      ::usleep(static_cast<::useconds_t>(1e6 * random.real(0, 1.2 * whole)));
      ::kill(child, SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (i == 0) whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const Index got = loaded(kMany);
    ASSERT_TRUE(got == now || got == next) << "kill " << i << " (seed 7): got " << got;
    if (i > 0) ++(got == next ? fresh : old);
    now = got;
  }
  std::printf("200 kills within %.1f ms (seed 7): %d times the old file, %d times the new one\n", 1.2e3 * whole, old,
              fresh);
  EXPECT_GT(old, 0);
  save(5, kMany);  // what a kill left does no harm
  EXPECT_EQ(loaded(kMany), 5);
}

TEST_F(Snapshots, AFullDiskLeavesTheOldOne) {
  save(100);
  const auto with_limit = [&](::rlim_t bytes, auto f) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::rlimit before{};
    ::getrlimit(RLIMIT_FSIZE, &before);
    const ::rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    f();
    ::setrlimit(RLIMIT_FSIZE, &before);
  };
  for (const ::rlim_t bytes : {0u, 100u, 5000u})
    with_limit(bytes, [&] { EXPECT_THROW(save(200), std::system_error) << bytes; });
  EXPECT_EQ(loaded(), 100);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".new"));
  if (::access("/dev/full", W_OK) == 0) {  // the device that is always full, in place of the new file
    ASSERT_EQ(::symlink("/dev/full", (path_ + ".new").c_str()), 0);
    try {
      save(200);
      ADD_FAILURE() << "ENOSPC was not seen";
    } catch (const std::system_error& error) {
      EXPECT_EQ(error.code().value(), ENOSPC);
    }
    EXPECT_EQ(loaded(), 100);
  }
  save(300);
  EXPECT_EQ(loaded(), 300);
}

TEST_F(Snapshots, ACacheMayLiveInAFile) {
  FileMemory memory(folder_ + "/pages");
  const PagedShape shape{.pages = 20, .page_size = 4, .head_dim = 2};
  PagedCache<float> cache(shape, &memory);
  EXPECT_EQ(static_cast<Index>(std::filesystem::file_size(folder_ + "/pages")), PagedCache<float>::bytes(shape));
  const SequenceId id = cache.open();
  ASSERT_EQ(append(cache, id, numbers(0, 70)), Outcome::kDone);
  EXPECT_EQ(read(cache.view(id)), numbers(0, 70));
  FileMemory nowhere(folder_ + "/none/pages");
  EXPECT_THROW(PagedCache<float>(shape, &nowhere), std::system_error);
}

}  // namespace
}  // namespace longspan::testing
