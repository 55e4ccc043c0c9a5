// Union, intersection and complement of run sources (core/interval_algebra.hpp) against sets of bits.

#include <gtest/gtest.h>

#include <longspan/core/interval_algebra.hpp>
#include <support/laws.hpp>
#include <support/random.hpp>

namespace longspan::testing {
namespace {

static_assert(intersect({0, 10}, {5, 20}) == Interval{5, 10});
static_assert(intersect({0, 5}, {5, 20}).empty() && intersect({0, 5}, {7, 20}).size() == 0);
static_assert(Interval{3, 3}.empty() && Interval{3, 2}.empty() && Interval{3, 2}.size() == 0 && kNoRun.empty());
static_assert(Interval{3, 9}.contains({3, 9}) && Interval{3, 9}.contains({4, 4}) && !Interval{3, 9}.contains({2, 4}) &&
              !Interval{3, 9}.contains({8, 10}));
static_assert(run_from(5, 0, 10) == Interval{5, 10} && run_from(0, 5, 10) == Interval{5, 10});
static_assert(run_from(10, 0, 10) == kNoRun && run_from(kUnbounded, 0, kUnbounded) == kNoRun);
static_assert(ceil_div(0, 4) == 0 && ceil_div(1, 4) == 1 && ceil_div(4, 4) == 1 && ceil_div(5, 4) == 2);

/// A set of the positions 0 … size-1 by bits; what lies behind belongs to it when `endless`.
struct Set {
  std::vector<bool> bits;
  bool endless = false;

  bool has(Index i) const { return i < std::ssize(bits) ? bits[static_cast<std::size_t>(i)] : endless; }
  bool operator==(const Set&) const = default;
};

/// A run source over a set; with `piece`, runs are cut at its multiples, so that touching runs follow each other.
auto source(const Set& set, Index piece = 0) {
  return [&set, piece](Index k) -> Interval {
    const Index size = std::ssize(set.bits);
    Index begin = k;
    while (begin < size && !set.has(begin)) ++begin;
    if (begin >= size) return set.endless && k < kUnbounded ? Interval{begin, kUnbounded} : kNoRun;
    Index end = begin + 1;
    while (end < size && set.has(end) && !(piece && end % piece == 0)) ++end;
    if (end == size && set.endless && !piece) end = kUnbounded;
    return {begin, end};
  };
}

/// The set that a source describes from k on, and its laws on the way.
template <class Source>
Set walk(const Source& next, Index k, Index size) {
  Set set{std::vector<bool>(static_cast<std::size_t>(size)), false};
  Index end = k;
  for (int runs = 0; runs <= size + 1; ++runs) {
    const Interval run = next(end);
    EXPECT_EQ(broken_run("source", run, end), "");
    if (run.empty()) return set;
    for (Index i = run.begin; i < std::min(run.end, size); ++i) set.bits[static_cast<std::size_t>(i)] = true;
    set.endless = run.end == kUnbounded;
    end = run.end;
  }
  ADD_FAILURE() << "more runs than positions";
  return set;
}

template <class Op>
Set combine(const Set& a, const Set& b, Index k, Op op) {
  Set out{std::vector<bool>(a.bits.size()), op(a.endless, b.endless)};
  for (Index i = k; i < std::ssize(a.bits); ++i) out.bits[static_cast<std::size_t>(i)] = op(a.has(i), b.has(i));
  return out;
}

void check_all(const Set& a, const Set& b, Index piece_a, Index piece_b, const std::string& what) {
  const Index size = std::ssize(a.bits);
  const auto x = source(a, piece_a), y = source(b, piece_b);
  for (Index k = 0; k <= size; ++k) {
    EXPECT_EQ(walk([&](Index i) { return next_of_intersection(x, y, i); }, k, size),
              combine(a, b, k, std::logical_and<>()))
        << what << ", intersection from " << k;
    EXPECT_EQ(walk([&](Index i) { return next_of_union(x, y, i); }, k, size), combine(a, b, k, std::logical_or<>()))
        << what << ", union from " << k;
    // Over many: a, b, and a again.
    const auto three = [&](Index i, Index at) { return i == 8 ? y(at) : x(at); };
    EXPECT_EQ(walk(
                  [&](Index i) {
                    return next_of_all({7, 10}, three, i);
                  },
                  k, size),
              combine(a, b, k, std::logical_and<>()))
        << what << ", intersection of three from " << k;
    EXPECT_EQ(walk(
                  [&](Index i) {
                    return next_of_any({7, 10}, three, i);
                  },
                  k, size),
              combine(a, b, k, std::logical_or<>()))
        << what << ", union of three from " << k;
    EXPECT_EQ(walk([&](Index i) { return next_of_complement(x, i); }, k, size),
              combine(a, a, k, [](bool p, bool) { return !p; }))
        << what << ", complement from " << k;
  }
}

Set from_bits(unsigned bits, Index size, bool endless) {
  Set set{{}, endless};
  for (Index i = 0; i < size; ++i) set.bits.push_back(bits >> i & 1);
  return set;
}

TEST(IntervalAlgebra, AllPairsOfSmallSets) {
  constexpr Index kSize = 6;
  for (unsigned a = 0; a < 2u << kSize; ++a)
    for (unsigned b = 0; b < 2u << kSize; ++b) {
      check_all(from_bits(a, kSize, a >> kSize), from_bits(b, kSize, b >> kSize), 0, 0, say("sets ", a, " and ", b));
      if (HasFailure()) return;
    }
}

TEST(IntervalAlgebra, RandomSetsInTouchingPieces) {
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    Random random(seed);
    const auto draw = [&](Index size) {
      Set set{{}, random.chance(0.3)};
      const double stay = random.real(0.3, 0.95);
      for (bool in = random.chance(0.5); std::ssize(set.bits) < size; in = random.chance(stay) ? in : !in)
        set.bits.push_back(in);
      return set;
    };
    const Index size = random.between(1, 40);
    check_all(draw(size), draw(size), random.between(0, 5), random.between(0, 5), say("seed ", seed));
    if (HasFailure()) return;
  }
}

TEST(IntervalAlgebra, UnionJoinsTouchingRuns) {
  const auto run = [](Index begin, Index end) { return [=](Index k) { return run_from(k, begin, end); }; };
  EXPECT_EQ(next_of_union(run(0, 5), run(5, 9), 0), (Interval{0, 9}));
  EXPECT_EQ(next_of_union(run(5, 9), run(0, 5), 2), (Interval{2, 9}));
  EXPECT_EQ(next_of_union(run(0, 5), run(6, 9), 0), (Interval{0, 5}));
  EXPECT_EQ(next_of_union(run(0, 5), run(3, kUnbounded), 1), (Interval{1, kUnbounded}));
  const auto steps = [](Index i, Index k) { return run_from(k, 5 * i, 5 * i + 5 + i % 2); };
  EXPECT_EQ(next_of_any({0, 4}, steps, 1), (Interval{1, 21}));
  EXPECT_EQ(next_of_any({1, 2}, steps, 1), (Interval{5, 11}));
  EXPECT_EQ(next_of_any({0, 0}, steps, 1), kNoRun);
}

TEST(IntervalAlgebra, FarGapsAreCrossedAtOnce) {
  Index calls = 0;
  const auto counted = [&](Index begin, Index end) {
    return [&calls, begin, end](Index k) {
      ++calls;
      return run_from(k, begin, end);
    };
  };
  const Index far = Index{1} << 50;
  EXPECT_EQ(next_of_intersection(counted(0, far + 5), counted(far, kUnbounded), 0), (Interval{far, far + 5}));
  EXPECT_EQ(next_of_intersection(counted(0, 5), counted(far, kUnbounded), 0), kNoRun);
  EXPECT_EQ(next_of_complement(counted(0, far), 3), (Interval{far, kUnbounded}));
  EXPECT_EQ(next_of_complement(counted(0, kUnbounded), 3), kNoRun);
  EXPECT_LE(calls, 20);
}

static_assert(next_of_complement([](Index k) { return run_from(k, 2, 5); }, 0) == Interval{0, 2});
static_assert(next_of_complement([](Index k) { return run_from(k, 2, 5); }, 2) == Interval{5, kUnbounded});

}  // namespace
}  // namespace longspan::testing
