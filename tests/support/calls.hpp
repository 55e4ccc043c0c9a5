#pragma once
// One attention call as tests make it: data, policies behind one type each, what it returns, and how exact that has to
// be.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <longspan/longspan.hpp>
#include <support/any_mask.hpp>
#include <support/any_score.hpp>
#include <support/near.hpp>
#include <vector>

namespace longspan::testing {

inline std::vector<float> nans(Index count) {
  return std::vector<float>(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
}

/// A source whose runs are short and end inside of words.
template <class Source>
struct Shortened : Source {
  auto run(Index kv_head, Index i) const {
    auto run = Source::run(kv_head, i);
    run.size = std::min<Index>(run.size, 3);
    return run;
  }
};

/// What a call writes: [queries, heads, value_dim] and [queries, heads].
struct Result {
  std::vector<float> out, lse;
};

inline ::testing::AssertionResult same_bits(const Result& got, const Result& wanted) {
  if (const auto out = same_bits(std::span<const float>(got.out), wanted.out); !out) return out;
  if (const auto lse = same_bits(std::span<const float>(got.lse), wanted.lse); !lse)
    return ::testing::AssertionFailure() << "LSE " << lse.message();
  return ::testing::AssertionSuccess();
}

/// The rows of one sequence out of the result of a batch, or of a chunk out of a prefill.
inline Result rows_of(const Result& r, Interval rows, Index heads, Index dim) {
  const auto cut = [&](const std::vector<float>& x, Index row) {
    return std::vector<float>(x.begin() + rows.begin * row, x.begin() + rows.end * row);
  };
  return {cut(r.out, heads * dim), cut(r.lse, heads)};
}

/// Any attention over any source, with LSE, into memory of NaN, so that what nobody writes is seen.
template <class Attend, class Source>
Result run(const Attend& attend, TensorView<const float> q, const Source& source, Options options = {}) {
  Result r{nans(q.tokens * q.heads * source.value_dim()), nans(q.tokens * q.heads)};
  options.lse = r.lse;
  attend(q, source, view(r.out, q.tokens, q.heads, source.value_dim()), options);
  return r;
}

/// Keys and values in a paged cache whose other pages, and whose unused ends of pages, hold NaN; its pages are not
/// neighbours.
class Pages {
 public:
  Pages(TensorView<const float> k, TensorView<const float> v, Index page_size)
      : cache_({.pages = 2 * ceil_div(k.tokens, page_size) + 2,
                .page_size = page_size,
                .kv_heads = k.heads,
                .head_dim = k.dim,
                .value_dim = v.dim}) {
    const SequenceId poison = cache_.open();
    const std::vector<float> bad = nans(page_size * k.heads * std::max(k.dim, v.dim));
    const auto spoil = [&](SequenceId id) {
      return cache_.append(id, {bad.data(), page_size, k.heads, k.dim, k.heads * k.dim, k.dim},
                           {bad.data(), page_size, v.heads, v.dim, v.heads * v.dim, v.dim}) == Appended::kDone;
    };
    while (spoil(poison)) continue;
    cache_.truncate(poison, 0);
    id_ = cache_.open();
    for (Index at = 0; at < k.tokens; at += page_size) {
      const Interval piece{at, std::min(at + page_size, k.tokens)};
      if (cache_.append(id_, k.slice(piece), v.slice(piece)) != Appended::kDone || !spoil(poison))
        throw std::logic_error("Pages: too few pages");
    }
  }

  PagedView<float> view() const { return cache_.view(id_); }

 private:
  PagedCache<float> cache_;
  SequenceId id_;
};

/// One call, and all that decides its result.
struct Call {
  TensorView<const float> q, k, v;
  AnyMask mask;
  AnyScore scores = {};
  Options options = {};            ///< scale, first_query, first_key
  std::vector<float> logits = {};  ///< learned sinks

  Contiguous<> contiguous() const { return {k, v}; }
  float scale() const { return options.scale.value_or(static_cast<float>(1 / std::sqrt(static_cast<double>(q.dim)))); }
  Index position(Index row) const {
    return options.first_query.value_or(options.first_key + k.tokens - q.tokens) + row;
  }

  /// By an engine, over a source that holds k and v.
  template <class Engine = Flash, class Source>
  Result by(const Source& source, Kernel kernel = Kernel::kAutomatic) const {
    Options o = options;
    o.kernel = kernel;
    return scores.none()
               ? run(Attention<Engine, AnyMask, ScoreChain<>>(mask, ScoreChain<>(), logits), q, source, o)
               : run(Attention<Engine, AnyMask, ScoreChain<AnyScore>>(mask, ScoreChain(scores), logits), q, source, o);
  }
  Result by_definition() const { return by<Naive>(contiguous()); }

  /// By partial results over pieces of the keys that are merged, first to last.
  template <class Engine>
  Result by_parts(Index parts) const {
    const auto merged = [&](const auto& attend) {
      Partial whole(q.tokens, q.heads, v.dim);
      for (Index i = 0; i < parts; ++i) {
        const Interval keys{k.tokens * i / parts, k.tokens * (i + 1) / parts};
        Options o = options;
        o.first_query = position(0);
        o.first_key += keys.begin;
        whole = merge(whole, attend.partial(q, k.slice(keys), v.slice(keys), o));
      }
      Result r{nans(q.tokens * q.heads * v.dim), nans(q.tokens * q.heads)};
      whole.finish(longspan::view(r.out, q.tokens, q.heads, v.dim), r.lse);
      return r;
    };
    return scores.none() ? merged(Attention<Engine, AnyMask, ScoreChain<>>(mask, ScoreChain<>(), logits))
                         : merged(Attention<Engine, AnyMask, ScoreChain<AnyScore>>(mask, ScoreChain(scores), logits));
  }

  /// How large the scores of a row are.
  struct Scores {
    double largest = 0;  ///< |score|: what enters the softmax, or what score functions are given where that is larger
    double largest_terms = 0;  ///< the same with |q_d·k_d| summed up: what rounding errors of a score are relative to
  };
  Scores scores_of(Index row, Index head) const {
    const float* a = q.row(row, head);
    Scores s;
    for (Index j = 0; j < k.tokens; ++j) {
      if (!mask.allows(position(row), options.first_key + j)) continue;
      const float* b = k.row(j, head / (q.heads / k.heads));
      double score = 0, terms = 0;
      for (Index d = 0; d < q.dim; ++d) {
        const double term = static_cast<double>(scale()) * static_cast<double>(a[d]) * static_cast<double>(b[d]);
        score += term;
        terms += std::abs(term);
      }
      const ExactPosition query{position(row)}, key{options.first_key + j};
      s.largest =
          std::max({s.largest, std::abs(score), scores.none() ? 0 : std::abs(scores(score, query, key, Site{head}))});
      s.largest_terms = std::max({s.largest_terms, s.largest, terms});
    }
    return s;
  }

  double largest_value() const {
    double largest = 0;
    for (Index j = 0; j < v.tokens; ++j)
      for (Index h = 0; h < v.heads; ++h)
        for (Index d = 0; d < v.dim; ++d) largest = std::max(largest, std::abs(static_cast<double>(v.row(j, h)[d])));
    return largest;
  }

  /// Within max(2e-6, 4·2^-24·S)·max|v| of what is expected, S the row's largest score. LSE feels what rounding does to
  /// one score: within max(2e-6, (head_dim + 4)·2^-24·T), T the largest sum of a score's terms. To that comes the
  /// rounding of the result itself, which shows in denormal values and in large LSE. A row that sees nothing is exact.
  template <class Number>
  ::testing::AssertionResult close(const Result& got, const std::vector<Number>& out,
                                   const std::vector<Number>& lse) const {
    const Index dim = v.dim;
    if (got.out.size() != out.size()) return detail::other_size(got.out.size(), out.size());
    if (got.lse.size() != lse.size()) return detail::other_size(got.lse.size(), lse.size());
    const double largest = largest_value();
    for (Index i = 0; i < q.tokens * q.heads; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool empty = lse[at] == -std::numeric_limits<Number>::infinity();
      double worst = 0;
      std::size_t where = 0;
      for (std::size_t d = at * static_cast<std::size_t>(dim); d < (at + 1) * static_cast<std::size_t>(dim); ++d)
        if (const double e = error_in(got.out[d], static_cast<double>(out[d]), 1); e > worst) worst = e, where = d;
      const double lse_error = error_in(got.lse[at], static_cast<double>(lse[at]), 1);
      const double lse_rounding = empty ? 0 : std::ldexp(std::abs(static_cast<double>(lse[at])), -24);
      const double rounding = empty ? 0 : std::ldexp(1.0, -149);
      const auto within = [&](double relative, double of_lse) {
        return worst <= relative * largest + rounding && lse_error <= of_lse + lse_rounding;
      };
      const double exact = empty ? 0 : 2e-6;
      if (within(exact, exact)) continue;
      const Scores s = empty ? Scores() : scores_of(i / q.heads, i % q.heads);
      const double relative = std::max(exact, std::ldexp(s.largest, -22));
      if (within(relative, std::max(exact, static_cast<double>(q.dim + 4) * std::ldexp(s.largest_terms, -24))))
        continue;
      return ::testing::AssertionFailure()
             << "row " << i / q.heads << ", head " << i % q.heads << ": got " << got.out[where] << ", expected "
             << out[where] << ", error " << worst << " above " << relative << " · " << largest << "; LSE got "
             << got.lse[at] << ", expected " << lse[at];
    }
    return ::testing::AssertionSuccess();
  }
  ::testing::AssertionResult close(const Result& got, const Result& exact) const {
    return close(got, exact.out, exact.lse);
  }

  /// Both kernels, contiguous and in pages of 16 and 100, against what is expected.
  template <class... Wanted>
  ::testing::AssertionResult all_close(const Wanted&... wanted) const {
    const auto over = [&](const auto& source, const char* name) {
      for (const Kernel kernel : {Kernel::kWide, Kernel::kNarrow})
        if (const auto ok = close(by(source, kernel), wanted...); !ok)
          return ::testing::AssertionFailure()
                 << (kernel == Kernel::kWide ? "wide, " : "narrow, ") << name << ": " << ok.message();
      return ::testing::AssertionSuccess();
    };
    if (const auto ok = over(contiguous(), "contiguous"); !ok) return ok;
    if (const auto ok = over(Pages(k, v, 16).view(), "pages of 16"); !ok) return ok;
    return over(Pages(k, v, 100).view(), "pages of 100");
  }
};

}  // namespace longspan::testing
