#!/usr/bin/env bash
# Installs what building and running need on Debian 12 or Ubuntu, with "tests" what the tests need too: packages,
# and a Go new enough; with "go" only the latter. On a machine that has it all it changes nothing. Elsewhere it says what is missing.
#
# usage: deps.sh CACHE_DIR [tests|go]
set -euo pipefail
cache=$1 what=${2:-}
go_version=1.26.8 # at least what the go.mod files ask for

packages=(
  ca-certificates git
  gcc libc6-dev make             # the race detector and runc need cgo
  libseccomp-dev pkg-config      # runc without seccomp runs no pod
  iproute2 iptables mount util-linux
  conmon                         # keeps the containers of crid
  busybox-static                 # the shell in images
  curl                           # to look at what runs
)
if [ "$what" = tests ]; then
  packages+=(
    bash-static netcat-openbsd   # in images of the conformance suite, beside curl
    dbus                         # a bus for the tests of graceful shutdown
  )
  # A browser for the tests of the timeline's page, which Ubuntu has no package of.
  command -v chromium google-chrome >/dev/null || packages+=(chromium)
fi


missing=()
if [ "$what" = go ]; then
  : # no packages
elif ! command -v apt-get >/dev/null; then
  for program in git gcc make pkg-config ip iptables mount conmon busybox curl go; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  pkg-config --exists libseccomp 2>/dev/null || missing+=("libseccomp with its headers")
  if [ "${#missing[@]}" -gt 0 ]; then
    printf -v all '%s, ' "${missing[@]}"
    echo "deps: packages are installed on Debian and Ubuntu only; here install first: ${all%, }" >&2
    exit 1
  fi
else
  for p in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$p")
  done
fi
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "deps: missing packages: ${missing[*]}; run as root (sudo make deps) to install them" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq </dev/null
  wanted=()
  for p in "${missing[@]}"; do
    if [ "$p" = chromium ] && [[ $(LC_ALL=C apt-cache policy chromium) != *'Candidate: '[0-9]* ]]; then
      echo "deps: there is no package chromium here: tests of the timeline's page fail until chromium or google-chrome is installed" >&2
    else
      wanted+=("$p")
    fi
  done
  if [ "${#wanted[@]}" -gt 0 ]; then
    echo "deps: installing ${wanted[*]}"
    # Debian's busybox-static takes the place of busybox, which it conflicts with.
    apt-get install -y -qq --no-install-recommends "${wanted[@]}" </dev/null >/dev/null
  fi
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
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "deps: there is no Go here: sudo make deps installs it on Debian and Ubuntu; elsewhere 1.21 or newer will do" >&2
    exit 1
  fi
  echo "deps: installing golang-go"
  [ "${#missing[@]}" -gt 0 ] || apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go </dev/null >/dev/null
  go=$(command -v go)
  [ "$(go_minor "$go")" -lt 21 ] || exit 0
fi
arch=$("$go" env GOARCH)
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
