#!/usr/bin/env bash
# Builds the programs that the go.mod files beside this script pin, and prints
# the directory they are in. It is keyed by those files and shared by all clones,
# so that it is built once.
#
# usage: build.sh CACHE_DIR KIND [--print]     KIND: stack, lint or debug
set -euo pipefail
cache=$1 kind=$2
here=$(cd "$(dirname "$0")" && pwd)

case $kind in
  stack) modules=(runc containerd etcd kubernetes metricsserver) ;;
  lint | debug) modules=("$kind") ;;
  *) echo "build.sh: unknown kind $kind" >&2; exit 2 ;;
esac

cd "$here"
hash=$(for m in "${modules[@]}"; do cat "$m/go.mod" "$m/go.sum"; done | cat - build.sh | sha256sum | cut -c1-16)
dir=$cache/$kind/$hash
echo "$dir/bin"
[ "${3:-}" != --print ] || exit 0
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir/bin"
exec 9>"$dir/lock"
flock 9 # another clone may be building the same
[ ! -e "$dir/complete" ] || exit 0

for m in "${modules[@]}"; do
  cgo=0 tags=
  case $m in
    # Without seccomp runc refuses containerd's default profile, that is, every pod.
    runc) cgo=1 tags=seccomp ;;
    containerd) tags="no_btrfs no_devmapper no_zfs no_aufs" ;;
  esac
  echo "building $m" >&2
  (cd "$m" && CGO_ENABLED=$cgo GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w" -tags "$tags" -o "$dir/bin/" tool) >&2
done
# etcd's main package is called server.
[ "$kind" != stack ] || mv "$dir/bin/server" "$dir/bin/etcd"
touch "$dir/complete"
