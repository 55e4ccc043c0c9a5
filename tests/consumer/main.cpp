#include <cstdio>
#include <longspan/longspan.hpp>

int second();

int main() {
  std::printf("%d.%d.%d\n", LONGSPAN_VERSION_MAJOR, LONGSPAN_VERSION_MINOR, LONGSPAN_VERSION_PATCH);
  return second();
}
