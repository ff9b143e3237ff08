#!/usr/bin/env bash
# Builds the programs that the go.mod files beside this script pin, and prints
# the directory they are in. It is keyed by those files and shared by all clones,
# so that it is built once.
#
# usage: build.sh CACHE_DIR KIND [--print]     KIND: stack, upstream (stack and upstream's kubelet), lint or debug
set -euo pipefail
cache=$1 kind=$2
here=$(cd "$(dirname "$0")" && pwd)

case $kind in
  stack | upstream) modules=(runc containerd etcd kubernetes metricsserver) ;;
  lint | debug) modules=("$kind") ;;
  *) echo "build.sh: unknown kind $kind" >&2; exit 2 ;;
esac

cd "$here"
hash=$(for m in "${modules[@]}"; do cat "$m/go.mod" "$m/go.sum"; done | cat - build.sh | sha256sum | cut -c1-16)
dir=$cache/${kind/upstream/stack}/$hash
echo "$dir/bin"
[ "${3:-}" != --print ] || exit 0

# Upstream's kubelet, which only comparisons need, is a program beside those of the stack.
if [ "$kind" = upstream ]; then
  ./build.sh "$cache" stack >/dev/null
  exec 9>"$dir/lock"
  flock 9
  [ ! -e "$dir/bin/kubelet" ] || exit 0
  echo "building upstream's kubelet" >&2
  cd kubernetes
  CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/bin/kubelet" k8s.io/kubernetes/cmd/kubelet >&2
  exit 0
fi
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir/bin"
exec 9>"$dir/lock"
flock 9 # another clone may be building the same
[ ! -e "$dir/complete" ] || exit 0

n=0
for m in "${modules[@]}"; do
  n=$((n + 1))
  cgo=0 tags=
  case $m in
    # Without seccomp runc refuses containerd's default profile, that is, every pod.
    runc) cgo=1 tags=seccomp ;;
    containerd) tags="no_btrfs no_devmapper no_zfs no_aufs" ;;
  esac
  echo "building $m ($n of ${#modules[@]}; ${SECONDS}s so far)" >&2
  programs=tool
  [ "$m" != kubernetes ] || programs=$(go -C "$m" list tool | grep -v /cmd/kubelet$)
  # shellcheck disable=SC2086 # several packages
  (cd "$m" && CGO_ENABLED=$cgo GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -tags "$tags" -o "$dir/bin/" $programs) >&2
done
# etcd's main package is called server.
[ "$kind" != stack ] || mv "$dir/bin/server" "$dir/bin/etcd"
touch "$dir/complete"
