#pragma once
// Everything on the caller's thread.

#include <longspan/core/concepts.hpp>

namespace longspan::inline LONGSPAN_ISA {

/// One worker: the caller.
struct Serial {
  static constexpr Index workers() { return 1; }
  template <class F>
  void for_each(Index n, F&& f) const {
    for (Index task = 0; task < n; ++task) f(task, Index{0});
  }
};
static_assert(Executor<Serial>);

}  // namespace longspan::inline LONGSPAN_ISA
