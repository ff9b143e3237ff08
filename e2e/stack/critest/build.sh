#!/usr/bin/env bash
# Builds cri-tools' validation suite of CRI runtimes, and prints the directory it is in.
#
# usage: build.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")"
. ../once.sh
dir=$cache/critest/$(cat go.mod go.sum suite_test.go build.sh | sha256sum | cut -c1-16)
once "$dir" "${2:-}"

echo "building critest" >&2
CGO_ENABLED=0 GOFLAGS='' go test -c -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/critest" . >&2
touch "$dir/complete"
