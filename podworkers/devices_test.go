package podworkers

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/metricstest"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects/objectstest"
	"minikubelet/podworkers/volumes"
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

// TestAttachLimit: a pod whose volume cannot be attached since the node takes no more of them is refused, so that its controller makes
// another, which the scheduler finds another node for.
func TestAttachLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.opts.Volumes = fullOfVolumes(t, b)
		b.update(Update{Pod: testPod("u", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		})})
		b.wait(2 * time.Minute)
		b.wantPhase("u", Syncing)
		b.wait(5 * time.Second)
		const why = "Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[v], unattached volumes=[v], failed to process volumes=[]: "
		if s := b.statusOf("u"); s.Phase != corev1.PodFailed || s.Reason != "VolumeAttachmentLimitExceeded" || !strings.HasPrefix(s.Message, "Pod was rejected: "+why) {
			t.Errorf("the pod is %s: %s, %s", s.Phase, s.Reason, s.Message)
		}
		if told := len(b.events.Events); told != 1 {
			t.Fatalf("%d events", told)
		}
		if told := <-b.events.Events; !strings.HasPrefix(told, "Warning VolumeAttachmentLimitExceeded "+why) {
			t.Errorf("told: %s", told)
		}
		metricstest.Want(t, b.registry, `kubelet_admission_rejections_total{reason="VolumeAttachmentLimitExceeded"} 1`)
	})
}

// claim is one that is bound to a CSI volume.
type claim struct{}

func (claim) Claim(context.Context, string, string) (*corev1.PersistentVolumeClaim, error) {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}, nil
}

func (claim) Volume(context.Context, string) (*corev1.PersistentVolume, error) {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "c"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "full.example.com", VolumeHandle: "h"}},
	}}, nil
}

func (claim) PatchClaimStatus(context.Context, string, string, []byte) (*corev1.PersistentVolumeClaim, error) {
	return nil, errors.New("no claim is to be changed")
}

// attachments has one for every volume, which could not be attached.
type attachments struct{}

func (attachments) Get(context.Context, string, metav1.GetOptions) (*storagev1.VolumeAttachment, error) {
	return &storagev1.VolumeAttachment{Status: storagev1.VolumeAttachmentStatus{
		AttachError: &storagev1.VolumeError{Message: "too many", ErrorCode: new(int32(codes.ResourceExhausted))},
	}}, nil
}

// fullOfVolumes mounts volumes on a node that takes no more of those that a controller attaches.
func fullOfVolumes(t *testing.T, b *bench) *volumes.Manager {
	client := fake.NewClientset(&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "full.example.com"}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: new(true), NodeAllocatableUpdatePeriodSeconds: new(int64(60)), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
	}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}})
	manager := csi.New(csi.Options{
		RootDir: b.dir, NodeName: "node", Attachments: attachments{}, Nodes: client.CoreV1().Nodes(), CSINodes: client.StorageV1().CSINodes(),
		Drivers: objectstest.ListWatch(client, client.StorageV1().CSIDrivers(), fields.Everything()),
		Node:    func() (*corev1.Node, <-chan struct{}) { return b.node.Node(), nil }, InUseChanged: func() {},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		manager.Run(b.ctx)
	}()
	t.Cleanup(func() { b.stop(); <-done })
	return volumes.New(volumes.Options{
		PodsDir: filepath.Join(b.dir, "pods"), Objects: b.opts.Objects, Claims: claim{}, CSI: manager, Node: b.node.Node, Events: b.events,
		HostIPs: func() []string { return nil }, Allocatable: b.node.Allocatable,
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
