#pragma once
// The definition of attention, as it stands in the papers: every query against every key it may see, in double.
//
//   s_j = scores(scale · q·k_j)        for the keys j that the mask allows
//   out = Σ_j exp(s_j − LSE) v_j       with LSE = log Σ_j exp(s_j), and a head's learned sink in that sum
//
// Cost: O(queries · keys · (head_dim + value_dim)) and one double per key. It exists to be read and to be compared
// with.

#include <limits>
#include <vector>

#include <longspan/kernel/plan.hpp>
#include <longspan/kernel/words.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// Calls f(j, run, i) for the keys j that the mask lets `query` see; key j is key i of the run.
template <class P, class F>
void for_each_visible(const P& problem, Index query, Index kv_head, F&& f) {
  for (Index j = 0; j < problem.source.keys();) {
    const auto run = problem.source.run(kv_head, j);
    for (Index i = 0; i < run.size; ++i, ++j)
      if (problem.mask.allows(query, problem.first_key + j)) f(j, run, i);
  }
}

/// f(j, place, run, i): the product of a query and key j of a KV head, in its place in a block, which is key i of the
/// run.
template <KeyValueSource Source>
auto product_with(const std::vector<float>& q, const Source& source, Index kv_head) {
  const auto dot = [&q](const auto& key) {
    double sum = 0;
    for (Index d = 0; d < std::ssize(q); ++d)
      sum += static_cast<double>(q[static_cast<std::size_t>(d)]) * static_cast<double>(key(d));
    return sum;
  };
  if constexpr (MakesKeys<Source>) {
    std::vector<float> memory(static_cast<std::size_t>(Source::key_maker_floats(source.head_dim())));
    auto maker = source.key_maker(memory.data(), kv_head);
    return [=, memory = std::move(memory)](Index j, Index place, const auto&, Index) mutable {
      const MadeKeys made = maker.template words<FloatWords>(0, {j, j + 1}, place);
      return dot([&](Index d) {
        return made.rows ? made.words[place * made.stride + d] : made.words[d * made.stride + place];
      });
    };
  } else {
    return
        [=](Index, Index, const auto& run, Index i) { return dot([&](Index d) { return run.number_of_key(i, d); }); };
  }
}

/// One row of one head.
template <class P>
void naive_row(const P& problem, Index row, Index head) {
  const auto& source = problem.source;
  const Index query = problem.first_query + row, kv_head = head / problem.group();
  std::vector<float> q(static_cast<std::size_t>(source.head_dim()));
  problem.q.read(row, head, 1.f, q.data());
  std::vector<double> score(static_cast<std::size_t>(source.keys())), out(static_cast<std::size_t>(source.value_dim()));

  double max = -std::numeric_limits<double>::infinity();
  auto product = product_with(q, source, kv_head);
  for_each_visible(problem, query, kv_head, [&](Index j, const auto& run, Index i) {
    double dot = product(j, (problem.first_key + j) % kBlock, run, i);
    dot *= static_cast<double>(run.scale_of_key(i));
    double& s = score[static_cast<std::size_t>(j)];
    s = problem.scores(static_cast<double>(problem.scale) * dot, ExactPosition{query},
                       ExactPosition{problem.first_key + j}, problem.site(head));
    if (!(s <= max)) max = s;
  });
  const bool unseen = max == -std::numeric_limits<double>::infinity();

  double sum = 0;
  for_each_visible(problem, query, kv_head, [&](Index j, const auto& run, Index i) {
    const double weight = std::exp(score[static_cast<std::size_t>(j)] - (unseen ? 0 : max));
    sum += weight;
    const double by = weight * static_cast<double>(run.scale_of_value(i));
    for (std::size_t d = 0; d < out.size(); ++d)
      out[d] += by * static_cast<double>(run.number_of_value(i, static_cast<Index>(d)));
  });

  // A sink takes the maximum as a float in units of log 2: what that rounds away goes into sum and values.
  constexpr double kPerLog2 = 1.44269504088896340736;
  const float top = static_cast<float>(max * kPerLog2);
  const double rest = unseen ? 0 : std::exp2(max * kPerLog2 - static_cast<double>(top));
  const double sink = problem.sink.logit(head);  // one more term of the denominator
  const double factor = problem.sink.max || unseen ? rest : 1 / (sum + std::exp(sink - max));
  std::vector<float> normalised(out.size());
  for (std::size_t d = 0; d < out.size(); ++d) normalised[d] = static_cast<float>(out[d] * factor);
  problem.sink.rows.write(row, head, normalised.data());
  problem.sink.finish(row, head, static_cast<double>(top), sum * rest);
}

/// The engine: a task is one row of one head.
struct Naive {
  template <class Batch>
  static Plan plan(const Batch& batch, Kernel, Index) {
    Plan plan{.engine = "naive", .kernel = "definition", .isa = "double"};
    for (Index sequence = 0; sequence < batch.size(); ++sequence) {
      const auto problem = batch[sequence];
      count_problem(plan, problem);
      plan.tasks += problem.q.tokens * problem.q.heads;
      plan.scratch_bytes =
          std::max<Index>(plan.scratch_bytes, (problem.source.keys() + problem.source.value_dim()) * 8);
    }
    return plan;
  }

  template <class Batch, class E>
  static void run(const Batch& batch, const E& executor, Kernel) {
    for (Index sequence = 0; sequence < batch.size(); ++sequence) {
      const auto problem = batch[sequence];
      const Index heads = problem.q.heads;
      executor.for_each(problem.q.tokens * heads,
                        [&](Index task, Index) { naive_row(problem, task / heads, task % heads); });
    }
  }
};

}  // namespace longspan::inline LONGSPAN_ISA
