#!/bin/sh
# extract_readme.sh MARKDOWN OUTPUT [N]: writes the Nth (first) ```cpp block; exits 1 if there is none.
set -eu
awk -v wanted="${3:-1}" '
     !inside && /^```cpp[ \t\r]*$/ { inside = ++blocks; next }
     inside && /^```/ { if (inside == wanted) exit; inside = 0 }
     inside == wanted && inside { print }' "$1" >"$2.new"
if [ ! -s "$2.new" ]; then
  rm -f "$2.new"
  exit 1
fi
# an unchanged program keeps its date and is not built again
if cmp -s "$2.new" "$2"; then rm -f "$2.new"; else mv "$2.new" "$2"; fi
