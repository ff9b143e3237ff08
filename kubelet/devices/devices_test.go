package devices

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"minikubelet/e2e/devicestest"
	"minikubelet/runtime/allocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gpu = "example.com/gpu"

// bench is a running manager and what it tells.
type bench struct {
	*Manager
	root    string
	store   *allocation.Store
	ended   sync.Map // pods that are not active
	changed chan struct{}
	health  chan types.UID
	stop    func()
}

func newBench(t *testing.T, root string) *bench {
	t.Helper()
	b := &bench{root: root, store: allocation.New(filepath.Join(root, "pods")), changed: make(chan struct{}, 1000), health: make(chan types.UID, 100)}
	var err error
	b.Manager, err = New(Options{
		Dir: filepath.Join(root, "device-plugins"), Records: b.store,
		Changed: func() { b.changed <- struct{}{} }, HealthChanged: func(uid types.UID) { b.health <- uid },
	})
	if err != nil {
		t.Log(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx, func(uid types.UID) bool { _, ended := b.ended.Load(uid); return !ended })
	}()
	b.stop = sync.OnceFunc(func() { cancel(); <-done; b.store.Wait(context.Background()) })
	t.Cleanup(b.stop)
	return b
}

// TestCannotRegister: where plugins cannot register, the health check says so.
func TestCannotRegister(t *testing.T) {
	root := t.TempDir()
	if err := newBench(t, root).Check(); err != nil {
		t.Error(err)
	}
	root = t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "device-plugins"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, root)
	b.stop()
	if err := b.Check(); err == nil || !strings.Contains(err.Error(), "no device plugins can register") {
		t.Errorf("in the place of its directory is a file: %v", err)
	}
}

// heard collects a plugin's calls.
type heard struct {
	mu    sync.Mutex
	calls []string
}

func (h *heard) add(call string) { h.mu.Lock(); defer h.mu.Unlock(); h.calls = append(h.calls, call) }

func (h *heard) of(method string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.calls), func(c string) bool { return !strings.HasPrefix(c, method) })
}

func healthy(ids ...string) []*pluginapi.Device {
	var devices []*pluginapi.Device
	for _, id := range ids {
		devices = append(devices, &pluginapi.Device{ID: id, Health: pluginapi.Healthy})
	}
	return devices
}

// plug registers a plugin and waits until so many of its devices are healthy.
func (b *bench) plug(t *testing.T, p *devicestest.Plugin, endpoint string, want int64) (stop func()) {
	t.Helper()
	var err error
	eventually(t, "the kubelet listens", func() bool { _, err := os.Stat(filepath.Join(b.opts.Dir, "kubelet.sock")); return err == nil })
	stop, err = p.Serve(filepath.Join(b.opts.Dir, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(stop)
	t.Cleanup(stop)
	if err := p.Register(t.Context(), b.opts.Dir, endpoint); err != nil {
		t.Fatal(err)
	}
	b.wait(t, p.Resource, -1, want)
	return stop
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// wait waits for a capacity, unless that is negative, and what is allocatable.
func (b *bench) wait(t *testing.T, name string, capacity, allocatable int64) {
	t.Helper()
	var c, a corev1.ResourceList
	eventually(t, "the numbers of "+name, func() bool {
		c, a = b.Capacity()
		all, some := c[corev1.ResourceName(name)], a[corev1.ResourceName(name)]
		return (capacity < 0 || all.Value() == capacity) && some.Value() == allocatable
	})
}

// container asks for so many devices of a resource.
func container(name, of string, count int64) corev1.Container {
	list := corev1.ResourceList{corev1.ResourceName(of): *resource.NewQuantity(count, resource.DecimalSI), corev1.ResourceCPU: resource.MustParse("1")}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list, Limits: list}}
}

// admit has the pod recorded as the sync loop does, and assigns its devices.
func (b *bench) admit(t *testing.T, name string, init []corev1.Container, regular ...corev1.Container) (*corev1.Pod, error) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PodSpec{InitContainers: init, Containers: regular}}
	if _, err := b.store.Recall(pod); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Allocate(pod); err != nil {
		t.Fatal(err)
	}
	return pod, b.Allocate(t.Context(), pod)
}

// ids are the devices of a container.
func (b *bench) ids(pod *corev1.Pod, container string) string {
	var ids []string
	for _, d := range b.Devices(pod.UID, container) {
		ids = append(ids, d.GetDeviceIds()...)
	}
	return strings.Join(ids, ",")
}

// TestAllocate: a container gets devices that no other has; a pod is refused when there are too few; those of an ended pod are free again.
func TestAllocate(t *testing.T) {
	b := newBench(t, t.TempDir())
	var calls heard
	p := &devicestest.Plugin{Resource: gpu, Heard: calls.add}
	p.Set(healthy("a", "b", "c")...)
	p.Set(&pluginapi.Device{ID: "sick", Health: pluginapi.Unhealthy})
	b.plug(t, p, "gpu.sock", 3)
	b.wait(t, gpu, 4, 3)
	one, err := b.admit(t, "one", nil, container("x", gpu, 1), container("y", gpu, 1))
	if err != nil || b.ids(one, "x") != "a" || b.ids(one, "y") != "b" {
		t.Fatalf("the first pod has %q and %q, %v", b.ids(one, "x"), b.ids(one, "y"), err)
	}
	if _, err := b.admit(t, "two", nil, container("x", gpu, 2)); err == nil ||
		err.Error() != "Allocate failed due to requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1, which is unexpected" {
		t.Errorf("a pod that asks for too many: %v", err)
	}
	b.ended.Store(types.UID("one"), true)
	two, err := b.admit(t, "two", nil, container("x", gpu, 2))
	if err != nil || b.ids(two, "x") != "a,b" {
		t.Errorf("with the ended pod's devices: %q, %v", b.ids(two, "x"), err)
	}
	if again, err := b.admit(t, "two", nil, container("x", gpu, 2)); err != nil || b.ids(again, "x") != "a,b" || len(calls.of("Allocate")) != 3 {
		t.Errorf("asked again: %q, %v; the plugin heard %q", b.ids(again, "x"), err, calls.of(""))
	}
	if none, err := b.admit(t, "none", nil, container("x", "example.com/other", 5)); err != nil || b.ids(none, "x") != "" {
		t.Errorf("a resource of no plugin: %v", err)
	}
	p.Fail("Allocate", errors.New("no power"))
	if _, err := b.admit(t, "three", nil, container("x", gpu, 1)); err == nil || !strings.Contains(err.Error(), "no power") {
		t.Errorf("a plugin that fails: %v", err)
	}
	p.Fail("Allocate", nil)
	if three, err := b.admit(t, "three", nil, container("x", gpu, 1)); err != nil || b.ids(three, "x") != "c" {
		t.Errorf("after it failed: %q, %v", b.ids(three, "x"), err)
	}
}

// TestInitContainers: what an init container had is used again by those after it, but not what a sidecar has.
func TestInitContainers(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &devicestest.Plugin{Resource: gpu}
	p.Set(healthy("a", "b", "c", "d")...)
	b.plug(t, p, "gpu.sock", 4)
	sidecar := container("side", gpu, 1)
	sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	pod, err := b.admit(t, "pod", []corev1.Container{container("i1", gpu, 3), sidecar, container("i2", gpu, 1)}, container("x", gpu, 2), container("y", gpu, 1))
	got := []string{b.ids(pod, "i1"), b.ids(pod, "side"), b.ids(pod, "i2"), b.ids(pod, "x"), b.ids(pod, "y")}
	if want := []string{"a,b,c", "a", "b", "b,c", "d"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the containers have %q, want %q, %v", got, want, err)
	}
}

// TestPreferred: the plugin's choice counts, as far as it can be had.
func TestPreferred(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &devicestest.Plugin{
		Resource: gpu, Options: pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true},
		Prefer: func(available, _ []string, _ int) []string { return []string{"nonsense", available[len(available)-1]} },
	}
	p.Set(healthy("a", "b", "c")...)
	b.plug(t, p, "gpu.sock", 3)
	if pod, err := b.admit(t, "pod", nil, container("x", gpu, 2)); err != nil || b.ids(pod, "x") != "c,a" {
		t.Errorf("the pod has %q, %v", b.ids(pod, "x"), err)
	}
	p.Fail("GetPreferredAllocation", errors.New("undecided"))
	if _, err := b.admit(t, "two", nil, container("x", gpu, 1)); err == nil || !strings.Contains(err.Error(), "device plugin GetPreferredAllocation rpc failed with err") {
		t.Errorf("a plugin that fails: %v", err)
	}
}

// TestPreferredTwice: a device that a plugin prefers twice is given once.
func TestPreferredTwice(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &devicestest.Plugin{
		Resource: gpu, Options: pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true},
		Prefer: func([]string, []string, int) []string { return []string{"b", "c", "b"} },
	}
	p.Set(healthy("a", "b", "c")...)
	b.plug(t, p, "gpu.sock", 3)
	if pod, err := b.admit(t, "pod", nil, container("x", gpu, 3)); err != nil || b.ids(pod, "x") != "b,c,a" {
		t.Errorf("the pod has %q, %v", b.ids(pod, "x"), err)
	}
}

// TestAssigned: what plugins answer reaches the container, and a plugin hears of it before if it wants to.
func TestAssigned(t *testing.T) {
	b := newBench(t, t.TempDir())
	var calls heard
	p := &devicestest.Plugin{
		Resource: gpu, Options: pluginapi.DevicePluginOptions{PreStartRequired: true}, Heard: calls.add,
		Respond: func(ids []string) *pluginapi.ContainerAllocateResponse {
			return &pluginapi.ContainerAllocateResponse{
				Envs: map[string]string{"GPU": ids[0]}, Annotations: map[string]string{"gpu": "yes"},
				Mounts:     []*pluginapi.Mount{{HostPath: "/opt/gpu", ContainerPath: "/gpu", ReadOnly: true}},
				Devices:    []*pluginapi.DeviceSpec{{HostPath: "/dev/gpu0", ContainerPath: "/dev/gpu", Permissions: "rw"}},
				CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/gpu=" + ids[0]}},
			}
		},
	}
	p.Set(healthy("a")...)
	b.plug(t, p, "gpu.sock", 1)
	pod, err := b.admit(t, "pod", nil, container("x", gpu, 1), container("y", gpu, 0))
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Assigned(t.Context(), pod, &pod.Spec.Containers[0])
	if err != nil || len(got.Envs) != 1 || string(got.Envs[0].GetValue()) != "a" || got.Annotations["gpu"] != "yes" || !got.Mounts[0].GetReadonly() ||
		got.Devices[0].GetHostPath() != "/dev/gpu0" || got.CDIDevices[0].GetName() != "example.com/gpu=a" {
		t.Errorf("assigned: %+v, %v", got, err)
	}
	if other, err := b.Assigned(t.Context(), pod, &pod.Spec.Containers[1]); err != nil || len(other.Envs) != 0 {
		t.Errorf("a container that asks for none: %+v, %v", other, err)
	}
	if c := calls.of("PreStartContainer"); !slices.Equal(c, []string{"PreStartContainer a"}) {
		t.Errorf("the plugin heard %q", c)
	}
	p.Fail("PreStartContainer", errors.New("not warm yet"))
	if _, err := b.Assigned(t.Context(), pod, &pod.Spec.Containers[0]); err == nil || !strings.Contains(err.Error(), "device plugin PreStartContainer rpc failed with err") {
		t.Errorf("a plugin that fails: %v", err)
	}
}

// TestHealth: numbers, and the pods' own statuses, follow what the plugin says; without plugin there is nothing to have.
func TestHealth(t *testing.T) {
	b := newBench(t, t.TempDir())
	var calls heard
	p := &devicestest.Plugin{Resource: gpu, Heard: calls.add}
	p.Set(healthy("a", "b")...)
	stop := b.plug(t, p, "gpu.sock", 2)
	pod, err := b.admit(t, "pod", nil, container("x", gpu, 1))
	if err != nil {
		t.Fatal(err)
	}
	p.Set(&pluginapi.Device{ID: "a", Health: pluginapi.Unhealthy})
	if uid := <-b.health; uid != pod.UID {
		t.Errorf("the health of pod %s changed", uid)
	}
	b.wait(t, gpu, 2, 1)
	if s := b.Health(pod.UID, "x"); len(s) != 1 || s[0].Name != gpu || s[0].Resources[0].ResourceID != "a" || s[0].Resources[0].Health != corev1.ResourceHealthStatusUnhealthy {
		t.Errorf("the status tells %+v", s)
	}
	p.Fail("ListAndWatch", errors.New("lost"))
	b.wait(t, gpu, 2, 0)
	if _, err := b.admit(t, "two", nil, container("x", gpu, 1)); err == nil || !strings.Contains(err.Error(), "no healthy devices present; cannot allocate unhealthy devices example.com/gpu") {
		t.Errorf("without plugin: %v", err)
	}
	if raised := b.Allocatable(pod.UID, corev1.ResourceList{})[gpu]; raised.Value() != 1 {
		t.Errorf("for the pod that has a device there are %d", raised.Value())
	}
	if raised := b.Allocatable("two", corev1.ResourceList{})[gpu]; raised.Value() != 0 {
		t.Errorf("for a pod that has none there are %d", raised.Value())
	}
	stop()
	p.Fail("ListAndWatch", nil)
	b.plug(t, p, "gpu2.sock", 1)
	if len(calls.of("ListAndWatch")) != 2 {
		t.Errorf("the plugin heard %q", calls.of(""))
	}
}

// TestFlapping: a plugin that changes its mind all the time is believed each time, and the node's status is not written as often.
func TestFlapping(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &devicestest.Plugin{Resource: gpu}
	p.Set(healthy("a")...)
	b.plug(t, p, "gpu.sock", 1)
	const times = 200
	for range times {
		p.Set(&pluginapi.Device{ID: "a", Health: pluginapi.Unhealthy})
		b.wait(t, gpu, 1, 0)
		p.Set(healthy("a")...)
		b.wait(t, gpu, 1, 1)
	}
	if n := len(b.changed); n == 0 || n > times {
		t.Errorf("%d changes were told %d times", 2*times, n)
	}
}

// TestTwoPlugins: of a resource's plugins one may go.
func TestTwoPlugins(t *testing.T) {
	b := newBench(t, t.TempDir())
	old, young := &devicestest.Plugin{Resource: gpu}, &devicestest.Plugin{Resource: gpu}
	old.Set(healthy("a")...)
	young.Set(healthy("a", "b")...)
	stop := b.plug(t, old, "old.sock", 1)
	b.plug(t, young, "young.sock", 2)
	stop()
	if _, err := b.admit(t, "pod", nil, container("x", gpu, 2)); err != nil {
		t.Error(err)
	}
	b.wait(t, gpu, 2, 2)
}

// TestRegister: who is refused hears why; the watcher of plugins brings one as well.
func TestRegister(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &devicestest.Plugin{Resource: gpu}
	b.plug(t, p, "gpu.sock", 0)
	p.Fail("GetDevicePluginOptions", errors.New("not now"))
	if err := p.Register(t.Context(), b.opts.Dir, "gpu.sock"); err == nil || !strings.Contains(err.Error(), "failed to get device plugin options: ") {
		t.Errorf("a plugin that fails: %v", err)
	}
	for _, name := range []string{"cpu", "kubernetes.io/x", "requests.example.com/x", "example.com/", ""} {
		if err := (&devicestest.Plugin{Resource: name}).Register(t.Context(), b.opts.Dir, "gpu.sock"); err == nil || !strings.Contains(err.Error(), "is invalid") {
			t.Errorf("resource %q: %v", name, err)
		}
	}
	other := &devicestest.Plugin{Resource: "example.com/other"}
	other.Set(healthy("o")...)
	socket := filepath.Join(b.root, "o.sock")
	stop, err := other.Serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := b.Validate("example.com/other", socket, []string{"v9"}); err == nil {
		t.Error("an unknown version is taken")
	}
	if err := errors.Join(b.Validate("example.com/other", socket, []string{"v1beta1"}), b.Register(t.Context(), "example.com/other", socket, nil)); err != nil {
		t.Fatal(err)
	}
	b.wait(t, "example.com/other", 1, 1)
	b.Deregister(t.Context(), "example.com/other", socket)
	b.wait(t, "example.com/other", 1, 0)
}

// TestRestart: a kubelet that starts again knows which container has which devices; a broken record does not keep it from starting.
func TestRestart(t *testing.T) {
	root := t.TempDir()
	b := newBench(t, root)
	if !b.Recreated() {
		t.Error("the machine is not new")
	}
	p := &devicestest.Plugin{Resource: gpu, Respond: func(ids []string) *pluginapi.ContainerAllocateResponse {
		return &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"GPU": strings.Join(ids, ",")}}
	}}
	p.Set(&pluginapi.Device{ID: "a", Health: pluginapi.Healthy, Topology: &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: 1}}}})
	p.Set(healthy("b", "c")...)
	stop := b.plug(t, p, "gpu.sock", 3)
	pod, err := b.admit(t, "pod", nil, container("x", gpu, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.admit(t, "lost", nil, container("x", gpu, 1)); err != nil {
		t.Fatal(err)
	}
	b.stop()
	stop()
	if err := os.WriteFile(filepath.Join(root, "pods", "lost", "resources.json"), []byte(`{"devices":{"x":{"r":null}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, root)
	b.wait(t, gpu, 0, 0)
	if d := b.Devices(pod.UID, "x"); b.Recreated() || len(d) != 1 || d[0].GetDeviceIds()[0] != "a" || d[0].GetTopology().GetNodes()[0].GetID() != 1 {
		t.Errorf("after the restart the pod has %v", d)
	}
	if _, err := b.admit(t, "pod", nil, container("x", gpu, 1)); err == nil || !strings.Contains(err.Error(), "no healthy devices present") {
		t.Errorf("before the plugin is back: %v", err)
	}
	if got, err := b.Assigned(t.Context(), pod, &pod.Spec.Containers[0]); err != nil || string(got.Envs[0].GetValue()) != "a" {
		t.Errorf("a container that starts again gets %+v, %v", got, err)
	}
	b.plug(t, p, "gpu.sock", 3)
	if _, err := b.admit(t, "pod", nil, container("x", gpu, 1)); err != nil {
		t.Errorf("when the plugin is back: %v", err)
	}
	b.stop()
	if err := os.WriteFile(filepath.Join(root, "device-plugins", "resources.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	newBench(t, root).wait(t, gpu, 0, 0)
	if _, err := os.Stat(filepath.Join(root, "device-plugins", "resources.json.broken")); err != nil {
		t.Error(err)
	}
}

// TestUpstream: what Kubernetes' kubelet recorded holds on.
func TestUpstream(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "device-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	// As that kubelet wrote it for a device "a" at NUMA node 0 whose plugin answered with GPU=a.
	file := `{"Data":{"PodDeviceEntries":[{"PodUID":"pod","ContainerName":"x","ResourceName":"example.com/gpu","DeviceIDs":{"0":["a"]},"AllocResp":"CggKA0dQVRIBYQ=="}],` +
		`"RegisteredDevices":{"example.com/gpu":["a","b"]}},"Checksum":3583601795}`
	path := filepath.Join(root, "device-plugins", "kubelet_internal_checkpoint")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, root)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{container("x", gpu, 1)}}}
	got, err := b.Assigned(t.Context(), pod, &pod.Spec.Containers[0])
	if err != nil || b.Recreated() || b.ids(pod, "x") != "a" || string(got.Envs[0].GetValue()) != "a" {
		t.Errorf("the pod has %q and gets %+v, %v", b.ids(pod, "x"), got, err)
	}
	b.wait(t, gpu, 0, 0)
	// What this kubelet leaves is what that one would have: the plugin has not come back, so no device is healthy.
	if err := b.WriteUpstream(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadFile(path)
	if want := strings.Replace(strings.Replace(file, `["a","b"]`, "null", 1), "3583601795", "1280862137", 1); err != nil || string(left) != want {
		t.Errorf("%s, %v\nwant %s", left, err, want)
	}
}
