#pragma once
// One KV head of a source, as a source.

#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

template <KeyValueSource Source>
class OneHead {
 public:
  using Element = typename Source::Element;

  OneHead(const Source& source, Index kv_head) : source_(source), kv_head_(kv_head) {}

  Index keys() const { return source_.keys(); }
  static Index kv_heads() { return 1; }
  Index head_dim() const { return source_.head_dim(); }
  Index value_dim() const { return source_.value_dim(); }
  KeyValueRun<Element> run(Index, Index i) const { return source_.run(kv_head_, i); }
  static Index key_maker_floats(Index head_dim) requires MakesKeys<Source> {
    return Source::key_maker_floats(head_dim);
  }
  MadeKeys made_before(Index, Index i) const requires requires(const Source& s) { s.made_before(i, i); }
  { return source_.made_before(kv_head_, i); }
  auto key_maker(float* memory, Index) const requires MakesKeys<Source> { return source_.key_maker(memory, kv_head_); }
  static constexpr bool kMakesValues = MakesValues<Source>;
  template <class Words>
  void make_values(Index, Interval keys, Index place, float* to, Index stride) const requires kMakesValues {
    source_.template make_values<Words>(kv_head_, keys, place, to, stride);
  }

 private:
  Source source_;
  Index kv_head_;
};

}  // namespace longspan::inline LONGSPAN_ISA
