#!/usr/bin/env bash
# Builds what a pod needs beside the kubelet, runc and CNI plugins, as the go.mod files beside this script pin them, and
# prints the directory they are in: a minute's work, where the whole stack (build.sh) takes eight. Distributions' runc is
# often older than what is safe. Where the stack is built already, that is used.
#
# usage: node.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")"

stack=$(./build.sh "$cache" stack --print)
if [ -e "$stack/../complete" ]; then
  echo "$stack"
  exit 0
fi

hash=$(cat runc/go.mod runc/go.sum containerd/go.mod containerd/go.sum node.sh | sha256sum | cut -c1-16)
dir=$cache/node/$hash
echo "$dir/bin"
[ "${2:-}" != --print ] || exit 0
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir/bin"
exec 9>"$dir/lock"
flock 9 # another clone may be building the same
[ ! -e "$dir/complete" ] || exit 0

build() { # MODULE PACKAGE...
  echo "building ${*:2}" >&2
  (cd "$1" && GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -tags seccomp -o "$dir/bin/" "${@:2}") >&2
}
plugins=github.com/containernetworking/plugins/plugins
CGO_ENABLED=1 build runc github.com/opencontainers/runc
CGO_ENABLED=0 build containerd $plugins/main/bridge $plugins/main/loopback $plugins/ipam/host-local $plugins/meta/portmap
touch "$dir/complete"
