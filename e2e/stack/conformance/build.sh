#!/usr/bin/env bash
# Builds Kubernetes' end-to-end suite and the programs that it needs, and prints the directory they are in.
#
# usage: build.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")"
. ../once.sh
dir=$cache/conformance/$(cat go.mod go.sum suite_test.go build.sh | sha256sum | cut -c1-16)
once "$dir" "${2:-}"

export CGO_ENABLED=0 GOFLAGS=
echo "building the conformance suite" >&2
go test -c -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/e2e.test" . >&2
go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/" tool >&2
# The certificate that agnhost serves HTTPS with is a file of its image.
install -m 644 "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.{crt,key} "$dir/bin/"
touch "$dir/complete"
