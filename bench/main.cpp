// longspan_bench: every row of prefill.cpp, decode.cpp and positions.cpp as a Google Benchmark, or, with --demo, a
// table for people.

#include <benchmark/benchmark.h>

#include <string>
#include <string_view>

#include <longspan/kernel/isa.hpp>
#include "demo.hpp"
#include "workload.hpp"

namespace {

using bench::Limit;

/// Rates are by the wall clock. (UseRealTime would say the same, and add "/real_time" to every name.)
void run(const bench::Row& row, benchmark::State& state) {
  // Google Benchmark calls this once for each repetition and each try at the number of iterations.
  static std::string made;
  static bench::Workload workload;
  if (made != row.name) {
    workload = {};  // first give back what the last row took
    workload = row.make();
    made = row.name;
    workload.call();
  }
  bench::Meter meter(workload);
  for ([[maybe_unused]] auto iteration : state) {
    if (meter.probe_is_due()) {
      state.PauseTiming();
      meter.probe();
      state.ResumeTiming();
    }
    meter.call();
  }
  meter.probe();

  const auto set = [&](const char* name, double value) { state.counters[name] = value; };
  const bool compute = is_arithmetic(workload.limit);
  const std::string limit = workload.limit == Limit::kFmaPeak         ? "fma_peak"
                            : workload.limit == Limit::kDotPeak       ? "dot_peak"
                            : workload.limit == Limit::kCopyBandwidth ? "memcpy"
                                                                      : "read_bw";
  set(("of_" + limit).c_str(), meter.fraction());
  set(limit.c_str(), meter.limit());
  set("flops", workload.flops / meter.seconds());
  if (row.name.starts_with("call/"))  // what a call costs beyond its arithmetic
    set("us_above_half_peak", 1e6 * (meter.seconds() - workload.flops / (meter.limit() / 2)));
  if (!compute) set("bytes", workload.bytes / meter.seconds());
  set("pairs", static_cast<double>(workload.pairs));
  set("scratch_bytes", static_cast<double>(workload.scratch_bytes));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--demo") return bench::demo();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("isa", longspan::kIsa.name);
  benchmark::AddCustomContext("compiler", __VERSION__);
  for (const auto& rows : {bench::prefill_rows(), bench::decode_rows(), bench::latent_rows(), bench::policy_rows(),
                           bench::position_rows(), bench::contract_rows_on(), bench::contract_rows_off()})
    for (const bench::Row& row : rows)
      benchmark::RegisterBenchmark(row.name.c_str(), [row](benchmark::State& state) {
        run(row, state);
      })->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
