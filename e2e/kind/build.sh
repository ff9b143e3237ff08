#!/usr/bin/env bash
# Builds what the test with a real kind cluster needs, and prints the directory it is in: the programs that the go.mod files below
# programs/ pin, Debian's Docker engine, unpacked, not installed, and node.tar, the file system of a kind node made of Debian's
# packages, kind's own files and the programs of the stack, with the images of a cluster in its containerd.
#
# usage: build.sh CACHE_DIR [--print]
set -euo pipefail
cache=$1
cd "$(dirname "$0")"
stack=$(../stack/build.sh "$cache" stack --print)
# What is in the image, by content: the programs and files named here, and the stack's.
hash=$(cat programs/*/go.mod programs/*/go.sum agent/*.go ../stack/images/{pause,testapp}/*.go build.sh <(basename "$(dirname "$stack")") | sha256sum | cut -c1-16)
dir=$cache/kind/$hash
echo "$dir"
[ "${2:-}" != --print ] || exit 0
[ ! -e "$dir/complete" ] || exit 0

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9 # another clone may be building the same
[ ! -e "$dir/complete" ] || exit 0
exec >&2
../stack/build.sh "$cache" stack
[ "$(id -u)" = 0 ] || { echo "build.sh: debootstrap needs root"; exit 1; }
export CGO_ENABLED=0 DEBIAN_FRONTEND=noninteractive
suite=bookworm # newer ones have a systemd without cgroup v1
step() { echo "kind: $*"; }

# Packages land in a directory of our own, as nothing here is to be installed on this machine.
apt() { apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User=root "$@" </dev/null; }
unpack() { # DIRECTORY PACKAGE...
  local to=$1 deb
  rm -rf "$dir/debs" && mkdir -p "$to" "$dir/debs"
  apt-cache show "${@:2}" >/dev/null 2>&1 || apt update
  (cd "$dir/debs" && apt download "${@:2}")
  for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$to"; done
  rm -rf "$dir/debs"
}

build() { # MODULE_DIRECTORY PACKAGE...
  step "building $1 ${*:2}"
  (cd "$1" && GOFLAGS= go build -trimpath -buildvcs=false -ldflags "-s -w $flags" -o "$dir/bin/" "${@:2}")
}
# kubeadm goes by its own version, which Kubernetes' own build sets so.
version=$(cd programs/kubernetes && go list -m -f '{{.Version}}' k8s.io/kubernetes)
flags="-X k8s.io/component-base/version.gitVersion=$version"
build programs/kind tool
build programs/kubernetes tool
build programs/coredns tool
build ../stack/containerd github.com/containerd/containerd/v2/cmd/ctr
build . minikubelet/e2e/kind/agent minikubelet/e2e/stack/images/pause minikubelet/e2e/stack/images/testapp

step "unpacking Debian's Docker engine"
unpack "$dir/docker" docker.io containerd libdevmapper1.02.1

packages=systemd,systemd-sysv,conntrack,iptables,nftables,iproute2,ethtool,mount,kmod,libseccomp2,ca-certificates,curl,jq,procps,hostname
debian=$cache/kind/$suite-$(sha256sum <<<"$packages" | cut -c1-16)
if [ ! -e "$debian.tar" ]; then
  step "making a Debian system for the nodes"
  unpack "$dir/debootstrap" debootstrap
  mirror=$(apt-cache policy base-files | sed -n 's|.* \(https\?://[^ ]*/debian\) .*|\1|p' | head -n 1)
  rm -rf "$debian"
  DEBOOTSTRAP_DIR=$dir/debootstrap/usr/share/debootstrap "$dir/debootstrap/usr/sbin/debootstrap" --variant=minbase --include="$packages" \
    "$suite" "$debian" "$mirror" >"$debian.log" || { tail -n 20 "$debian.log"; exit 1; }
  tar -C "$debian" --numeric-owner --one-file-system -cf "$debian.tar.partial" .
  mv "$debian.tar.partial" "$debian.tar"
  rm -rf "$debian" "$dir/debootstrap"
fi

step "installing kind's files and the stack's programs there"
root=$dir/root
rm -rf "$root" && mkdir "$root"
tar -C "$root" -xf "$debian.tar"
# kind's module has the files of its base image; what its Dockerfile does beside copying them is done here.
files=$(cd programs/kind && go list -m -f '{{.Dir}}/images/base/files' sigs.k8s.io/kind)
cp -rT --no-preserve=mode "$files" "$root"
chmod 755 "$root"/usr/local/bin/* "$root"/kind/bin/*
rm -rf "$root"/lib/systemd/system/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/local-fs.target.wants/* \
  "$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* "$root"/lib/systemd/system/basic.target.wants/* \
  "$root"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
chroot "$root" systemctl -q enable kubelet containerd undo-mount-hacks
chroot "$root" systemctl -q mask systemd-binfmt
mkdir -p "$root"/etc/kubernetes/manifests "$root"/opt/cni/bin "$root"/kind/manifests
install -t "$root/usr/bin" "$stack"/{kubectl,kubelet} "$dir/bin/kubeadm"
install -t "$root/usr/local/bin" "$stack"/{containerd,containerd-shim-runc-v2} "$dir/bin/ctr"
install -t "$root/usr/local/sbin" "$stack/runc"
install -t "$root/opt/cni/bin" "$stack"/{bridge,host-local,loopback,portmap}
echo -n "$version" >"$root/kind/version"
"$dir/bin/ctr" oci spec | chroot "$root" jq '.hooks.createContainer += [{"path": "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
# The machine may be a container or a small VM itself, that may not lower an OOM score.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"

# pack DIRECTORY REFERENCE CONFIG FILE writes an archive of an image whose one layer is a directory.
pack() {
  local work=$dir/image
  rm -rf "$work" && mkdir -p "$work"
  tar -C "$1" --numeric-owner --xattrs -cf "$work/layer.tar" .
  echo '{"architecture":"'"$(go env GOARCH)"'","os":"linux","config":'"$3"',"rootfs":{"type":"layers","diff_ids":["sha256:'"$(sha256sum "$work/layer.tar" | cut -d' ' -f1)"'"]}}' >"$work/config.json"
  echo '[{"Config":"config.json","RepoTags":["'"$2"'"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
  tar -C "$work" -cf "$4" manifest.json config.json layer.tar
  rm -rf "$work"
}
# image REFERENCE ENTRYPOINT FILE=PATH... writes an archive of an image with these files.
image() {
  local files=$dir/files file
  rm -rf "$files" && mkdir -p "$files/tmp"
  for file in "${@:3}"; do
    install -D "${file%=*}" "$files/${file#*=}"
  done
  # What the programs of the node that libraries names are linked with.
  [ -z "${libraries:-}" ] || (cd "$root" && chroot . ldd "$libraries" | grep -o '/lib[^ ]*' | sort -u | sed 's|^/||' | xargs cp -L --parents -t "$files")
  pack "$files" "$1" '{"Env":["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Entrypoint":["'"$2"'"]}' "$dir/images/${1//\//-}.tar"
  rm -rf "$files"
}
step "making the images of the cluster"
rm -rf "$dir/images" && mkdir -p "$dir/images"
for reference in $("$dir/bin/kubeadm" config images list --kubernetes-version "$version") test/agent:1 test/app:1 test/metrics-server:1; do
  name=${reference##*/} name=${name%%:*}
  case $name in
    pause) image "$(sed -n 's/.*sandbox_image = "\(.*\)"/\1/p' "$root/etc/containerd/config.toml")" /pause "$dir/bin/pause=pause" ;;
    coredns) image "$reference" /coredns "$dir/bin/coredns=coredns" ;;
    kube-proxy) libraries=/usr/sbin/nft image "$reference" /usr/local/bin/kube-proxy "$dir/bin/kube-proxy=usr/local/bin/kube-proxy" "$root/usr/sbin/nft=usr/sbin/nft" ;;
    agent) image "$reference" /agent "$dir/bin/agent=agent" ;;
    app) image "$reference" /testapp "$dir/bin/testapp=testapp" "$(command -v busybox)=bin/sh" "$(command -v busybox)=bin/tar" "$(command -v busybox)=bin/busybox" ;;
    *) image "$reference" "$name" "$stack/$name=usr/local/bin/$name" ;;
  esac
done

step "importing them into the node's containerd"
cat >"$dir/containerd.toml" <<EOF
version = 3
root = "$root/var/lib/containerd"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$dir/containerd.sock"
[ttrpc]
  address = "$dir/containerd.ttrpc"
EOF
"$stack/containerd" --config "$dir/containerd.toml" --log-level warn 9>&- &
containerd=$!
trap 'kill $containerd && wait $containerd || true' EXIT
ctr() { "$dir/bin/ctr" --address "$dir/containerd.sock" --namespace k8s.io "$@"; }
until ctr version >/dev/null 2>&1; do kill -0 $containerd; sleep 0.1; done
for archive in "$dir"/images/*.tar; do
  ctr images import --no-unpack --label io.cri-containerd.image=managed "$archive"
done
kill $containerd && wait $containerd || true
trap - EXIT

step "packing the node"
# systemd ends on this signal. The kernel parameter is for machines with both versions of cgroups, where systemd would leave the old to others.
pack "$root" minikubelet-test/node:upstream '{"Env":["container=docker","PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"StopSignal":"SIGRTMIN+3",
  "Entrypoint":["/usr/local/bin/entrypoint","/sbin/init","systemd.legacy_systemd_cgroup_controller=1"]}' "$dir/node.tar"
rm -rf "$root" "$dir/images" "$dir/state" "$dir"/containerd.*
touch "$dir/complete"
step "done: $(du -sh "$dir/node.tar" | cut -f1) of node image"
