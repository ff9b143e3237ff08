#!/usr/bin/env bash
# Builds kube-apiserver and kube-controller-manager of an older Kubernetes, as VERSION/go.mod pins them, and prints the
# directory they are in.
#
# usage: build.sh CACHE_DIR VERSION [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")/$2"
. ../../once.sh
dir=$cache/skew/$(cat go.mod go.sum ../build.sh | sha256sum | cut -c1-16)
once "$dir" "${3:-}"

echo "building the control plane of Kubernetes $2" >&2
CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/" tool >&2
touch "$dir/complete"
