package syncloop

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/e2e/crifake"
	"minikubelet/podworkers"
	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/objects/objectstest"
	"minikubelet/podworkers/probes"
	"minikubelet/podworkers/volumes"
	"minikubelet/runtime"
	"minikubelet/runtime/cgroups"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/images"
	"minikubelet/runtime/pleg"
	"minikubelet/runtime/runtimeclass"
	"minikubelet/runtime/spec"
	"minikubelet/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneNode is the node that pods run on.
type oneNode struct {
	mu          sync.Mutex
	network     error
	allocatable corev1.ResourceList
}

func (n *oneNode) Node() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node-uid", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
}

func (n *oneNode) RuntimeName() string { return "fake" }

func (n *oneNode) Allocatable() corev1.ResourceList { return n.allocatable }

func (n *oneNode) HostIPs() []string { return nil }

func (n *oneNode) NetworkReady() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.network
}

func (n *oneNode) setNetwork(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.network = err
}

// bench is a Loop over a runtime in memory.
type bench struct {
	*Loop
	t      *testing.T
	ctx    context.Context
	stop   func() // ends all parts but no pod, as the end of the kubelet does
	fake   *crifake.Server
	events *record.FakeRecorder
	node   *oneNode
	resync chan types.UID
	ping   chan struct{}
	parts  sync.WaitGroup
	dir    string

	registry *prometheus.Registry
}

func newFake() *crifake.Server {
	fake := crifake.New()
	fake.AddImage("image:1")
	fake.Delay("StopContainer", time.Millisecond) // so that what came after it is newer
	return fake
}

func podsOf(client kubernetes.Interface) cache.ListerWatcher {
	if client == nil {
		return nil
	}
	return objectstest.Watch(client)("pods", "", fields.Everything())
}

// newBench makes a loop in the bubble of a synctest test; nothing runs yet. client is the apiserver of the pod source
// and of mirrors, or nil.
func newBench(t *testing.T, fake *crifake.Server, dir string, client kubernetes.Interface) *bench {
	t.Helper()
	criClient := fake.Direct()
	b := &bench{t: t, fake: fake, events: record.NewFakeRecorder(1000), node: &oneNode{}, resync: make(chan types.UID), ping: make(chan struct{}), dir: dir, registry: prometheus.NewRegistry()}
	cache := pleg.NewCache(criClient)
	groups, err := cgroups.New(cgroups.Options{Root: "/pods"})
	if err != nil {
		t.Fatal(err)
	}
	sources, err := config.New(config.Options{Pods: podsOf(client), NodeName: "node", Events: b.events})
	if err != nil {
		t.Fatal(err)
	}
	rt := runtime.New(runtime.Options{
		CRI: criClient, Images: images.New(images.Options{CRI: criClient, Events: b.events}), Classes: runtimeclass.New(nil), Cgroups: groups,
		Events: b.events, Cache: cache, RootDir: dir, ContainerLogsDir: filepath.Join(dir, "links"),
		Node: spec.Node{PodLogsDir: filepath.Join(dir, "logs")},
	})
	noIPs := func() []string { return nil }
	prober := probes.New(probes.Options{Exec: rt.ExecInContainer, Observed: cache.Get, Starting: rt.Starting, HostIPs: noIPs, Events: b.events})
	object, pods := objects.New(objects.Options{}), NewPods()
	var statusOptions status.Options
	var mirror *status.Mirror
	if client != nil {
		statusOptions.Pods = func(ns string) status.PodClient { return client.CoreV1().Pods(ns) }
		mirror = status.NewMirror(status.MirrorOptions{Pods: func(ns string) status.PodClient { return client.CoreV1().Pods(ns) }, Node: b.node.Node, Existing: pods.MirrorOf})
	}
	statuses := status.New(statusOptions)
	workers := podworkers.New(podworkers.Options{
		Runtime: rt, Cache: cache, Objects: object, Probes: prober, Status: statuses, Mirror: mirror, Events: b.events, Node: b.node, Registerer: b.registry,
		Volumes: volumes.New(volumes.Options{
			PodsDir: filepath.Join(dir, "pods"), Objects: object, HostIPs: noIPs, Allocatable: b.node.Allocatable,
		}),
	})
	b.Loop = New(Options{
		Config: sources, PLEG: pleg.New(pleg.Options{CRI: criClient, Cache: cache}), Probes: prober, Resync: b.resync, Ping: b.ping,
		Workers: workers, Pods: pods, Status: statuses, Mirror: mirror, Events: b.events, Node: b.node, MaxPods: 10, Allocation: rt.Allocation(), Registerer: b.registry,
		Clean: func(context.Context, func(types.UID) bool) error { return nil },
	})
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithCancel(t.Context())
	b.stop = func() {
		cancel()
		b.Workers.Wait()
		b.parts.Wait()
		b.saveAllocations(b.ctx)
		statuses.Run(b.ctx) // which has ended: without an apiserver all there is to do is to end the queue
	}
	t.Cleanup(b.stop)
	return b
}

// start runs parts until the test ends.
func (b *bench) start(runs ...func(context.Context)) {
	for _, run := range runs {
		b.parts.Go(func() { run(b.ctx) })
	}
	b.wait(time.Millisecond)
}

// inTurn calls a handler while the running loop waits for something to do; the loop's next turn comes after it.
func (b *bench) inTurn(handle func()) {
	synctest.Wait()
	handle()
	b.ping <- struct{}{}
}

// wait lets time pass and then everything that it set off.
func (b *bench) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func testPod(uid types.UID, change func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-" + string(uid), UID: uid, Annotations: map[string]string{podinfo.SourceAnnotation: "api"}},
		Spec: corev1.PodSpec{
			NodeName: "node", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSDefault,
			SecurityContext: &corev1.PodSecurityContext{},
			Containers:      []corev1.Container{{Name: "a", Image: "image:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

// wantRunning checks whether a container of the pod runs.
func (b *bench) wantRunning(uid types.UID, want bool) {
	b.t.Helper()
	observed, err := cri.ReadPod(context.Background(), b.fake.Direct(), uid, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if got := len(observed.Running()) > 0; got != want {
		b.t.Errorf("pod %s runs: %v, want %v", uid, got, want)
	}
}

func (b *bench) wantEvent(want string) {
	b.t.Helper()
	var lines []string
	for {
		select {
		case line := <-b.events.Events:
			lines = append(lines, line)
			continue
		default:
		}
		break
	}
	if all := strings.Join(lines, "\n"); !strings.Contains(all, want) {
		b.t.Errorf("no event %q in:\n%s", want, all)
	}
}
