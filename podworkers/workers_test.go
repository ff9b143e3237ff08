package podworkers

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/metricstest"
	"minikubelet/status"
)

func TestPodStartsAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})})
		b.want("u", "box a:run")
		b.wantPhase("u", Syncing)
		if s := b.statusOf("u"); s.Phase != corev1.PodRunning || !s.ContainerStatuses[0].Ready || s.HostIP != "192.0.2.1" || s.PodIP == "" {
			t.Errorf("the status is %+v", s)
		}
		if _, err := os.Stat(filepath.Join(b.dir, "pods/u/volumes/kubernetes.io~empty-dir/v")); err != nil {
			t.Errorf("the volume: %v", err)
		}
		b.Removed("u")
		b.settle()
		b.wantGone("u")
		if entries, err := os.ReadDir(filepath.Join(b.dir, "pods")); err != nil || len(entries) > 0 {
			t.Errorf("directories of pods are left: %v, %v", entries, err)
		}
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{30}) {
			t.Errorf("grace periods %v, want the pod's", got)
		}
		if uids := b.UIDs(); len(uids) != 0 {
			t.Errorf("workers left: %v", uids)
		}
		b.Poke("u", "test") // there is no such worker
		b.Removed("u")
	})
}

// TestDeletedPod: a pod with a deletion timestamp ends, and keeps its worker until its source lets go of it.
func TestDeletedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil)})
		deleted := testPod("u", func(pod *corev1.Pod) {
			now := metav1.Now()
			pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, new(int64(7))
		})
		b.update(Update{Pod: deleted})
		b.settle()
		b.wantPhase("u", Finished)
		b.want("u", "")
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{7}) {
			t.Errorf("grace periods %v, want that of the deletion", got)
		}
		before := len(b.fake.Calls())
		b.Poke("u", "test")
		b.settle()
		if late := b.fake.Calls()[before:]; len(late) != 0 {
			t.Errorf("of a pod that is finished the runtime is asked %v", late)
		}
		b.Removed("u")
		b.settle()
		b.wantGone("u")
	})
}

// TestUnremovable: a pod of which the runtime cannot remove what ended is let go after some tries.
func TestUnremovable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil)})
		for range 100 {
			b.fake.FailNext("RemoveContainer", errors.New("cannot delete running task"))
			b.fake.FailNext("RemovePodSandbox", errors.New("cannot delete running task"))
		}
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			now := metav1.Now()
			pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, new(int64(7))
		})})
		b.wait(time.Minute)
		b.wantPhase("u", Finished)
		b.wantEvent("Warning FailedRemoveContainers")
		tries := b.fake.Count("RemovePodSandbox")
		b.Removed("u")
		b.settle()
		if phase, known := b.Phase("u"); known {
			t.Errorf("the pod still has a worker, %v", phase)
		}
		if tries != emptyTries+1 {
			t.Errorf("the runtime was asked %d times to remove it, want %d", tries, emptyTries+1)
		}
	})
}

// TestPodsOutliveTheKubelet: the workers' context ends no pod.
func TestPodsOutliveTheKubelet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("u", nil)})
		first.stop()
		id := first.fake.ContainerID("a")
		second := newBenchOver(t, first.fake, first.dir)
		second.update(Update{Pod: testPod("u", nil)})
		second.want("u", "box a:run")
		if now := second.fake.ContainerID("a"); now != id {
			t.Errorf("container %s replaced %s", now, id)
		}
		if n := len(first.fake.SandboxIDs()); n != 1 {
			t.Errorf("%d sandboxes", n)
		}
	})
}

func TestKillCancelsTheSyncInFlight(t *testing.T) {
	for name, kill := range map[string]func(*bench){
		"kill":    func(b *bench) { b.update(Update{Pod: testPod("u", nil), Kill: &Kill{}}) },
		"removed": func(b *bench) { b.Removed("u"); synctest.Wait() },
		"deleted": func(b *bench) {
			b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: time.Now()} })})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.fake.Delay("RunPodSandbox", time.Hour)
				b.update(Update{Pod: testPod("u", nil)})
				if b.fake.Count("RunPodSandbox") != 1 {
					t.Fatalf("not starting: %v", b.fake.Calls())
				}
				before := time.Now()
				kill(b)
				b.wait(5 * time.Second)
				if phase, ok := b.Phase("u"); ok && phase != Finished {
					t.Errorf("%v after the kill the pod is %v", time.Since(before), phase)
				}
				b.want("u", "")
				if n := b.fake.Count("RunPodSandbox"); n != 1 {
					t.Errorf("%d sandboxes were begun", n)
				}
			})
		})
	}
}

// TestUpdateDoesNotCancel: only what ends the pod cancels a sync; another change waits its turn.
func TestUpdateDoesNotCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.fake.Delay("RunPodSandbox", time.Minute)
		b.update(Update{Pod: testPod("u", nil)})
		for range 3 {
			b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.Labels = map[string]string{"a": "b"} })})
		}
		b.wait(time.Minute)
		b.want("u", "box a:run")
		if n := b.fake.Count("RunPodSandbox"); n != 1 {
			t.Errorf("the sandbox was begun %d times", n)
		}
	})
}

func TestShorterGracePeriodCancelsTheLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		pod := testPod("u", nil)
		b.update(Update{Pod: pod})
		b.fake.Delay("StopContainer", time.Hour)
		b.update(Update{Pod: pod, Kill: &Kill{}})
		b.wantPhase("u", Terminating)
		b.update(Update{Pod: pod, Kill: &Kill{GracePeriod: new(int64(60))}})
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{30}) {
			t.Fatalf("grace periods %v: a longer one must not count", got)
		}
		b.fake.Delay("StopContainer", 0)
		b.update(Update{Pod: pod, Kill: &Kill{GracePeriod: new(int64(5))}})
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{30, 5}) {
			t.Errorf("grace periods %v, want the shorter one after the longer", got)
		}
		b.settle()
		b.wantPhase("u", Finished)
	})
}

// static makes a pod one of a manifest file.
func static(pod *corev1.Pod) {
	pod.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
}

// TestSuccessorWaits: a static pod of the same name starts once nothing of its predecessor runs, and says that it waits.
func TestSuccessorWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("old", static)})
		b.fake.Delay("StopContainer", 10*time.Second)
		b.Removed("old")
		b.allEvents()
		b.update(Update{Pod: testPod("new", static)})
		b.update(Update{Pod: testPod("other", func(pod *corev1.Pod) { pod.Name = "other" })})
		b.want("new", "")
		b.Poke("new", "test")
		b.wait(time.Millisecond)
		if all := b.allEvents(); strings.Count(all, "Normal NameInUse waiting for pod old, which has the same name, to end") != 1 {
			t.Errorf("who waits says so in an event once:\n%s", all)
		}
		if s := b.statusOf("new"); s.Phase != corev1.PodPending || s.ContainerStatuses[0].State.Waiting == nil || !strings.Contains(s.ContainerStatuses[0].State.Waiting.Message, "pod old") {
			t.Errorf("the status of who waits: %+v", s)
		}
		b.want("other", "box a:run")
		b.wait(9 * time.Second)
		b.want("new", "")
		b.wait(2 * time.Second)
		b.wantGone("old")
		b.want("new", "box a:run")
		b.wantPhase("new", Syncing)
		if s := b.statusOf("new"); s.ContainerStatuses[0].State.Running == nil {
			t.Errorf("the status of who waited: %+v", s)
		}
	})
}

// TestNewPodOfTheSameName: a pod of the apiserver waits for no other, such as one that was deleted by force and still ends.
func TestNewPodOfTheSameName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("old", nil)})
		b.fake.Delay("StopContainer", 10*time.Second)
		b.Removed("old")
		b.update(Update{Pod: testPod("new", nil)})
		b.want("new", "box a:run")
		b.settle()
		b.wait(10 * time.Second)
		b.wantGone("old")
		b.want("new", "box a:run")
	})
}

// TestVolumeThatStays: a volume that cannot be taken away is in no successor's way.
func TestVolumeThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("old", static)})
		stays := filepath.Join(b.dir, "pods/old/volumes/kubernetes.io~csi/v") // without an apiserver there is no driver to ask
		if err := os.MkdirAll(stays, 0o755); err != nil {
			t.Fatal(err)
		}
		b.Removed("old")
		b.update(Update{Pod: testPod("new", static)})
		b.settle()
		b.wantPhase("old", Terminated)
		b.want("new", "box a:run")
		if err := os.Remove(stays); err != nil {
			t.Fatal(err)
		}
		b.wait(10 * time.Second)
		b.wantGone("old")
	})
}

// TestEndingOrphanKeepsItsName: after a restart of the kubelet a pod that only the runtime knows holds its name until
// nothing of it runs, also if it began to end before its successor came.
func TestEndingOrphanKeepsItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("old", static)})
		first.stop()
		b := newBenchOver(t, first.fake, first.dir)
		b.fake.Delay("StopContainer", 10*time.Second)
		b.EndOrphan(b.ctx, "old")
		b.update(Update{Pod: testPod("new", static)})
		b.want("new", "")
		b.wait(11 * time.Second)
		b.wantGone("old")
		b.want("new", "box a:run")
	})
}

// TestPodThatEndsAtOnceKeepsItsName: the same of a pod that has a source and must end before its first step: it was
// rejected, its manifest went, or it was deleted.
func TestPodThatEndsAtOnceKeepsItsName(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"rejected": func(b *bench) { b.update(Update{Pod: testPod("old", static), Kill: &Kill{}}) },
		"removed": func(b *bench) {
			b.UpdatePod(b.ctx, Update{Pod: testPod("old", static)})
			b.Removed("old")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := newBench(t)
				first.update(Update{Pod: testPod("old", static)})
				first.stop()
				b := newBenchOver(t, first.fake, first.dir)
				b.fake.Delay("StopContainer", 10*time.Second)
				end(b)
				b.update(Update{Pod: testPod("new", static)})
				b.want("new", "")
				b.wait(11 * time.Second)
				b.want("new", "box a:run")
			})
		})
	}
}

// TestOrphanOfTheSameName: a pod that only the runtime remembers holds its name too, and is ended.
func TestOrphanOfTheSameName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("old", static)})
		first.stop()
		b := newBenchOver(t, first.fake, first.dir)
		b.update(Update{Pod: testPod("new", static)})
		b.settle()
		b.wantGone("old")
		b.want("new", "box a:run")
		if got := b.stopTimeouts(); !slices.Equal(got, []int64{30}) {
			t.Errorf("grace periods %v, want that of the labels", got)
		}
	})
}

func TestEndOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("u", nil)})
		first.stop()
		b := newBenchOver(t, first.fake, first.dir)
		b.EndOrphan(b.ctx, "nobody")
		if len(b.UIDs()) != 0 {
			t.Error("a pod that is not there got a worker")
		}
		b.EndOrphan(b.ctx, "u")
		b.settle()
		b.wantGone("u")
	})
}

// TestRejectedPod: a pod that the node does not take fails with the reason, and never starts.
func TestRejectedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.update(Update{Pod: testPod("u", nil), Kill: &Kill{Override: &status.Override{Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Pod was rejected: no"}}})
		b.wantPhase("u", Finished)
		if s := b.statusOf("u"); s.Phase != corev1.PodFailed || s.Reason != "OutOfcpu" || s.Message != "Pod was rejected: no" {
			t.Errorf("the status is %+v", s)
		}
		if n := b.fake.Count("RunPodSandbox"); n != 0 {
			t.Errorf("%d sandboxes were begun", n)
		}
		b.update(Update{Pod: testPod("u", nil)}) // an update changes nothing
		b.wantPhase("u", Finished)
	})
}

func TestKillMerge(t *testing.T) {
	evicted, late := &status.Override{Reason: "Evicted"}, &status.Override{Reason: "Late"}
	for name, tt := range map[string]struct{ first, then, want Kill }{
		"first cause stays":  {Kill{Override: evicted}, Kill{Override: late}, Kill{Override: evicted}},
		"a cause comes late": {Kill{}, Kill{Override: late}, Kill{Override: late}},
		"shorter wins":       {Kill{GracePeriod: new(int64(9))}, Kill{GracePeriod: new(int64(3))}, Kill{GracePeriod: new(int64(3))}},
		"longer does not":    {Kill{GracePeriod: new(int64(3))}, Kill{GracePeriod: new(int64(9))}, Kill{GracePeriod: new(int64(3))}},
		"none keeps one":     {Kill{GracePeriod: new(int64(3))}, Kill{}, Kill{GracePeriod: new(int64(3))}},
		"one after none":     {Kill{}, Kill{GracePeriod: new(int64(3))}, Kill{GracePeriod: new(int64(3))}},
	} {
		got := tt.then.merge(&tt.first)
		if got.Override != tt.want.Override || (got.GracePeriod == nil) != (tt.want.GracePeriod == nil) ||
			got.GracePeriod != nil && *got.GracePeriod != *tt.want.GracePeriod {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if k := (&Kill{}); k.merge(nil) != k {
		t.Error("the first kill is changed")
	}
}

func TestGracePeriod(t *testing.T) {
	now := metav1.Now()
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		kill   *Kill
		want   int64
	}{
		"the pod's":               {nil, nil, 30},
		"none given":              {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = nil }, nil, 30},
		"the deletion's":          {func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, new(int64(60)) }, nil, 60},
		"the kill's, shorter":     {nil, &Kill{GracePeriod: new(int64(4))}, 4},
		"the kill's, longer":      {nil, &Kill{GracePeriod: new(int64(40))}, 30},
		"zero is a second":        {nil, &Kill{GracePeriod: new(int64(0))}, 1},
		"deleted at once":         {func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, new(int64(0)) }, nil, 1},
		"kill within a deletion":  {func(p *corev1.Pod) { p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, new(int64(9)) }, &Kill{GracePeriod: new(int64(2))}, 2},
		"deletion without period": {func(p *corev1.Pod) { p.DeletionTimestamp = &now }, nil, 30},
	} {
		w := newWorker(&Workers{}, testPod("u", tt.change))
		w.kill = tt.kill
		if got := w.grace(); got != tt.want {
			t.Errorf("%s: %d s, want %d", name, got, tt.want)
		}
	}
}

func TestRetryBackOff(t *testing.T) {
	w := &worker{}
	for failures, want := range map[int]time.Duration{1: 500 * time.Millisecond, 2: time.Second, 5: 8 * time.Second, 6: 10 * time.Second, 1000: 10 * time.Second} {
		w.failures = failures
		if got := w.backoff(); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}

// TestSleep: a time has come by whichever clock is there first. After a suspension that is the one on the wall.
func TestSleep(t *testing.T) {
	due := time.Now().Add(time.Hour)
	for _, tc := range []struct {
		now  time.Time
		want time.Duration
	}{
		{due.Add(-time.Hour), longestSleep},
		{due.Add(-time.Second), time.Second},
		{due, 0},
		{due.Round(0).Add(-time.Hour), longestSleep},
		{due.Round(0), 0},
	} {
		if got := sleep(due, tc.now); got != tc.want {
			t.Errorf("at %v: %v, want %v", tc.now, got, tc.want)
		}
	}
}

// TestComesBack: a pod that is removed and comes back with its UID while it ends, as a static pod does whose manifest
// was away for a moment, ends and starts again; one that goes again does not.
func TestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		pod := testPod("u", nil)
		b.update(Update{Pod: pod})
		b.want("u", "box a:run")
		b.Removed("u")
		b.UpdatePod(b.ctx, Update{Pod: pod})
		b.settle()
		b.wantPhase("u", Syncing)
		b.want("u", "box box- a:run a:exit143")
		if c := b.statusOf("u").ContainerStatuses[0]; c.RestartCount != 1 || c.LastTerminationState.Terminated == nil {
			t.Errorf("the container's status does not tell of its restart: %+v", c)
		}
		metricstest.Want(t, b.registry, `kubelet_restarted_pods_total{static=""} 1`, `kubelet_restarted_pods_total{static="true"} 0`)
		b.Removed("u")
		b.UpdatePod(b.ctx, Update{Pod: pod})
		b.Removed("u")
		b.settle()
		b.wantGone("u")
		metricstest.Want(t, b.registry, `kubelet_restarted_pods_total{static=""} 1`)
	})
}
