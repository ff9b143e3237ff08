package syncloop

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config"
	"minikubelet/e2e/crifake"
)

// asking is a pod that asks for so many CPUs.
func asking(uid types.UID, cpu string, generation int64) *corev1.Pod {
	return testPod(uid, func(pod *corev1.Pod) {
		pod.Generation = generation
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	})
}

func newResizeBench(t *testing.T, dir string, fake *crifake.Server) *bench {
	t.Helper()
	b := newBench(t, fake, dir, nil)
	b.node.allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourcePods: resource.MustParse("10")}
	b.start(b.PLEG.Run)
	return b
}

func (b *bench) send(op config.Op, pods ...*corev1.Pod) {
	b.handleUpdate(b.ctx, config.PodUpdate{Op: op, Source: "api", Pods: pods})
	b.wait(time.Second)
}

// resized is what the pod's status says of its resize, and how many CPUs it tells of.
func (b *bench) resized(uid types.UID) string {
	s, _ := b.Status.Get(uid)
	out := ""
	for _, c := range s.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			out += fmt.Sprintf("%s %s %d: %s; ", c.Type, c.Reason, c.ObservedGeneration, c.Message)
		}
	}
	if len(s.ContainerStatuses) == 0 {
		return out + "nothing"
	}
	return out + s.ContainerStatuses[0].AllocatedResources.Cpu().String()
}

func (b *bench) wantResized(uid types.UID, want string) {
	b.t.Helper()
	if got := b.resized(uid); got != want {
		b.t.Errorf("pod %s: %q, want %q", uid, got, want)
	}
}

func (b *bench) shares() (shares []int64) {
	for _, r := range crifake.Requests[*runtimeapi.UpdateContainerResourcesRequest](b.fake) {
		shares = append(shares, r.Linux.CpuShares)
	}
	return shares
}

// TestResize: what fits is given at once, what does not waits until it does, and shows why; what is taken back waits no more.
func TestResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newResizeBench(t, t.TempDir(), newFake())
		other := asking("other", "2", 1)
		b.send(config.ADD, other, asking("u", "1", 1))
		b.wantResized("u", "1")

		b.send(config.UPDATE, asking("u", "2", 2))
		b.wantResized("u", "2")
		b.wantEvent(`Pod resize completed: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}],"generation":2}`)

		b.send(config.UPDATE, asking("u", "3", 3))
		const full = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"
		b.wantResized("u", "PodResizePending Deferred 3: "+full+"; 2")
		b.wantEvent("Warning ResizeDeferred Pod resize OutOfcpu: ")

		b.send(config.UPDATE, asking("u", "2", 4))
		b.wantResized("u", "2")

		b.send(config.UPDATE, asking("u", "4", 5))
		b.send(config.REMOVE, other)
		b.wantResized("u", "4")
		b.wantEvent("Normal ResizeStarted Pod resize started: ")
		if got := fmt.Sprint(b.shares()); got != "[2048 4096]" {
			t.Errorf("the runtime was told %s shares", got)
		}
	})
}

// TestResizeOfEndedPod: a resize that waits for room is given up when its pod ends.
func TestResizeOfEndedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newResizeBench(t, t.TempDir(), newFake())
		other, pod := asking("other", "2", 1), asking("u", "3", 2)
		b.send(config.ADD, other, asking("u", "1", 1))
		b.send(config.UPDATE, pod)
		pod.Status.Phase = corev1.PodSucceeded
		b.send(config.RECONCILE, pod)
		b.send(config.REMOVE, other)
		given, _ := b.Allocation.Allocated(pod)
		if got := given.Spec.Containers[0].Resources.Requests.Cpu().String(); got != "1" {
			t.Errorf("the pod was given %s CPUs after its end", got)
		}
	})
}

// TestResizeOverRestart: a pod resized while no kubelet ran has what it had until there is room.
func TestResizeOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, fake := t.TempDir(), newFake()
		b := newResizeBench(t, dir, fake)
		b.send(config.ADD, asking("other", "2", 1), asking("u", "1", 1))
		b.stop()

		b = newResizeBench(t, dir, fake)
		b.send(config.ADD, asking("u", "3", 2), asking("other", "2", 1))
		b.wantResized("u", "PodResizePending Deferred 2: Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000; 1")
		b.wantRunning("other", true)
		b.send(config.UPDATE, asking("other", "1", 2))
		b.wantResized("other", "1")
		b.wantRunning("u", true)
		b.send(config.RECONCILE, asking("other", "1", 2))
		b.wantResized("u", "3")
	})
}

// TestResizesFirst: pods that ask for less come first, then by priority, then guaranteed pods, then those that have waited longest.
func TestResizesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		make := func(uid types.UID, cpu string, priority int32, class corev1.PodQOSClass) *corev1.Pod {
			pod := asking(uid, "2", 1)
			if err := b.Allocation.Allocate(pod); err != nil {
				t.Fatal(err)
			}
			pod = asking(uid, cpu, 2)
			pod.Spec.Priority, pod.Status.QOSClass = &priority, class
			return pod
		}
		less, important := make("less", "1", 0, corev1.PodQOSBurstable), make("important", "3", 9, corev1.PodQOSBurstable)
		guaranteed, old := make("guaranteed", "3", 0, corev1.PodQOSGuaranteed), make("old", "3", 0, corev1.PodQOSBurstable)
		b.Allocation.Pend(old, corev1.PodReasonDeferred, "full")
		time.Sleep(time.Second)
		young := make("young", "3", 0, corev1.PodQOSBurstable)
		b.Allocation.Pend(young, corev1.PodReasonDeferred, "full")
		order := []*corev1.Pod{less, important, guaranteed, old, young}
		for i, first := range order {
			for _, second := range order[i+1:] {
				if b.resizesFirst(first, second) >= 0 || b.resizesFirst(second, first) <= 0 {
					t.Errorf("%s does not come before %s", first.UID, second.UID)
				}
			}
		}
	})
}

// TestResizeInfeasible: what the node never does is told as such, once, and is given up when the pod does not ask for it any more.
func TestResizeInfeasible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newResizeBench(t, t.TempDir(), newFake())
		b.Infeasible = func(wanted, has *corev1.Pod) string {
			if has.Spec.Containers[0].Resources.Requests.Cpu().String() == "1" && wanted.Spec.Containers[0].Resources.Requests.Cpu().String() == "2" {
				return "never"
			}
			return ""
		}
		b.send(config.ADD, asking("u", "1", 1))
		b.send(config.UPDATE, asking("u", "2", 2))
		b.wantResized("u", "PodResizePending Infeasible 2: never; 1")
		b.wantEvent(`Warning ResizeInfeasible Pod resize Infeasible: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}],"generation":2,"error":"never"}`)
		b.send(config.UPDATE, asking("u", "3", 3))
		b.wantResized("u", "3")
	})
}
