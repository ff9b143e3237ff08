package syncloop

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/e2e/crifake"
	"minikubelet/podworkers"
)

// TestLoop: a pod of the apiserver starts, restarts when its container ends, and goes when it is deleted.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		b := newBench(t, newFake(), t.TempDir(), client)
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		if _, err := client.CoreV1().Pods("ns").Create(b.ctx, testPod("u", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Second)
		b.wantRunning("u", true)
		first := b.fake.ContainerID("a")
		b.fake.SetExit(first, 1)
		b.wait(time.Second)
		b.wantRunning("u", true)
		if b.fake.ContainerID("a") == first {
			t.Error("the container that ended was not replaced")
		}
		if err := client.CoreV1().Pods("ns").Delete(b.ctx, "pod-u", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Second)
		b.wantRunning("u", false)
		if uids := b.Workers.UIDs(); len(uids) != 0 {
			t.Errorf("workers left: %v", uids)
		}
		if err := b.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

// TestRuntimeIsReadFirst: no pod is handled before it is known what runs.
func TestRuntimeIsReadFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(testPod("u", nil))
		b := newBench(t, newFake(), t.TempDir(), client)
		b.fake.Delay("ListPodSandbox", 5*time.Second)
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		b.wait(4 * time.Second)
		if uids := b.Workers.UIDs(); len(uids) != 0 {
			t.Errorf("workers before the runtime was read: %v", uids)
		}
		b.wait(2 * time.Second)
		b.wantRunning("u", true)
	})
}

// TestResync: a pod whose secrets or volumes changed is looked at, without waiting for anything else.
func TestResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), fake.NewClientset(testPod("u", nil)))
		b.node.setNetwork(errors.New("not yet"))
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		b.wait(time.Minute)
		b.wantRunning("u", false)
		b.node.setNetwork(nil)
		b.resync <- "u"
		synctest.Wait()
		b.wantRunning("u", true)
	})
}

func TestHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{})
		if err := l.Healthy(); err != nil {
			t.Errorf("before the start: %v", err)
		}
		l.lastTurn.Store(new(time.Now()))
		time.Sleep(time.Minute)
		if err := l.Healthy(); err != nil {
			t.Errorf("after a minute: %v", err)
		}
		time.Sleep(time.Second)
		if err := l.Healthy(); err == nil {
			t.Error("a loop that is stuck is healthy")
		}
	})
}

// TestOrphans: what runs and is in no source ends, once the source that it came from has been heard.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, dir := newFake(), t.TempDir()
		before := newBench(t, server, dir, nil)
		before.start(before.PLEG.Run)
		before.HandlePodAdditions(before.ctx, []*corev1.Pod{
			testPod("api", nil), testPod("wanted", nil),
			testPod("file", func(pod *corev1.Pod) { pod.Annotations[podinfo.SourceAnnotation] = podinfo.SourceFile }),
		})
		before.wait(time.Second)
		before.stop()

		b := newBench(t, server, dir, fake.NewClientset(testPod("wanted", nil)))
		b.start(b.PLEG.Run, b.Run)
		b.wait(time.Minute)
		for _, uid := range []types.UID{"api", "file", "wanted"} {
			b.wantRunning(uid, true)
		}
		b.start(b.Config.Run)
		b.wait(2 * housekeepingPeriod)
		b.wantRunning("api", false)
		b.wantRunning("file", false) // of a source that is not configured any more
		b.wantRunning("wanted", true)
		if left := b.Workers.UIDs(); !slices.Equal(left, []types.UID{"wanted"}) {
			t.Errorf("workers left: %v", left)
		}
	})
}

// TestSandboxThatComesLate: a runtime may go on making a sandbox although its pod was ended meanwhile. It is stopped when it is there.
func TestSandboxThatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		b.fake.Delay("RunPodSandbox", time.Hour)
		b.add(testPod("evicted", nil))
		b.wait(time.Second)
		b.Workers.Kill("evicted", podworkers.Kill{})
		b.wait(time.Second)
		if phase, _ := b.Workers.Phase("evicted"); phase != podworkers.Finished {
			t.Fatalf("the pod is %v", phase)
		}
		late, err := b.fake.RunPodSandbox(t.Context(), crifake.Requests[*runtimeapi.RunPodSandboxRequest](b.fake)[0])
		if err != nil {
			t.Fatal(err)
		}
		b.wait(2 * housekeepingPeriod)
		got, err := b.fake.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: late.PodSandboxId})
		if err != nil || got.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("the sandbox is %v, %v", got.GetStatus().GetState(), err)
		}
		if n := b.fake.Count("StopPodSandbox"); n != 1 {
			t.Errorf("it was stopped %d times", n)
		}
	})
}

// TestClean: the clean-up runs once a minute, never twice at once, and is told who is known.
func TestClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(), t.TempDir(), nil)
		var calls []time.Duration
		begin, pace := time.Now(), time.Second
		b.Clean = func(ctx context.Context, known func(types.UID) bool) error {
			calls = append(calls, time.Since(begin).Truncate(time.Second))
			if !known("u") || known("stranger") {
				t.Errorf("known: u %v, stranger %v", known("u"), known("stranger"))
			}
			select {
			case <-time.After(pace):
			case <-ctx.Done():
			}
			return errors.New("broken") // logged, and tried again
		}
		b.start(b.PLEG.Run)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("u", nil)})
		tick := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				b.wait(housekeepingPeriod)
				b.housekeeping(b.ctx)
			}
			synctest.Wait()
		}
		tick(3 * time.Minute)
		if want := []time.Duration{2 * time.Second, 62 * time.Second, 122 * time.Second}; !slices.Equal(calls, want) {
			t.Errorf("cleaned at %v, want %v", calls, want)
		}
		pace = 151 * time.Second // longer than the period
		tick(4 * time.Minute)
		if want := []time.Duration{182 * time.Second, 334 * time.Second}; !slices.Equal(calls[3:], want) {
			t.Errorf("cleaned at %v, want %v", calls[3:], want)
		}
	})
}

// TestLoneMirror: a mirror whose static pod is gone is deleted, that of one that is there is not.
func TestLoneMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mirror := func(name string) *corev1.Pod {
			return testPod(types.UID(name+"-mirror"), func(pod *corev1.Pod) {
				pod.Name, pod.Annotations[podinfo.MirrorAnnotation] = name, "hash"
			})
		}
		client := fake.NewClientset(mirror("lone"), mirror("kept"))
		b := newBench(t, newFake(), t.TempDir(), client)
		b.start(b.PLEG.Run)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("static", func(pod *corev1.Pod) {
			pod.Name, pod.Annotations[podinfo.SourceAnnotation], pod.Annotations[podinfo.HashAnnotation] = "kept", podinfo.SourceFile, "hash"
		})})
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{mirror("lone"), mirror("kept")})
		b.housekeeping(b.ctx)
		b.wait(time.Second)
		if list, err := client.CoreV1().Pods("ns").List(b.ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
			t.Errorf("before the sources have synced: %v", err)
		}
		b.start(b.Config.Run, b.Run)
		b.wait(2 * housekeepingPeriod)
		list, err := client.CoreV1().Pods("ns").List(b.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != 1 || list.Items[0].Name != "kept" {
			t.Errorf("%d mirrors left", len(list.Items))
		}
		b.wantRunning("static", true)
		if _, ok := b.Workers.Phase("kept-mirror"); ok {
			t.Error("a mirror has a worker")
		}
	})
}
