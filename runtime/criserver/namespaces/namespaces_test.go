package namespaces_test

import (
	"os"
	"path/filepath"
	"testing"

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
		ports, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
		if err != nil || string(ports) != "2000\t3000\n" {
			t.Errorf("sysctl %q, %v", ports, err)
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
