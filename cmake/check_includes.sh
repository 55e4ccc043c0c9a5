#!/bin/sh
# check_includes.sh [INCLUDE_DIR]: who may include whom, and what no header may contain. Prints each violation.
#
#   core <- mask score position kv exec (never each other);  core <- kernel;  core, mask, kv, kernel <- sparse;
#   all of them <- attention <- longspan.hpp
set -eu
cd "${1:-$(dirname "$0")/../include}"

failed=0
violation() {
  printf '%s\n' "$*"
  failed=1
}
# The longspan headers that $1 includes, as paths below include/.
includes() { sed -n 's|^[[:space:]]*#[[:space:]]*include[[:space:]]*<\(longspan/[^>]*\)>.*|\1|p' "$1"; }
# forbid FILE PATTERN WHY: each line of FILE that matches is a violation.
forbid() {
  matches=$(grep -nE "$2" "$1" | sed 's/^\([0-9]*\):[[:space:]]*/\1: /') || true
  [ -z "$matches" ] || violation "$(printf '%s\n' "$matches" | sed "s|^|$1:|; s|\$|   [$3]|")"
}

include='^[[:space:]]*#[[:space:]]*include[[:space:]]*'
headers=$(find longspan -name '*.hpp' | LC_ALL=C sort)

for header in $headers; do
  path=${header#longspan/}
  case $path in
    */*) floor=${path%%/*} ;;
    *) floor=front ;;
  esac
  case $floor in
    core) may='core' ;;
    mask | score | position | kv | exec | kernel) may="core|$floor" ;;
    sparse) may='core|mask|kv|kernel|sparse' ;;
    front) may= ;;
    *) violation "$header: no such floor: $floor" && continue ;;
  esac

  for included in $(includes "$header"); do
    target=${included#longspan/}
    if [ "$target" = longspan.hpp ]; then
      violation "$header: includes longspan.hpp, which is for users"
    elif [ -n "$may" ] && ! printf '%s\n' "$target" | grep -qE "^($may)/"; then
      violation "$header: $floor may include only <longspan/$may/…>, not <$included>"
    fi
  done

  forbid "$header" "$include\"" 'write <longspan/…>'
  [ "$(head -n 1 "$header")" = '#pragma once' ] || violation "$header: the first line is not #pragma once"
  lines=$(wc -l <"$header")
  [ "$lines" -le 400 ] || violation "$header: $lines lines, more than 400"

  forbid "$header" "$include<iostream>" 'a header does not print'
  forbid "$header" '(^|[^[:alnum:]_])v?f?printf' 'a header does not print'
  forbid "$header" '(^|[^[:alnum:]_])(abort|exit|quick_exit|_Exit)[[:space:]]*\(' 'a header does not end the program'
  [ "$path" = core/simd.hpp ] || forbid "$header" "$include<xsimd/" 'only core/simd.hpp includes xsimd'
  [ "$path" = core/eigen.hpp ] || forbid "$header" "$include<(unsupported/)?Eigen/" 'only core/eigen.hpp includes Eigen'
  case $path in
    core/simd.hpp | kernel/dot*.hpp) ;;
    *) forbid "$header" "$include<(immintrin|arm_neon)\.h>" 'only core/simd.hpp and kernel/dot*.hpp use intrinsics' ;;
  esac
done

# longspan.hpp is everything: the policies by name, the rest through them; but for what needs a library of its own.
if [ -f longspan/longspan.hpp ]; then
  direct=$(includes longspan/longspan.hpp)
  reached=longspan/longspan.hpp
  todo=$reached
  while [ -n "$todo" ]; do
    found=
    for header in $todo; do
      [ -f "$header" ] || { violation "$header: included, but does not exist" && continue; }
      for included in $(includes "$header"); do
        case " $reached " in
          *" $included "*) ;;
          *) reached="$reached $included" && found="$found $included" ;;
        esac
      done
    done
    todo=$found
  done
  for header in $headers; do
    case $header in
      longspan/kv/snapshot.hpp)
        case " $reached " in *" $header "*) violation "$header: reached from longspan.hpp, but needs xxHash" ;; esac ;;
      longspan/mask/* | longspan/score/* | longspan/position/* | longspan/kv/* | longspan/exec/* | longspan/sparse/*)
        printf '%s\n' "$direct" | grep -qxF "$header" || violation "$header: not included by longspan.hpp itself" ;;
      *)
        case " $reached " in
          *" $header "*) ;;
          *) violation "$header: not reached from longspan.hpp" ;;
        esac ;;
    esac
  done
else
  violation 'longspan/longspan.hpp: does not exist'
fi
exit $failed
