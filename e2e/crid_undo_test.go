package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// gate is a CNI plugin that fails while a file is there, and that a test can hold up while it connects a pod.
const gate = `#!/bin/sh
dir=%s
cat >/dev/null
[ -e $dir/fail ] && exit 1
if [ $CNI_COMMAND = ADD ]; then
	[ -e $dir/hold ] || exit 1
	echo $$ >$dir/pid.tmp && mv $dir/pid.tmp $dir/pid
	while :; do sleep 0.05; done
fi
exit 0
`

// gatedCrid is a CRI server whose network has the gate behind the plugins that give addresses, until it is opened.
func gatedCrid(t *testing.T) (c *stepServer, dir string, open func()) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gate"), fmt.Appendf(nil, gate, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	c = ownCrid(t, stack.Options{CridArgs: []string{"--cni-bin-dir=" + dir}})
	path := filepath.Join(c.s.Dir, "cni", "10-stack.conflist")
	plain := read(t, path)
	end := strings.LastIndex(plain, "]")
	reload := func(text string) {
		write(t, path, text)
		c.restart(t, syscall.SIGTERM, nil)
	}
	reload(plain[:end] + `, {"type": "gate"}` + plain[end:])
	return c, dir, func() { reload(plain) }
}

func (c *stepServer) addresses(t *testing.T) (found []string) {
	return slices.DeleteFunc(c.held(t), func(one string) bool { return !strings.HasPrefix(one, "address ") })
}

// TestCridUndoFails: what could not be taken back is not forgotten: the next try for the same pod does it first, and so
// do a start and a removal. No try leaks an address.
func TestCridUndoFails(t *testing.T) {
	c, dir, open := gatedCrid(t)
	fail := filepath.Join(dir, "fail")
	write(t, fail, "")
	config := c.sandboxConfig(t)
	for range 3 {
		if _, err := c.RunPodSandbox(limited(t), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
			t.Fatal("a pod without a network")
		}
		if got := c.addresses(t); len(got) != 1 {
			t.Fatalf("addresses %v", got)
		}
	}
	sandboxes, err := c.ListPodSandbox(limited(t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(sandboxes.GetItems()) != 1 || sandboxes.GetItems()[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("what could not be taken back is not shown: %v, %v", sandboxes, err)
	}
	p := &criPod{c.criServer, config, sandboxes.GetItems()[0].GetId()}
	if _, err := c.RemovePodSandbox(limited(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err == nil {
		t.Error("removed, though the plugin fails")
	}
	open() // a start, which cannot do it either
	if got := c.addresses(t); len(got) != 1 {
		t.Fatalf("addresses %v", got)
	}
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	p.remove(t)
	again := c.run(t, config)
	if got := c.addresses(t); len(got) != 1 {
		t.Errorf("addresses %v", got)
	}
	again.remove(t)
	if left := c.clean(t, c.before); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestCridKilledWhileConnecting: the plugins that an earlier server had connect a pod do not go on after the next one
// has disconnected it.
func TestCridKilledWhileConnecting(t *testing.T) {
	c, dir, _ := gatedCrid(t)
	hold := filepath.Join(dir, "hold")
	write(t, hold, "")
	config := c.sandboxConfig(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.RunPodSandbox(limited(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	}()
	pidFile := filepath.Join(dir, "pid")
	eventually(limited(t), t, "the plugin is called", func() bool { _, err := os.Stat(pidFile); return err == nil })
	var pid int
	if _, err := fmt.Sscan(read(t, pidFile), &pid); err != nil {
		t.Fatal(err)
	}
	c.restart(t, syscall.SIGKILL, nil)
	<-done
	if err := syscall.Kill(pid, 0); err == nil {
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if !strings.Contains(string(state), ") Z ") {
			t.Errorf("the plugin goes on: %s", state)
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if left := c.clean(t, c.before); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// TestCridLostRecords: whatever becomes of the files of a pod, the next server starts, and what it does not know any more
// it removes with all its mounts.
func TestCridLostRecords(t *testing.T) {
	c := &stepServer{criServer: crid(t)}
	c.before = c.held(t)
	damages := map[string]func(path string) error{
		"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"garbage": func(path string) error { return os.WriteFile(path, []byte("\x00\xff{"), 0o600) },
		"null":    func(path string) error { return os.WriteFile(path, []byte("null"), 0o600) },
		"missing": os.RemoveAll,
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			p := c.run(t, c.sandboxConfig(t))
			config := script("app", forever)
			image := &runtimeapi.ImageSpec{Image: stack.BusyboxImage}
			config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Image: image}, {ContainerPath: "/part", Image: image, ImageSubPath: "bin"}}
			id := p.start(t, config)
			c.restart(t, syscall.SIGKILL, func() {
				for _, path := range []string{
					"crid/containers/" + id + "/config.json", "crid/containers/" + id + "/state.json", "run/crid/containers/" + id + "/config.json",
					"crid/sandboxes/" + p.id + "/config.json", "crid/sandboxes/" + p.id + "/state.json", "crid/cni/" + p.id + "/attached.json",
				} {
					if err := damage(filepath.Join(c.s.Dir, path)); err != nil {
						t.Error(err)
					}
				}
			})
			if left := c.listed(t); len(left) > 0 {
				t.Errorf("still known: %v", left)
			}
			if left := c.clean(t, c.before); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}
