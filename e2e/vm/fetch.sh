#!/usr/bin/env bash
# Fetches qemu, a kernel and systemd for the virtual machines of the cgroup v2 tests, and
# prints the directory they are in. They are unpacked there, not installed: the
# machine's own kernel and libraries stay as they are.
#
# usage: fetch.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
dir=$cache/vm/$(sha256sum "$0" | cut -c1-16)
echo "$dir"
[ "${2:-}" != --print ] || exit 0
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9 # another clone may be fetching the same
[ ! -e "$dir/complete" ] || exit 0

# Packages land in a directory of our own, so that neither root nor apt's lock is needed.
apt() { apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o "Dir::Cache::archives=$dir/debs" "$@" </dev/null; }
meta=linux-image-cloud-amd64
if ! apt-cache show qemu-system-x86 "$meta" >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  apt-get update -qq </dev/null
fi
image=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
if [ -z "$image" ]; then
  echo "fetch.sh: apt knows no $meta (it is Debian's): the cgroup v2 tests are left out" >&2
  exit 1
fi

echo "fetching qemu, systemd and $image" >&2
rm -rf "$dir/root" "$dir/debs"
mkdir -p "$dir/root" "$dir/debs/partial"
# What qemu and systemd need and this machine lacks; of the kernel, only its own package.
apt -y --no-install-recommends --download-only install qemu-system-x86 systemd >&2
(cd "$dir/debs" && apt download "$image" systemd libsystemd-shared >&2)
for deb in "$dir"/debs/*.deb; do
  dpkg -x "$deb" "$dir/root"
done
if ! [ -e "$dir/root/usr/bin/qemu-system-x86_64" ]; then
  ln -sf "$(command -v qemu-system-x86_64)" "$dir/root/usr/bin/" # installed already
fi
ln -sfn "$(ls -d "$dir"/root/boot/vmlinuz-*)" "$dir/vmlinuz"
ln -sfn "$(ls -d "$dir"/root/lib/modules/*)" "$dir/modules"
rm -rf "$dir/debs"
touch "$dir/complete"
