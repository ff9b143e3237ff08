package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// restart ends crid with a signal, does something while it is down, and starts it again.
func (c *criServer) restart(t *testing.T, signal syscall.Signal, meanwhile func()) {
	t.Helper()
	if err := c.s.StopComponent(limited(t), stack.Crid, signal); err != nil {
		t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	if err := c.s.StartComponent(limited(t), stack.Crid); err != nil {
		t.Fatal(err)
	}
}

func (c *criServer) resources(t *testing.T) []string {
	t.Helper()
	list, err := c.s.Resources()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(r string) bool {
		// The bridge stays, and so do cgroups that pods have in common; crid's PID is another after a restart.
		return strings.HasSuffix(r, "/contract") || strings.HasSuffix(r, "cni0") || strings.HasSuffix(r, " crid")
	})
}

// nothingLeft checks that all pods are gone, with all that they held. Veth pairs end a moment
// after their namespace.
func (c *criServer) nothingLeft(t *testing.T, before []string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		left := slices.DeleteFunc(stack.Leaked(before, c.resources(t)), func(r string) bool {
			return strings.HasPrefix(r, "cgroup ") && strings.Contains(r, "/contract/") // a kubelet's to remove
		})
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind: %s", strings.Join(left, "\n"))
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestCridKilled: a server that is killed and one that is stopped leave containers alone, and
// the next one knows all that happened meanwhile.
func TestCridKilled(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	t.Cleanup(func() { c.nothingLeft(t, before) })
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			p := c.run(t, c.sandboxConfig(t))
			sandbox, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "end")
			runs, ends, created := script("runs", forever), script("ends", "while [ ! -e "+file+" ]; do sleep 0.05; done; echo last words; exit 9"), script("created", "exit 5")
			ends.Mounts = []*runtimeapi.Mount{{ContainerPath: filepath.Dir(file), HostPath: filepath.Dir(file)}}
			runsID, endsID, createdID := p.start(t, runs), p.start(t, ends), p.create(t, created)
			old := c.status(t, runsID)
			c.restart(t, signal, func() {
				write(t, file, "")
				eventually(limited(t), t, "last words", func() bool { return p.logText(t, ends) == "last words\n" })
			})
			if got := c.status(t, runsID); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || got.GetStartedAt() != old.GetStartedAt() {
				t.Errorf("the container that runs: %v, was %v", got, old)
			}
			if got := c.ended(t, endsID); got.GetExitCode() != 9 || got.GetReason() != "Error" {
				t.Errorf("the container that ended meanwhile: %v", got)
			}
			if _, err := c.StartContainer(limited(t), &runtimeapi.StartContainerRequest{ContainerId: createdID}); err != nil {
				t.Error(err)
			}
			if got := c.ended(t, createdID); got.GetExitCode() != 5 {
				t.Errorf("the container that was only created: %v", got)
			}
			if got := c.sh(t, runsID, "hostname"); got != "a-host" {
				t.Errorf("exec: %q", got)
			}
			again, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
			if err != nil || again.GetStatus().String() != sandbox.GetStatus().String() {
				t.Errorf("sandbox: %v, %v, was %v", again.GetStatus(), err, sandbox.GetStatus())
			}
			p.start(t, script("new", "true"))
			c.stop(t, runsID, 10)
			if got := c.status(t, runsID); got.GetExitCode() != 0 || got.GetReason() != "Completed" {
				t.Errorf("stopped by the new server: %v", got)
			}
		})
	}
}

// TestCridCorruptFiles: what cannot be read is set aside, and found out again.
func TestCridCorruptFiles(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	t.Cleanup(func() { c.nothingLeft(t, before) })
	for _, tc := range []struct{ kind, file string }{
		{"containers", "state.json"}, {"containers", "config.json"}, {"sandboxes", "state.json"}, {"sandboxes", "config.json"},
	} {
		t.Run(tc.kind+"-"+tc.file, func(t *testing.T) {
			config := c.sandboxConfig(t)
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_CONTAINER
			p := c.run(t, config)
			id := p.start(t, script("app", forever))
			sandbox, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(c.s.Dir, "crid", tc.kind, map[string]string{"containers": id, "sandboxes": p.id}[tc.kind], tc.file)
			c.restart(t, syscall.SIGKILL, func() { write(t, path, `{"half`) })
			if _, err := os.Stat(path + ".corrupt"); err != nil {
				t.Error(err)
			}
			if got := c.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || got.GetLabels()["container"] != "app" || got.GetStartedAt() == 0 {
				t.Errorf("container: %v", got)
			}
			again, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
			if err != nil || again.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY ||
				again.GetStatus().GetNetwork().GetIp() != sandbox.GetStatus().GetNetwork().GetIp() || again.GetStatus().GetLabels()["pod"] != config.Labels["pod"] {
				t.Errorf("sandbox: %v, %v, was %v", again, err, sandbox)
			}
			c.stop(t, id, 10)
			if got := c.status(t, id); got.GetExitCode() != 0 || got.GetReason() != "Completed" {
				t.Errorf("stopped: %v", got)
			}
		})
	}
}

// TestCridKilledAtWork: whatever a server was doing when it was killed, the next one has whole
// pods only, and nothing is left of the others.
func TestCridKilledAtWork(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	for _, after := range []time.Duration{5, 20, 40, 80, 150} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var work sync.WaitGroup
		for i := range 4 {
			config := c.sandboxConfig(t)
			if i == 0 {
				config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
			}
			work.Go(func() { // errors are what is expected here
				p, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
				if err != nil {
					return
				}
				made, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.GetPodSandboxId(), Config: script("app", forever), SandboxConfig: config})
				if err == nil {
					_, _ = c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
				}
			})
		}
		time.Sleep(after * time.Millisecond)
		c.restart(t, syscall.SIGKILL, nil)
		cancel()
		work.Wait()
		for _, one := range c.listed(t) {
			kind, id, _ := strings.Cut(one, " ")
			if kind == "container" && c.status(t, id).GetState() == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
				t.Errorf("killed after %d ms: %s is in no state", after, one)
			}
		}
		for _, one := range c.listed(t) {
			if kind, id, _ := strings.Cut(one, " "); kind == "sandbox" {
				(&criPod{criServer: c, id: id}).remove(t)
			}
		}
		if left := c.listed(t); len(left) > 0 {
			t.Errorf("killed after %d ms, and all removed: %v", after, left)
		}
		c.nothingLeft(t, before)
	}
}

// TestCridLostAnswers: asking again for what no answer came for gives the first.
func TestCridLostAnswers(t *testing.T) {
	c := crid(t)
	config := c.sandboxConfig(t)
	for range 3 { // whoever stops waiting does not stop the work
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		cancel()
		wantCode(t, "an impatient caller", err, codes.DeadlineExceeded, codes.OK)
	}
	p := c.run(t, config)
	if again := c.run(t, config); again.id != p.id {
		t.Errorf("another sandbox, %s, beside %s", again.id, p.id)
	}
	id := p.create(t, script("app", forever))
	if again := p.create(t, script("app", forever)); again != id {
		t.Errorf("another container, %s, beside %s", again, id)
	}
	_, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: script("app", "true"), SandboxConfig: config})
	wantCode(t, "another container of the same name", err, codes.AlreadyExists)
	other := c.sandboxConfig(t)
	other.Metadata = config.Metadata
	_, err = c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: other})
	wantCode(t, "another sandbox of the same name", err, codes.AlreadyExists)
}

// TestCridFailures: what fails half way leaves nothing.
func TestCridFailures(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	for what, change := range map[string]func(*runtimeapi.PodSandboxConfig){
		"a sysctl of the node":       func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} },
		"a sysctl that leads out":    func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net/../vm/swappiness": "1"} },
		"a sysctl that is not there": func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.not.there": "1"} },
		"a host IP that is none": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 1, ContainerPort: 1, HostIp: "here"}}
		},
		"a port that is none": func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 1, ContainerPort: 0}}
		},
		"a line break in DNS": func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig.Servers = []string{"1.1.1.1\noptions x"} },
		"bandwidth that is none": func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "lots"}
		},
		"no UID": func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "" },
	} {
		config := c.sandboxConfig(t)
		change(config)
		if made, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
			t.Errorf("%s: no error", what)
			(&criPod{criServer: c, id: made.GetPodSandboxId()}).remove(t)
		}
	}
	p := c.run(t, c.sandboxConfig(t))
	for what, change := range map[string]func(*runtimeapi.ContainerConfig){
		"a log elsewhere":     func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../elsewhere.log" },
		"a program not there": func(c *runtimeapi.ContainerConfig) { c.Command = []string{"/not/there"} },
		"a device of CDI":     func(c *runtimeapi.ContainerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "a.b/c=d"}} },
		"an unknown capability": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		},
		"a mount of nothing": func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x"}} },
		"a target not there": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "nobody"}
		},
		"a part of no image": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: stack.BusyboxImage}, ImageSubPath: "../.."}}
		},
		"an environment of tricks": func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "A=B", Value: []byte("c")}} },
	} {
		config := script("fails", "true")
		change(config)
		if _, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(p.config.LogDirectory)), "elsewhere.log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a log outside the pod's directory: %v", err)
	}
	p.remove(t)
	if left := c.listed(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	c.nothingLeft(t, before)
}

// TestCridKilledConmon: a container that has lost its keeper is ended and said to be.
func TestCridKilledConmon(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	id := p.start(t, script("app", forever))
	pid := read(t, filepath.Join(c.s.Dir, "run", "crid", "containers", id, "conmon.pid"))
	var conmon int
	if _, err := fmt.Sscan(pid, &conmon); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(conmon, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := c.ended(t, id); got.GetExitCode() != 137 {
		t.Errorf("%v", got)
	}
}

// TestCridImageVolume: an image as a volume, whole and in part.
func TestCridImageVolume(t *testing.T) {
	c := crid(t)
	p := c.run(t, c.sandboxConfig(t))
	config := script("app", "ls -d /image/bin/busybox /part/busybox; touch /image/x 2>/dev/null || echo no")
	image := &runtimeapi.ImageSpec{Image: stack.BusyboxImage}
	config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Image: image}, {ContainerPath: "/part", Image: image, ImageSubPath: "bin"}}
	if got := p.output(t, config); got != "/image/bin/busybox\n/part/busybox\nno" {
		t.Errorf("%q", got)
	}
}
