#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while.
#
# usage: fuzz.sh DURATION
set -euo pipefail
found=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while IFS=: read -r file line; do
  target=$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' <<<"$line")
  found=$((found + 1))
  echo "$target in $(dirname "$file")"
  if ! go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 20x -parallel 2 2>&1 | tee "$log"; then
    # go test sometimes takes the end of the time for a failure, above all where one run takes long (golang/go#48591).
    # A real failure writes the input that failed.
    if grep -q 'Failing input written' "$log" || ! grep -q '^ *context deadline exceeded$' "$log"; then
      exit 1
    fi
    echo "$target: the time was over in the middle of a run"
  fi
done < <(grep -r --exclude-dir=.cache --include='*_test.go' '^func Fuzz' . || true)
echo "$found fuzz targets"
