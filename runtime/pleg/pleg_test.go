package pleg

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/e2e/crifake"
	"minikubelet/runtime/cri"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a fake runtime with a PLEG beside it.
type node struct {
	*testing.T
	fake *crifake.Server
	cri  *cri.Client
	pleg *PLEG
	stop func()
}

func newNode(t *testing.T, options Options) *node {
	fake := crifake.New()
	fake.AddImage("busybox")
	n := &node{T: t, fake: fake, cri: fake.Direct()}
	options.CRI, options.Cache = n.cri, NewCache(n.cri)
	n.pleg = New(options)
	return n
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(n.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.pleg.Run(ctx) }()
	n.stop = func() { cancel(); <-done }
	synctest.Wait()
}

func labels(uid types.UID) map[string]string {
	return map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid), kubelettypes.KubernetesPodNameLabel: "web", kubelettypes.KubernetesPodNamespaceLabel: "default"}
}

// sandbox and container take a millisecond each, so that no two readings are of one time.
func (n *node) sandbox(uid types.UID) string {
	n.Helper()
	time.Sleep(time.Millisecond)
	answer, err := n.cri.Runtime.RunPodSandbox(n.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: string(uid)}, Labels: labels(uid),
	}})
	if err != nil {
		n.Fatal(err)
	}
	return answer.PodSandboxId
}

func (n *node) container(uid types.UID, sandbox, name string) string {
	n.Helper()
	time.Sleep(time.Millisecond)
	answer, err := n.cri.Runtime.CreateContainer(n.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "busybox"}, Labels: labels(uid),
	}})
	if err != nil {
		n.Fatal(err)
	}
	if _, err := n.cri.Runtime.StartContainer(n.Context(), &runtimeapi.StartContainerRequest{ContainerId: answer.ContainerId}); err != nil {
		n.Fatal(err)
	}
	return answer.ContainerId
}

func (n *node) remove(id string) {
	time.Sleep(time.Millisecond)
	_, _ = n.cri.Runtime.RemoveContainer(n.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
}

func (n *node) exit(id string) {
	time.Sleep(time.Millisecond)
	n.fake.SetExit(id, 1)
	synctest.Wait()
}

// drain returns the pods that have changed.
func (n *node) drain() []types.UID {
	synctest.Wait()
	select {
	case <-n.pleg.Bell():
		return n.pleg.Changed()
	default:
		return nil
	}
}

func (n *node) want(want ...types.UID) {
	n.Helper()
	if got := n.drain(); !slices.Equal(got, want) {
		n.Errorf("changed = %v, want %v", got, want)
	}
}

func (n *node) state(uid types.UID, id string) runtimeapi.ContainerState {
	pod, _ := n.pleg.Cache.Get(uid)
	if c := pod.ContainerByID(id); c != nil {
		return c.State
	}
	return -1
}

// With events the cache follows the runtime without a single call.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		n.fake.ResetCalls()
		box := n.sandbox("a")
		id := n.container("a", box, "app")
		n.want("a")
		n.exit(id)
		n.want("a")
		if c := func() *cri.ContainerStatus { p, _ := n.pleg.Cache.Get("a"); return p.Container("app") }(); c == nil || c.ExitCode != 1 || c.FinishedAt.IsZero() {
			t.Errorf("container in the cache = %+v", c)
		}
		n.remove(id)
		n.want()
		_, _ = n.cri.Runtime.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: box})
		n.want("a")
		if calls := n.fake.Calls(); !slices.Equal(calls, []string{"RunPodSandbox", "CreateContainer", "StartContainer", "RemoveContainer", "RemovePodSandbox"}) {
			t.Errorf("calls = %v, want none of the PLEG's", calls)
		}
	})
}

// An idle node costs two list calls a minute, whatever runs on it.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		for _, uid := range []types.UID{"a", "b", "c"} {
			n.container(uid, n.sandbox(uid), "app")
		}
		n.run()
		defer n.stop()
		time.Sleep(10 * time.Second)
		n.drain()
		n.fake.ResetCalls()
		time.Sleep(10 * time.Minute)
		if calls := n.fake.Calls(); len(calls) != 20 || n.fake.Count("ListContainers") != 10 {
			t.Errorf("%d calls in ten minutes: %v", len(calls), calls)
		}
		n.want()
	})
}

// What ran before the kubelet is in the cache, in full, when Synced closes.
func TestSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.container("a", n.sandbox("a"), "app")
		select {
		case <-n.pleg.Synced():
			t.Fatal("synced before it ran")
		default:
		}
		if ok, err := n.pleg.Healthy(); ok || err == nil {
			t.Errorf("Healthy before the first list = %v, %v", ok, err)
		}
		n.run()
		defer n.stop()
		<-n.pleg.Synced()
		pod, ok := n.pleg.Cache.Get("a")
		if !ok || pod.Shallow() || pod.Container("app").StartedAt.IsZero() || len(pod.IPs) != 1 {
			t.Errorf("pod = %+v", pod)
		}
		if ok, err := n.pleg.Healthy(); !ok {
			t.Error(err)
		}
		n.want("a")
	})
}

// A pod whose status cannot be read is known all the same, and read soon after.
func TestUnreadablePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.container("a", n.sandbox("a"), "app")
		for range 2 { // the list at the start, and the one when the event stream is open
			n.fake.FailNext("PodSandboxStatus", status.Error(codes.Internal, "broken"))
		}
		n.run()
		defer n.stop()
		<-n.pleg.Synced()
		if pod, ok := n.pleg.Cache.Get("a"); !ok || !pod.Shallow() {
			t.Errorf("pod = %+v, want a shallow one", pod)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if pod, ok := n.pleg.Cache.Get("a"); !ok || pod.Shallow() {
			t.Errorf("pod = %+v, want a full one", pod)
		}
	})
}

// What happened without events is seen by the list: at once when the stream is back, within a minute otherwise.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		box := n.sandbox("a")
		first, second := n.container("a", box, "first"), n.container("a", box, "second")
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		n.drain()

		n.fake.MuteEvents(true)
		n.exit(first)
		n.want()
		n.fake.BreakEvents()
		time.Sleep(1500 * time.Millisecond)
		n.want("a")

		time.Sleep(5 * time.Second)
		n.exit(second)
		time.Sleep(time.Minute)
		n.want("a")
		if n.fake.Subscribers() != 1 {
			t.Errorf("%d event streams open", n.fake.Subscribers())
		}
	})
}

// A runtime without events is listed every second, and only pods that changed are read. It says that it has none by not
// knowing the call, or by ending the stream as soon as it is open.
func TestNoEvents(t *testing.T) {
	t.Run("unimplemented", func(t *testing.T) { testNoEvents(t, (*crifake.Server).DisableEvents) })
	t.Run("ended at once", func(t *testing.T) { testNoEvents(t, (*crifake.Server).EndEventsAtOnce) })
}

func testNoEvents(t *testing.T, disable func(*crifake.Server)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		disable(n.fake)
		n.run()
		defer n.stop()
		id := n.container("a", n.sandbox("a"), "app")
		n.container("b", n.sandbox("b"), "app")
		time.Sleep(1500 * time.Millisecond)
		n.drain()
		n.fake.ResetCalls()
		n.exit(id)
		time.Sleep(time.Second)
		n.want("a")
		time.Sleep(10 * time.Second)
		if status := n.fake.Count("ContainerStatus"); status != 1 {
			t.Errorf("%d container statuses read, want one", status)
		}
		if lists := n.fake.Count("ListContainers"); lists < 11 || lists > 13 {
			t.Errorf("%d lists in 11 s", lists)
		}
		n.fake.ResetCalls()
		time.Sleep(5 * time.Minute)
		if asked := n.fake.Count("GetContainerEvents"); asked != 5 {
			t.Errorf("asked for events %d times in 5 minutes", asked)
		}
	})
}

// Removed behind the kubelet's back, without an event.
func TestPodGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		box := n.sandbox("a")
		n.container("a", box, "app")
		n.run()
		defer n.stop()
		n.drain()
		n.fake.MuteEvents(true)
		_, _ = n.cri.Runtime.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: box})
		time.Sleep(2 * time.Minute)
		n.want("a")
		if uids := n.pleg.Cache.UIDs(); len(uids) != 0 {
			t.Errorf("cache still has %v", uids)
		}
	})
}

// A worker that put its own reading hears nothing of what it knows.
func TestOwnReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		box := n.sandbox("a")
		id := n.container("a", box, "app")
		n.want("a")
		n.fake.MuteEvents(true)
		n.fake.SetExit(id, 1)
		n.fake.MuteEvents(false)
		time.Sleep(time.Millisecond)
		own, err := cri.ReadPod(t.Context(), n.cri, "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		n.pleg.Cache.Put(own)
		time.Sleep(2 * time.Minute)
		n.want()
	})
}

// An event whose payload was gathered before a later change does not undo that change.
func TestLateEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		box := n.sandbox("a")
		id := n.container("a", box, "app")
		synctest.Wait()
		pod, _ := n.pleg.Cache.Get("a")
		old := pod.ContainerByID(id)
		n.exit(id)
		second := n.container("a", box, "second")
		n.drain()
		late := &runtimeapi.ContainerEventResponse{
			ContainerId: id, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, PodSandboxStatus: pod.Sandboxes[0],
			ContainersStatuses: []*runtimeapi.ContainerStatus{{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, State: old.State, CreatedAt: old.CreatedAt.UnixNano(), Labels: old.Labels}},
		}
		send := func() {
			time.Sleep(time.Millisecond)
			late.CreatedAt = time.Now().UnixNano()
			n.fake.SendEvent(late)
			synctest.Wait()
		}
		send()
		if n.state("a", id) != runtimeapi.ContainerState_CONTAINER_EXITED || n.state("a", second) != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Error("a late event undid what a newer one told")
		}
		n.remove(id)
		n.want()
		send()
		if n.state("a", id) != -1 {
			t.Error("a late event brought a removed container back")
		}
		n.want()
		// Its worker is done and has it forgotten.
		_, _ = n.cri.Runtime.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: box})
		n.drain()
		n.pleg.Cache.Delete("a")
		late.PodSandboxStatus.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		late.ContainersStatuses = nil
		send()
		if _, ok := n.pleg.Cache.Get("a"); ok {
			t.Error("a late event brought a pod back")
		}
	})
}

// Events are not trusted, and neither are their times.
func TestStrangeEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		id := n.container("a", n.sandbox("a"), "app")
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		n.drain()
		n.fake.ResetCalls()
		for _, at := range []int64{0, -1, time.Now().Add(time.Hour).UnixNano(), time.Now().Add(-time.Hour).UnixNano(), time.Now().UnixNano()} {
			for kind := range runtimeapi.ContainerEventType_name {
				n.fake.SendEvent(&runtimeapi.ContainerEventResponse{ContainerId: "none", CreatedAt: at, ContainerEventType: runtimeapi.ContainerEventType(kind)})
				n.fake.SendEvent(&runtimeapi.ContainerEventResponse{CreatedAt: at, PodSandboxStatus: &runtimeapi.PodSandboxStatus{}, ContainersStatuses: []*runtimeapi.ContainerStatus{nil}})
			}
		}
		synctest.Wait()
		if n.fake.Count("ListContainers") == 0 {
			t.Error("no list after events that tell nothing")
		}
		n.want()
		// The last event of a container may come without its sandbox.
		n.fake.MuteEvents(true)
		n.remove(id)
		n.fake.MuteEvents(false)
		n.fake.SendEvent(&runtimeapi.ContainerEventResponse{ContainerId: id, CreatedAt: time.Now().UnixNano(), ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT})
		n.want("a")
	})
}

func TestHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		for range 1000 {
			n.fake.FailNext("ListContainers", status.Error(codes.Unavailable, "away"))
		}
		time.Sleep(2 * time.Minute)
		if ok, err := n.pleg.Healthy(); !ok {
			t.Errorf("unhealthy too soon: %v", err)
		}
		time.Sleep(2 * time.Minute)
		ok, err := n.pleg.Healthy()
		if ok || !strings.Contains(err.Error(), "threshold is 3m0s") {
			t.Fatalf("Healthy = %v, %v", ok, err)
		}
		time.Sleep(5 * time.Second)
		if _, later := n.pleg.Healthy(); later == nil || later.Error() != err.Error() {
			t.Errorf("the message became %v from %v, and each change is written to the node's status", later, err)
		}
		time.Sleep(20 * time.Minute)
		if ok, err := n.pleg.Healthy(); !ok {
			t.Errorf("unhealthy although the runtime is back: %v", err)
		}
	})
}

// A reader that is away hears of each pod that changed meanwhile, once.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		n.run()
		defer n.stop()
		time.Sleep(5 * time.Second)
		box := n.sandbox("b")
		n.exit(n.container("b", box, "app"))
		n.container("a", n.sandbox("a"), "app")
		n.want("a", "b")
		n.want()
	})
}

// What a caller merges of one container is later than a list, which then leaves the pod alone. The event of another
// container's end, which is older than the list, counts all the same.
func TestEndBeforeMergeAndList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, Options{})
		box := n.sandbox("a")
		first, second := n.container("a", box, "first"), n.container("a", box, "second")
		if _, err := n.pleg.relist(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want("a")
		n.exit(first)
		event := &runtimeapi.ContainerEventResponse{ContainerId: first, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, CreatedAt: time.Now().UnixNano()}
		answer, err := n.cri.Runtime.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: box})
		if err != nil {
			t.Fatal(err)
		}
		event.PodSandboxStatus = answer.Status
		ended, err := n.cri.Runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: first})
		if err != nil {
			t.Fatal(err)
		}
		event.ContainersStatuses = []*runtimeapi.ContainerStatus{ended.Status}
		read, err := cri.ReadContainer(t.Context(), n.cri, second, box)
		if err != nil {
			t.Fatal(err)
		}
		part := &cri.PodStatus{UID: "a", Namespace: "default", Name: "web"}
		n.pleg.Cache.Merge(part.WithContainer(read, time.Now().Add(2*time.Millisecond))) // while the list is under way
		time.Sleep(time.Millisecond)
		if _, err := n.pleg.relist(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.pleg.handle(t.Context(), event)
		n.want("a")
		if n.state("a", first) != runtimeapi.ContainerState_CONTAINER_EXITED || n.state("a", second) != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("first is %v, second is %v", n.state("a", first), n.state("a", second))
		}
		// Of a pod that was forgotten such an event tells nothing.
		n.pleg.Cache.Delete("a")
		n.pleg.handle(t.Context(), event)
		n.want()
		if _, ok := n.pleg.Cache.Get("a"); ok {
			t.Error("an event older than a list brought a forgotten pod back")
		}
	})
}
