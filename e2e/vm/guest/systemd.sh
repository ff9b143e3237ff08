#!/bin/sh
# The first process of the virtual machine of the systemd driver's tests: makes way for systemd.
export PATH=/bin
mkdir -p /proc /sys /dev /run /tmp
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
exec /lib/systemd/systemd --unit=tests.service --log-target=console --show-status=no
