package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// machineDirs are the directories of the machine that programs write to unless told otherwise.
var machineDirs = []string{"/etc", "/run", "/tmp", "/usr/libexec", "/var/lib", "/var/log"}

// ownMachine makes the calling thread, and all that is forked from it, see a machine that is the stack's own: what is
// written to the machine's directories goes to the stack's instead, the kubelet's usual root directory is the stack's, and
// the stack's cgroup is the root of all cgroups. All of it is gone when the last process is.
func (s *Stack) ownMachine() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	// Nothing reaches the machine; inside, mounts of a volume must reach containers.
	for _, propagation := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|propagation, ""); err != nil {
			return fmt.Errorf("change the propagation of mounts: %w", err)
		}
	}
	for _, dir := range machineDirs {
		if err := s.overlay(dir); err != nil {
			return err
		}
	}
	if err := s.ownNames(); err != nil {
		return err
	}
	const root = "/var/lib/kubelet"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(s.RootDir(), root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the kubelet's root directory: %w", err)
	}
	return s.cgroup.becomeRoot(filepath.Join(s.Dir, "machine", "cgroup"))
}

// ownNames has the node's name mean its address, and all others nothing: a program that asked the machine's name servers
// would wait for them in vain.
func (s *Stack) ownNames() error {
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", NodeIP, s.NodeName)
	for path, text := range map[string]string{"/etc/hosts": hosts, "/etc/resolv.conf": "nameserver 127.0.0.1\n"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write names: %w", err)
		}
	}
	return nil
}

// overlay has what is written to a directory go to the stack's.
func (s *Stack) overlay(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(s.Dir, dir+"/") {
		return nil
	}
	if err != nil {
		return err
	}
	own := filepath.Join(s.Dir, "machine", strings.ReplaceAll(dir[1:], "/", "-"))
	upper, work := filepath.Join(own, "upper"), filepath.Join(own, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755), os.Chmod(upper, info.Mode())); err != nil {
		return err
	}
	if err := unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)); err != nil {
		return fmt.Errorf("lay a directory of the stack over %s: %w", dir, err)
	}
	return nil
}

// becomeRoot puts the tree's directories in the place of the roots of their hierarchies, for the calling thread. The roots
// are unmounted, since programs that look for a hierarchy take the first mount of it. For a moment the directory is
// mounted on aside.
func (t cgroupTree) becomeRoot(aside string) error {
	if err := os.MkdirAll(aside, 0o755); err != nil {
		return err
	}
	for _, dir := range t.dirs {
		root := filepath.Dir(dir)
		// In version 1 this one begins empty, and the root's is not.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			data, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				continue // of another controller
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				return fmt.Errorf("set up cgroup: %w", err)
			}
		}
		err := unix.Mount(dir, aside, "", unix.MS_BIND, "")
		if err == nil {
			err = unix.Unmount(root, unix.MNT_DETACH)
		}
		if err == nil {
			err = unix.Mount(aside, root, "", unix.MS_BIND, "")
		}
		if err == nil {
			err = unix.Unmount(aside, unix.MNT_DETACH)
		}
		if err != nil {
			return fmt.Errorf("make %s the root of cgroups: %w", dir, err)
		}
	}
	return nil
}

// procsSeen is the file that takes the stack's own processes, as they see it.
func (s *Stack) procsSeen() string {
	procs := s.cgroup.procs()
	if !s.options.OwnMachine {
		return procs
	}
	inTree := strings.TrimPrefix(procs, s.cgroup.counting())
	return filepath.Join(filepath.Dir(s.cgroup.counting()), inTree)
}
