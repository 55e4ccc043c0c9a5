#pragma once
// Random calls of both engines: whatever is composed, flash and decode agree with the definition. A case is a seed and
// nothing else; one that fails prints the line that runs it again.
//
//   LONGSPAN_FUZZ_CASES   how many cases the programs of this folder run together (default 2000)
//   LONGSPAN_FUZZ_SEED    the first case's seed (default 1)

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <support/any_mask.hpp>
#include <support/any_score.hpp>
#include <support/any_source.hpp>
#include <support/calls.hpp>
#include <support/cases.hpp>
#include <support/random.hpp>
#include <vector>

namespace longspan::testing::fuzz {

inline Index setting(const char* name, Index otherwise) {
  const char* given = std::getenv(name);
  return given ? std::stoll(given) : otherwise;
}

/// Runs `one(seed)`, which returns what it was about, for this program's share of the cases.
template <class One>
void run_cases(const char* program, double share, One&& one) {
#if defined(LONGSPAN_SMALL_TILES)
  share /= 10;  // with sanitizers, which are ten times as slow
#endif
  const Index all = setting("LONGSPAN_FUZZ_CASES", 2000);
  const auto cases = std::max<Index>(1, static_cast<Index>(static_cast<double>(all) * share));
  const Index first = setting("LONGSPAN_FUZZ_SEED", 1);
  for (Index seed = first; seed < first + cases; ++seed) {
    std::string what = "(thrown before it was known)";
    try {
      one(static_cast<std::uint64_t>(seed), what);
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
    }
    if (::testing::Test::HasFailure()) {
      std::cout << "again: LONGSPAN_FUZZ_CASES=1 LONGSPAN_FUZZ_SEED=" << seed << " " << program << "   # " << what
                << "\n";
      return;
    }
  }
  std::cout << cases << " cases agree\n";
}

/// What a call is about, apart from its data.
struct Case {
  std::vector<cases::Shape> sequences;  ///< alike but for queries and keys
  std::vector<Expression> masks;        ///< one, or one for each head
  std::string functions;                ///< names of score functions
  AnyScore scores;
  std::vector<float> logits;
  Options options;
  bool batch = false;
  bool poisoned = false;           ///< a value is NaN
  std::vector<float> bias, table;  ///< what score functions look into

  const cases::Shape& shape() const { return sequences.front(); }
  std::string name() const {
    std::string text;
    for (const cases::Shape& s : sequences) text += s.name() + " ";
    text += "mask " + masks.front().name;
    if (masks.size() > 1) text += " and others by head";
    if (!functions.empty()) text += ", scores" + functions;
    if (!logits.empty()) text += ", sinks";
    if (poisoned) text += ", a NaN";
    if (options.first_query) text += ", first query " + std::to_string(*options.first_query);
    if (options.first_key) text += ", first key " + std::to_string(options.first_key);
    return text + ", kernel " + std::to_string(static_cast<int>(options.kernel));
  }
};

/// Appends a random score function to a chain. `end`: no position of the call lies at or behind it.
inline AnyScore random_scores(Random& random, Case& c, Index end) {
  const Index heads = c.shape().heads;
  std::vector<AnyScore> chain;
  const Index count = random.between(1, 3);
  for (Index i = 0; i < count; ++i) {
    const auto add = [&](const char* name, auto f) {
      c.functions += std::string(" ") + name;
      chain.push_back(AnyScore::of(std::tuple(f)));
    };
    switch (random.between(0, 9)) {
      case 0:
        add("softcap", SoftCap(static_cast<float>(random.real(1, 50))));
        break;
      case 1:
        add("alibi", Alibi(heads));
        break;
      case 2:
        add("symmetric alibi", SymmetricAlibi(heads));
        break;
      case 3: {
        const T5Buckets buckets{4 * random.between(1, 8), random.between(17, 200), random.chance(0.5)};
        c.table = random.gaussian(buckets.buckets * heads);
        add("relative bias", RelativeBias(buckets, heads, c.table));
        break;
      }
      case 4: {
        if (!c.bias.empty() || end > 3000) break;
        const bool wide = random.chance(0.5) && end < 500;
        const BiasShape shape{.heads = random.chance(0.5) ? 1 : heads, .queries = wide ? end : 1, .keys = end};
        c.bias = random.gaussian(shape.heads * shape.queries * shape.keys);
        add("additive bias", AdditiveBias(c.bias, shape));
        break;
      }
      case 5:
        add("log n", LogN(random.between(2, 500)));
        break;
      case 6:
        add("temperature", TemperatureTuning(random.between(64, 300), static_cast<float>(random.real(0, 1))));
        break;
      case 7: {
        std::vector<float> r1, r2;
        for (Index h = 0; h < heads; ++h)
          r1.push_back(static_cast<float>(random.real(0.1, 2))), r2.push_back(static_cast<float>(random.real(0.01, 1)));
        add("kerple", KerpleLog(r1, r2));
        break;
      }
      case 8: {
        const auto rate = static_cast<float>(random.real(-0.1, 0.1));
        add("recency", [rate](auto score, auto query, auto key) { return score - rate * (query - key); });
        break;
      }
      default:
        add("by site", [](auto score, auto, auto, Site site) {
          return score + static_cast<float>(site.head) * 0.25f - static_cast<float>(site.sequence) * 0.5f;
        });
    }
  }
  AnyScore all = chain.empty() ? AnyScore() : chain[0];
  if (chain.size() == 2) all = AnyScore::of(std::tuple(chain[0], chain[1]));
  if (chain.size() == 3) all = AnyScore::of(std::tuple(chain[0], chain[1], chain[2]));
  return all;
}

/// Sizes so that the definition takes some milliseconds.
inline Case random_case(Random& random, bool by_head) {
  Case c;
  const Index kv_heads = random.between(1, 3), heads = kv_heads * random.between(1, random.chance(0.2) ? 9 : 4);
  const Index dim = random.between(1, 40), value_dim = random.between(1, 40);
  c.batch = random.chance(0.25);
  const Index count = c.batch ? random.between(1, 3) : 1;
  Index end = 0, most_keys = 0;
  for (Index i = 0; i < count; ++i) {
    const Index keys = random_size(random, 0, random.chance(0.1) ? 5000 : 300);
    const Index queries = random.chance(0.5) ? random.between(0, 6) : random.between(0, 110);
    const Index room = 3000000 / ((keys + 1) * heads * (dim + value_dim));
    c.sequences.push_back({std::min(queries, room + 1), keys, heads, kv_heads, dim, value_dim});
    most_keys = std::max(most_keys, keys);
  }
  if (random.chance(0.2)) c.options.first_key = random_size(random, 0, 5000);
  if (random.chance(0.3)) c.options.first_query = c.options.first_key + random_size(random, 0, most_keys + 10);
  bool before_0 = false;
  for (const cases::Shape& s : c.sequences) {
    const Index first = c.options.first_query.value_or(c.options.first_key + s.keys - s.queries);
    before_0 = before_0 || first < 0;
    end = std::max({end, first + s.queries, c.options.first_key + s.keys});
  }
  if (random.chance(0.2)) c.options.scale = static_cast<float>(random.real(0.01, 1));
  c.options.kernel = static_cast<Kernel>(random.between(0, 2));
  for (Index h = 0; h < (by_head ? heads : 1); ++h)
    c.masks.push_back(random_expression(random, static_cast<int>(random.between(0, 4)), std::max<Index>(most_keys, 1)));
  if (random.chance(0.5) && !before_0) c.scores = random_scores(random, c, std::max<Index>(end, 1));
  if (random.chance(0.2)) {
    c.logits = random.gaussian(heads, 3);
    if (random.chance(0.3)) c.logits.front() = kMinusInfinity;
  }
  c.poisoned = random.chance(0.1);
  return c;
}

/// Data of a case: queries of all sequences one after the other, keys and values of each.
struct Data {
  Data(const Case& c, Random& random, std::uint64_t seed) : starts{0} {
    for (const cases::Shape& s : c.sequences) {
      tensors.emplace_back(s, seed);
      cases::Tensors& t = tensors.back();
      q.insert(q.end(), t.q_memory.begin(), t.q_memory.end());
      starts.push_back(starts.back() + s.queries);
      if (c.poisoned && !t.v_memory.empty())
        t.v_memory[static_cast<std::size_t>(random.between(0, std::ssize(t.v_memory) - 1))] = std::nanf("");
    }
  }
  /// Numbers that 16 bits hold, so that storing them loses nothing.
  template <class T>
  void round() {
    const auto to = [](std::vector<float>& x) {
      std::vector<T> half(x.size());
      convert(x.data(), std::ssize(x), half.data());
      convert(half.data(), std::ssize(x), x.data());
    };
    to(q);
    for (cases::Tensors& t : tensors) to(t.q_memory), to(t.k_memory), to(t.v_memory);
  }

  std::vector<cases::Tensors> tensors;
  std::vector<float> q;
  std::vector<Index> starts;
};

/// Keys and values of one sequence, stored as type T, in one of several ways.
template <class T>
AnySource<T> stored(const cases::Tensors& t, Random& random, std::string& how) {
  const cases::Shape& s = t.shape;
  if (random.chance(0.4)) {
    how += " contiguous";
    if constexpr (std::is_same_v<T, float>) {
      return AnySource<T>::of(Contiguous(t.k(), t.v()));
    } else {
      auto memory = std::make_shared<std::pair<std::vector<T>, std::vector<T>>>();
      memory->first.resize(t.k_memory.size()), memory->second.resize(t.v_memory.size());
      convert(t.k_memory.data(), std::ssize(t.k_memory), memory->first.data());
      convert(t.v_memory.data(), std::ssize(t.v_memory), memory->second.data());
      return AnySource<T>::of(Contiguous(view(std::as_const(memory->first), s.keys, s.kv_heads, s.head_dim),
                                         view(std::as_const(memory->second), s.keys, s.kv_heads, s.value_dim)),
                              memory);
    }
  }
  const Index page_size = random.between(1, 130);
  how += " pages of " + std::to_string(page_size);
  auto cache = std::make_shared<PagedCache<T>>(PagedShape{.pages = ceil_div(s.keys, page_size) + 1,
                                                          .page_size = page_size,
                                                          .kv_heads = s.kv_heads,
                                                          .head_dim = s.head_dim,
                                                          .value_dim = s.value_dim});
  const SequenceId id = cache->open();
  if (cache->append(id, t.k(), t.v()) != Appended::kDone) throw std::logic_error("no page left");
  return AnySource<T>::of(cache->view(id), cache);
}

template <class Engine, class M>
auto attention_of(const M& mask, const Case& c, const auto& call) {
  if (c.scores.none()) return call(Attention<Engine, M, ScoreChain<>>(mask, ScoreChain<>(), c.logits));
  return call(Attention<Engine, M, ScoreChain<AnyScore>>(mask, ScoreChain(c.scores), c.logits));
}

/// The whole call by an engine: a batch, or one sequence.
template <class Engine, class T, class M>
Result by(const M& mask, const Case& c, const Data& data, const std::vector<AnySource<T>>& sources, Options options) {
  const cases::Shape& s = c.shape();
  const Index rows = data.starts.back();
  if (c.batch) options.cumulative_queries = data.starts;
  return attention_of<Engine>(mask, c, [&](const auto& attend) {
    Result r{nans(rows * s.heads * s.value_dim), nans(rows * s.heads)};
    options.lse = r.lse;
    attend(view(data.q, rows, s.heads, s.head_dim), std::span<const AnySource<T>>(sources),
           view(r.out, rows, s.heads, s.value_dim), options);
    return r;
  });
}

/// NaN where NaN is right; 0 stands for it in both then, and all else is compared. Score functions can push a weight
/// below the smallest float, and what has no weight need not spread its NaN: then it only must not reach others.
inline ::testing::AssertionResult same_nans(std::vector<float>& got, std::vector<float>& wanted, bool may_vanish) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(wanted[i]) ? !std::isnan(got[i]) && !may_vanish : std::isnan(got[i]))
      return ::testing::AssertionFailure() << "[" << i << "]: got " << got[i] << ", expected " << wanted[i];
    if (std::isnan(wanted[i])) got[i] = wanted[i] = 0;
  }
  return ::testing::AssertionSuccess();
}

/// Against the definition: as close as float is (see Call::close), or within `tolerance` · max|v| where elements are
/// rounded on the way.
inline void compare(const Case& c, const Data& data, Result got, Result exact, double tolerance) {
  const cases::Shape& s = c.shape();
  if (c.poisoned) {
    ASSERT_TRUE(same_nans(got.out, exact.out, !c.scores.none()));
  }
  for (std::size_t i = 0; i < data.tensors.size(); ++i) {
    const cases::Tensors& t = data.tensors[i];
    const Interval rows{data.starts[i], data.starts[i + 1]};
    const Result part = rows_of(got, rows, s.heads, s.value_dim), wanted = rows_of(exact, rows, s.heads, s.value_dim);
    Call call{.q = t.q(), .k = t.k(), .v = t.v(), .mask = full().mask, .scores = c.scores, .options = c.options};
    if (c.masks.size() == 1) call.mask = c.masks[0].mask;
    if (tolerance == 0) {
      ASSERT_TRUE(call.close(part, wanted)) << "sequence " << i;
    } else {
      const double largest = call.largest_value();
      for (std::size_t j = 0; j < part.out.size(); ++j)
        ASSERT_LE(error_in(part.out[j], static_cast<double>(wanted.out[j]), 1), tolerance * largest) << "at " << j;
      for (std::size_t j = 0; j < part.lse.size(); ++j)
        ASSERT_LE(error_in(part.lse[j], static_cast<double>(wanted.lse[j]), 1),
                  tolerance + 0x1p-22 * std::abs(static_cast<double>(wanted.lse[j])))
            << "LSE at " << j;
    }
  }
}

}  // namespace longspan::testing::fuzz
