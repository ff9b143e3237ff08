#!/usr/bin/env bash
# Runs every fuzz target of the module for a short while.
#
# usage: fuzz.sh DURATION
set -euo pipefail
found=0
while IFS=: read -r file line; do
  target=$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' <<<"$line")
  found=$((found + 1))
  echo "$target in $(dirname "$file")"
  go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$1" -parallel 2
done < <(grep -r --exclude-dir=.cache --include='*_test.go' '^func Fuzz' . || true)
echo "$found fuzz targets"
