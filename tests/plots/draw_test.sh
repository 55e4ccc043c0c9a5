#!/bin/sh
# draw_test.sh LONGSPAN_PLOT: draws from sample.json and from small files made here. Exit status 77: skipped.
set -eu
plot=$1
here=$(cd "$(dirname "$0")" && pwd)

skip() {
  echo "skipped: plots/draw: $* (sh cmake/dev.sh deps plots)"
  exit 77
}
[ "$plot" != not-built ] || skip 'no nlohmann_json, so no longspan_plot'
command -v gnuplot >/dev/null || skip 'no gnuplot'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failed=0
fail() {
  echo "FAILED: $*"
  failed=1
}
draw() {  # draw FOLDER JSON…: status of longspan_plot; its words go to FOLDER/said
  mkdir -p "$1"
  "$plot" "$@" >"$1/script" 2>"$1/said" || return $?
  gnuplot "$1/script" || fail "gnuplot does not take $1/script"
}
holds() {  # holds FILE TEXT…: each as a whole text of the picture
  file=$1
  shift
  for text in "$@"; do grep -qF "<text>$text</text>" "$file" || fail "$file lacks \"$text\""; done
}
lacks() {  # lacks FILE PATTERN
  if grep -q "$2" "$1"; then fail "$1 has \"$2\""; fi
}
says() {  # says FILE TEXT
  grep -qF "$2" "$1" || fail "$1 does not say \"$2\" but: $(cat "$1")"
}
points() { sed -n '/^\$line/,/^END/p' "$1" | sed '/^\$line/d; /^END/d' | tr '\n' ' ' | sed 's/ $//'; }  # points SCRIPT
json() {  # json FILE ROWS: rows of Google Benchmark, without what longspan_plot does not read
  printf '{"context": {"isa": "neon64", "compiler": "x"}, "benchmarks": [%s]}' "$2" >"$1"
}

# All kinds of rows.
draw all "$here/sample.json" || fail "status $?"
[ ! -s all/said ] || fail "said: $(cat all/said)"
for file in all/prefill.svg all/decode.svg all/crossover.svg; do
  if command -v xmllint >/dev/null; then
    xmllint --noout "$file" || fail "$file is not well-formed"
  else
    echo "no xmllint: $file is not checked for being well-formed"
  fi
  holds "$file" 'avx512, compiler 12.2.0'
done
holds all/prefill.svg f32 bf16 'queries = keys (tokens)' '% of the f32 FMA peak' 1K 4K 16K 0% 100% \
  'flash, full' 'flash, causal' 'flash, window1024' 'flash, sinks4+window1024' 'flash, documents16x1024' \
  'flash, blocksparse64x64' 'naive, causal'
lacks all/prefill.svg alibi  # one length: no line
holds all/decode.svg 'contiguous, f32' 'contiguous, bf16' 'paged, f32' 'paged, bf16' 'heads_first, f32' 'keys (tokens)' \
  '% of read bandwidth' 32K 128K 'group 1, 1 thread' 'group 1, 2 threads' 'group 8, 1 thread' 'group 8, 2 threads'
lacks all/decode.svg 'heads_first, bf16'
holds all/crossover.svg 'time per call' '1 ms' '1 s' 'flash, causal, f32' 'flash, window1024, f32' \
  'flash, causal, bf16' 'flash, window1024, bf16' 'naive, causal, f32'
lacks all/crossover.svg 'sinks4'

lacks all/script '^4096 8[35]$'  # head_dim 64, two threads

# The same file, the same bytes.
mv all first
draw all "$here/sample.json" || fail "status $?"
for file in prefill.svg decode.svg crossover.svg; do cmp "first/$file" "all/$file" || failed=1; done

# A median of repetitions, or the one that Google Benchmark took; not its other aggregates, and no failed row.
row='"name": "decode/paged/f32/g7/n32768/t1", "real_time": 1, "time_unit": "us"'
json medians.json "
  {\"name\": \"decode/paged/f32/g7/n65536/t1_median\", \"run_name\": \"decode/paged/f32/g7/n65536/t1\", \"real_time\": 1,
   \"time_unit\": \"us\", \"run_type\": \"aggregate\", \"aggregate_name\": \"median\", \"of_read_bw\": 0.625},
  {\"name\": \"decode/paged/f32/g7/n65536/t1_cv\", \"run_name\": \"decode/paged/f32/g7/n65536/t1\", \"real_time\": 1,
   \"time_unit\": \"us\", \"run_type\": \"aggregate\", \"aggregate_name\": \"cv\", \"of_read_bw\": 0.01},
  {$row, \"run_type\": \"iteration\", \"of_read_bw\": 0.9},
  {$row, \"run_type\": \"iteration\", \"of_read_bw\": 0.5},
  {$row, \"run_type\": \"iteration\", \"of_read_bw\": 0.75},
  {$row, \"run_type\": \"iteration\", \"of_read_bw\": 0.1, \"error_occurred\": true}"
draw medians medians.json || fail "status $?"
[ "$(points medians/script)" = '32768 75 65536 62.5' ] || fail "medians: $(points medians/script)"
# Rows that a filter left out: the other pictures are not drawn, and it says so.
says medians/said 'prefill.svg: not drawn, no rows prefill/'
says medians/said 'crossover.svg: not drawn, no rows prefill/'
for file in prefill.svg crossover.svg; do [ ! -e "medians/$file" ] || fail "medians/$file is there"; done

# Of two files, the later one's row; lines of one point, where there are no others.
json later.json "{$row, \"run_type\": \"iteration\", \"of_read_bw\": 0.25}"
draw later medians.json later.json || fail "status $?"
[ "$(points later/script)" = '32768 25 65536 62.5' ] || fail "later: $(points later/script)"
draw one later.json || fail "status $?"
holds one/decode.svg 'group 7, 1 thread' 32K

# Microseconds as such.
json microseconds.json '
  {"name": "prefill/flash/f32/d128/causal/n100/t1", "real_time": 3, "time_unit": "us", "of_fma_peak": 1}'
draw microseconds microseconds.json || fail "status $?"
[ "$(points microseconds/script)" = '100 100 100 3e-06' ] || fail "microseconds: $(points microseconds/script)"

# Nothing to draw, and no JSON.
json nothing.json ''
status=0
draw nothing nothing.json || status=$?
[ $status -eq 1 ] || fail "status $status of no rows"
printf '{' >broken.json
for file in broken.json missing.json; do
  status=0
  draw broken "$file" || status=$?
  [ $status -eq 1 ] || fail "status $status of $file"
  says broken/said "$file: "
done

[ $failed -eq 0 ] && echo passed
exit $failed
