package syncloop

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	podinfo "minikubelet/config/pod"
)

// staticPod is a pod of a file that kubelets saw at that time.
func staticPod(seen time.Time, change func(*corev1.Pod)) *corev1.Pod {
	return testPod("static", func(pod *corev1.Pod) {
		pod.Annotations[podinfo.SourceAnnotation], pod.Annotations[podinfo.HashAnnotation] = podinfo.SourceFile, "hash"
		pod.Annotations[podinfo.SeenAnnotation] = seen.Format(time.RFC3339Nano)
		if change != nil {
			change(pod)
		}
	})
}

func mirrorOf(static *corev1.Pod) *corev1.Pod {
	mirror := static.DeepCopy()
	mirror.UID, mirror.Annotations[podinfo.MirrorAnnotation] = "mirror", "hash"
	return mirror
}

// since is when the pod started, and since when its condition has the status that it has.
func (b *bench) since(uid types.UID, kind corev1.PodConditionType) (start time.Time, status corev1.ConditionStatus, since time.Time) {
	b.t.Helper()
	s, ok := b.Status.Get(uid)
	if !ok || s.StartTime == nil {
		b.t.Fatalf("pod %s has no status", uid)
	}
	for _, c := range s.Conditions {
		if c.Type == kind {
			return s.StartTime.Time, c.Status, c.LastTransitionTime.Time
		}
	}
	b.t.Fatalf("pod %s has no condition %s", uid, kind)
	return
}

// TestStaticPodRemembered: after a restart of the kubelet a static pod has the times that it had: from what the runtime has
// of it, where there is no apiserver.
func TestStaticPodRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, dir := newFake(), t.TempDir()
		before := newBench(t, server, dir, nil)
		before.start(before.PLEG.Run, before.Run)
		before.HandlePodAdditions(before.ctx, []*corev1.Pod{staticPod(time.Now(), nil)})
		before.wait(time.Second)
		start, ready, since := before.since("static", corev1.PodReady)
		if ready != corev1.ConditionTrue {
			t.Fatal("not ready")
		}
		before.stop()
		time.Sleep(time.Hour)

		b := newBench(t, server, dir, nil)
		b.start(b.PLEG.Run, b.Run)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{staticPod(time.Now(), nil)})
		b.wait(time.Second)
		gotStart, gotReady, gotSince := b.since("static", corev1.PodReady)
		if !gotStart.Equal(start) || gotReady != ready || !gotSince.Equal(since) {
			t.Errorf("started %v, ready %s since %v; before %v, %s since %v", gotStart, gotReady, gotSince, start, ready, since)
		}
	})
}

// TestStaticPodAndItsMirror: what the runtime does not know, such as the readiness that a probe found, the mirror tells,
// whenever it comes. That the pod ended once it does not.
func TestStaticPodAndItsMirror(t *testing.T) {
	for name, mirrorFirst := range map[string]bool{"mirror first": true, "mirror later": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				probed := func(pod *corev1.Pod) {
					pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{InitialDelaySeconds: 7200, PeriodSeconds: 1, SuccessThreshold: 1}
					pod.Spec.Containers[0].ReadinessProbe.Exec = &corev1.ExecAction{Command: []string{"true"}}
				}
				server, dir, client := newFake(), t.TempDir(), fake.NewClientset()
				before := newBench(t, server, dir, client)
				before.start(before.PLEG.Run, before.Run)
				before.HandlePodAdditions(before.ctx, []*corev1.Pod{staticPod(time.Now(), probed)})
				before.wait(time.Second)
				was, _ := before.Status.Get("static")
				before.stop()
				// The probe found it ready, and a while ago a kubelet gave it up.
				start, since := metav1.NewTime(time.Now().Add(-time.Hour)).Rfc3339Copy(), metav1.NewTime(time.Now().Add(-time.Minute)).Rfc3339Copy()
				was.StartTime, was.Phase, was.Reason = &start, corev1.PodFailed, "Evicted"
				was.ContainerStatuses[0].Ready = true
				for i := range was.Conditions {
					was.Conditions[i].Status, was.Conditions[i].LastTransitionTime = corev1.ConditionTrue, since
				}
				time.Sleep(time.Hour)

				b := newBench(t, server, dir, client)
				b.start(b.PLEG.Run, b.Run)
				static := staticPod(time.Now(), probed)
				mirror := mirrorOf(static)
				mirror.Status = was
				pods := []*corev1.Pod{static, mirror}
				if mirrorFirst {
					pods = []*corev1.Pod{mirror, static}
				}
				for _, pod := range pods {
					b.HandlePodAdditions(b.ctx, []*corev1.Pod{pod})
					b.wait(time.Second)
				}
				gotStart, ready, gotSince := b.since("static", corev1.PodReady)
				if !gotStart.Equal(start.Time) || ready != corev1.ConditionTrue || !gotSince.Equal(since.Time) {
					t.Errorf("started %v, ready %s since %v; want %v, True, %v", gotStart, ready, gotSince, start, since)
				}
				if s, _ := b.Status.Get("static"); s.Phase != corev1.PodRunning || s.Reason != "" {
					t.Errorf("the pod is %s, %s", s.Phase, s.Reason)
				}
				b.wantRunning("static", true)
			})
		})
	}
}

// TestMirrorOutlivesStaticPod: the mirror of a pod that ends stays until it has ended, also if a kubelet starts meanwhile.
func TestMirrorOutlivesStaticPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, dir, client := newFake(), t.TempDir(), fake.NewClientset()
		static := staticPod(time.Now(), nil)
		mirrors := func() int {
			t.Helper()
			list, err := client.CoreV1().Pods("ns").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(list.Items)
		}
		before := newBench(t, server, dir, client)
		before.start(before.PLEG.Run, before.Config.Run, before.Run)
		before.inTurn(func() { before.HandlePodAdditions(before.ctx, []*corev1.Pod{static}) })
		before.wait(time.Second)
		if mirrors() != 1 {
			t.Fatal("no mirror")
		}
		server.Delay("StopContainer", 30*time.Second)
		before.inTurn(func() { before.HandlePodRemoves(before.ctx, []*corev1.Pod{static}) })
		before.wait(5 * housekeepingPeriod)
		before.wantRunning("static", true)
		if mirrors() != 1 {
			t.Error("the mirror went before the pod ended")
		}
		before.stop()

		b := newBench(t, server, dir, client)
		b.start(b.PLEG.Run, b.Config.Run, b.Run)
		b.wait(5 * housekeepingPeriod)
		b.wantRunning("static", true)
		if mirrors() != 1 {
			t.Error("the mirror went before the pod ended, after a restart")
		}
		b.wait(time.Minute)
		b.wantRunning("static", false)
		if mirrors() != 0 {
			t.Error("the mirror is left")
		}
	})
}

// TestMirrorOfTheVersionBefore: while a static pod's new version waits for the old one to end, the mirror shows the old
// one, and what becomes of that. Then it makes room for the new one's.
func TestMirrorOfTheVersionBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := newFake(), fake.NewClientset()
		written := countMirrors(client)
		var refusing atomic.Bool // to delete
		client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return refusing.Load(), nil, errors.New("not now")
		})
		b := newBench(t, server, t.TempDir(), client)
		b.start(b.PLEG.Run, b.Config.Run, b.Status.Run, b.Run)
		mirror := func() *corev1.Pod {
			t.Helper()
			list, err := client.CoreV1().Pods("ns").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 1 {
				t.Fatalf("%d mirrors, %v", len(list.Items), err)
			}
			return &list.Items[0]
		}
		old := staticPod(time.Now(), nil)
		b.inTurn(func() { b.HandlePodAdditions(b.ctx, []*corev1.Pod{old}) })
		b.wait(5 * time.Second)
		if m := mirror(); m.Annotations[podinfo.MirrorAnnotation] != "hash" || m.Status.Phase != corev1.PodRunning {
			t.Fatalf("the mirror of %s is %s", m.Annotations[podinfo.MirrorAnnotation], m.Status.Phase)
		}
		server.Delay("StopContainer", 30*time.Second)
		b.inTurn(func() {
			b.HandlePodRemoves(b.ctx, []*corev1.Pod{old})
			b.HandlePodAdditions(b.ctx, []*corev1.Pod{staticPod(time.Now(), func(pod *corev1.Pod) {
				pod.UID, pod.Annotations[podinfo.HashAnnotation] = "changed", "changed"
			})})
		})
		for range 20 {
			b.wait(time.Second)
			if m := mirror(); m.Annotations[podinfo.MirrorAnnotation] != "hash" || m.Status.Phase != corev1.PodRunning {
				t.Fatalf("the mirror of %s is %s while the old version runs", m.Annotations[podinfo.MirrorAnnotation], m.Status.Phase)
			}
		}
		refusing.Store(true)
		b.wait(30 * time.Second)
		refusing.Store(false)
		b.wait(time.Minute)
		// The end is told unless the old version is forgotten first, and nothing of the new one.
		if phases := written("mirror 1 of hash"); phases != "Running Failed" && phases != "Running" {
			t.Errorf("the old version's mirror was %s", phases)
		}
		b.wantRunning("changed", true)
		if m := mirror(); m.Annotations[podinfo.MirrorAnnotation] != "changed" || m.Status.Phase != corev1.PodRunning {
			t.Errorf("the mirror of %s is %s in the end", m.Annotations[podinfo.MirrorAnnotation], m.Status.Phase)
		}
	})
}

// countMirrors gives each mirror that is made a UID of its own. written tells which phases one was given.
func countMirrors(client *fake.Clientset) (written func(types.UID) string) {
	made, phases := 0, map[types.UID][]string{}
	var mu sync.Mutex
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		made++
		pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
		pod.UID = types.UID(fmt.Sprintf("mirror %d of %s", made, pod.Annotations[podinfo.MirrorAnnotation]))
		return false, nil, nil
	})
	client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		var change corev1.Pod
		if err := json.Unmarshal(action.(clienttesting.PatchAction).GetPatch(), &change); err != nil {
			return true, nil, err
		}
		if phase := string(change.Status.Phase); phase != "" {
			phases[change.UID] = append(phases[change.UID], phase)
		}
		return false, nil, nil
	})
	return func(uid types.UID) string {
		mu.Lock()
		defer mu.Unlock()
		return strings.TrimPrefix(strings.Join(phases[uid], " "), "Pending ") // it is written unless the next one is there soon
	}
}

// TestMirrorOfAPodThatCameBack: a mirror that was told of its pod's end is none of the same pod that is put back.
func TestMirrorOfAPodThatCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := newFake(), fake.NewClientset()
		written := countMirrors(client)
		b := newBench(t, server, t.TempDir(), client)
		b.start(b.PLEG.Run, b.Config.Run, b.Status.Run, b.Run)
		static := staticPod(time.Now(), nil)
		b.inTurn(func() { b.HandlePodAdditions(b.ctx, []*corev1.Pod{static}) })
		b.wait(5 * time.Second)
		server.Delay("StopContainer", 3*time.Second)
		b.inTurn(func() {
			b.HandlePodRemoves(b.ctx, []*corev1.Pod{static})
			b.HandlePodAdditions(b.ctx, []*corev1.Pod{static})
		})
		b.wait(time.Minute)
		b.wantRunning("static", true)
		switch before, after := written("mirror 1 of hash"), written("mirror 2 of hash"); {
		case before == "Running Failed" && after == "Running":
		case before == "Running" && after == "": // it came back before its end was told
		default:
			t.Errorf("the first mirror was %s and the second %s", before, after)
		}
	})
}

// TestMirrorOfAnEndedPod: a kubelet that starts finds a static pod that has ended, and its mirror stays as it is.
func TestMirrorOfAnEndedPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, dir, client := newFake(), t.TempDir(), fake.NewClientset()
		written := countMirrors(client)
		once := func(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever }
		static := staticPod(time.Now(), once)
		before := newBench(t, server, dir, client)
		before.start(before.PLEG.Run, before.Config.Run, before.Status.Run, before.Run)
		before.inTurn(func() { before.HandlePodAdditions(before.ctx, []*corev1.Pod{static}) })
		before.wait(5 * time.Second)
		server.SetExit(server.ContainerID("a"), 0)
		before.wait(5 * time.Second)
		before.stop()

		b := newBench(t, server, dir, client)
		b.start(b.PLEG.Run, b.Config.Run, b.Status.Run, b.Run)
		b.inTurn(func() { b.HandlePodAdditions(b.ctx, []*corev1.Pod{static}) })
		b.wait(time.Minute)
		if first, second := written("mirror 1 of hash"), written("mirror 2 of hash"); first != "Running Succeeded" || second != "" {
			t.Errorf("the mirror was %s; another %s", first, second)
		}
		if s, _ := b.Status.Get("static"); s.Phase != corev1.PodSucceeded {
			t.Errorf("the pod is %s", s.Phase)
		}
	})
}
