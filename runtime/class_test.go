package runtime

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/config/pod/podtest"
)

// TestClassDeleted: containers start again in a sandbox whose class is gone, and keep what its handler can do.
func TestClassDeleted(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.Handler = func(name string) corev1.NodeRuntimeHandlerFeatures {
			return corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(name == "")}
		}
	})
	pod := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	b.mustSync(t, pod)
	pod.Spec.RuntimeClassName = new("deleted")
	b.fake.SetExit(b.fake.ContainerID("a"), 1)
	b.mustSync(t, pod)
	b.want(t, pod, "box0 a/0:exit1 a/1:run")
	if !b.RecursiveReadOnly(pod) {
		t.Error("the handler's features are lost")
	}
	other := podtest.Pod("c:a", corev1.RestartPolicyAlways)
	other.UID, other.Spec.RuntimeClassName = "uid-2", new("deleted")
	if _, err := b.sync(t, other, inputs{}); err == nil {
		t.Error("a sandbox was made without its class")
	}
}
