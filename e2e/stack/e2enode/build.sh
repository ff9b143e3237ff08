#!/usr/bin/env bash
# Builds Kubernetes' node suite and the programs that it needs, and prints the directory they are in.
#
# usage: build.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")"
. ../once.sh
dir=$cache/e2enode/$(cat go.mod go.sum build.sh | sha256sum | cut -c1-16)
once "$dir" "${2:-}"

export CGO_ENABLED=0 GOFLAGS=
echo "building the node suite (1 of 2)" >&2
go test -c -vet=off -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/e2e_node.test" k8s.io/kubernetes/test/e2e_node >&2
echo "building its programs (2 of 2; ${SECONDS}s so far)" >&2
go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/" tool >&2
# The certificate that agnhost serves HTTPS with is a file of its image.
install -m 644 "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.{crt,key} "$dir/bin/"
touch "$dir/complete"
