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
	return &runtimeapi.ContainerConfig{}, nil
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

// TestLostPodNeedsItsDevices: a pod that ran and whose containers the runtime no longer has, as after a reboot of the node,
// is refused when its devices' plugin is away, also if it would not start again. One that ended stays as it ended.
func TestLostPodNeedsItsDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.opts.Devices = noDevices{}
		ran := func(phase corev1.PodPhase, state corev1.ContainerState) func(*corev1.Pod) {
			return func(pod *corev1.Pod) {
				withDevice(pod)
				pod.Spec.RestartPolicy = corev1.RestartPolicyNever
				pod.Status = corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, ContainerID: "fake://gone", State: state}}}
			}
		}
		b.update(Update{Pod: testPod("lost", ran(corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}))})
		b.update(Update{Pod: testPod("over", ran(corev1.PodSucceeded, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}))})
		b.settle()
		if s := b.statusOf("lost"); s.Reason != unexpectedAdmission || s.Phase != corev1.PodFailed {
			t.Errorf("the lost pod is %s: %s, %s", s.Phase, s.Reason, s.Message)
		}
		if s := b.statusOf("over"); s.Reason != "" || s.Phase != corev1.PodSucceeded {
			t.Errorf("the pod that ended is %s: %s, %s", s.Phase, s.Reason, s.Message)
		}
	})
}
