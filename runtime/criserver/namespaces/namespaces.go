// Package namespaces makes the namespaces of a pod and pins them in the file system, so that
// no process has to stay behind to hold them.
package namespaces

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/user"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/trees"
)

// The kinds of namespaces that can be pinned; each is also the name of its file.
const (
	Network = "net"
	IPC     = "ipc"
	UTS     = "uts"
	User    = "user"
)

var cloneFlags = map[string]int{Network: unix.CLONE_NEWNET, IPC: unix.CLONE_NEWIPC, UTS: unix.CLONE_NEWUTS, User: unix.CLONE_NEWUSER}

// Options describe the namespaces of a pod.
type Options struct {
	Dir      string                // where they are pinned, one file a kind
	Kinds    []string              // which ones; the others are the host's
	Hostname string                // of the UTS namespace
	Sysctls  map[string]string     // set in the new namespaces
	Users    *user.IdentityMapping // of the user namespace, if there is to be one
}

// Path is the file of a pinned namespace.
func Path(dir, kind string) string { return filepath.Join(dir, kind) }

// Pin makes the namespaces and bind mounts each over a file of Dir. On error the caller is expected to Unpin.
func Pin(o Options) error {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory for namespaces: %w", err)
	}
	result := make(chan error, 1)
	OnThread(func() { result <- pinHere(o) })
	return <-result
}

// pinHere turns the calling thread into a member of new namespaces. They exist as long as the thread or the bind mount does.
func pinHere(o Options) error {
	if o.Users == nil {
		if err := unix.Unshare(o.flags()); err != nil {
			return fmt.Errorf("make namespaces %s: %w", strings.Join(o.Kinds, ", "), err)
		}
		if err := o.pin("/proc/thread-self/ns"); err != nil {
			return err
		}
		return prepare(o)
	}
	if err := pinInUserNamespace(o); err != nil {
		return err
	}
	for _, kind := range o.Kinds {
		if kind == User {
			continue // the thread keeps the rights it has
		}
		if err := join(Path(o.Dir, kind)); err != nil {
			return err
		}
	}
	return prepare(o)
}

// flags are those of the system calls that make the namespaces.
func (o Options) flags() (flags int) {
	for _, kind := range o.Kinds {
		flags |= cloneFlags[kind]
	}
	return flags
}

// pin mounts the namespaces of a process or thread over the files of Dir.
func (o Options) pin(from string) error {
	for _, kind := range o.Kinds {
		file, err := os.OpenFile(Path(o.Dir, kind), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
		if err == nil {
			err = file.Close()
		}
		if err == nil {
			err = unix.Mount(Path(from, kind), Path(o.Dir, kind), "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("pin %s namespace: %w", kind, err)
		}
	}
	return nil
}

// prepare gives the namespaces that the calling thread is in what pods expect of them.
func prepare(o Options) error {
	if slices.Contains(o.Kinds, UTS) && o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", o.Hostname, err)
		}
	}
	if slices.Contains(o.Kinds, Network) {
		// What the loopback plugin of CNI would start a process for.
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}); err != nil {
			return fmt.Errorf("bring up lo: %w", err)
		}
		// As in docker and containerd every user of the pod may serve ports below 1024, and ping. A user namespace has fewer
		// groups and refuses the latter, and /proc/sys may be read-only: the pod runs without them.
		_ = setSysctl("net.ipv4.ip_unprivileged_port_start", "0")
		_ = setSysctl("net.ipv4.ping_group_range", "0 2147483647")
	}
	for name, value := range o.Sysctls {
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// setSysctl writes below /proc/sys, which shows each thread the values of its own namespaces.
func setSysctl(name, value string) error {
	path, err := SysctlPath(name)
	if err == nil {
		err = os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set sysctl %s to %q: %w", name, value, err)
	}
	return nil
}

// SysctlPath is the file of a sysctl below /proc/sys. Its name is parted by dots or by slashes,
// whichever comes first: net.ipv4.conf.eth0/1.rp_filter is net/ipv4/conf/eth0.1/rp_filter.
func SysctlPath(name string) (string, error) {
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if !filepath.IsLocal(path) || path != filepath.Clean(path) {
		return "", fmt.Errorf("sysctl %q is no name below /proc/sys", name)
	}
	return path, nil
}

// Namespaced tells which kind of namespace a sysctl belongs to, or "" for one of the whole machine.
func Namespaced(name string) string {
	path, err := SysctlPath(name)
	if err != nil {
		return ""
	}
	switch {
	case strings.HasPrefix(path, "net/"):
		return Network
	case path == "kernel/sem", strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), strings.HasPrefix(path, "fs/mqueue/"):
		return IPC
	case path == "kernel/hostname", path == "kernel/domainname":
		return UTS
	}
	return ""
}

// Unpin lets go of the namespaces. What is not there is no error.
func Unpin(dir string) error {
	if err := trees.RemoveMounted(dir); err != nil {
		return fmt.Errorf("let go of namespaces: %w", err)
	}
	return nil
}

// Pinned tells whether a namespace is mounted over its file. After a reboot it is not.
func Pinned(dir, kind string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(Path(dir, kind), &stat) == nil && stat.Type == unix.NSFS_MAGIC
}

// Do runs a function on a thread that has joined a namespace.
func Do(path string, fn func() error) error {
	result := make(chan error, 1)
	OnThread(func() {
		err := join(path)
		if err == nil {
			err = fn()
		}
		result <- err
	})
	return <-result
}

// join makes the calling thread a member of a pinned namespace.
func join(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), 0); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

// OnThread starts a goroutine on a thread that nothing else runs on and that ends with it, for functions that change what
// a thread has of its own: namespaces, working directory. A function that has changed all back may call UnlockOSThread.
//
// That thread is never the process's first. The first cannot end before the process, and what /proc tells of the process,
// its namespaces among it, is what the first thread has.
func OnThread(fn func()) {
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// While this goroutine keeps the first thread busy, the next one gets another.
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			fn()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}

// pinInUserNamespace makes a user namespace and in it the others, which then belong to it, and pins them.
//
// A process with several threads can make no user namespace for itself. So a child is started in them: this program once
// more, which the kernel stops at its first instruction, since the calling thread traces it, and kills when that thread ends.
func pinInUserNamespace(o Options) error {
	child, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, Unshareflags: uintptr(o.flags() &^ unix.CLONE_NEWUSER),
		UidMappings: mappings(o.Users.UIDMaps), GidMappings: mappings(o.Users.GIDMaps), GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("make namespaces %s: %w", strings.Join(o.Kinds, ", "), err)
	}
	defer func() {
		_ = child.Kill()
		_, _ = child.Wait()
	}()
	return o.pin("/proc/" + strconv.Itoa(child.Pid) + "/ns")
}

func mappings(maps []user.IDMap) (forKernel []syscall.SysProcIDMap) {
	for _, m := range maps {
		forKernel = append(forKernel, syscall.SysProcIDMap{ContainerID: int(m.ID), HostID: int(m.ParentID), Size: int(m.Count)})
	}
	return forKernel
}
