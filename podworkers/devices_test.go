package podworkers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// noDevices refuses every pod, as devices do whose plugin is away.
type noDevices struct{}

func (noDevices) Allocate(context.Context, *corev1.Pod) error {
	return errors.New("no healthy devices")
}

func (noDevices) Assigned(context.Context, *corev1.Pod, *corev1.Container) (*runtimeapi.ContainerConfig, error) {
	return nil, nil
}

func (noDevices) Health(types.UID, string) []corev1.ResourceStatus { return nil }

func withDevice(pod *corev1.Pod) {
	one := corev1.ResourceList{"example.com/device": resource.MustParse("1")}
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: one, Requests: one}
}

// TestRunningPodKeepsItsDevices: a pod that ran before the kubelet started was admitted with its devices. If its sandbox
// ends while their plugin is away, it gets another sandbox and is not refused. A new pod is refused.
func TestRunningPodKeepsItsDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newBench(t)
		first.update(Update{Pod: testPod("u", withDevice)})
		first.stop()
		b := newBenchOver(t, first.fake, first.dir)
		b.opts.Devices = noDevices{}
		b.update(Update{Pod: testPod("u", withDevice)})
		b.want("u", "box a:run")
		b.fake.KillSandbox(b.fake.SandboxIDs()[0])
		b.wait(time.Minute)
		b.wantPhase("u", Syncing)
		if s := b.statusOf("u"); s.Phase != corev1.PodRunning {
			t.Errorf("the pod is %s: %s, %s", s.Phase, s.Reason, s.Message)
		}
		b.update(Update{Pod: testPod("new", withDevice)})
		b.settle()
		if s := b.statusOf("new"); s.Reason != unexpectedAdmission {
			t.Errorf("the new pod is %s: %s, %s", s.Phase, s.Reason, s.Message)
		}
	})
}
