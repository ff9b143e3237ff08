package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// TestCridLongTimes: times of more nanoseconds than a number has room for are long, not over.
func TestCridLongTimes(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	const centuries = 1e10
	id := p.start(t, script("app", forever))
	if r, err := c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "hello"}, Timeout: centuries}); err != nil || string(r.GetStdout()) != "hello\n" {
		t.Errorf("exec: %v, %v", r, err)
	}
	c.stop(t, id, centuries)
	if got := c.status(t, id); got.GetExitCode() != 0 || got.GetReason() != "Completed" {
		t.Errorf("it was not left to end by itself: %v", got)
	}
}

// TestCridStatusTime: the status of a sandbox says when it was taken, and newer ones say later times.
func TestCridStatusTime(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	at := func() int64 {
		r, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetTimestamp()
	}
	before := time.Now().UnixNano()
	first, second := at(), at()
	if after := time.Now().UnixNano(); first < before || second <= first || after < second {
		t.Errorf("taken at %d and %d, between %d and %d", first, second, before, after)
	}
}

// TestCridOutOfMemory: a container that memory ran out for says so, with whatever exit code its first process ends.
func TestCridOutOfMemory(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	for name, code := range map[string]int32{"fails": 3, "goes-on": 0, "killed": 137} {
		config := script(name, map[int32]string{
			3: "tail /dev/zero; exit 3", 0: "tail /dev/zero; exit 0", 137: "exec tail /dev/zero",
		}[code])
		config.Linux.Resources.MemoryLimitInBytes = 16 << 20
		if got := c.ended(t, p.start(t, config)); got.GetReason() != "OOMKilled" || got.GetExitCode() != code {
			t.Errorf("%s: %s with exit code %d", name, got.GetReason(), got.GetExitCode())
		}
	}
	if got := c.ended(t, p.start(t, script("other", "exit 137"))); got.GetReason() != "Error" {
		t.Errorf("a container with enough memory: %v", got)
	}
}

// TestCridSweepsMounts: of a container whose records are lost while the server is down nothing stays mounted, neither its
// root nor images nor parts of them.
func TestCridSweepsMounts(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	for what, lose := range map[string]func(record, bundle string) error{
		"record": func(record, _ string) error { return os.RemoveAll(record) },
		"configuration": func(record, bundle string) error {
			if err := os.WriteFile(filepath.Join(record, "config.json"), []byte("{"), 0o600); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{"), 0o600)
		},
	} {
		p := c.run(t, c.sandboxConfig(t))
		config := script("app", forever)
		image := &runtimeapi.ImageSpec{Image: stack.BusyboxImage}
		config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Image: image}, {ContainerPath: "/part", Image: image, ImageSubPath: "bin"}}
		id := p.start(t, config)
		bundle := filepath.Join(c.s.Dir, "run", "crid", "containers", id)
		c.restart(t, syscall.SIGKILL, func() {
			if err := lose(filepath.Join(c.s.Dir, "crid", "containers", id), bundle); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := os.Stat(bundle); !os.IsNotExist(err) {
			t.Errorf("%s: the bundle is there: %v", what, err)
		}
		if mounts := read(t, "/proc/self/mountinfo"); strings.Contains(mounts, id) {
			t.Errorf("%s: something of the container is mounted", what)
		}
		p.remove(t)
	}
	c.nothingLeft(t, before)
}
