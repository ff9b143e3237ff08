package syncloop

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
)

func created(uid types.UID, at time.Time) *corev1.Pod {
	return testPod(uid, func(pod *corev1.Pod) { pod.CreationTimestamp = metav1.NewTime(at) })
}

// TestOldestFirst: of pods that come together the older ones are taken first, whatever their order.
func TestOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.MaxPods = 2
		b.start(b.PLEG.Run)
		now := time.Now()
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{created("young", now), created("old", now.Add(-2*time.Hour)), created("middle", now.Add(-time.Hour))})
		b.wait(time.Second)
		b.wantRunning("old", true)
		b.wantRunning("middle", true)
		b.wantRunning("young", false)
		s, _ := b.Status.Get("young")
		if s.Phase != corev1.PodFailed || s.Reason != "OutOfpods" || s.Message != "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2" {
			t.Errorf("the status of the one too many: %s, %s, %s", s.Phase, s.Reason, s.Message)
		}
		b.wantEvent("Warning OutOfpods Node didn't have enough resource: pods")
		if phase, _ := b.Workers.Phase("young"); phase != podworkers.Finished {
			t.Errorf("it is %v", phase)
		}
	})
}

// TestRoomAgain: a pod that ended, was rejected or removed takes no room.
func TestRoomAgain(t *testing.T) {
	for name, end := range map[string]func(*bench, *corev1.Pod){
		"ended": func(b *bench, _ *corev1.Pod) { b.fake.SetExit(b.fake.ContainerID("a"), 0) },
		"removed": func(b *bench, pod *corev1.Pod) {
			b.handleUpdate(b.ctx, config.PodUpdate{Op: config.REMOVE, Source: "api", Pods: []*corev1.Pod{pod}})
		},
		"deleted": func(b *bench, pod *corev1.Pod) {
			deleted := pod.DeepCopy()
			deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			b.handleUpdate(b.ctx, config.PodUpdate{Op: config.DELETE, Source: "api", Pods: []*corev1.Pod{deleted}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, newFake(), t.TempDir(), nil)
				b.MaxPods = 1
				b.start(b.PLEG.Run, b.Run)
				first := testPod("first", func(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever })
				b.HandlePodAdditions(b.ctx, []*corev1.Pod{first, testPod("rejected", nil)})
				b.wait(time.Second)
				b.wantRunning("first", true)
				b.wantRunning("rejected", false)
				end(b, first)
				b.wait(time.Second)
				b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("second", nil)})
				b.wait(time.Second)
				b.wantRunning("second", true)
			})
		})
	}
}

// TestEndedPodIsNotAdmitted: after a restart of the kubelet a pod that has ended asks for nothing, and stays ended.
func TestEndedPodIsNotAdmitted(t *testing.T) {
	for phase, code := range map[corev1.PodPhase]int32{corev1.PodSucceeded: 0, corev1.PodFailed: 1} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, newFake(), t.TempDir(), nil)
			b.MaxPods = 0
			b.start(b.PLEG.Run)
			b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("u", func(pod *corev1.Pod) {
				pod.Spec.RestartPolicy = corev1.RestartPolicyNever
				pod.Status = corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
					Name: "a", ContainerID: "fake://gone", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}},
				}}}
			})})
			b.wait(time.Second)
			if s, _ := b.Status.Get("u"); s.Phase != phase || s.Reason != "" {
				t.Errorf("a pod that %s is %s, %s", phase, s.Phase, s.Reason)
			}
			if n := b.fake.Count("RunPodSandbox"); n != 0 {
				t.Error("it was started again")
			}
		})
	}
}

func TestSysctlsAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.CheckSysctls = func(*corev1.Pod) error { return errors.New("forbidden sysctl") }
		b.start(b.PLEG.Run)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("u", nil)})
		b.wait(time.Second)
		b.wantRunning("u", false)
		b.wantEvent("Warning SysctlForbidden forbidden sysctl")
	})
}

// TestReconcile: a status that others wrote is kept, and wakes only a pod that has readiness gates.
func TestReconcile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.start(b.PLEG.Run)
		pod := testPod("u", func(pod *corev1.Pod) { pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "gate"}} })
		b.handleUpdate(b.ctx, config.PodUpdate{Op: config.ADD, Source: "api", Pods: []*corev1.Pod{pod}})
		b.wait(time.Second)
		ready := func() corev1.ConditionStatus {
			s, _ := b.Status.Get("u")
			for _, c := range s.Conditions {
				if c.Type == corev1.PodReady {
					return c.Status
				}
			}
			return corev1.ConditionUnknown
		}
		if got := ready(); got != corev1.ConditionFalse {
			t.Errorf("ready is %s before the gate", got)
		}
		open := pod.DeepCopy()
		open.Status.Conditions = []corev1.PodCondition{{Type: "gate", Status: corev1.ConditionTrue}}
		b.handleUpdate(b.ctx, config.PodUpdate{Op: config.RECONCILE, Source: "api", Pods: []*corev1.Pod{open}})
		b.wait(time.Second)
		if got := ready(); got != corev1.ConditionTrue {
			t.Errorf("ready is %s after the gate", got)
		}
		if got, _ := b.Pods.Get("u"); got != open {
			t.Error("the newer version is not kept")
		}
	})
}

// TestUpdate: a changed pod reaches its worker.
func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.fake.AddImage("image:2")
		b.start(b.PLEG.Run, b.Run)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("u", nil)})
		b.wait(time.Second)
		first := b.fake.ContainerID("a")
		changed := testPod("u", func(pod *corev1.Pod) { pod.Spec.Containers[0].Image = "image:2" })
		b.handleUpdate(b.ctx, config.PodUpdate{Op: config.UPDATE, Source: "api", Pods: []*corev1.Pod{changed}})
		b.wait(2 * time.Second)
		b.wantRunning("u", true)
		if b.fake.ContainerID("a") == first {
			t.Error("the container still has the old image")
		}
	})
}

func TestPods(t *testing.T) {
	static := testPod("static", func(pod *corev1.Pod) { pod.Name, pod.Annotations[podinfo.SourceAnnotation] = "s", podinfo.SourceFile })
	mirror := testPod("mirror", func(pod *corev1.Pod) { pod.Name, pod.Annotations[podinfo.MirrorAnnotation] = "s", "hash" })
	plain := testPod("plain", nil)
	p := NewPods()
	p.Set(mirror)
	if lone := p.LoneMirrors(); len(lone) != 1 || p.StaticOf(mirror) != nil {
		t.Errorf("a mirror alone: lone %v", lone)
	}
	p.Set(static)
	p.Set(plain)
	if p.MirrorOf(static) != mirror || p.StaticOf(mirror) != static || len(p.LoneMirrors()) != 0 {
		t.Error("the static pod and its mirror do not find each other")
	}
	if len(p.All()) != 2 {
		t.Errorf("%d pods, want 2 without the mirror", len(p.All()))
	}
	if _, ok := p.Get("mirror"); ok {
		t.Error("a mirror is found by its UID")
	}
	// A newer static pod and a newer mirror of the same name: what the older versions leave does not take them away.
	newer := testPod("static-2", func(pod *corev1.Pod) { pod.Name, pod.Annotations[podinfo.SourceAnnotation] = "s", podinfo.SourceFile })
	newerMirror := testPod("mirror-2", func(pod *corev1.Pod) { pod.Name, pod.Annotations[podinfo.MirrorAnnotation] = "s", "hash-2" })
	p.Set(newer)
	p.Set(newerMirror)
	p.Remove(static)
	p.Remove(mirror)
	if p.StaticOf(newerMirror) != newer || p.MirrorOf(newer) != newerMirror {
		t.Error("removing the old took the new away")
	}
	p.Remove(newer)
	if lone := p.LoneMirrors(); len(lone) != 1 || lone[0] != newerMirror {
		t.Errorf("lone mirrors: %v", lone)
	}
	p.Remove(newerMirror)
	p.Remove(plain)
	if len(p.All())+len(p.LoneMirrors()) != 0 {
		t.Error("not empty in the end")
	}
	// A pod of the apiserver with a mirror's name is no static pod.
	p.Set(mirror)
	p.Set(testPod("api", func(pod *corev1.Pod) { pod.Name = "s" }))
	if p.StaticOf(mirror) != nil || len(p.LoneMirrors()) != 1 {
		t.Error("a mirror stands for a pod of the apiserver")
	}
}
