#pragma once
// Cosine and sine of position · frequency, evaluated independently of the library: in 113-bit arithmetic, with the
// product and its reduction exact.

#include <cfloat>
#include <cmath>
#include <longspan/core/index.hpp>

#if defined(__SIZEOF_FLOAT128__)
#define LONGSPAN_HAS_QUAD 1
#elif LDBL_MANT_DIG == 113
#define LONGSPAN_HAS_QUAD 1
#else
#define LONGSPAN_HAS_QUAD 0
#endif

#if LONGSPAN_HAS_QUAD
namespace longspan::testing {

#if defined(__SIZEOF_FLOAT128__)
__extension__ typedef __float128 Quad;
#else
using Quad = long double;
#endif

// pi in pieces of 32 bits: a product of one with a whole number below 2^50 is exact, and so are all sums that matter.
inline constexpr unsigned kPi[] = {3,          0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344,
                                   0xA4093822, 0x299F31D0, 0x082EFA98, 0xEC4E6C89};

/// position · frequency − quarters · pi/2.
inline Quad beyond_quarters(Index position, double frequency, Quad quarters) {
  Quad r = static_cast<Quad>(position) * static_cast<Quad>(frequency);  // 40 + 53 bits: exact
  Quad weight = 0.5;
  for (const unsigned digits : kPi) {
    r -= quarters * (static_cast<Quad>(digits) * weight);
    weight /= 4294967296.0;
  }
  return r;
}

struct Turn {
  double cos, sin;
};

/// For |position| < 2^40 and angles below 2^50. Right to the last bit of double or so, near quarter turns too.
inline Turn exact_turn(Index position, double frequency) {
  const double angle = static_cast<double>(static_cast<Quad>(position) * static_cast<Quad>(frequency));
  const Quad quarters = static_cast<Quad>(std::nearbyint(angle * 0.63661977236758134308));
  const Quad r = beyond_quarters(position, frequency, quarters);
  Quad sine = 0, cosine = 0, term = 1;
  for (int n = 0; n < 36; ++n) {
    Quad& sum = n % 2 ? sine : cosine;
    sum = n / 2 % 2 ? sum - term : sum + term;
    term = term * r / static_cast<Quad>(n + 1);
  }
  const Index quarter = static_cast<Index>(quarters) & 3;
  const double c = static_cast<double>(cosine), s = static_cast<double>(sine);
  switch (quarter) {
    case 0:
      return {c, s};
    case 1:
      return {-s, c};
    case 2:
      return {-c, -s};
    default:
      return {s, -c};
  }
}

}  // namespace longspan::testing
#endif
