#pragma once
// A naive model of a cache and its prefix index, and random load on both.

#include <gtest/gtest.h>

#include <unistd.h>
#include <cstdio>
#include <longspan/kv/prefix_index.hpp>
#include <longspan/kv/snapshot.hpp>
#include <map>
#include <set>
#include <string>
#include <support/numbered.hpp>
#include <support/random.hpp>

namespace longspan::testing {

/// A sequence is its tokens. What is stored for a token depends on all tokens before it, as in a model: pages that are
/// shared wrongly show.
class CacheModel {
 public:
  using Tokens = std::vector<Token>;
  static constexpr PagedShape kShape{.pages = 90, .page_size = 4, .kv_heads = 1, .head_dim = 2, .value_dim = 1};

  explicit CacheModel(std::uint64_t seed, bool latent = false) : random_(seed), latent_(latent) {}
  ~CacheModel() { std::remove(file_.c_str()); }

  /// One operation, and a check of what it touched.
  void step() {
    const Index n = std::ssize(sequences_);
    const double what = random_.real(0, 1);
    if (n == 0 || (n < 12 && what < 0.03)) {
      add(cache_.open(), {});
    } else if (what < 0.50) {
      append_some(any());
    } else if (what < 0.56 && n < 12) {
      Sequence& from = any();
      const Tokens tokens = from.tokens;
      add(cache_.fork(from.id), tokens);
    } else if (what < 0.66) {
      Sequence& s = any();
      const Index tokens = random_.between(0, std::ssize(s.tokens) + 3);
      cache_.truncate(s.id, tokens);
      if (tokens < std::ssize(s.tokens)) s.tokens.resize(static_cast<std::size_t>(tokens));
      check_sequence(s);
    } else if (what < 0.73) {
      const auto at = sequences_.begin() + random_.between(0, n - 1);
      cache_.close(at->id);
      closed_ = at->id;
      sequences_.erase(at);
    } else if (what < 0.83 && n < 12) {
      match();
    } else if (what < 0.93) {
      Sequence& s = any();
      const Index known = index_.insert(s.tokens, s.id);
      EXPECT_EQ(known, std::ssize(s.tokens) / kShape.page_size * kShape.page_size);
      for (Index end = kShape.page_size; end <= known; end += kShape.page_size)
        known_.insert(Tokens(s.tokens.begin(), s.tokens.begin() + end));
    } else if (what < 0.97) {
      evict(random_.between(1, 12));
    } else if (what < 0.98) {
      pin_or_unpin();
    } else if (what < 0.9803) {
      save_and_load();
    } else {
      Sequence& s = any();
      (void)cache_.reserve(s.id, std::ssize(s.tokens) + random_.between(0, 9));
      check_sequence(s);
    }
    EXPECT_EQ(index_.pages(), std::ssize(known_));
  }

  /// All of it.
  void check_all() {
    std::map<Index, Index> references;
    for (const Sequence& s : sequences_) {
      ASSERT_EQ(read(cache_.view(s.id)), content(s.tokens));
      for (const Index page : cache_.state(s.id).tables[0].pages()) ++references[page];
    }
    Index taken = 0, of_index = 0;
    for (Index page = 0; page < kShape.pages; ++page) {
      const Index more = cache_.pool().references(page) - references[page];
      ASSERT_TRUE(more == 0 || more == 1) << "page " << page << ": " << more << " references too many";
      of_index += more;
      taken += cache_.pool().references(page) > 0 ? 1 : 0;
    }
    ASSERT_EQ(of_index, std::ssize(known_));
    ASSERT_EQ(cache_.free_pages(), kShape.pages - taken);
    if (closed_.slot >= 0) {
      ASSERT_FALSE(cache_.open(closed_));
    }
    for (const Tokens& prefix : known_) ASSERT_EQ(index_.known(prefix), std::ssize(prefix));
  }

  /// Everything closed and forgotten: every page is free.
  void finish() {
    for (const Sequence& s : sequences_) cache_.close(s.id);
    index_.clear();
    ASSERT_EQ(cache_.free_pages(), kShape.pages);
  }

  Index full = 0, hits = 0, evicted = 0, snapshots = 0;

 private:
  struct Sequence {
    SequenceId id;
    Tokens tokens;
  };

  PagedShape shape() const {
    PagedShape shape = kShape;
    shape.latent = latent_;
    return shape;
  }
  static Numbers content(const Tokens& tokens) {
    Numbers numbers;
    Index number = 1;
    for (const Token t : tokens) numbers.push_back(number = (number * 31 + t + 7) % (1 << 19));
    return numbers;
  }
  Sequence& any() { return sequences_[static_cast<std::size_t>(random_.between(0, std::ssize(sequences_) - 1))]; }
  void add(SequenceId id, const Tokens& tokens) {
    sequences_.push_back({id, tokens});
    check_sequence(sequences_.back());
  }
  void check_sequence(const Sequence& s) {
    ASSERT_EQ(cache_.length(s.id), std::ssize(s.tokens));
    const Index tail = std::max<Index>(0, std::ssize(s.tokens) - 5);
    const Numbers all = content(s.tokens);
    ASSERT_EQ(read(cache_.view(s.id).part({tail, std::ssize(s.tokens)})), Numbers(all.begin() + tail, all.end()));
  }
  Tokens some(Index most) {
    Tokens tokens;
    for (Index i = random_.between(0, most); i > 0; --i) tokens.push_back(random_.chance(0.15) ? 1 : 0);
    return tokens;
  }

  void append_some(Sequence& s) {
    if (std::ssize(s.tokens) > 60) return;
    Tokens all = s.tokens;
    for (const Token t : some(9)) all.push_back(t);
    Numbers fresh = content(all);
    fresh.erase(fresh.begin(), fresh.begin() + std::ssize(s.tokens));
    // What it takes, by the definition: entries that are not there, and those written to that others hold.
    const auto& table = cache_.state(s.id).tables[0];
    Index needed = 0;
    if (!fresh.empty()) {
      for (Index n = std::ssize(s.tokens) / 4; n < ceil_div(std::ssize(all), 4); ++n)
        needed += n >= table.end() || cache_.pool().references(table[n]) > 1 ? 1 : 0;
    }
    const Outcome wanted = needed <= cache_.free_pages() ? Outcome::kDone : Outcome::kOutOfPages;
    ASSERT_EQ(append(cache_, s.id, fresh), wanted);
    if (wanted == Outcome::kDone) s.tokens = all;
    full += wanted == Outcome::kDone ? 0 : 1;
    check_sequence(s);
  }

  void match() {
    Tokens tokens = any().tokens;
    tokens.resize(static_cast<std::size_t>(random_.between(0, std::ssize(tokens))));
    for (const Token t : some(4)) tokens.push_back(t);
    Index longest = 0;
    for (const Tokens& prefix : known_) {
      Index same = 0;
      while (same < std::min(std::ssize(prefix), std::ssize(tokens)) &&
             prefix[static_cast<std::size_t>(same)] == tokens[static_cast<std::size_t>(same)])
        ++same;
      longest = std::max(longest, same);
    }
    const SequenceId id = index_.match(tokens);
    ASSERT_EQ(cache_.length(id), longest);
    tokens.resize(static_cast<std::size_t>(longest));
    hits += longest > 0 ? 1 : 0;
    add(id, tokens);
  }

  void evict(Index pages) {
    const Index free = cache_.free_pages(), gone = index_.evict(pages);
    ASSERT_EQ(cache_.free_pages(), free + gone);
    Index forgotten = 0;
    for (auto prefix = known_.begin(); prefix != known_.end();) {
      const bool kept = index_.known(*prefix) == std::ssize(*prefix);
      for (const Tokens& pin : pinned_)
        ASSERT_TRUE(kept || !std::equal(prefix->begin(), prefix->end(), pin.begin(),
                                        pin.begin() + std::min(std::ssize(pin), std::ssize(*prefix))));
      forgotten += kept ? 0 : 1;
      prefix = kept ? std::next(prefix) : known_.erase(prefix);
    }
    ASSERT_EQ(forgotten, gone);
    evicted += gone;
  }

  void pin_or_unpin() {
    if (!pinned_.empty() && random_.chance(0.6)) {
      index_.unpin(pinned_.back());
      pinned_.pop_back();
    } else if (!known_.empty() && pinned_.size() < 3) {
      auto prefix = known_.begin();
      std::advance(prefix, random_.between(0, std::ssize(known_) - 1));
      ASSERT_EQ(index_.pin(*prefix), std::ssize(*prefix));
      pinned_.push_back(*prefix);
    }
  }

  /// All sequences to a file, into another cache, and read there.
  void save_and_load() {
    std::vector<SnapshotEntry> entries;
    for (const Sequence& s : sequences_) entries.push_back({s.id, s.tokens});
    save_snapshot(file_, cache_, entries);
    const Snapshot<float> snapshot(file_);
    PagedCache<float> other(shape());
    const auto loaded = snapshot.load(other);
    ASSERT_TRUE(loaded.has_value());
    ASSERT_EQ(loaded->size(), sequences_.size());
    std::set<Index> pages;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& s = sequences_[i];
      ASSERT_EQ(read(other.view((*loaded)[i])), content(s.tokens));
      ASSERT_EQ(read(snapshot.view(static_cast<Index>(i))), content(s.tokens));
      ASSERT_TRUE(std::ranges::equal(snapshot.tokens(static_cast<Index>(i)), s.tokens));
      const auto& table = cache_.state(s.id).tables[0];
      for (Index n = 0; n < ceil_div(std::ssize(s.tokens), 4); ++n) pages.insert(table[n]);
    }
    ASSERT_EQ(kShape.pages - other.free_pages(), std::ssize(pages));  // shared as before
    ++snapshots;
  }

  Random random_;
  bool latent_;
  PagedCache<float> cache_{shape()};
  PrefixIndex<float> index_{cache_};
  std::vector<Sequence> sequences_;
  std::set<Tokens> known_;  // all prefixes, of whole pages, that the index holds
  std::vector<Tokens> pinned_;
  SequenceId closed_;
  std::string file_ = ::testing::TempDir() + "longspan_model_" + std::to_string(::getpid()) + ".snapshot";
};

inline void random_load(std::uint64_t seed, Index steps, bool latent = false) {
  CacheModel model(seed, latent);
  for (Index step = 0; step < steps; ++step) {
    model.step();
    if (step % 500 == 0) model.check_all();
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "seed " << seed << ", step " << step;
      return;
    }
  }
  model.check_all();
  std::printf("seed %llu: %lld operations, %lld out of pages, %lld matches, %lld pages evicted, %lld snapshots\n",
              static_cast<unsigned long long>(seed), static_cast<long long>(steps), static_cast<long long>(model.full),
              static_cast<long long>(model.hits), static_cast<long long>(model.evicted),
              static_cast<long long>(model.snapshots));
  EXPECT_GT(model.full * 1000, steps);  // the load is heavy enough
  EXPECT_GT(model.hits * 100, steps);
  EXPECT_GT(model.evicted * 100, steps);
  EXPECT_GT(model.snapshots, 0);
  model.finish();
}

}  // namespace longspan::testing
