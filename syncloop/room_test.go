package syncloop

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/e2e/metricstest"
	"minikubelet/podworkers"
)

// fullBench is a running loop whose node's single CPU a pod has.
func fullBench(t *testing.T, change ...func(*corev1.Pod)) *bench {
	b := newBench(t, newFake(), t.TempDir(), nil)
	b.node.allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	b.start(b.PLEG.Run, b.Config.Run, b.Run)
	b.add(ofClass("holder", corev1.PodQOSBurstable, 1000, 1, change...))
	b.wait(time.Second)
	b.wantRunning("holder", true)
	return b
}

// add hands a new pod to the loop.
func (b *bench) add(pod *corev1.Pod) {
	b.inTurn(func() { b.HandlePodAdditions(b.ctx, []*corev1.Pod{pod}) })
}

// TestPreempt: a critical pod on a full node starts when those that are ended for it have ended, without holding up the loop.
func TestPreempt(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){"static": fromFile, "critical": withPriority(podinfo.SystemCriticalPriority)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := fullBench(t)
				b.fake.Delay("StopContainer", 20*time.Second)
				important := ofClass("important", corev1.PodQOSBurstable, 500, 1, change)
				begin := time.Now()
				b.add(important)
				if took := time.Since(begin); took > 0 {
					t.Errorf("the loop waited %v", took)
				}
				b.inTurn(func() { b.HandlePodUpdates(b.ctx, []*corev1.Pod{important}) }) // starts nothing
				b.add(ofClass("another", corev1.PodQOSBurstable, 100, 1))
				b.wait(10 * time.Second)
				b.wantRunning("holder", true)
				b.wantRunning("important", false)
				b.wait(15 * time.Second)
				b.wantRunning("holder", false)
				b.wantRunning("important", true)
				b.wantRunning("another", false) // it came before there was room
				s, _ := b.Status.Get("holder")
				if s.Phase != corev1.PodFailed || s.Reason != "Preempting" || s.Message != "Preempted in order to admit critical pod" {
					t.Errorf("the one that made room is %s, %s: %s", s.Phase, s.Reason, s.Message)
				}
				found := false
				for _, c := range s.Conditions {
					found = found || c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet &&
						c.Message == "Pod was preempted by Kubelet to accommodate a critical pod."
				}
				if !found {
					t.Errorf("no DisruptionTarget in %+v", s.Conditions)
				}
				b.wantEvent("Warning Preempting Preempted in order to admit critical pod")
				metricstest.Want(t, b.registry, `kubelet_preemptions{preemption_signal="cpu"} 1`)
			})
		})
	}
}

// TestPreemptPatientPod: the grace period of a pod that makes room may be any number of seconds.
func TestPreemptPatientPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fullBench(t, func(pod *corev1.Pod) { pod.Spec.TerminationGracePeriodSeconds = new(int64(10_000_000_000)) })
		b.fake.Delay("StopContainer", 20*time.Second)
		b.add(ofClass("important", corev1.PodQOSBurstable, 500, 1, withPriority(podinfo.SystemCriticalPriority)))
		b.wait(15 * time.Second)
		b.wantRunning("holder", true)
		b.wantRunning("important", false)
		b.wait(10 * time.Second)
		b.wantRunning("important", true)
	})
}

// TestPreemptedStaticPod: a static pod that makes room, and is tried again meanwhile, takes its room until it has ended.
func TestPreemptedStaticPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fullBench(t, fromFile, withPriority(1))
		b.fake.Delay("StopContainer", 20*time.Second)
		b.add(ofClass("important", corev1.PodQOSBurstable, 500, 1, withPriority(podinfo.SystemCriticalPriority)))
		b.wait(2 * housekeepingPeriod)
		b.add(ofClass("another", corev1.PodQOSBurstable, 500, 1))
		b.wait(time.Second)
		b.wantRunning("holder", true)
		if s, _ := b.Status.Get("another"); s.Reason != "OutOfcpu" {
			t.Errorf("another pod is %s, %s", s.Phase, s.Reason)
		}
	})
}

// TestPreemptInVain: no pod is ended for one that is not admitted anyhow, nor for one that is not critical.
func TestPreemptInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := fullBench(t)
		for want, pod := range map[string]*corev1.Pod{
			"OutOfcpu": ofClass("plain", corev1.PodQOSBurstable, 500, 1, withPriority(podinfo.SystemCriticalPriority-1)),
			"NodeAffinity": ofClass("elsewhere", corev1.PodQOSBurstable, 500, 1, withPriority(podinfo.SystemCriticalPriority), func(pod *corev1.Pod) {
				pod.Spec.NodeSelector = map[string]string{"none": "such"}
			}),
			"UnexpectedAdmissionError": ofClass("large", corev1.PodQOSBurstable, 5000, 1, withPriority(podinfo.SystemCriticalPriority)),
		} {
			b.add(pod)
			b.wait(time.Second)
			if s, _ := b.Status.Get(pod.UID); s.Phase != corev1.PodFailed || s.Reason != want {
				t.Errorf("pod %s is %s, %s: %s; want %s", pod.UID, s.Phase, s.Reason, s.Message, want)
			}
		}
		b.wantRunning("holder", true)
	})
}

// TestPreemptAndGo: a critical pod that is deleted or removed while it waits does not start.
func TestPreemptAndGo(t *testing.T) {
	for name, end := range map[string]func(*bench, *corev1.Pod){
		"removed": func(b *bench, pod *corev1.Pod) { b.HandlePodRemoves(b.ctx, []*corev1.Pod{pod}) },
		"deleted": func(b *bench, pod *corev1.Pod) {
			deleted := pod.DeepCopy()
			deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			b.HandlePodUpdates(b.ctx, []*corev1.Pod{deleted})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := fullBench(t)
				b.fake.Delay("StopContainer", 20*time.Second)
				important := ofClass("important", corev1.PodQOSBurstable, 500, 1, withPriority(podinfo.SystemCriticalPriority))
				b.add(important)
				b.wait(time.Second)
				b.inTurn(func() { end(b, important) })
				b.wait(time.Minute)
				b.wantRunning("important", false)
				if phase, known := b.Workers.Phase("important"); known && phase != podworkers.Finished {
					t.Errorf("it is %v", phase)
				}
				if b.fake.Count("RunPodSandbox") != 1 {
					t.Error("it was started")
				}
			})
		})
	}
}

// TestRefusedStaticPod: a static pod that found no room starts when there is some, whatever took the room away. It is tried every
// two seconds, and only what comes out otherwise than before is recorded as a step.
func TestRefusedStaticPod(t *testing.T) {
	steps := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(steps)))
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	admissions := func() (n int) {
		for _, step := range steps.Ended() {
			if step.Name() == "admission" && slices.Contains(step.Attributes(), attribute.String("k8s.pod.uid", "static")) {
				n++
			}
		}
		return n
	}
	for name, restart := range map[string]corev1.RestartPolicy{"always": corev1.RestartPolicyAlways, "never": corev1.RestartPolicyNever} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				steps.Reset()
				b := newBench(t, newFake(), t.TempDir(), nil)
				b.node.allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
				b.start(b.PLEG.Run, b.Config.Run, b.Run)
				holder := ofClass("holder", corev1.PodQOSBurstable, 1000, 1, withPriority(podinfo.SystemCriticalPriority))
				static := ofClass("static", corev1.PodQOSBurstable, 500, 1, fromFile, func(pod *corev1.Pod) {
					pod.Spec.RestartPolicy, pod.Annotations[podinfo.HashAnnotation] = restart, "hash"
				})
				b.add(holder)
				b.add(static)
				b.wait(time.Minute)
				if s, _ := b.Status.Get("static"); s.Phase != corev1.PodFailed || s.Reason != "UnexpectedAdmissionError" {
					t.Errorf("the static pod is %s, %s", s.Phase, s.Reason)
				}
				if n := admissions(); n != 1 {
					t.Errorf("its refusal is recorded %d times", n)
				}
				metricstest.Want(t, b.registry, `kubelet_admission_rejections_total{reason="UnexpectedAdmissionError"} 1`)
				b.inTurn(func() { b.HandlePodRemoves(b.ctx, []*corev1.Pod{holder}) })
				b.wait(2 * housekeepingPeriod)
				b.wantRunning("static", true)
				if s, _ := b.Status.Get("static"); s.Phase != corev1.PodRunning || s.Reason != "" {
					t.Errorf("then it is %s, %s", s.Phase, s.Reason)
				}
				if n := admissions(); n != 2 {
					t.Errorf("with its admission there are %d steps", n)
				}
			})
		})
	}
}

// TestEndingPodTakesRoom: after a restart of the kubelet a pod that is still being ended takes its room until it has ended.
func TestEndingPodTakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, dir := newFake(), t.TempDir()
		first := newBench(t, fake, dir, nil)
		first.start(first.PLEG.Run)
		first.HandlePodAdditions(first.ctx, []*corev1.Pod{testPod("old", nil)})
		first.wait(time.Second)
		first.wantRunning("old", true)
		first.stop()

		fake.Delay("StopContainer", time.Minute)
		b := newBench(t, fake, dir, nil)
		b.MaxPods = 1
		b.start(b.PLEG.Run)
		ending := testPod("old", func(pod *corev1.Pod) {
			pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, new(int64(60))
		})
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{ending, testPod("early", nil)})
		b.wait(time.Second)
		b.wantRunning("early", false)
		b.wait(2 * time.Minute)
		b.HandlePodAdditions(b.ctx, []*corev1.Pod{testPod("late", nil)})
		b.wait(time.Second)
		b.wantRunning("late", true)
	})
}
