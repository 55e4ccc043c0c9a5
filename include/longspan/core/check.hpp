#pragma once
// Argument checks. The throwing functions are cold and out of line, so that a check costs one compare in the caller.

#include <sstream>
#include <stdexcept>
#include <string>

#include <longspan/core/config.hpp>

namespace longspan::inline LONGSPAN_ISA {

namespace detail {
template <class Got, class Wanted>
[[noreturn, gnu::cold, gnu::noinline]] void refuse(const char* argument, const Got& got, const Wanted& wanted) {
  std::ostringstream text;
  text.precision(9);
  text << "longspan: " << argument << ": got " << got << ", expected " << wanted;
  throw std::invalid_argument(text.str());
}
}  // namespace detail

/// Throws std::invalid_argument "longspan: <argument>: got <got>, expected <wanted>" unless `holds`.
template <class Got, class Wanted>
inline void check(bool holds, const char* argument, const Got& got, const Wanted& wanted) {
  if (!holds) [[unlikely]]
    detail::refuse(argument, got, wanted);
}

// What was expected, for `check`: written only when it fails.
struct MultipleOf {
  long long of;
  friend std::ostream& operator<<(std::ostream& text, const MultipleOf& m) { return text << "a multiple of " << m.of; }
};

struct Below {
  long long end;
  friend std::ostream& operator<<(std::ostream& text, const Below& b) { return text << "within [0, " << b.end << ")"; }
};
struct AtLeast {
  long long least;
  friend std::ostream& operator<<(std::ostream& text, const AtLeast& a) { return text << ">= " << a.least; }
};

}  // namespace longspan::inline LONGSPAN_ISA
