package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/e2e/csitest"
	"minikubelet/e2e/stack"
)

// newDisk makes a block device, and the file that it is.
func newDisk(t *testing.T) (device, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	write(t, file, strings.Repeat("content.", 8<<10))
	device, free, err := csitest.NewDevice(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := free(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat("/sys/block/" + filepath.Base(device) + "/loop"); err == nil {
			t.Errorf("%s is still open", device)
		}
	})
	return device, file
}

func withDevice(c corev1.Container, volume string) corev1.Container {
	c.VolumeDevices = append(c.VolumeDevices, corev1.VolumeDevice{Name: volume, DevicePath: "/dev/" + volume})
	return c
}

func withBlock(pod *corev1.Pod, claim string, readOnly bool) {
	source := claimed(claim)
	source.PersistentVolumeClaim.ReadOnly = readOnly
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: source})
}

// nothingOf waits until a pod and a block volume have left nothing on the node.
func nothingOf(ctx context.Context, t *testing.T, s *stack.Stack, pod types.UID, volume string) {
	t.Helper()
	devices := s.RootDir() + "/plugins/kubernetes.io/csi/volumeDevices/"
	eventually(ctx, t, "its links, records and directories are gone", func() bool {
		for _, path := range []string{devices + volume, devices + "publish/" + volume, devices + "staging/" + volume, s.RootDir() + "/pods/" + string(pod)} {
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				return false
			}
		}
		return true
	})
}

// TestBlockVolumes: a pod reads and writes the device of a CSI volume and reads that of a local one. It goes on with them when the
// kubelet is started again, although a record broke meanwhile and the driver fails. The kubelet is killed and the pod goes: the
// next one takes all away.
func TestBlockVolumes(t *testing.T) {
	ctx, s := node(t)
	const name = "blocks.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)})
	var disk string
	d.Device, disk = newDisk(t)
	local, _ := newDisk(t)
	newClaimOf(ctx, t, s, "block-csi", csiSource(name, "vol-1"), corev1.ReadWriteOnce, corev1.PersistentVolumeBlock)
	newClaimOf(ctx, t, s, "block-local", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}}, corev1.ReadWriteOnce, corev1.PersistentVolumeBlock)
	pod := newPod(t)
	withBlock(pod, "block-csi", false)
	withBlock(pod, "block-local", true)
	pod.Spec.InitContainers = []corev1.Container{
		withDevice(shell("write", "printf written. | dd of=/dev/block-csi conv=fsync"), "block-csi"),
		withDevice(shell("refused", "! printf written. > /dev/block-local"), "block-local"),
	}
	privileged := withDevice(shell("privileged", "head -c 8 /dev/block-csi | grep written"), "block-csi")
	privileged.SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, privileged)
	pod.Spec.Containers[0] = withDevice(withDevice(pod.Spec.Containers[0], "block-csi"), "block-local")
	pod = ready(ctx, t, pod)
	check := func() {
		t.Helper()
		for at, want := range map[string]string{"/dev/block-csi": "written.content.", "/dev/block-local": "content.content."} {
			if got := get(ctx, t, "http://"+pod.Status.PodIP+":8080/file?path="+at); !strings.HasPrefix(got, want) {
				t.Errorf("%s holds %.16q", at, got)
			}
		}
	}
	check()
	if got := read(t, disk); !strings.HasPrefix(got, "written.content.") {
		t.Errorf("the disk holds %.16q", got)
	}

	stopKubelet(t)
	record := s.RootDir() + "/plugins/kubernetes.io/csi/volumeDevices/block-csi/data/vol_data.json"
	write(t, record, "{")
	d.Fail("Stage", status.Error(codes.Unavailable, "the storage is away"))
	end(ctx, t, pod, 3)
	startKubelet(ctx, t, stack.KubeletOptions{})
	until(ctx, t, pod, "the container is back", func(p *corev1.Pod) bool { return restartsOf(p, "app") == 1 })
	check()
	if got := event(ctx, t, pod.Name, "FailedMapVolume"); !strings.HasPrefix(got, `MapVolume.SetUpDevice failed for volume "block-csi" : `) {
		t.Errorf("the event says %q", got)
	}
	d.Fail("Stage", nil)
	eventually(ctx, t, "the volume is published again", func() bool { return len(csitest.Requests[*csiapi.NodePublishVolumeRequest](d)) > 1 })
	check()

	kill(ctx, t, pod)
	startKubelet(ctx, t, stack.KubeletOptions{})
	nothingOf(ctx, t, s, pod.UID, "block-csi")
	if calls := d.Calls(); !slices.Equal(calls[len(calls)-2:], []string{"Unpublish vol-1", "Unstage vol-1"}) {
		t.Errorf("calls: %v", calls)
	}
}

// kill kills the kubelet and has the pod gone meanwhile.
func kill(ctx context.Context, t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := kubelet.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-kubelet.Done()
	if err := shared.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	if err := shared.WaitPodGone(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
}

// TestBlockVolumeHalfMapped: the kubelet is killed while a driver publishes a device. That comes to its end later, for a pod that
// is gone.
func TestBlockVolumeHalfMapped(t *testing.T) {
	ctx, s := node(t)
	const name = "halves.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)})
	d.Device, _ = newDisk(t)
	newClaimOf(ctx, t, s, "block-half", csiSource(name, "vol-2"), corev1.ReadWriteOnce, corev1.PersistentVolumeBlock)
	pod := newPod(t)
	withBlock(pod, "block-half", false)
	pod.Spec.Containers[0] = withDevice(pod.Spec.Containers[0], "block-half")
	d.HoldPublish(make(chan struct{}))
	pod = create(ctx, t, pod)
	eventually(ctx, t, "the driver is asked", func() bool { return slices.Contains(d.Calls(), "Publish vol-2") })
	kill(ctx, t, pod)
	d.HoldPublish(nil)
	if _, err := d.NodePublishVolume(ctx, csitest.Requests[*csiapi.NodePublishVolumeRequest](d)[0]); err != nil {
		t.Fatal(err)
	}
	startKubelet(ctx, t, stack.KubeletOptions{})
	nothingOf(ctx, t, s, pod.UID, "block-half")
	if calls := d.Calls(); !slices.Equal(calls[len(calls)-2:], []string{"Unpublish vol-2", "Unstage vol-2"}) {
		t.Errorf("calls: %v", calls)
	}
}
