#!/usr/bin/env bash
# Installs what the build and the tests need on Debian 12 or Ubuntu: packages,
# and a Go new enough. On a machine that has it all it changes nothing.
#
# usage: deps.sh CACHE_DIR
set -euo pipefail
cache=$1
go_version=1.26.8 # at least what the go.mod files ask for

packages=(
  ca-certificates git
  gcc libc6-dev make             # the race detector and runc need cgo
  libseccomp-dev pkg-config      # runc without seccomp runs no pod
  iproute2 iptables mount util-linux
  conmon                         # keeps the containers of crid
  busybox-static                 # the shell in the test images
  chromium                       # the tests of the timeline's page
  bash-static curl netcat-openbsd # in those of the conformance suite
  dbus                           # a bus for the tests of graceful shutdown
)

missing=()
for p in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$p")
done
# busybox and busybox-static conflict: do not swap a user's busybox silently.
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "deps: missing packages: ${missing[*]}; run as root (sudo make deps) to install them" >&2
    exit 1
  fi
  echo "deps: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi

# A Go from 1.21 on fetches the version that go.mod names by itself.
go_minor() { "$1" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p'; }
PATH=$cache/go/bin:$PATH:/usr/local/go/bin
if go=$(command -v go) && [ "$(go_minor "$go")" -ge 21 ]; then
  exit 0
fi

# Debian 12's Go is too old to do that, but it can fetch the newer Go as the
# module it is published as; only the executable bits are missing.
if [ -z "${go:-}" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "deps: no Go; run as root (sudo make deps) to install it" >&2
    exit 1
  fi
  echo "deps: installing golang-go"
  [ "${#missing[@]}" -gt 0 ] || apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go </dev/null >/dev/null
  go=$(command -v go)
  [ "$(go_minor "$go")" -lt 21 ] || exit 0
fi
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'module deps\n' >go.mod
echo "deps: fetching Go $go_version"
"$go" mod download "golang.org/toolchain@v0.0.1-go$go_version.linux-$arch"
toolchain=$("$go" env GOMODCACHE)/golang.org/toolchain@v0.0.1-go$go_version.linux-$arch
chmod -R u+w,a+x "$toolchain/bin" "$toolchain/pkg/tool"
mkdir -p "$cache"
ln -sfn "$toolchain" "$cache/go"
"$cache/go/bin/go" version
