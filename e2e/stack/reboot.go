package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mountRun mounts the directory for state: on real machines /run is in memory, and runtimes count on it.
func (s *Stack) mountRun() error {
	if err := unix.Mount("tmpfs", filepath.Join(s.Dir, "run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount directory for state: %w", err)
	}
	return nil
}

// mountKubeletDisk gives the kubelet a small filesystem, if one is wanted.
func (s *Stack) mountKubeletDisk() error {
	if s.options.KubeletDiskMiB == 0 {
		return nil
	}
	if err := unix.Mount("tmpfs", s.RootDir(), "tmpfs", 0, fmt.Sprintf("mode=755,size=%dm", s.options.KubeletDiskMiB)); err != nil {
		return fmt.Errorf("mount the kubelet's disk: %w", err)
	}
	return nil
}

// Reboot takes from the node what a power loss takes: its processes, what is in memory (/run, tmpfs mounts), cgroups and
// interfaces. What is on disk stays, and the control plane, which is another machine's, runs on. The kubelet must have
// ended. Between going down and the runtime's start off is called, if it is not nil.
func (s *Stack) Reboot(ctx context.Context, off func() error) error {
	if err := s.powerOff(); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	if off != nil {
		if err := off(); err != nil {
			return err
		}
	}
	if err := s.mountRun(); err != nil {
		return err
	}
	for _, name := range []string{Containerd, Crid} {
		if s.component(name) != nil {
			return s.StartComponent(ctx, name)
		}
	}
	return nil
}

func (s *Stack) powerOff() error {
	if err := s.killNode(); err != nil {
		return err
	}
	for _, point := range slices.Backward(mountsUnder(s.Dir)) {
		if point == s.ns.path || point == s.RootDir() { // the kubelet's disk, or its directory bound to itself
			continue
		}
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	for _, dir := range s.cgroup.walk() {
		if !slices.Contains(s.cgroup.dirs, dir) && filepath.Base(dir) != "stack" {
			_ = os.Remove(dir)
		}
	}
	return s.ns.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if name := l.Attrs().Name; name != "lo" && !strings.HasPrefix(name, "node0") {
				_ = netlink.LinkDel(l) // a pair goes with its first end
			}
		}
		return nil
	})
}

// killNode kills all processes but the control plane's, until there are no others.
func (s *Stack) killNode() error {
	var keep []int
	for _, name := range []string{Etcd, APIServer, ControllerManager, Scheduler} {
		if p := s.Component(name); p != nil {
			keep = append(keep, p.Pid())
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) { // foreign processes end without notice
		left := slices.DeleteFunc(s.cgroup.pids(), func(pid int) bool { return slices.Contains(keep, pid) })
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
