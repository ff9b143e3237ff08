#!/usr/bin/env bash
# Builds kube-apiserver and kube-controller-manager of an older Kubernetes, as VERSION/go.mod pins them, and prints the
# directory they are in.
#
# usage: build.sh CACHE_DIR VERSION [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")/$2"
dir=$cache/skew/$(cat go.mod go.sum ../build.sh | sha256sum | cut -c1-16)
echo "$dir/bin"
[ "${3:-}" != --print ] || exit 0
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir/bin"
exec 9>"$dir/lock"
flock 9 # another clone may be building the same
[ ! -e "$dir/complete" ] || exit 0

echo "building the control plane of Kubernetes $2" >&2
CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/" tool >&2
touch "$dir/complete"
