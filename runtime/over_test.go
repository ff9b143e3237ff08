package runtime

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"

	"minikubelet/config/pod/podtest"
)

// startedHook calls started for each Started event.
type startedHook struct {
	record.EventRecorder
	started func()
}

func (h *startedHook) Event(object runtime.Object, kind, reason, message string) {
	h.EventRecorder.Event(object, kind, reason, message)
	if reason == eventStarted {
		h.started()
	}
}

// TestPodIsOverAtOnce: a pod that is over as soon as it has started does not begin anew in the same sync, which would not
// know that it is over, although the pod restarts others of its containers.
func TestPodIsOverAtOnce(t *testing.T) {
	for _, tt := range []struct{ pod, container, want string }{
		{"i:i c:a", "i", "box0- i/0:exit1"},
		{"c:a", "a", "box0- a/0:exit1"},
	} {
		hook := &startedHook{}
		b := newBench(t, func(o *Options) { hook.EventRecorder, o.Events = o.Events, hook })
		hook.started = func() { b.fake.SetExit(b.fake.ContainerID(tt.container), 1) }
		pod := podtest.Pod(tt.pod, corev1.RestartPolicyAlways)
		never := corev1.ContainerRestartPolicyNever
		if tt.container == "i" {
			pod.Spec.InitContainers[0].RestartPolicy = &never
		} else {
			pod.Spec.Containers[0].RestartPolicy = &never
		}
		b.mustSync(t, pod)
		b.want(t, pod, tt.want)
		if got := state(b.seen(pod)); got != tt.want {
			t.Errorf("the cache has %q", got)
		}
	}
}
