package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"minikubelet/e2e/crifake"
	"minikubelet/kubelet/settings"
)

// world is a node with a fake apiserver and a fake runtime.
type world struct {
	t        *testing.T
	node     *Node
	api      *fake.Clientset
	cri      *crifake.Server
	events   *record.FakeRecorder
	settings *settings.Settings
	reports  Reports
	images   atomic.Pointer[[]corev1.ContainerImage]
	pleg     atomic.Pointer[error]
	failure  atomic.Pointer[func(k8stesting.Action) error] // of requests to the apiserver
	synced   chan struct{}
	uid      atomic.Value // types.UID of the nodes made from now on
	logger   klog.Logger
	stop     func()
}

// watchOf lists and watches all nodes of a fake.
func watchOf(api *fake.Clientset) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (apiruntime.Object, error) {
			return api.CoreV1().Nodes().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return api.CoreV1().Nodes().Watch(ctx, o)
		},
	}, api)
}

// newWorld is made in a bubble of testing/synctest; start runs it.
func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	s, err := settings.Load(append([]string{"--hostname-override=node-1", "--node-ip=192.0.2.1", "--root-dir=" + t.TempDir()}, args...), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, settings: s, api: fake.NewClientset(), cri: crifake.New(), events: record.NewFakeRecorder(1000), synced: make(chan struct{})}
	w.logger = ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(0)))
	w.images.Store(new([]corev1.ContainerImage))
	w.pleg.Store(new(error))
	w.uid.Store(types.UID("uid-1"))
	w.api.PrependReactor("create", "nodes", func(a k8stesting.Action) (bool, apiruntime.Object, error) {
		a.(k8stesting.CreateAction).GetObject().(*corev1.Node).UID = w.uid.Load().(types.UID)
		return false, nil, nil
	})
	w.api.PrependReactor("*", "*", func(a k8stesting.Action) (bool, apiruntime.Object, error) {
		failure := w.failure.Load()
		if failure == nil {
			return false, nil, nil
		}
		err := (*failure)(a)
		return err != nil, nil, err
	})
	return w
}

func (w *world) options(root string) Options {
	return Options{
		Watch: watchOf(w.api), Nodes: w.api.CoreV1().Nodes(), Leases: w.api.CoordinationV1().Leases(corev1.NamespaceNodeLease), Settings: w.settings, CRI: w.cri.Direct(), Events: w.events, Machine: open(w.t, root),
		Images:         func(context.Context) ([]corev1.ContainerImage, error) { return *w.images.Load(), nil },
		RuntimeHealthy: func() error { return *w.pleg.Load() },
		RuntimeSynced:  w.synced,
	}
}

func (w *world) start(changes map[string]string) {
	w.t.Helper()
	w.startWith(w.options(root(w.t, changes)))
}

func (w *world) startWith(o Options) {
	w.t.Helper()
	var err error
	if w.node, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(w.t.Context(), w.logger))
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.node.Run(ctx, w.reports)
	}()
	w.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// logged is what was logged since the start.
func (w *world) logged() string { return w.logger.GetSink().(ktesting.Underlier).GetBuffer().String() }

// api's node.
func (w *world) get() *corev1.Node {
	w.t.Helper()
	node, err := w.api.CoreV1().Nodes().Get(w.t.Context(), "node-1", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return node
}

func (w *world) ready() corev1.NodeCondition {
	return conditionOf(w.get().Status, corev1.NodeReady)
}

func conditionOf(s corev1.NodeStatus, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// told returns the events since the last call.
func (w *world) told() (events []string) {
	for {
		select {
		case e := <-w.events.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

// requests counts what was sent to the apiserver since the last call, by verb and resource; reads are left out.
func (w *world) requests() map[string]int {
	counts := map[string]int{}
	for _, a := range w.api.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" && a.GetVerb() != "watch" {
			counts[strings.TrimSuffix(a.GetVerb()+" "+a.GetResource().Resource+"/"+a.GetSubresource(), "/")]++
		}
	}
	w.api.ClearActions()
	return counts
}

func TestRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--node-labels=colour=blue", "--register-with-taints=a=b:NoExecute", "--provider-id=cloud:1", "--kube-reserved=cpu=1", "--max-pods=20")
		w.images.Store(&[]corev1.ContainerImage{{Names: []string{"a"}, SizeBytes: 1}})
		w.start(nil)
		defer w.stop()
		node := w.get()
		for key, want := range map[string]string{"kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux", "colour": "blue"} {
			if node.Labels[key] != want {
				t.Errorf("label %s is %q, want %q", key, node.Labels[key], want)
			}
		}
		if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].TimeAdded != nil || node.Spec.ProviderID != "cloud:1" {
			t.Errorf("spec: %+v", node.Spec)
		}
		s := node.Status
		if ready := conditionOf(s, corev1.NodeReady); ready.Status != corev1.ConditionTrue || ready.Reason != "KubeletReady" {
			t.Errorf("a node whose runtime is up registers with %+v", ready)
		}
		if c := conditionOf(s, corev1.NodeMemoryPressure); c.Status != corev1.ConditionFalse || c.Reason != "KubeletHasSufficientMemory" {
			t.Errorf("memory: %+v", c)
		}
		if s.Capacity.Cpu().Value() != 4 || s.Allocatable.Cpu().Value() != 3 || s.Capacity.Pods().Value() != 20 {
			t.Errorf("capacity %v, allocatable %v", s.Capacity, s.Allocatable)
		}
		if info := s.NodeInfo; info.ContainerRuntimeVersion != "crifake://v1.0.0" || info.BootID != "boot-1" || info.Swap == nil || info.RunningInUserNamespace == nil || info.KubeletVersion != settings.Version {
			t.Errorf("node info: %+v", info)
		}
		if storage := s.Capacity[corev1.ResourceEphemeralStorage]; storage.Format != resource.DecimalSI {
			t.Errorf("ephemeral storage is written as %s", storage.String())
		}
		if s.DaemonEndpoints.KubeletEndpoint.Port != 10250 || len(s.Images) != 1 {
			t.Errorf("endpoints %+v, images %v", s.DaemonEndpoints, s.Images)
		}
		want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "node-1"}}
		if !slices.Equal(s.Addresses, want) || !slices.Equal(w.node.HostIPs(), []string{"192.0.2.1"}) {
			t.Errorf("addresses: %v", s.Addresses)
		}
		lease, err := w.api.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "node-1", metav1.GetOptions{})
		if err != nil || *lease.Spec.LeaseDurationSeconds != 40 || len(lease.OwnerReferences) != 1 || lease.OwnerReferences[0].UID != "uid-1" {
			t.Errorf("lease: %+v, %v", lease, err)
		}
		events := strings.Join(w.told(), "\n")
		for _, reason := range []string{"Starting Starting kubelet.", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"} {
			if strings.Count(events, "Normal "+reason) != 1 {
				t.Errorf("want one event %s, got\n%s", reason, events)
			}
		}
		if strings.Contains(events, "NodeNotReady") {
			t.Errorf("events:\n%s", events)
		}
	})
}

// TestCgroupV1Event: where a node with cgroup v1 is taken, its event says that this ends.
func TestCgroupV1Event(t *testing.T) {
	for want, changes := range map[int]map[string]string{0: nil, 1: legacy} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.settings.FailCgroupV1 = new(false)
			w.start(changes)
			defer w.stop()
			w.wait(time.Second)
			if got := strings.Count(strings.Join(w.told(), "\n"), "Warning CgroupV1 cgroup v1 detected."); got != want {
				t.Errorf("%d events, want %d", got, want)
			}
		})
	}
}

// TestIdleRequests: a node to which nothing happens costs the apiserver its lease, and a status every 5 minutes.
func TestIdleRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.requests()
		w.cri.ResetCalls()
		time.Sleep(4 * time.Minute)
		if got := w.requests(); len(got) != 1 || got["update leases"] < 23 || got["update leases"] > 24 {
			t.Errorf("requests in 4 idle minutes: %v, want 24 renewals of the lease", got)
		}
		if status, version := w.cri.Count("Status"), w.cri.Count("Version"); status > 49 || version != 0 {
			t.Errorf("the runtime was asked %d times for its status and %d times for its version", status, version)
		}
		time.Sleep(65 * time.Second)
		if got := w.requests()["patch nodes/status"]; got != 1 {
			t.Errorf("%d statuses in the fifth minute, want 1", got)
		}
	})
}

// TestReadiness: what the runtime tells is written at once, with its reason, and as an event; so is its recovery.
func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cri.SetCondition(runtimeapi.NetworkReady, false, "NetworkPluginNotReady", "cni plugin not initialized")
		w.start(nil)
		defer w.stop()
		time.Sleep(notReadyPatience + time.Millisecond)
		synctest.Wait()
		want := "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
		if r := w.ready(); r.Status != corev1.ConditionFalse || r.Reason != "KubeletNotReady" || r.Message != want {
			t.Errorf("without a network: %+v", r)
		}
		if err := w.node.NetworkReady(); err == nil {
			t.Error("NetworkReady returns nil without a network")
		}
		w.told()
		w.cri.SetCondition(runtimeapi.NetworkReady, true, "", "")
		time.Sleep(recheckMost + time.Millisecond)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionTrue || r.LastTransitionTime.Time.Before(time.Now().Add(-2*time.Second)) {
			t.Errorf("a second after the network came: %+v", r)
		}
		if events := w.told(); len(events) != 1 || !strings.Contains(events[0], "NodeReady") {
			t.Errorf("events: %q", events)
		}

		for range 10 {
			w.cri.FailNext("Status", errors.New("gone"))
		}
		w.pleg.Store(new(errors.New("pleg was last seen active 3m0s ago")))
		time.Sleep(checkPeriod + time.Millisecond)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionFalse || !strings.Contains(r.Message, "container runtime is down") || strings.Count(r.Message, "down") != 1 {
			t.Errorf("without a runtime: %+v", r)
		}
		time.Sleep(10 * recheckMost)
		synctest.Wait()
		if r := w.ready(); r.Message != "PLEG is not healthy: pleg was last seen active 3m0s ago" {
			t.Errorf("without its events: %+v", r)
		}
		w.pleg.Store(new(error))
		time.Sleep(recheckMost + time.Millisecond)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Errorf("after recovery: %+v", r)
		}
	})
}

// TestHungRuntime: a runtime that does not answer makes the node not ready, it does not hold the report up.
func TestHungRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		w.cri.Delay("Status", time.Hour)
		time.Sleep(checkPeriod + checkTimeout + time.Millisecond)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionFalse {
			t.Errorf("the runtime hangs, and the node is %+v", r)
		}
	})
}

// TestExistingNode: labels come back, taints do not; what others wrote stays; a reboot is told of.
func TestExistingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--register-with-taints=a=b:NoSchedule", "--node-labels=colour=blue")
		w.start(nil)
		w.stop()
		node := w.get()
		node.Labels = map[string]string{"others": "stay", "colour": "red"}
		node.Spec.Taints = nil
		node.Status.Capacity["example.com/gpu"] = resource.MustParse("2")
		node.Status.Capacity["hugepages-64Ki"] = resource.MustParse("1Mi")
		node.Status.VolumesAttached = []corev1.AttachedVolume{{Name: "v"}}
		if _, err := w.api.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.told()
		w.requests()
		w.start(map[string]string{"proc/sys/kernel/random/boot_id": "boot-2\n"})
		defer w.stop()
		node = w.get()
		if node.Labels["colour"] != "blue" || node.Labels["others"] != "stay" || node.Labels["kubernetes.io/os"] != "linux" || len(node.Spec.Taints) != 0 {
			t.Errorf("labels %v, taints %v", node.Labels, node.Spec.Taints)
		}
		gpus, alloc := node.Status.Capacity["example.com/gpu"], node.Status.Allocatable["example.com/gpu"]
		if gpus.Value() != 2 || alloc.Value() != 2 || len(node.Status.VolumesAttached) != 1 {
			t.Errorf("what others wrote is gone: %+v", node.Status)
		}
		if _, ok := node.Status.Capacity["hugepages-64Ki"]; ok {
			t.Error("huge pages that the machine no longer has are still there")
		}
		if all := w.node.Allocatable(); all.Cpu().Value() != 4 || len(all) != len(w.node.alloc)+1 {
			t.Errorf("allocatable: %v", all)
		}
		events := w.told()
		if !slices.ContainsFunc(events, func(e string) bool {
			return e == "Warning Rebooted Node node-1 has been rebooted, boot id: boot-2"
		}) {
			t.Errorf("events: %q", events)
		}
		if slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "Ready") }) {
			t.Errorf("readiness flipped: %q", events)
		}
		if got := w.requests(); got["patch nodes"] != 1 || got["patch nodes/status"] != 1 {
			t.Errorf("requests: %v, want one patch of the object and one of the status", got)
		}
	})
}

// TestApiserverAway: registration and status wait for the apiserver, and are there soon after it.
func TestApiserverAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		away := apierrors.NewServiceUnavailable("away")
		w.fail("*", "", 1000, away)
		w.start(nil)
		defer w.stop()
		time.Sleep(time.Minute)
		w.recover()
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Errorf("7 s after the apiserver came the node is %+v", r)
		}
		w.fail("*", "", 1000, away)
		w.cri.SetCondition(runtimeapi.RuntimeReady, false, "Down", "for a test")
		time.Sleep(30 * time.Second)
		w.recover()
		time.Sleep(retryMost)
		synctest.Wait()
		if r := w.ready(); r.Status != corev1.ConditionFalse || !strings.Contains(r.Message, "reason:Down") {
			t.Errorf("5 s after the apiserver came back the node is %+v", r)
		}
	})
}

// TestNodeChanges: changes of the object are seen at once.
func TestNodeChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(nil)
		defer w.stop()
		node := w.get()
		node.Spec.Unschedulable, node.Labels["new"] = true, "yes"
		if _, err := w.api.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := w.node.Node(); !got.Spec.Unschedulable || got.Labels["new"] != "yes" {
			t.Errorf("the change is not seen: %+v", got)
		}
	})
}

// TestImages: they are written when they change, at most nodeStatusMaxImages of them.
func TestImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--node-status-max-images=2")
		w.start(nil)
		defer w.stop()
		w.requests()
		w.images.Store(&[]corev1.ContainerImage{{Names: []string{"a"}, SizeBytes: 3}, {Names: []string{"b"}, SizeBytes: 2}, {Names: []string{"c"}, SizeBytes: 1}})
		time.Sleep(time.Minute)
		if got := w.requests()["patch nodes/status"]; got != 1 || len(w.get().Status.Images) != 2 {
			t.Errorf("%d statuses, images %v", got, w.get().Status.Images)
		}
	})
}

// TestReconfigure: how often the status is written and how many images it names follow the settings at once, and so does a wait
// that has begun.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--node-status-update-frequency=1h")
		w.images.Store(&[]corev1.ContainerImage{{Names: []string{"a"}, SizeBytes: 3}, {Names: []string{"b"}, SizeBytes: 2}, {Names: []string{"c"}, SizeBytes: 1}})
		w.start(nil)
		defer w.stop()
		w.requests()
		s := *w.settings
		s.NodeStatusUpdateFrequency.Duration, s.NodeStatusReportFrequency.Duration = 5*time.Second, 10*time.Second
		s.NodeStatusMaxImages = new(int32(1))
		w.node.Reconfigure(&s)
		time.Sleep(time.Minute)
		if got := w.requests()["patch nodes/status"]; got < 6 || got > 7 || len(w.get().Status.Images) != 1 {
			t.Errorf("%d statuses in a minute, want 6; images %v", got, w.get().Status.Images)
		}
	})
}

func TestStandalone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "--node-labels=colour=blue", "--node-ip=192.0.2.1,2001:db8::1")
		o := w.options(root(t, nil))
		o.Nodes = nil
		n, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.Run(ctx, Reports{}) }()
		synctest.Wait()
		if n.Node().Labels["colour"] != "blue" || n.NetworkReady() != nil || n.RuntimeName() != "crifake" || len(n.HostIPs()) != 2 {
			t.Errorf("node %+v, runtime %q", n.Node(), n.RuntimeName())
		}
		cancel()
		<-done
		if len(w.api.Actions()) > 0 || len(w.told()) > 0 {
			t.Error("a standalone kubelet talked to an apiserver")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"failCgroupV1": {"--fail-cgroupv1"}, "kubeReserved[memory]": {"--kube-reserved=memory=1Ti"},
		"reservedSystemCPUs: 2-4 are not all among the CPUs that are online, 0-3": {"--reserved-cpus=2-4"},
	} {
		w := newWorld(t, args...)
		if _, err := New(w.options(root(t, legacy))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: the error is %v", args, err)
		}
	}
}
