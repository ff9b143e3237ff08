#!/bin/sh
# The first process of the virtual machine of the cgroup v2 tests: makes a Linux
# system of the initramfs, runs the tests, tells /dev/ttyS1 how they went.
export PATH=/programs:/bin HOME=/root MINIKUBELET_VM=1

if [ "${1:-}" != again ]; then
  # pivot_root, which runc uses, needs another root than the kernel's first one.
  mkdir /new
  mount --bind / /new
  cd /new
  mount --move . /
  exec chroot . /init again
fi
mkdir -p /proc /sys /dev /run /tmp /var/lib /var/log /etc
mount -t devtmpfs dev /dev
exec >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -onlcr
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
for dir in /dev/shm /run /tmp /var/lib /var/log; do
  mount -t tmpfs -o mode=755 tmpfs $dir
done
mount --make-rshared /
for module in /modules/*.ko; do
  insmod "$module" || echo "init: $module is not loaded"
done
hostname vm
echo "127.0.0.1 localhost vm" >/etc/hosts
: >/etc/resolv.conf
ip link set lo up

# As below systemd: services are not in the root cgroup, and all controllers are handed down.
mkdir /sys/fs/cgroup/system
for dir in /sys/fs/cgroup /sys/fs/cgroup/system; do
  sed 's/[a-z_][a-z_]*/+&/g' $dir/cgroup.controllers >$dir/cgroup.subtree_control
done

failed=0
for test in /tests/*.test; do
  echo "=== PROGRAM $(basename "$test")"
  cd "$(dirname "$test")"
  "$test" -test.v -test.timeout=8m $TESTFLAGS || failed=1
done
[ $failed = 0 ] || tail -n 60 /var/log/*.log
echo "=== END $failed"
sync
poweroff -f
