#include "demo.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>

#include <longspan/kernel/isa.hpp>
#include "workload.hpp"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;
using Cells = std::array<std::string, 7>;

std::string text(const char* format, double value, const char* unit) {
  std::array<char, 64> buffer;
  const int size = std::snprintf(buffer.data(), buffer.size(), format, value);
  return std::string(buffer.data(), static_cast<std::size_t>(size)) + unit;
}
std::string three_digits(double x, const char* unit) {
  return text(x < 9.995 ? "%.2f" : x < 99.95 ? "%.1f" : "%.0f", x, unit);
}
std::string time(double seconds) {
  return seconds < 1 ? three_digits(seconds * 1e3, " ms") : three_digits(seconds, " s");
}

/// A line of the table: "-" where nothing was measured.
Cells line(const char* what, Index n, Index threads, Limit limit, const std::optional<Meter>& meter) {
  Cells cells{what, std::to_string(n), std::to_string(threads), "-", "-", "-", "-"};
  if (!meter) return cells;
  const char* unit = limit == Limit::kFmaPeak ? " GFLOP/s" : " GB/s";
  cells[3] = time(meter->seconds());
  cells[4] = three_digits(meter->rate() / 1e9, unit);
  cells[5] = three_digits(meter->limit() / 1e9, unit);
  cells[6] = text(meter->fraction() < 0.0995 ? "%.1f" : "%.0f", 100 * meter->fraction(), "%");
  return cells;
}

void print(const std::vector<Cells>& table) {
  std::array<std::size_t, std::tuple_size_v<Cells>> width{};
  for (const Cells& cells : table)
    for (std::size_t i = 0; i < cells.size(); ++i) width[i] = std::max(width[i], cells[i].size());
  for (std::size_t r = 0; r < table.size(); ++r) {
    for (std::size_t i = 0; i < width.size(); ++i) {
      const int w = static_cast<int>(width[i]);
      std::printf(i == 0 ? "| %-*s" : " | %*s", w, table[r][i].c_str());
    }
    std::puts(" |");
    if (r > 0) continue;
    for (std::size_t i = 0; i < width.size(); ++i)
      std::printf(i == 0 ? "|:%s-" : "|-%s:", std::string(width[i], '-').c_str());
    std::puts("|");
  }
}

/// One line of the table and where its row's name comes from.
struct Entry {
  const char* what;
  std::string row;  ///< the name up to the number of tokens
  Limit limit;
  Index n, threads;

  std::string name() const { return row + std::to_string(n) + "/t" + std::to_string(threads); }
};

std::vector<Entry> entries() {
  const std::string flash = "prefill/flash/f32/d128/", naive = "prefill/naive/f32/d128/";
  std::vector<Entry> all;
  for (const Index n : {1024, 4096, 8192, 16384}) {
    const auto add = [&](const char* what, const std::string& row, Index threads) {
      all.push_back({what, row, Limit::kFmaPeak, n, threads});
    };
    add("naive, causal", naive + "causal/n", 1);
    add("flash, causal", flash + "causal/n", 1);
    add("flash, causal", flash + "causal/n", 2);
    add("flash, window 1024", flash + "window1024/n", 1);
    add("flash, 4 sinks + window 1024", flash + "sinks4+window1024/n", 1);
  }
  for (const Index n : {32768, 131072})
    for (const Index threads : {1, 2})
      all.push_back({"decode, paged", "decode/paged/f32/g4/n", Limit::kReadBandwidth, n, threads});
  return all;
}

/// A warm-up call, then calls for half a second.
Meter measure(const Workload& workload) {
  workload.call();
  Meter meter(workload);
  for (const auto end = Clock::now() + std::chrono::milliseconds(500); Clock::now() < end;) {
    if (meter.probe_is_due()) meter.probe();
    meter.call();
  }
  meter.probe();
  return meter;
}

}  // namespace

int demo() {
  std::vector<Row> rows = prefill_rows();
  for (Row& row : decode_rows()) rows.push_back(std::move(row));

  const auto begin = Clock::now();
  const bool terminal = isatty(STDERR_FILENO);
  std::vector<Cells> table{{"attention", "tokens", "threads", "time", "rate", "limit", "of limit"}};
  const std::vector<Entry> all = entries();
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Entry& e = all[i];
    const auto row = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.name == e.name(); });
    std::optional<Meter> meter;
    Workload workload;
    // A machine that is too slow for the whole table leaves the rest out.
    if (row != rows.end() && Clock::now() - begin < std::chrono::seconds(120)) {
      std::fprintf(stderr, terminal ? "\r\033[K%zu/%zu  %s" : "%zu/%zu  %s\n", i + 1, all.size(), e.name().c_str());
      workload = row->make();
      meter.emplace(measure(workload));
    }
    table.push_back(line(e.what, e.n, e.threads, e.limit, meter));
  }
  if (terminal) std::fputs("\r\033[K", stderr);

  std::printf(
      "\nf32, %s, head_dim 128. Prefill: 2 heads, n queries on n keys, FLOPs of visible pairs only. Decode: 1 token,\n"
      "32 heads over 8 KV heads of n keys, bytes of keys and values. Limits (FMA peak, read bandwidth) are measured\n"
      "beside each line.\n\n",
      longspan::kIsa.name);
  print(table);
  return 0;
}

}  // namespace bench
