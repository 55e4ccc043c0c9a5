#!/bin/sh
# One entry for people and CI: installs what is missing, configures, builds, runs. Quiet unless something fails.
set -eu

usage() {
  cat <<'EOF'
usage: sh cmake/dev.sh COMMAND

  demo                  a story told by a small model (if there is one), then longspan against the alternatives
  test                  build everything and test it, then again a smaller set with sanitizers (LONGSPAN_NO_ASAN=1: not)
  bench [ARGS…]         benchmarks; ARGS as Google Benchmark takes them (--benchmark_out=FILE: JSON)
  plots [JSON…]         draw bench/plots/*.svg from such files; from none: measure what they show first (minutes)
  run EXAMPLE [ARGS…]   build and run one of examples/
  deps [plots]          install what the others (and plots) need, nothing else

LONGSPAN_BUILD_DIR: where to build (build/release).  LONGSPAN_DATA: models and reference data (../shared).
EOF
}

root=$(cd "$(dirname "$0")/.." && pwd)
build=${LONGSPAN_BUILD_DIR:-$root/build/release}
case $build in /*) ;; *) build=$PWD/$build ;; esac
asan=$root/build/asan
tsan=$root/build/tsan
[ -z "${LONGSPAN_BUILD_DIR:-}" ] || asan=$build-asan tsan=$build-tsan
jobs=$(nproc 2>/dev/null || echo 2)

say() { printf '%s\n' "$*" >&2; }

# quiet LOG COMMAND…: the whole output, but only if the command fails.
quiet() {
  log=$1
  shift
  "$@" >"$log" 2>&1 || {
    status=$?
    cat "$log" >&2
    say "failed: $*"
    return $status
  }
}

# ---- what is needed -------------------------------------------------------------------------------------------------

compiles() {  # compiles HEADER
  printf '#include <%s>\nint main() {}\n' "$1" |
    ${CXX:-c++} -std=c++20 -I/usr/include/eigen3 -fsyntax-only -x c++ - >/dev/null 2>&1
}
cmake_is_new() {
  cmake --version 2>/dev/null | awk 'NR == 1 { split($3, v, "."); exit !(v[1] > 3 || (v[1] == 3 && v[2] >= 20)) }
                                     END { if (NR == 0) exit 1 }'
}
library() {  # library PACKAGE HEADER
  if command -v dpkg >/dev/null; then
    dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed' || missing="$missing $1"
  else
    compiles "$2" || missing="$missing $1"
  fi
}
find_missing() {  # find_missing [plots]
  missing=
  compiles concepts || missing="$missing g++"
  cmake_is_new || missing="$missing cmake"
  command -v ninja >/dev/null || command -v make >/dev/null || missing="$missing ninja-build"
  library libxsimd-dev xsimd/xsimd.hpp
  library libeigen3-dev Eigen/Core
  library libgtest-dev gtest/gtest.h
  library libgmock-dev gmock/gmock.h
  library libbenchmark-dev benchmark/benchmark.h
  library libcli11-dev CLI/CLI.hpp
  library libxxhash-dev xxhash.h
  [ "${1:-}" = plots ] || return 0
  library nlohmann-json3-dev nlohmann/json.hpp
  command -v gnuplot >/dev/null || missing="$missing gnuplot-nox"
  command -v xmllint >/dev/null || missing="$missing libxml2-utils"  # its test's
}
deps() {  # deps [plots]
  find_missing "$@"
  [ -n "$missing" ] || return 0
  get='apt-get install -y --no-install-recommends'
  if ! command -v apt-get >/dev/null; then
    say "missing (by Debian's names):$missing"
    exit 1
  elif [ "$(id -u)" -ne 0 ]; then
    say "missing:$missing; run"
    say "  sudo apt-get update && sudo $get$missing"
    exit 1
  fi
  say "installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  log_file=$(mktemp)
  quiet "$log_file" apt-get update
  quiet "$log_file" $get $missing
  rm -f "$log_file"
  find_missing "$@"
  if [ -n "$missing" ]; then
    say "installed, but still missing or too old (C++20 compiler, cmake 3.20):$missing"
    exit 1
  fi
}

# ---- building -------------------------------------------------------------------------------------------------------

configure() {  # configure DIR [OPTIONS…]
  dir=$1
  shift
  mkdir -p "$dir"
  # a folder that is configured already keeps its generator
  if [ ! -f "$dir/CMakeCache.txt" ] && command -v ninja >/dev/null; then set -- -G Ninja "$@"; fi
  quiet "$dir/configure.log" cmake -S "$root" -B "$dir" "$@"
}
make_targets() {  # make_targets DIR [TARGETS…]
  dir=$1
  shift
  say "building in $dir"
  [ $# -eq 0 ] || set -- --target "$@"
  quiet "$dir/build.log" cmake --build "$dir" --parallel "$jobs" "$@"
}
run_tests() {  # run_tests DIR [CTEST'S OPTIONS…]
  (cd "$1" && shift && ctest --output-on-failure --parallel "$jobs" "$@") >"$1/test.log" 2>&1 || {
    cat "$1/test.log"
    return 1
  }
  grep -E 'tests passed|^Total Test time' "$1/test.log"
  # ctest counts a program whose tests skip as passed: name them
  sed -n -e '/^\[  SKIPPED \] .*ms)$/p' -e '/^skipped: /p' "$1/Testing/Temporary/LastTest.log" | sort -u
}

# ---- commands -------------------------------------------------------------------------------------------------------

run_test() {
  deps
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  make_targets "$build"
  run_tests "$build"
  [ -z "${LONGSPAN_NO_ASAN:-}" ] || return 0
  configure "$asan" -DCMAKE_BUILD_TYPE=Debug -DLONGSPAN_SANITIZE=ON -DLONGSPAN_TEST_SUBSET=small
  make_targets "$asan"
  run_tests "$asan"
  configure "$tsan" -DCMAKE_BUILD_TYPE=Debug -DLONGSPAN_SANITIZE_THREADS=ON -DLONGSPAN_TEST_SUBSET=small
  make_targets "$tsan" concurrent_test
  run_tests "$tsan" -R kv/concurrent
}

run_demo() {
  deps
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  make_targets "$build" longspan_examples longspan_bench
  cd "$root"  # a relative LONGSPAN_DATA is relative to here, as in the tests
  model=${LONGSPAN_DATA:-../shared}/data/stories260K
  if [ -f "$model/stories260K.bin" ]; then
    "$build/examples/story" "$model/stories260K.bin" "$model/tok512.bin" --tokens 120
  else
    cat <<EOF
No model at $model. A small one (1 MB) is https://huggingface.co/karpathy/tinyllamas, folder stories260K; then
  sh cmake/dev.sh run story stories260K.bin tok512.bin --tokens 120
EOF
  fi
  "$build/bench/longspan_bench" --demo
}

run_bench() {
  deps
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  make_targets "$build" longspan_bench
  exec "$build/bench/longspan_bench" "$@"
}

# The rows of the pictures: medians of three, in minutes.
measure() {  # measure FILE
  prefill='prefill/(flash/[^/]+/d128/[^/]+|naive/[^/]+/d128/causal)/n([0-9]{1,4}|1[0-9]{4})/t1'
  decode='decode/[^/]+/[^/]+/g[0-9]+/n[0-9]+/t[0-9]+'
  say "measuring for some minutes: $1"
  quiet "$1.log" "$build/bench/longspan_bench" --benchmark_filter="^($prefill|$decode)\$" --benchmark_min_time=0.2 \
    --benchmark_repetitions=3 --benchmark_out="$1" --benchmark_out_format=json
}

run_plots() {
  deps plots
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  if [ $# -eq 0 ]; then
    make_targets "$build" longspan_bench longspan_plot
    set -- "$build/bench.json"
    measure "$1"
  else
    make_targets "$build" longspan_plot
  fi
  "$build/bench/longspan_plot" "$root/bench/plots" "$@" >"$build/plots.gnuplot"
  gnuplot "$build/plots.gnuplot"
}

run_example() {
  if [ $# -eq 0 ] || [ ! -f "$root/examples/$1.cpp" ]; then
    say "examples: $(cd "$root/examples" && ls | sed -n 's/\.cpp$//p' | tr '\n' ' ')"
    exit 1
  fi
  if [ "$1" = rope_interpolation ]; then deps plots; else deps; fi
  configure "$build" -DCMAKE_BUILD_TYPE=Release
  make_targets "$build" "$1"
  example=$1
  shift
  exec "$build/examples/$example" "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  demo) run_demo ;;
  test) run_test ;;
  bench) run_bench "$@" ;;
  plots) run_plots "$@" ;;
  run) run_example "$@" ;;
  deps) deps "$@" ;;
  *) usage && exit 2 ;;
esac
