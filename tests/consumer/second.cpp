// A second translation unit: a function in a header that is not inline would not link.
#include <longspan/longspan.hpp>

int second() { return 0; }
