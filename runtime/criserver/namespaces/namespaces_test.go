package namespaces_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/namespaces"
)

func TestSysctls(t *testing.T) {
	for name, want := range map[string]struct{ path, kind string }{
		"net.ipv4.ip_forward":          {"net/ipv4/ip_forward", namespaces.Network},
		"net/ipv4/conf/eth0.1/forward": {"net/ipv4/conf/eth0.1/forward", namespaces.Network},
		"net.ipv4.conf.eth0/1.forward": {"net/ipv4/conf/eth0.1/forward", namespaces.Network},
		"kernel.shm_rmid_forced":       {"kernel/shm_rmid_forced", namespaces.IPC},
		"kernel.msgmax":                {"kernel/msgmax", namespaces.IPC},
		"fs.mqueue.msg_max":            {"fs/mqueue/msg_max", namespaces.IPC},
		"kernel.domainname":            {"kernel/domainname", namespaces.UTS},
		"vm.swappiness":                {"vm/swappiness", ""},
		"kernel.panic":                 {"kernel/panic", ""},
		"net/../vm/swappiness":         {"", ""},
		"/etc/passwd":                  {"", ""},
		"net..ipv4":                    {"", ""},
		"":                             {"", ""},
	} {
		path, err := namespaces.SysctlPath(name)
		if (err != nil) != (want.path == "") || path != want.path || namespaces.Namespaced(name) != want.kind {
			t.Errorf("%q: %q, %v, %q", name, path, err, namespaces.Namespaced(name))
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4/x")
	f.Add("net/../../etc")
	f.Fuzz(func(t *testing.T, name string) {
		if path, err := namespaces.SysctlPath(name); err == nil && (!filepath.IsLocal(path) || filepath.Clean(path) != path) {
			t.Errorf("%q means %q", name, path)
		}
	})
}

// TestMain calls what TestFirstThread starts, while the first goroutine is on the first thread.
func TestMain(m *testing.M) {
	if path := os.Getenv("JOIN_ON_FIRST_THREAD"); path != "" {
		joinAndReturn(path)
		return
	}
	os.Exit(m.Run())
}

// joinAndReturn joins a namespace over and over. With one goroutine at a time, the next one that runs gets the first
// thread as soon as the first goroutine waits.
func joinAndReturn(path string) {
	runtime.GOMAXPROCS(1)
	for range 50 {
		if err := namespaces.Do(path, func() error { return nil }); err != nil {
			fmt.Println(err)
		}
	}
	own, err := os.Readlink("/proc/self/ns/uts") // that of the first thread
	fmt.Println(own, err)
}

// TestFirstThread: the first thread, whose namespaces are said to be the process's, is never the one to join others.
func TestFirstThread(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	want, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ns")
	t.Cleanup(func() { _ = namespaces.Unpin(dir) })
	if err := namespaces.Pin(namespaces.Options{Dir: dir, Kinds: []string{namespaces.UTS}}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "JOIN_ON_FIRST_THREAD="+namespaces.Path(dir, namespaces.UTS))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want+" <nil>\n" {
		t.Errorf("the process is in %s, %v, want %s", out, err, want)
	}
}

// TestPin: namespaces outlive the thread that made them, and end when they are let go.
func TestPin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "ns")
	t.Cleanup(func() { _ = namespaces.Unpin(dir) })
	kinds := []string{namespaces.Network, namespaces.IPC, namespaces.UTS}
	err := namespaces.Pin(namespaces.Options{Dir: dir, Kinds: kinds, Hostname: "pinned", Sysctls: map[string]string{"net.ipv4.ip_local_port_range": "2000 3000"}})
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Hostname()
	if err != nil || own == "pinned" {
		t.Fatalf("the machine's own name is %q, %v", own, err)
	}
	for _, kind := range kinds {
		if !namespaces.Pinned(dir, kind) {
			t.Errorf("%s is not pinned", kind)
		}
	}
	err = namespaces.Do(namespaces.Path(dir, namespaces.UTS), func() error {
		if name, err := os.Hostname(); err != nil || name != "pinned" {
			t.Errorf("hostname %q, %v", name, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = namespaces.Do(namespaces.Path(dir, namespaces.Network), func() error {
		for name, want := range map[string]string{"ip_local_port_range": "2000\t3000\n", "ip_unprivileged_port_start": "0\n", "ping_group_range": "0\t2147483647\n"} {
			if got, err := os.ReadFile("/proc/sys/net/ipv4/" + name); err != nil || string(got) != want {
				t.Errorf("sysctl %s: %q, %v", name, got, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := namespaces.Pin(namespaces.Options{Dir: dir + "2", Kinds: kinds, Sysctls: map[string]string{"net.not.there": "1"}}); err == nil {
		t.Error("a sysctl that is not there: no error")
	}
	for range 2 {
		for _, dir := range []string{dir, dir + "2"} {
			if err := namespaces.Unpin(dir); err != nil {
				t.Error(err)
			}
		}
	}
	if namespaces.Pinned(dir, namespaces.Network) {
		t.Error("still pinned")
	}
}

// TestPinUser: the namespaces of a pod belong to its user namespace, whose root is nobody here.
func TestPinUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "ns")
	t.Cleanup(func() { _ = namespaces.Unpin(dir) })
	kinds := []string{namespaces.Network, namespaces.UTS, namespaces.IPC, namespaces.User}
	ids := &user.IdentityMapping{UIDMaps: []user.IDMap{{ParentID: 200000, Count: 1000}}, GIDMaps: []user.IDMap{{ParentID: 300000, Count: 10}, {ID: 10, ParentID: 400000, Count: 10}}}
	err := namespaces.Pin(namespaces.Options{Dir: dir, Kinds: kinds, Hostname: "pinned", Users: ids, Sysctls: map[string]string{"net.ipv4.ip_local_port_range": "2000 3000"}})
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("no user namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if !namespaces.Pinned(dir, kind) {
			t.Errorf("%s is not pinned", kind)
		}
	}
	if children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); err == nil && len(children) > 0 {
		t.Errorf("children are left: %s", children)
	}
	userns, err := os.Open(namespaces.Path(dir, namespaces.User))
	if err != nil {
		t.Fatal(err)
	}
	defer userns.Close()
	var want unix.Stat_t
	if err := unix.Fstat(int(userns.Fd()), &want); err != nil {
		t.Fatal(err)
	}
	const nsGetUserNS = 0xb701 // ioctl_ns(2)
	network, err := os.Open(namespaces.Path(dir, namespaces.Network))
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	fd, err := unix.IoctlRetInt(int(network.Fd()), nsGetUserNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var got unix.Stat_t
	if err := unix.Fstat(fd, &got); err != nil || got.Ino != want.Ino {
		t.Errorf("the network belongs to the user namespace %d, want %d, %v", got.Ino, want.Ino, err)
	}
	err = namespaces.Do(namespaces.Path(dir, namespaces.UTS), func() error {
		name, err := os.Hostname()
		if name != "pinned" {
			t.Errorf("hostname %q", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		uid, gid, wantUID, wantGID int
		ok                         bool
	}{{0, 0, 200000, 300000, true}, {999, 12, 200999, 400002, true}, {1000, 0, 0, 0, false}, {0, 20, 0, 0, false}} {
		uid, gid, err := ids.ToHost(tc.uid, tc.gid)
		if (err == nil) != tc.ok || tc.ok && (uid != tc.wantUID || gid != tc.wantGID) {
			t.Errorf("%d:%d is %d:%d here, %v", tc.uid, tc.gid, uid, gid, err)
		}
	}
	overlapping := &user.IdentityMapping{UIDMaps: append(ids.UIDMaps, ids.UIDMaps[0]), GIDMaps: ids.GIDMaps}
	err = namespaces.Pin(namespaces.Options{Dir: dir + "2", Kinds: kinds, Users: overlapping})
	if err == nil || !strings.Contains(err.Error(), "make namespaces") {
		t.Errorf("IDs that are mapped twice: %v", err)
	}
	if err := errors.Join(namespaces.Unpin(dir), namespaces.Unpin(dir+"2")); err != nil {
		t.Error(err)
	}
}
