package syncloop

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config"
	podinfo "minikubelet/config/pod"
	"minikubelet/podworkers"
	"minikubelet/runtime/cri"
)

// TestFull: with every channel that the loop reads full, and their writers waiting, each thing that a turn does ends. Then
// the loop takes all of it. It runs outside of a bubble, where a lock that is never free would hang the test.
func TestFull(t *testing.T) {
	const many = 120 // more than there is room for in any channel
	client := fake.NewClientset()
	b := newBench(t, newFake(), t.TempDir(), client)
	b.MaxPods = 2 * many
	b.UpdateQOS = func([]*corev1.Pod) error { return nil }
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not after a minute", what)
			}
		}
	}
	run := func(fn func(context.Context)) { b.parts.Go(func() { fn(b.ctx) }) }
	run(func(ctx context.Context) { // the fake recorder keeps what it is told when nothing reads it, and then waits
		for {
			select {
			case <-b.events.Events:
			case <-ctx.Done():
				return
			}
		}
	})

	observe := func(uid types.UID, at time.Time) {
		b.PLEG.Cache.Put(&cri.PodStatus{UID: uid, Namespace: "ns", Name: string(uid), ObservedAt: at, IPs: []string{"127.0.0.1"}, Containers: []*cri.ContainerStatus{{
			ID: "container-" + string(uid), Name: "a", State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		}}})
	}
	for i := range many {
		observe(types.UID(fmt.Sprint("vanished-", i)), time.Now().Add(-time.Minute))
	}
	run(b.PLEG.Run)
	until("the PLEG's bell", func() bool { return len(b.PLEG.Bell()) == cap(b.PLEG.Bell()) })

	probe := &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 1, TimeoutSeconds: 1}
	probe.HTTPGet = &corev1.HTTPGetAction{Host: "127.0.0.1", Port: intstr.FromInt32(1), Scheme: corev1.URISchemeHTTP}
	for i := range many {
		uid := types.UID(fmt.Sprint("probed-", i))
		observe(uid, time.Now().Add(time.Hour))
		b.Probes.Add(b.ctx, testPod(uid, func(pod *corev1.Pod) { pod.Spec.Containers[0].ReadinessProbe = probe }))
	}
	until("results of probes", func() bool { return len(b.Probes.Results()) == cap(b.Probes.Results()) })

	run(b.Config.Run)
	pod := func(i int) *corev1.Pod { return testPod(types.UID(fmt.Sprint("u", i)), nil) }
	for i := range many {
		if _, err := client.CoreV1().Pods("ns").Create(b.ctx, pod(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	until("updates of pods", func() bool { return len(b.Config.Updates()) == cap(b.Config.Updates()) })
	run(func(ctx context.Context) {
		select {
		case b.resync <- "u0":
		case <-ctx.Done():
		}
	})

	turns := make(chan struct{})
	go func() {
		defer close(turns)
		first, mirror := pod(0), testPod("mirror", func(pod *corev1.Pod) { pod.Annotations[podinfo.MirrorAnnotation] = "hash" })
		for _, op := range []config.Op{config.ADD, config.UPDATE, config.RECONCILE, config.DELETE, config.REMOVE} {
			b.handleUpdate(b.ctx, config.PodUpdate{Op: op, Source: podinfo.SourceAPI, Pods: []*corev1.Pod{first, mirror}})
			b.housekeeping(b.ctx)
		}
	}()
	select {
	case <-turns:
	case <-time.After(30 * time.Second):
		t.Fatal("a turn of the loop waits for something that waits for the loop")
	}

	run(b.Run)
	until("workers of all pods", func() bool {
		for i := range many {
			if _, ok := b.Workers.Phase(pod(i).UID); !ok {
				return false
			}
		}
		return b.Config.AllReady()
	})
	until("all is read", func() bool {
		return len(b.PLEG.Bell())+len(b.Probes.Results())+len(b.Config.Updates()) == 0
	})
	if err := b.Healthy(); err != nil {
		t.Error(err)
	}
}

// TestUnheardPods: pods that run are not ended while word of them is under way to the loop.
func TestUnheardPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, dir := newFake(), t.TempDir()
		before := newBench(t, server, dir, nil)
		before.start(before.PLEG.Run)
		before.HandlePodAdditions(before.ctx, []*corev1.Pod{testPod("u", nil)})
		before.wait(time.Second)
		before.stop()

		b := newBench(t, server, dir, fake.NewClientset(testPod("u", nil)))
		b.start(b.PLEG.Run, b.Config.Run)
		b.wait(time.Second)
		if len(b.Config.Updates()) == 0 {
			t.Fatal("no pod is under way")
		}
		b.housekeeping(b.ctx)
		b.wait(time.Second)
		b.wantRunning("u", true)
		b.start(b.Run)
		b.wait(2 * housekeepingPeriod)
		b.wantRunning("u", true)
		if phase, _ := b.Workers.Phase("u"); phase != podworkers.Syncing {
			t.Errorf("the pod is %v", phase)
		}
	})
}
