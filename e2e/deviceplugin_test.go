package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"minikubelet/e2e/stack"
)

// devicePlugin is a running e2e/cmd/deviceplugin.
type devicePlugin struct {
	cmd   *exec.Cmd
	stdin io.Writer

	mu    sync.Mutex
	calls []string
}

var buildDevicePlugin = sync.OnceValues(func() (string, error) {
	program := filepath.Join(shared.Dir, "deviceplugin")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", program, "minikubelet/e2e/cmd/deviceplugin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return program, nil
})

// startDevicePlugin starts a plugin, which ends with the test.
func startDevicePlugin(t *testing.T, args ...string) *devicePlugin {
	t.Helper()
	program, err := buildDevicePlugin()
	if err != nil {
		t.Fatal(err)
	}
	p := &devicePlugin{cmd: exec.Command(program, args...)}
	p.cmd.Stderr = t.Output()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.calls = append(p.calls, lines.Text())
			p.mu.Unlock()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the plugin as a crash does.
func (p *devicePlugin) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// tell changes what the plugin says of its devices.
func (p *devicePlugin) tell(ctx context.Context, t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, line); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the plugin does as told", func() bool { return p.heard("told: " + line) })
}

func (p *devicePlugin) heard(call string) bool { return p.count(call) > 0 }

// count is how often the plugin heard a call.
func (p *devicePlugin) count(call string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, heard := range p.calls {
		if heard == call {
			n++
		}
	}
	return n
}

// withDevices gives containers a number of devices each.
func withDevices(pod *corev1.Pod, name string, counts ...int64) *corev1.Pod {
	for i, count := range counts {
		list := corev1.ResourceList{corev1.ResourceName(name): *resource.NewQuantity(count, resource.DecimalSI)}
		pod.Spec.Containers[i].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
	}
	return pod
}

// devicesAre waits until the node has so many devices, of which pods can have so many.
func devicesAre(ctx context.Context, t *testing.T, name string, capacity, allocatable int64) {
	t.Helper()
	var all, some resource.Quantity
	if _, err := shared.WaitNode(ctx, fmt.Sprintf("%d of %d devices", allocatable, capacity), func(n *corev1.Node) bool {
		all, some = n.Status.Capacity[corev1.ResourceName(name)], n.Status.Allocatable[corev1.ResourceName(name)]
		return all.Value() == capacity && some.Value() == allocatable
	}); err != nil {
		t.Fatalf("%v; it has %v of %v", err, some.Value(), all.Value())
	}
}

// podResources connects to the kubelet's service.
func podResources(t *testing.T, s *stack.Stack) podresourcesapi.PodResourcesListerClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(s.RootDir(), "pod-resources", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return podresourcesapi.NewPodResourcesListerClient(conn)
}

// assigned are the devices of a pod's container, as PodResources tells once the kubelet knows all its pods.
func assigned(ctx context.Context, t *testing.T, client podresourcesapi.PodResourcesListerClient, pod *corev1.Pod, container string) string {
	t.Helper()
	var response *podresourcesapi.GetPodResourcesResponse
	var err error
	eventually(ctx, t, "the kubelet knows all its pods", func() bool {
		response, err = client.Get(ctx, &podresourcesapi.GetPodResourcesRequest{PodNamespace: pod.Namespace, PodName: pod.Name}, grpc.WaitForReady(true))
		return status.Code(err) != codes.Unavailable
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range response.GetPodResources().GetContainers() {
		for _, d := range c.GetDevices() {
			if c.GetName() == container {
				ids = append(ids, d.GetDeviceIds()...)
			}
		}
	}
	return strings.Join(ids, ",")
}

// health is what the pod's status tells of the only device of its first container.
func health(p *corev1.Pod) corev1.ResourceHealthStatus {
	if len(p.Status.ContainerStatuses) == 0 || len(p.Status.ContainerStatuses[0].AllocatedResourcesStatus) != 1 {
		return ""
	}
	return p.Status.ContainerStatuses[0].AllocatedResourcesStatus[0].Resources[0].Health
}

// TestDevicePlugin: a container gets its device with all that goes with it, and keeps it when the kubelet and the plugin start
// again; the node's numbers, the pod's status and PodResources follow the plugin.
func TestDevicePlugin(t *testing.T) {
	ctx, s := node(t)
	const name, others = "example.com/device", "example.com/others"
	share := filepath.Join(t.TempDir(), "share")
	write(t, share, "shared by the plugin\n")
	dir := filepath.Join(s.RootDir(), "device-plugins")
	args := []string{"-dir=" + dir, "-resource=" + name, "-share=" + share, "-prepare"}
	p := startDevicePlugin(t, args...)
	devicesAre(ctx, t, name, 2, 2)
	if _, err := s.Client.CoreV1().Nodes().Patch(ctx, s.NodeName, types.MergePatchType, []byte(`{"status":{"capacity":{"`+others+`":"7"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = s.Client.CoreV1().Nodes().Patch(context.WithoutCancel(ctx), s.NodeName, types.MergePatchType, []byte(`{"status":{"capacity":{"`+others+`":null}}}`), metav1.PatchOptions{}, "status")
	})
	devicesAre(ctx, t, others, 7, 7)

	// 1. A pod, with an init container that has the same device before.
	script := `test -c /dev/$DEVICES && head -c 1 /dev/$DEVICES | wc -c && cat ` + share + ` && echo has $DEVICES`
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", script+" && exec sleep 1000")
	pod.Spec.InitContainers = []corev1.Container{shell("init", script)}
	withDevices(pod, name, 1)
	pod.Spec.InitContainers[0].Resources = pod.Spec.Containers[0].Resources
	pod = ready(ctx, t, pod)
	for _, container := range []string{"init", "app"} {
		eventually(ctx, t, container+" has its device", func() bool {
			return logs(t, pod, container, 0) == "1\nshared by the plugin\nhas dev-1\n"
		})
	}
	if !p.heard("Allocate dev-1") || !p.heard("PreStartContainer dev-1") {
		t.Errorf("the plugin heard %q", p.calls)
	}
	client := podResources(t, s)
	if got := assigned(ctx, t, client, pod, "app"); got != "dev-1" {
		t.Errorf("PodResources.Get tells of %q", got)
	}

	// 2. Its health.
	p.tell(ctx, t, "health dev-1 Unhealthy")
	devicesAre(ctx, t, name, 2, 1)
	until(ctx, t, pod, "unhealthy device", func(p *corev1.Pod) bool { return health(p) == corev1.ResourceHealthStatusUnhealthy })
	all, err := client.GetAllocatableResources(ctx, &podresourcesapi.AllocatableResourcesRequest{})
	if err != nil || len(all.GetDevices()) != 1 || all.GetDevices()[0].GetDeviceIds()[0] != "dev-2" || len(all.GetCpuIds()) != 0 {
		t.Errorf("GetAllocatableResources: %v, %v", all, err)
	}
	p.tell(ctx, t, "health dev-1 Healthy")
	until(ctx, t, pod, "healthy device", func(p *corev1.Pod) bool { return health(p) == corev1.ResourceHealthStatusHealthy })

	// 3. The kubelet starts again: the plugin registers again, the pod goes on.
	stopKubelet(t)
	startKubelet(ctx, t, options)
	eventually(ctx, t, "the plugin registers again", func() bool { return p.count("ListAndWatch") == 2 })
	devicesAre(ctx, t, name, 2, 2)
	if got := assigned(ctx, t, podResources(t, s), pod, "app"); got != "dev-1" {
		t.Errorf("after the kubelet's restart PodResources.Get tells of %q", got)
	}
	if again, err := s.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{}); err != nil || restarts(again) != 0 || again.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod did not go on: %+v, %v", again.Status, err)
	}

	// 4. The plugin ends, and another takes its place.
	p.kill()
	devicesAre(ctx, t, name, 2, 0)
	devicesAre(ctx, t, others, 7, 7)
	startDevicePlugin(t, args...)
	devicesAre(ctx, t, name, 2, 2)
}

// TestDevicesRefused: a pod that cannot have its devices is refused as it would be upstream.
func TestDevicesRefused(t *testing.T) {
	ctx, s := node(t)
	const name = "example.com/scarce"
	p := startDevicePlugin(t, "-dir="+filepath.Join(s.RootDir(), "device-plugins"), "-resource="+name, "-devices=only")
	devicesAre(ctx, t, name, 1, 1)
	greedy := phase(ctx, t, create(ctx, t, withDevices(newPod(t), name, 2)), corev1.PodFailed)
	if greedy.Status.Reason != "OutOf"+name || !strings.Contains(greedy.Status.Message, "Node didn't have enough resource: "+name+", requested: 2, used: 0, capacity: 1") {
		t.Errorf("a pod that asks for too many is refused with %s: %s", greedy.Status.Reason, greedy.Status.Message)
	}
	p.tell(ctx, t, "fail Allocate")
	failed := phase(ctx, t, create(ctx, t, withDevices(newPod(t), name, 1)), corev1.PodFailed)
	want := "Pod was rejected: Allocate failed due to rpc error: code = Unknown desc = Allocate fails as it was told, which is unexpected"
	if failed.Status.Reason != "UnexpectedAdmissionError" || failed.Status.Message != want || len(failed.Status.ContainerStatuses) != 0 {
		t.Errorf("a pod whose plugin fails is refused with %s: %s; %v", failed.Status.Reason, failed.Status.Message, failed.Status.ContainerStatuses)
	}
	if message := event(ctx, t, failed.Name, "UnexpectedAdmissionError"); !strings.HasPrefix(message, "Allocate failed due to ") {
		t.Errorf("the event says %q", message)
	}
	p.tell(ctx, t, "works Allocate")
	ready(ctx, t, withDevices(newPod(t), name, 1))
	if _, err := os.Stat(filepath.Join(s.RootDir(), "pods", string(failed.UID), "containers")); err == nil {
		t.Error("something of the refused pod was begun")
	}
}

// TestDevicePluginFound: the watcher of plugins brings a device plugin as it brings CSI drivers.
func TestDevicePluginFound(t *testing.T) {
	ctx, s := node(t)
	const name = "example.com/found"
	registry := filepath.Join(s.RootDir(), "plugins_registry")
	t.Cleanup(func() { removeFile(t, filepath.Join(registry, "example.com_found.sock")) }) // a plugin that is killed leaves it
	p := startDevicePlugin(t, "-dir="+registry, "-resource="+name, "-watched", "-devices=one")
	devicesAre(ctx, t, name, 1, 1)
	eventually(ctx, t, "the plugin hears that it is registered", func() bool { return p.heard("Registered true") })
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "echo $DEVICES")
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod = phase(ctx, t, create(ctx, t, withDevices(pod, name, 1)), corev1.PodSucceeded)
	if got := logs(t, pod, "app", 0); got != "one\n" {
		t.Errorf("the container has %q", got)
	}
}

// TestDevicePluginCDI: what a file of CDI says of a device that a plugin names reaches the container. A device that no file
// describes keeps the container from being created until one does.
func TestDevicePluginCDI(t *testing.T) {
	ctx, s := node(t)
	const name = "example.com/described"
	startDevicePlugin(t, "-dir="+filepath.Join(s.RootDir(), "device-plugins"), "-resource="+name, "-devices=one", "-cdi="+name)
	devicesAre(ctx, t, name, 1, 1)
	pod := newPod(t)
	pod.Spec.Containers[0] = shell("app", "test -c /dev/described && head -c 1 /dev/described | wc -c && echo $DESCRIBED && exec sleep 1000")
	pod = waitingFor(ctx, t, create(ctx, t, withDevices(pod, name, 1)), "CreateContainerError")
	if message := pod.Status.ContainerStatuses[0].State.Waiting.Message; !strings.Contains(message, name+"=one") {
		t.Errorf("the container waits with %q", message)
	}
	if err := os.MkdirAll(s.CDIDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.CDIDir(), "described.json")
	write(t, file, `{"cdiVersion": "0.6.0", "kind": "`+name+`", "devices": [{"name": "one", "containerEdits": {
		"env": ["DESCRIBED=yes"], "deviceNodes": [{"path": "/dev/described", "hostPath": "/dev/zero"}]}}]}`)
	t.Cleanup(func() { removeFile(t, file) })
	pod, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name)
	if err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "the container has its device", func() bool { return logs(t, pod, "app", 0) == "1\nyes\n" })
}
