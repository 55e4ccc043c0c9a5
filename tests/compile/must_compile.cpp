// Ways of writing a call that must all compile: policies in any order, none at all, a user's own.

#include <longspan/longspan.hpp>
#include <support/archetypes.hpp>
#include <type_traits>

namespace ls = longspan;

namespace {

template <class... Policies>
using Made = decltype(ls::attention(std::declval<Policies>()...));

// Masks and score functions in any order; score functions keep theirs.
static_assert(std::is_same_v<Made<ls::Causal, ls::SoftCap, ls::Alibi>, Made<ls::SoftCap, ls::Causal, ls::Alibi>>);
static_assert(std::is_same_v<Made<ls::Causal, ls::SoftCap, ls::Alibi>, Made<ls::SoftCap, ls::Alibi, ls::Causal>>);
static_assert(!std::is_same_v<Made<ls::Causal, ls::SoftCap, ls::Alibi>, Made<ls::Causal, ls::Alibi, ls::SoftCap>>);
static_assert(std::is_same_v<Made<>, Made<ls::Full>>);
static_assert(std::is_same_v<Made<ls::SoftCap>, Made<ls::Full, ls::SoftCap>>);
static_assert(!std::is_same_v<decltype(ls::attention<ls::Naive>()), decltype(ls::attention<ls::Flash>())>);
static_assert(std::is_same_v<decltype(ls::attention()), decltype(ls::attention<ls::Flash>())>);

// Small values.
static_assert(std::is_copy_constructible_v<Made<ls::Causal, ls::Alibi>>);
static_assert(std::is_nothrow_move_constructible_v<ls::TensorView<float>>);
static_assert(std::is_convertible_v<ls::TensorView<float>, ls::TensorView<const float>>);
static_assert(!std::is_convertible_v<ls::TensorView<const float>, ls::TensorView<float>>);
static_assert(std::is_same_v<Made<ls::SinkLogits, ls::Causal>, Made<ls::Causal>>);  // sinks are in no type
static_assert(!ls::ScoreFunction<int> && !ls::Mask<int> && !ls::KeyValueSource<int> && !ls::Executor<int>);

}  // namespace

void calls(ls::TensorView<const float> q, ls::TensorView<const float> k, ls::TensorView<const float> v,
           ls::TensorView<float> out, std::span<float> lse, ls::ThreadPool& pool, const ls::Serial& serial,
           const ls::PagedCache<float>& cache, ls::SequenceId chat);
void calls(ls::TensorView<const float> q, ls::TensorView<const float> k, ls::TensorView<const float> v,
           ls::TensorView<float> out, std::span<float> lse, ls::ThreadPool& pool, const ls::Serial& serial,
           const ls::PagedCache<float>& cache, ls::SequenceId chat) {
  const auto recency = [](auto score, auto query, auto key) { return score - 0.01f * (query - key); };
  const auto by_head = [](auto score, auto query, auto key, ls::Index head) {
    return score - 0.01f * static_cast<float>(head) * (query - key);
  };
  ls::attention()(q, k, v, out);
  ls::attention(recency, ls::Causal{} & (ls::Window{4096} | ls::Sinks{4}), by_head)(q, k, v, out,
                                                                                    {.lse = lse, .executor = pool});
  ls::attention<ls::Naive>(archetypes::SymmetricWindow(3), archetypes::Recency(0.1f))(q, k, v, out,
                                                                                      {.executor = serial});
  const auto by_site = [](auto score, auto, auto, ls::Site site) {
    return score + 0.1f * static_cast<float>(site.head + site.sequence);
  };
  ls::attention(by_site, ls::SinkLogits({1.f, 2.f}),
                ls::by_head(2, [](ls::Index h) { return ls::Window{h + 1}; }) & ls::Causal{})(q, k, v, out);
  ls::attention(!ls::Causal{})(q, cache.view(chat), out,
                               {.scale = 0.1f, .first_query = 3, .kernel = ls::Kernel::kNarrow});
  const auto attend = ls::attention(archetypes::SymmetricWindow(3) & ls::Prefix{7});
  ls::merge(attend.partial(q, cache.view(chat)), attend.partial(q, k, v, {.first_key = 10})).finish(out, lse);
  (void)attend.plan(q.shape(), cache.view(chat)).explain();
}
