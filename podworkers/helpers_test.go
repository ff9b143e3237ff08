package podworkers

import (
	"context"
	"fmt"
	"os"
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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
	"minikubelet/podworkers/objects"
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
	mu      sync.Mutex
	network error
}

func (n *oneNode) Node() *corev1.Node {
	return &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "node"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
	}}}
}

func (n *oneNode) HostIPs() []string { return []string{"192.0.2.1"} }

func (n *oneNode) RuntimeName() string { return "fake" }

func (n *oneNode) Allocatable() corev1.ResourceList { return nil }

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

// bench is Workers over a runtime in memory, without an apiserver.
type bench struct {
	*Workers
	t      *testing.T
	ctx    context.Context
	stop   func() // ends the workers and not their pods, as the end of the kubelet does
	fake   *crifake.Server
	events *record.FakeRecorder
	node   *oneNode
	dir    string

	registry *prometheus.Registry
}

// newBench starts Workers that hear of the runtime's events, in the bubble of a synctest test.
func newBench(t *testing.T) *bench {
	t.Helper()
	fake := crifake.New()
	fake.AddImage("image:1")
	fake.Delay("StopContainer", time.Millisecond) // so that what came after it is newer
	return newBenchOver(t, fake, t.TempDir())
}

// newBenchOver is newBench with what an earlier kubelet left.
func newBenchOver(t *testing.T, fake *crifake.Server, dir string) *bench {
	t.Helper()
	client, events, node := fake.Direct(), record.NewFakeRecorder(1000), &oneNode{}
	cache := pleg.NewCache(client)
	groups, err := cgroups.New(cgroups.Options{Root: "/pods"})
	if err != nil {
		t.Fatal(err)
	}
	rt := runtime.New(runtime.Options{
		CRI: client, Images: images.New(images.Options{CRI: client, Events: events}), Classes: runtimeclass.New(nil), Cgroups: groups,
		Events: events, Cache: cache, RootDir: dir, ContainerLogsDir: filepath.Join(dir, "links"),
		Node: spec.Node{PodLogsDir: filepath.Join(dir, "logs")},
	})
	prober := probes.New(probes.Options{Exec: rt.ExecInContainer, Observed: cache.Get, Starting: rt.Starting, HostIPs: func() []string { return nil }, Events: events})
	object := objects.New(objects.Options{})
	statuses := status.New(status.Options{})
	watch := pleg.New(pleg.Options{CRI: client, Cache: cache})
	registry := prometheus.NewRegistry()
	ws := New(Options{
		Registerer: registry,
		Runtime:    rt, Cache: cache, Objects: object, Probes: prober, Status: statuses, Events: events, Node: node,
		Volumes: volumes.New(volumes.Options{
			PodsDir: filepath.Join(dir, "pods"), Objects: object, HostIPs: func() []string { return nil }, Allocatable: node.Allocatable, Events: events,
		}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context){watch.Run, object.Run, func(ctx context.Context) {
		for {
			select {
			case <-watch.Bell():
				for _, uid := range watch.Changed() {
					ws.Poke(uid, "test")
				}
			case r := <-prober.Results():
				ws.Poke(r.PodUID, "test")
			case <-ctx.Done():
				return
			}
		}
	}} {
		parts.Go(func() { run(ctx) })
	}
	stop := func() {
		cancel()
		ws.Wait()
		parts.Wait()
		statuses.Run(ctx) // which has ended: without an apiserver all there is to do is to end the queue
	}
	t.Cleanup(stop)
	<-watch.Synced()
	time.Sleep(time.Millisecond)
	return &bench{Workers: ws, t: t, stop: stop, ctx: ctx, fake: fake, events: events, node: node, dir: dir, registry: registry}
}

func testPod(uid types.UID, change func(*corev1.Pod)) *corev1.Pod {
	grace := int64(30)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: uid},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSDefault,
			SecurityContext: &corev1.PodSecurityContext{},
			Containers:      []corev1.Container{{Name: "a", Image: "image:1", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	if change != nil {
		change(pod)
	}
	if c := &pod.Spec.Containers[0]; c.VolumeMounts == nil { // a volume that no container uses is not mounted
		for _, v := range pod.Spec.Volumes {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
	}
	return pod
}

// update sends an update and waits until nothing moves any more. A little time passes: what is sent next is later than
// what the runtime was last seen to have.
func (b *bench) update(u Update) {
	b.UpdatePod(b.ctx, u)
	b.wait(2 * time.Millisecond)
}

func (b *bench) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// settle gives a pod the time to end.
func (b *bench) settle() { b.wait(time.Second) }

// want compares what the runtime has of a pod, as "box a:run b:exit1".
func (b *bench) want(uid types.UID, want string) {
	b.t.Helper()
	observed, err := cri.ReadPod(b.ctx, b.fake.Direct(), uid, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	var words []string
	for _, s := range observed.Sandboxes {
		words = append(words, map[bool]string{true: "box", false: "box-"}[s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY])
	}
	for _, c := range observed.Containers {
		word := "new"
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			word = "run"
		case runtimeapi.ContainerState_CONTAINER_EXITED:
			word = fmt.Sprint("exit", c.ExitCode)
		}
		words = append(words, c.Name+":"+word)
	}
	if got := strings.Join(words, " "); got != want {
		b.t.Errorf("the runtime has %q of pod %s, want %q", got, uid, want)
	}
}

func (b *bench) wantPhase(uid types.UID, want Phase) {
	b.t.Helper()
	if got, ok := b.Phase(uid); !ok || got != want {
		b.t.Errorf("pod %s is %v (known: %v), want %v", uid, got, ok, want)
	}
}

func (b *bench) wantGone(uid types.UID) {
	b.t.Helper()
	if phase, ok := b.Phase(uid); ok {
		b.t.Errorf("pod %s still has a worker, %v", uid, phase)
	}
	b.want(uid, "")
	if _, ok := b.opts.Status.Get(uid); ok {
		b.t.Errorf("the status of pod %s is kept", uid)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "pods", string(uid), "volumes")); !os.IsNotExist(err) {
		b.t.Errorf("pod %s left its volumes: %v", uid, err)
	}
}

func (b *bench) statusOf(uid types.UID) corev1.PodStatus {
	b.t.Helper()
	s, ok := b.opts.Status.Get(uid)
	if !ok {
		b.t.Fatalf("pod %s has no status", uid)
	}
	return s
}

// allEvents takes the events so far.
func (b *bench) allEvents() string {
	var lines []string
	for {
		select {
		case line := <-b.events.Events:
			lines = append(lines, line)
		default:
			return strings.Join(lines, "\n")
		}
	}
}

func (b *bench) wantEvent(want string) {
	b.t.Helper()
	if all := b.allEvents(); !strings.Contains(all, want) {
		b.t.Errorf("no event %q in:\n%s", want, all)
	}
}

// stopTimeouts are the grace periods that the runtime was given.
func (b *bench) stopTimeouts() []int64 {
	var out []int64
	for _, r := range crifake.Requests[*runtimeapi.StopContainerRequest](b.fake) {
		out = append(out, r.Timeout)
	}
	return out
}
