#!/bin/sh
# run_test.sh STREAMING: the example on few tokens. Exit status 77: skipped.
set -eu
streaming=$1
data=${LONGSPAN_DATA:-../shared}/data
model=$data/stories260K/stories260K.bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() {
  echo "FAILED: $*"
  failed=1
}

# No checkpoint: says where there is one.
status=0
"$streaming" "$work/none.bin" "$work/none.bin" "$work/none.txt" 2>"$work/said" || status=$?
[ $status -eq 1 ] || fail "status $status without a checkpoint"
grep -q 'no such file.*https://.*stories260K' "$work/said" || fail "said: $(cat "$work/said")"

if [ ! -f "$model" ]; then
  [ $failed -eq 0 ] || exit 1
  echo "skipped: streaming/run: no $model"
  exit 77
fi
"$streaming" "$model" "$data/stories260K/tok512.bin" "$data/text/tinystories.txt" --tokens 3000 --bucket 500 \
  --plot "$work/plot.gnuplot" >"$work/out" 2>"$work/said" || fail "status $?: $(cat "$work/said")"
# value BUCKET COLUMN: dense, with sinks, without
value() { awk -v bucket="$1" -v column="$2" '$1 == bucket { print $(column + 1) }' "$work/out"; }
holds() { awk "BEGIN { exit !($1) }" || fail "$1: $(cat "$work/out")"; }
[ "$(value 0 1)" = "$(value 0 2)" ] && [ "$(value 0 1)" = "$(value 0 3)" ] || fail "nothing is evicted yet, but: $(cat "$work/out")"
for bucket in 500 1000 1500 2000 2500; do
  holds "$(value $bucket 2) < 2 && $(value $bucket 3) < 2 && $(value $bucket 2) > 0.5"
done
holds "$(value 2500 1) > 3"  # five times the trained length
grep -q '^dense: 47 pages' "$work/out" || fail "dense takes 3000 / 64 pages, but: $(cat "$work/out")"
grep -q '^4 sinks + 508 recent: 1[1-4] pages' "$work/out" || fail "pages: $(cat "$work/out")"
if command -v gnuplot >/dev/null; then
  (cd "$work" && gnuplot plot.gnuplot) || fail 'gnuplot does not take the script'
  grep -qF 'trained length' "$work/plot.svg" || fail 'the picture lacks its words'
fi
[ $failed -eq 0 ] && echo passed
exit $failed
