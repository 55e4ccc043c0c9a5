#pragma once
// What a benchmark row and a line of the demo have in common: what is called, how much work that is, and how it is
// timed.

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include <longspan/core/bytes.hpp>
#include <longspan/exec/thread_pool.hpp>
#include "limits.hpp"

namespace bench {

/// An element type in a row's name.
template <class T>
inline constexpr const char* kTypeName = "f32";
template <>
inline constexpr const char* kTypeName<longspan::bf16> = "bf16";
template <>
inline constexpr const char* kTypeName<longspan::f16> = "f16";
template <>
inline constexpr const char* kTypeName<longspan::e4m3> = "e4m3";
template <>
inline constexpr const char* kTypeName<longspan::i8> = "int8";
template <>
inline constexpr const char* kTypeName<longspan::i4> = "int4";

/// One call and its size.
struct Workload {
  Limit limit = Limit::kFmaPeak;
  Index threads = 1;
  Index pairs = 0;          ///< visible (query, key) pairs × heads
  double flops = 0;         ///< of visible pairs only
  double bytes = 0;         ///< of keys and values, read once
  Index scratch_bytes = 0;  ///< per thread
  std::function<void()> call = {};

  /// What `limit` counts.
  double amount() const { return is_arithmetic(limit) ? flops : bytes; }
};

/// A workload by name. Memory is only taken when it is made.
struct Row {
  std::string name;
  std::function<Workload()> make;
};
std::vector<Row> prefill_rows();
std::vector<Row> decode_rows();
std::vector<Row> latent_rows();
std::vector<Row> policy_rows();
std::vector<Row> position_rows();
std::vector<Row> contract_rows_on();
std::vector<Row> contract_rows_off();

/// Workers that are kept for the whole run.
longspan::ThreadPool& pool(Index threads);

/// Times calls, and probes the limit before them, after them, and at least every tenth of a second between them: cores
/// and memory are shared with others, so a ratio is only worth something when both sides are of the same moment.
class Meter {
 public:
  explicit Meter(const Workload& workload) : workload_(workload) { probe(); }

  bool probe_is_due() const { return since_probe_ > 0.1; }
  void probe();
  void call();

  double seconds() const { return elapsed_ / static_cast<double>(calls_); }  ///< the mean of the calls
  double rate() const { return workload_.amount() / seconds(); }             ///< FLOP/s or bytes/s
  double limit() const;                                                      ///< the median of the probes
  double fraction() const { return rate() / limit(); }

 private:
  const Workload& workload_;
  std::vector<double> probes_;
  double elapsed_ = 0, since_probe_ = 0;
  Index calls_ = 0;
};

}  // namespace bench
