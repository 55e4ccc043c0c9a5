#include "workload.hpp"

#include <algorithm>
#include <map>

namespace bench {

longspan::ThreadPool& pool(Index threads) {
  static std::map<Index, longspan::ThreadPool> pools;
  return pools.try_emplace(threads, threads).first->second;
}

void Meter::probe() {
  probes_.push_back(bench::probe(workload_.limit, workload_.threads));
  since_probe_ = 0;
}

void Meter::call() {
  const auto begin = std::chrono::steady_clock::now();
  workload_.call();
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  elapsed_ += took;
  since_probe_ += took;
  ++calls_;
}

double Meter::limit() const {
  std::vector<double> sorted = probes_;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2];  // of two, the larger
}

}  // namespace bench
