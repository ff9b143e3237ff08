package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// limited is a context that a call which never ends does not outlive, and that cleanups may use.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second) //nolint:usetesting // for cleanups, too
	t.Cleanup(cancel)
	return ctx
}

// criServer is a CRI server under test.
type criServer struct {
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	s      *stack.Stack
	name   string
}

var cridStack struct {
	once sync.Once
	s    *stack.Stack
	err  error
}

// crid starts a stack with this project's CRI server, once for all tests that want one.
func crid(t *testing.T) *criServer {
	t.Helper()
	ctx := onStack(t)
	cridStack.once.Do(func() {
		// Not the test's context: the stack serves others, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		cridStack.s, cridStack.err = stack.Start(ctx, stack.Options{Runtime: stack.Crid, NoControlPlane: true})
	})
	if cridStack.err != nil {
		t.Fatal(cridStack.err)
	}
	return newCRIServer(t, cridStack.s, stack.Crid)
}

// closeCrid is what TestMain ends with.
func closeCrid() error {
	if cridStack.s == nil {
		return nil
	}
	return cridStack.s.Close()
}

func newCRIServer(t *testing.T, s *stack.Stack, name string) *criServer {
	t.Helper()
	c := &criServer{runtimeapi.NewRuntimeServiceClient(s.CRI), runtimeapi.NewImageServiceClient(s.CRI), s, name}
	for _, image := range []string{stack.PauseImage, stack.BusyboxImage} {
		if _, err := c.images.PullImage(limited(t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, s.Component(name).LogTail(30))
		}
	})
	return c
}

// onRuntimes runs a test against both CRI servers.
func onRuntimes(t *testing.T, test func(*testing.T, *criServer)) {
	t.Run(stack.Containerd, func(t *testing.T) {
		onStack(t)
		if shared.Component(stack.Containerd) == nil {
			t.Skip("the stack has another runtime")
		}
		test(t, newCRIServer(t, shared, stack.Containerd))
	})
	t.Run(stack.Crid, func(t *testing.T) { test(t, crid(t)) })
}

// criPod is a sandbox with the configuration it was made by.
type criPod struct {
	*criServer
	config *runtimeapi.PodSandboxConfig
	id     string
}

// sandboxConfig asks for what a kubelet would ask for.
func (c *criServer) sandboxConfig(t *testing.T) *runtimeapi.PodSandboxConfig {
	name := podName(t)
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "contract", Uid: name + "-uid"}, Hostname: "a-host",
		LogDirectory: filepath.Join(c.s.PodLogsDir(), name), Labels: map[string]string{"pod": name}, Annotations: map[string]string{"note": "kept"},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    "/" + c.s.CgroupName() + "/contract/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
		},
	}
}

// run makes a sandbox, which is removed when the test ends.
func (c *criServer) run(t *testing.T, config *runtimeapi.PodSandboxConfig) *criPod {
	t.Helper()
	made, err := c.RunPodSandbox(limited(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	p := &criPod{c, config, made.GetPodSandboxId()}
	t.Cleanup(func() { p.remove(t) })
	return p
}

func (p *criPod) remove(t *testing.T) {
	t.Helper()
	ctx := limited(t)
	if _, err := p.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Error(err)
	}
	if _, err := p.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Error(err)
	}
}

// script is a container that runs a shell script.
func script(name, text string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: stack.BusyboxImage},
		Command: []string{"sh", "-c", text}, LogPath: name + ".log", Labels: map[string]string{"container": name},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			},
		},
	}
}

// forever does nothing until it is asked to end.
const forever = "trap 'exit 0' TERM; while :; do sleep 0.1; done"

func (p *criPod) create(t *testing.T, config *runtimeapi.ContainerConfig) string {
	t.Helper()
	made, err := p.CreateContainer(limited(t), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		t.Fatal(err)
	}
	return made.GetContainerId()
}

func (p *criPod) start(t *testing.T, config *runtimeapi.ContainerConfig) string {
	t.Helper()
	id := p.create(t, config)
	if _, err := p.StartContainer(limited(t), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	return id
}

func (c *criServer) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	s, err := c.ContainerStatus(limited(t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return s.GetStatus()
}

// ended waits for a container's end.
func (c *criServer) ended(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	eventually(limited(t), t, "the container ends", func() bool {
		return c.status(t, id).GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return c.status(t, id)
}

func (c *criServer) stop(t *testing.T, id string, grace int64) {
	t.Helper()
	if _, err := c.StopContainer(limited(t), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
		t.Fatal(err)
	}
}

// sh runs a script in a container and returns its output.
func (c *criServer) sh(t *testing.T, id, text string) string {
	t.Helper()
	r, err := c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", text}, Timeout: 20})
	if err != nil {
		t.Fatal(err)
	}
	if r.GetExitCode() != 0 {
		t.Fatalf("%s: exit code %d: %s", text, r.GetExitCode(), r.GetStderr())
	}
	return strings.TrimSpace(string(r.GetStdout()))
}

// output runs a container that prints something and ends.
func (p *criPod) output(t *testing.T, config *runtimeapi.ContainerConfig) string {
	t.Helper()
	id := p.start(t, config)
	if got := p.ended(t, id); got.GetExitCode() != 0 {
		t.Errorf("%s ended with %d: %s", config.Metadata.Name, got.GetExitCode(), p.logText(t, config))
	}
	return strings.TrimSpace(p.logText(t, config))
}

func (p *criPod) logPath(config *runtimeapi.ContainerConfig) string {
	return filepath.Join(p.config.LogDirectory, config.LogPath)
}

// logText is a log without the time, stream and tag of each line.
func (p *criPod) logText(t *testing.T, config *runtimeapi.ContainerConfig) string {
	t.Helper()
	data, err := os.ReadFile(p.logPath(config))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	} else if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) != 4 || parts[1] != "stdout" && parts[1] != "stderr" || parts[2] != "F" && parts[2] != "P" {
			t.Fatalf("log line %q is not in the CRI's format", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, parts[0]); err != nil {
			t.Fatal(err)
		}
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		text.WriteString(parts[3])
	}
	return text.String()
}

// wantCode checks the gRPC code of an error.
func wantCode(t *testing.T, what string, err error, want ...codes.Code) {
	t.Helper()
	for _, code := range want {
		if status.Code(err) == code {
			return
		}
	}
	t.Errorf("%s: %v, want %v", what, err, want)
}

// reach makes an address inside the stack's network namespace reachable for clients that cannot
// be told how to connect, and returns the URL to use instead.
func (c *criServer) reach(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	inside := u.Host
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := c.s.DialContext(context.Background(), "tcp", inside)
			if err != nil {
				client.Close()
				continue
			}
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			go func() { _, _ = io.Copy(client, server); client.Close() }()
		}
	}()
	u.Host = listener.Addr().String()
	return u
}

// listed are the IDs of all sandboxes and containers.
func (c *criServer) listed(t *testing.T) []string {
	t.Helper()
	sandboxes, err := c.ListPodSandbox(limited(t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	containers, err := c.ListContainers(limited(t), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, sandbox := range sandboxes.GetItems() {
		ids = append(ids, fmt.Sprint("sandbox ", sandbox.GetId()))
	}
	for _, container := range containers.GetContainers() {
		ids = append(ids, fmt.Sprint("container ", container.GetId()))
	}
	return ids
}
