#include "limits.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include <longspan/core/memory.hpp>
#include <longspan/core/simd.hpp>
#include <longspan/kernel/isa.hpp>
#include <longspan/kernel/words.hpp>

namespace bench {
namespace {

namespace ls = longspan;
using ls::Lanes;
using Clock = std::chrono::steady_clock;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

/// Seconds from the first start to the last end of work(0) … work(threads − 1), which start together on their own
/// threads.
template <class Work>
double together(Index threads, const Work& work) {
  std::vector<Clock::time_point> begin(static_cast<std::size_t>(threads)), end(begin);
  std::atomic<Index> waiting = threads;
  const auto run = [&](Index thread) {
    const auto t = static_cast<std::size_t>(thread);
    for (--waiting; waiting.load() > 0;) std::this_thread::yield();  // no sleep: waking up takes longer than the start
    begin[t] = Clock::now();
    work(thread);
    end[t] = Clock::now();
  };
  std::vector<std::thread> others;
  for (Index t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0);
  for (std::thread& other : others) other.join();
  return seconds(*std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end()));
}

double median(std::vector<double> x) {
  const auto middle = x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2);
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

/// The kernels' register tile full of independent chains: more than ports × latency on every CPU that has so many
/// registers, and no loads. Chains begin apart (or the compiler computes them once) and tend to 1.
constexpr int kChains = ls::kTileKeys * ls::kTileVectors;
[[gnu::noinline]] float fma_chains(float by, Index rounds) {
  Lanes a[kChains];
  ls::unroll<kChains>([&](auto i) LONGSPAN_LAMBDA { a[i] = Lanes(by + 0.01f * static_cast<float>(i)); });
  const Lanes factor(by), plus(1.f - by);
  for (Index round = 0; round < rounds; ++round)
    ls::unroll<kChains>([&](auto i) LONGSPAN_LAMBDA { a[i] = ls::fma(a[i], factor, plus); });
  ls::unroll<kChains - 1>([&](auto i) LONGSPAN_LAMBDA { a[0] = a[0] + a[i + 1]; });
  return a[0].get(0);
}

/// The same of what products of bf16 are made of.
[[gnu::noinline]] float dot_chains(float by, Index rounds) {
  Lanes a[kChains];
  ls::unroll<kChains>([&](auto i) LONGSPAN_LAMBDA { a[i] = Lanes(by + 0.01f * static_cast<float>(i)); });
  const Lanes x(by), y(1.f - by);
  for (Index round = 0; round < rounds; ++round)
    ls::unroll<kChains>([&](auto i) LONGSPAN_LAMBDA { a[i] = ls::WordsOf<ls::bf16>::add(a[i], x, y); });
  ls::unroll<kChains - 1>([&](auto i) LONGSPAN_LAMBDA { a[0] = a[0] + a[i + 1]; });
  return a[0].get(0);
}

/// The sum of `size` floats, a multiple of 128: four streams, fetched 1 KiB ahead. (Measured against 1, 2 and 8 streams
/// and 0 to 8 KiB ahead: at the top or within 3% of it with one and with two threads.)
[[gnu::noinline]] float sum(const float* x, Index size) {
  constexpr int kStreams = 4, kStep = 32;
  Lanes a[kStreams];
  ls::unroll<kStreams>([&](auto s) LONGSPAN_LAMBDA { a[s] = Lanes(0.f); });
  for (Index i = 0, part = size / kStreams; i < part; i += kStep)
    ls::unroll<kStreams>([&](auto s) LONGSPAN_LAMBDA {
      const float* at = x + s * part + i;
      __builtin_prefetch(at + 256);
      __builtin_prefetch(at + 256 + kStep / 2);
      ls::unroll<kStep / ls::kLanes>([&](auto v) LONGSPAN_LAMBDA { a[s] = a[s] + ls::load(at + v * ls::kLanes); });
    });
  return ls::fold((a[0] + a[1]) + (a[2] + a[3]), [](const auto& p, const auto& q) { return p + q; });
}

volatile float sink;  // results that nobody reads have to go somewhere

}  // namespace

namespace {
/// FLOP/s of such chains, of which each step is `flops` a lane.
template <class Chains>
double peak(Index threads, double flops, const Chains& chains) {
  constexpr int kRuns = 5, kRounds = 2000;
  std::vector<double> rates;
  for (int run = 0; run < kRuns; ++run) {
    std::atomic<Index> calls = 0;
    const double elapsed = together(threads, [&](Index) {
      const auto end = Clock::now() + std::chrono::milliseconds(2);
      Index mine = 0;
      for (; mine == 0 || Clock::now() < end; ++mine) sink = chains(0.5f, kRounds);
      calls += mine;
    });
    rates.push_back(flops * kChains * ls::kLanes * kRounds * static_cast<double>(calls) / elapsed);
  }
  return median(rates);
}
}  // namespace

double fma_peak(Index threads) { return peak(threads, 2, fma_chains); }
double dot_peak(Index threads) { return peak(threads, 2 * ls::WordsOf<ls::bf16>::kPer, dot_chains); }

double read_bandwidth(Index threads) {
  constexpr int kRuns = 3;
  constexpr Index kSize = Index{512} << 18;         // floats: 512 MiB
  static const ls::LargeArray<float> array(kSize);  // the memory that caches are made of
  const float* const memory = array.data();
  // Each run reads another third: nothing that is read was read within the last 512 MiB.
  constexpr Index kPart = kSize / kRuns / 128 * 128;
  const Index share = kPart / threads / 128 * 128;
  std::vector<double> rates;
  for (int run = 0; run < kRuns; ++run) {
    const double elapsed = together(threads, [&](Index t) { sink = sum(memory + run * kPart + t * share, share); });
    rates.push_back(static_cast<double>(share * threads) * sizeof(float) / elapsed);
  }
  return median(rates);
}

double copy_bandwidth() {
  constexpr Index kSize = Index{64} << 18;  // floats: 64 MiB on each side
  static const ls::LargeArray<float> from(kSize), to(kSize);
  std::vector<double> rates;
  for (int run = 0; run < 3; ++run) {
    const double elapsed = together(1, [&](Index) { std::memcpy(to.data(), from.data(), kSize * sizeof(float)); });
    sink = to.data()[run];
    rates.push_back(2.0 * kSize * sizeof(float) / elapsed);
  }
  return median(rates);
}

}  // namespace bench
