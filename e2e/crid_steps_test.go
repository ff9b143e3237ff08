package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/e2e/stack"
	"minikubelet/runtime/criserver"
)

// dyingCrid is what the test's program is called when it is to be a CRI server that kills itself before the step that a
// file beside its directory names, as kill -9 would.
const (
	dyingCrid = "dying-crid"
	dieAt     = "die-at"
)

// runDyingCrid is cmd/crid with that addition.
func runDyingCrid(args []string) error {
	o := criserver.Options{CgroupManager: criserver.Cgroupfs, StreamAddress: "127.0.0.1:0"}
	flags := pflag.NewFlagSet(dyingCrid, pflag.ContinueOnError)
	address := flags.String("listen", "", "")
	flags.StringVar(&o.Root, "root", "", "")
	flags.StringVar(&o.State, "state", "", "")
	flags.StringVar(&o.CgroupParent, "cgroup-parent", "", "")
	o.AddFlags(flags, "")
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	flags.AddGoFlag(klogFlags.Lookup("v"))
	if err := flags.Parse(args); err != nil {
		return err
	}
	file := filepath.Join(filepath.Dir(o.Root), dieAt)
	o.Step = func(name string) {
		if at, err := os.ReadFile(file); err == nil && string(at) == name {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	listener, release, err := criserver.Listen(*address)
	if err != nil {
		return err
	}
	defer release()
	server, err := criserver.New(context.Background(), o)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), listener)
}

// stepServer is a CRI server that can be told where to die.
type stepServer struct {
	*criServer
	before []string
}

func startDyingCrid(t *testing.T) *stepServer {
	t.Helper()
	onStack(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), dyingCrid)
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	return ownCrid(t, stack.Options{CridBinary: link})
}

// ownCrid starts a CRI server that no other test uses.
func ownCrid(t *testing.T, o stack.Options) *stepServer {
	t.Helper()
	ctx := onStack(t)
	o.Runtime, o.NoControlPlane = stack.Crid, true
	s, err := stack.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &stepServer{criServer: newCRIServer(t, s, stack.Crid)}
	c.before = c.held(t)
	return c
}

// held is all that the server holds: mounts, cgroups of containers, processes, interfaces, addresses, directories.
func (c *stepServer) held(t *testing.T) []string {
	t.Helper()
	list := slices.DeleteFunc(c.resources(t), func(r string) bool {
		// The cgroups of pods are a kubelet's to remove; those of containers, which are named by an ID, are the server's.
		return strings.HasPrefix(r, "cgroup ") && len(filepath.Base(r)) != 64 || strings.HasSuffix(r, " "+dyingCrid)
	})
	ipam, err := os.ReadDir(filepath.Join(c.s.Dir, "ipam", c.s.Name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, entry := range ipam {
		if strings.HasPrefix(entry.Name(), "10.") {
			list = append(list, "address "+entry.Name())
		}
	}
	for _, dir := range []string{"crid/sandboxes", "crid/containers", "crid/cni", "crid/images/snapshots", "crid/images/tmp", "run/crid/sandboxes", "run/crid/containers", "run/crid/runtimes/runc"} {
		entries, err := os.ReadDir(filepath.Join(c.s.Dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, entry := range entries {
			list = append(list, "directory "+dir+"/"+entry.Name())
		}
	}
	return list
}

// clean waits until nothing is held any more: veth pairs end a moment after their namespace.
func (c *stepServer) clean(t *testing.T, before []string) (left []string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = stack.Leaked(before, c.held(t)); len(left) == 0 {
			return nil
		}
	}
	return left
}

// dieIn kills the server before a step of what a call does, and starts the next one.
func (c *stepServer) dieIn(t *testing.T, step string, call func(context.Context) error) {
	t.Helper()
	file := filepath.Join(c.s.Dir, dieAt)
	write(t, file, step)
	process := c.s.Component(stack.Crid)
	err := call(limited(t))
	select {
	case <-process.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("%s was never reached: %v", step, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := c.s.StartComponent(limited(t), stack.Crid); err != nil {
		t.Fatal(err)
	}
}

// rows of the table that the test prints.
type stepVerdict struct{ step, verdict string }

// judge says what became of what the server was at: gone, with all that it held, or taken over and whole.
func (c *stepServer) judge(t *testing.T, step string) stepVerdict {
	t.Helper()
	verdict := "gone"
	if listed := c.listed(t); len(listed) > 0 {
		verdict = "taken over: " + c.whole(t)
		for _, one := range listed {
			if kind, id, _ := strings.Cut(one, " "); kind == "sandbox" {
				(&criPod{criServer: c.criServer, id: id}).remove(t)
			}
		}
	}
	if left := c.clean(t, c.before); len(left) > 0 {
		t.Errorf("killed at %s, it left %s", step, strings.Join(left, ", "))
		verdict = fmt.Sprintf("%s, and left %d things", verdict, len(left))
	}
	return stepVerdict{step, verdict}
}

// whole checks that what was taken over does what it says, and names it.
func (c *stepServer) whole(t *testing.T) string {
	t.Helper()
	sandboxes, err := c.ListPodSandbox(limited(t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, sb := range sandboxes.GetItems() {
		found = append(found, sb.GetState().String())
		if sb.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || len(c.listed(t)) > 1 {
			continue
		}
		config := script("probe", "true")
		config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		made, err := c.CreateContainer(limited(t), &runtimeapi.CreateContainerRequest{PodSandboxId: sb.GetId(), Config: config, SandboxConfig: &runtimeapi.PodSandboxConfig{}})
		if err != nil {
			t.Errorf("a container in the sandbox that was taken over: %v", err)
			continue
		}
		if _, err := c.StartContainer(limited(t), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
			t.Errorf("start a container in the sandbox that was taken over: %v", err)
		}
	}
	containers, err := c.ListContainers(limited(t), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range containers.GetContainers() {
		if one.GetMetadata().GetName() == "probe" {
			continue
		}
		found = append(found, one.GetState().String())
		switch one.GetState() {
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			if _, err := c.StartContainer(limited(t), &runtimeapi.StartContainerRequest{ContainerId: one.GetId()}); err != nil {
				t.Errorf("start the container that was taken over: %v", err)
			}
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			c.sh(t, one.GetId(), "true")
		case runtimeapi.ContainerState_CONTAINER_EXITED:
		default:
			t.Errorf("container in state %s", one.GetState())
		}
	}
	return strings.ToLower(strings.NewReplacer("SANDBOX_", "sandbox ", "CONTAINER_", "container ").Replace(strings.Join(found, ", ")))
}

// TestCridKilledAtEachStep: wherever a server is killed while it makes or removes a sandbox or a container, the next one
// has it whole, or nothing of it.
func TestCridKilledAtEachStep(t *testing.T) {
	c := startDyingCrid(t)
	var table []stepVerdict
	t.Cleanup(func() {
		for _, row := range table {
			t.Logf("%-32s %s", row.step, row.verdict)
		}
	})
	sandbox := func() *runtimeapi.PodSandboxConfig { return c.sandboxConfig(t) }
	sharing := func() *runtimeapi.PodSandboxConfig { // with a pause process
		config := c.sandboxConfig(t)
		config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return config
	}
	app := func() *runtimeapi.ContainerConfig { // with image mounts, and a pause process that it is the first to need
		config := script("app", forever)
		image := &runtimeapi.ImageSpec{Image: stack.BusyboxImage}
		config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Image: image}, {ContainerPath: "/part", Image: image, ImageSubPath: "bin"}}
		config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		return config
	}
	runPod := func(config *runtimeapi.PodSandboxConfig) *criPod {
		made, err := c.RunPodSandbox(limited(t), &runtimeapi.RunPodSandboxRequest{Config: config})
		if err != nil {
			t.Fatal(err)
		}
		return &criPod{c.criServer, config, made.GetPodSandboxId()}
	}
	for _, step := range []string{"1", "2", "3", "4", "4 end", "5", "6", "7", "startPause: mount", "startPause: create", "startPause: start", "startPause: record", "8", "end"} {
		if !strings.HasPrefix(step, "startPause") {
			step = "RunPodSandbox " + step
		}
		c.dieIn(t, step, func(ctx context.Context) error {
			_, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sharing()})
			return err
		})
		table = append(table, c.judge(t, step))
	}
	p := runPod(sandbox())
	withPod := c.held(t)
	for _, step := range []string{"1", "2", "3", "4", "5", "startPause: mount", "startPause: create", "startPause: start", "startPause: record", "6", "7", "end"} {
		config := app()
		if !strings.HasPrefix(step, "startPause") {
			step = "CreateContainer " + step
			config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_CONTAINER // the pause process would stay
		}
		c.dieIn(t, step, func(ctx context.Context) error {
			_, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
			return err
		})
		if len(c.listed(t)) > 1 {
			continue // the last one, which is judged with its sandbox
		}
		row := stepVerdict{step, "gone"}
		if left := c.clean(t, withPod); len(left) > 0 {
			t.Errorf("killed at %s, it left %s", step, strings.Join(left, ", "))
			row.verdict = fmt.Sprintf("left %d things", len(left))
		}
		table = append(table, row)
	}
	table = append(table, c.judge(t, "CreateContainer end"))
	for _, step := range []string{
		"StopPodSandbox 1", "StopPodSandbox 2", "StopPodSandbox 3", "destroy sandbox: network", "RemovePodSandbox 2", "destroy container: mounts",
		"destroy container: bundle", "destroy container: record", "RemovePodSandbox 3", "destroy sandbox: files", "destroy sandbox: record", "RemovePodSandbox end",
	} {
		p := runPod(sandbox())
		p.start(t, app())
		c.dieIn(t, step, func(ctx context.Context) error {
			_, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
			return err
		})
		table = append(table, c.judge(t, step))
	}
}
