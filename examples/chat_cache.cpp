// Many conversations over one system prompt, in one paged cache: what they share is kept once, what is not used goes
// when pages are needed, and all of it survives the process.
//
//   sh cmake/dev.sh run chat_cache --conversations 64 --turns 4
//
// Keys and values are made up from tokens (a server has its model's); everything else is as a server would do it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <longspan/kv/prefix_index.hpp>
#include <longspan/kv/snapshot.hpp>
#include <random>
#include <string>
#include <vector>

namespace {

namespace ls = longspan;
using ls::Index;
using Tokens = std::vector<ls::Token>;

struct Settings {
  Index conversations = 48, turns = 4, system = 1000, pages = 900, page_size = 16;
  std::uint64_t seed = 1;
  std::string file = (std::filesystem::temp_directory_path() / "chat_cache.snapshot").string();
};

/// Where a model would be: keys and values of tokens, for all layers.
class Server {
 public:
  explicit Server(const Settings& s)
      : cache_({.pages = s.pages, .page_size = s.page_size, .kv_heads = 2, .head_dim = 16, .layers = 4}),
        index_(cache_) {}

  /// The sequence of a conversation, of which only what is not known is computed.
  ls::SequenceId read(const Tokens& tokens) {
    const ls::SequenceId id = index_.match(std::span(tokens).first(tokens.size() - 1));
    if (!extend(id, tokens)) {
      cache_.close(id);
      throw std::runtime_error("the cache is too small for one conversation: --pages");
    }
    return id;
  }
  /// Computes tokens behind those that the sequence has; makes room if there is none. False: not possible.
  bool extend(ls::SequenceId id, const Tokens& tokens) {
    const Index known = cache_.length(id), fresh = std::ssize(tokens) - known;
    while (cache_.reserve(id, std::ssize(tokens)) != ls::Outcome::kDone)
      if (index_.evict(ls::ceil_div(fresh, cache_.shape().page_size) + 1) == 0) return false;
    std::vector<float> rows(static_cast<std::size_t>(fresh * 2 * 16));
    for (std::size_t i = 0; i < rows.size(); ++i)
      rows[i] = static_cast<float>(tokens[static_cast<std::size_t>(known) + i / 32]) / 1000;
    const auto view = ls::view(rows, fresh, 2, 16);
    for (Index layer = 0; layer < cache_.layers(); ++layer)
      if (cache_.append(id, view, view, layer) != ls::Outcome::kDone) return false;
    return true;
  }
  void finish(ls::SequenceId id, const Tokens& tokens) {
    index_.insert(tokens, id);
    cache_.close(id);
  }

  void report(const char* when, const std::vector<std::pair<ls::SequenceId, Index>>& open) {
    Index tokens = 0, alone = 0;
    for (const auto& [id, length] : open) {
      tokens += length;
      alone += ls::ceil_div(length, cache_.shape().page_size);
    }
    const Index used = cache_.shape().pages - cache_.free_pages();
    const Index held = alone * cache_.shape().page_size;
    std::cout << std::left << std::setw(24) << when << std::right << std::setw(6) << used << " pages used ("
              << open.size() << " sequences would take " << alone << " without sharing), waste " << std::fixed
              << std::setprecision(2)
              << (held == 0 ? 0 : 100 * (1 - static_cast<double>(tokens) / static_cast<double>(held))) << "%, hit rate "
              << 100 * index_.statistics().hit_rate() << "%, evicted " << index_.statistics().evicted_pages << '\n';
  }

  ls::PagedCache<ls::bf16>& cache() { return cache_; }
  ls::PrefixIndex<ls::bf16>& index() { return index_; }

 private:
  ls::PagedCache<ls::bf16> cache_;
  ls::PrefixIndex<ls::bf16> index_;
};

void run(const Settings& settings) {
  std::mt19937_64 random(settings.seed);
  const auto some = [&](Index count) {
    Tokens t;
    for (; count > 0; --count) t.push_back(static_cast<ls::Token>(random() % 32000));
    return t;
  };
  const auto between = [&](Index low, Index high) {
    return low + static_cast<Index>(random() % static_cast<std::uint64_t>(high - low + 1));
  };
  const auto add = [](Tokens& to, const Tokens& more) { to.insert(to.end(), more.begin(), more.end()); };

  Server server(settings);
  const Tokens system = some(settings.system);
  server.finish(server.read(system), system);
  server.index().pin(system);  // never evicted
  server.report("system prompt read", {});

  // Turns of all conversations, one after the other: each finds what is left of its last turn.
  std::vector<Tokens> conversations(static_cast<std::size_t>(settings.conversations), system);
  for (Index turn = 0; turn < settings.turns; ++turn) {
    for (Tokens& tokens : conversations) {
      add(tokens, some(between(5, 60)));
      const ls::SequenceId id = server.read(tokens);
      add(tokens, some(between(10, 120)));  // the answer
      if (!server.extend(id, tokens)) throw std::runtime_error("the cache is too small: --pages");
      server.finish(id, tokens);
    }
    server.report(("turn " + std::to_string(turn + 1)).c_str(), {});
  }

  // One conversation, answered in four ways: forks share all but what they add.
  std::vector<std::pair<ls::SequenceId, Index>> open;
  std::vector<Tokens> kept;
  const ls::SequenceId asked = server.read(conversations[0]);
  for (int i = 0; i < 4; ++i) {
    Tokens tokens = conversations[0];
    add(tokens, some(between(10, 120)));
    const ls::SequenceId id = server.cache().fork(asked);
    if (!server.extend(id, tokens)) throw std::runtime_error("the cache is too small: --pages");
    open.push_back({id, std::ssize(tokens)});
    kept.push_back(std::move(tokens));
  }
  server.cache().close(asked);
  server.report("four forked answers", open);

  // To a file, with their tokens, and into a server that starts.
  std::vector<ls::SnapshotEntry> entries;
  for (std::size_t i = 0; i < open.size(); ++i) entries.push_back({open[i].first, kept[i]});
  ls::save_snapshot<ls::bf16>(settings.file, server.cache(), entries);
  const auto bytes = std::filesystem::file_size(settings.file);
  std::cout << "saved " << entries.size() << " sequences, " << bytes << " bytes\n";

  Server again(settings);
  const ls::Snapshot<ls::bf16> snapshot(settings.file);
  const auto loaded = snapshot.load(again.cache());
  if (!loaded) throw std::runtime_error("the snapshot does not fit: --pages");
  open.clear();
  for (std::size_t i = 0; i < loaded->size(); ++i) {
    again.index().insert(snapshot.tokens(static_cast<Index>(i)), (*loaded)[i]);
    open.push_back({(*loaded)[i], std::ssize(snapshot.tokens(static_cast<Index>(i)))});
  }
  again.report("resumed", open);
  for (std::size_t i = 0; i < kept.size(); ++i) {  // the next turn finds nearly everything
    add(kept[i], some(between(5, 60)));
    again.finish(again.read(kept[i]), kept[i]);
  }
  again.report("a turn after that", open);
  std::filesystem::remove(settings.file);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Conversations that share a paged cache.", "chat_cache");
  app.option_defaults()->always_capture_default();
  app.add_option("--conversations", settings.conversations, "how many")->check(CLI::Range(1, 100000));
  app.add_option("--turns", settings.turns, "of each")->check(CLI::Range(1, 1000));
  app.add_option("--system", settings.system, "tokens of the system prompt")->check(CLI::Range(64, 1000000));
  app.add_option("--pages", settings.pages, "of the cache")->check(CLI::Range(1, 10000000));
  app.add_option("--page-size", settings.page_size, "tokens of a page")->check(CLI::Range(1, 4096));
  app.add_option("--seed", settings.seed, "of lengths and tokens");
  app.add_option("--file", settings.file, "for the snapshot, which is removed at the end");
  try {
    app.parse(argc, argv);
    run(settings);
    return 0;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const std::exception& error) {
    std::cerr << "chat_cache: " << error.what() << '\n';
  }
  return 1;
}
