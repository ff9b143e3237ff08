package e2e

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestExplainVolumes: a volume that another pod has for itself, one that is not attached, and one that its driver keeps mounted.
func TestExplainVolumes(t *testing.T) {
	ctx, s := node(t)
	const name, far = "story.example.com", "far.story.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)})
	objects := s.Client.StorageV1().CSIDrivers()
	if _, err := objects.Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: far}, Spec: storagev1.CSIDriverSpec{AttachRequired: new(true)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = objects.Delete(ctx, far, metav1.DeleteOptions{}) }()
	newClaim(ctx, t, s, "story-single", csiSource(name, "single"), corev1.ReadWriteOncePod)
	newClaim(ctx, t, s, "story-kept", csiSource(name, "kept"), corev1.ReadWriteOnce)
	newClaim(ctx, t, s, "story-far", csiSource(far, "far"), corev1.ReadWriteOnce)

	waits := create(ctx, t, withVolume(t, claimed("story-far")))
	kept := ready(ctx, t, withVolume(t, claimed("story-kept")))
	owner := ready(ctx, t, withVolume(t, claimed("story-single")))
	second := create(ctx, t, withVolume(t, claimed("story-single")))
	told(ctx, t, second.Name, "VolumeInUse", "volume story-single", "by one pod at a time")

	d.Fail("Unpublish", status.Error(codes.Internal, "device is busy"))
	if err := s.Client.CoreV1().Pods(kept.Namespace).Delete(ctx, kept.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	told(ctx, t, kept.Name, "UnmountFails", "device is busy", name)
	d.Fail("Unpublish", nil)
	if err := s.WaitPodGone(ctx, kept.Namespace, kept.Name); err != nil {
		t.Fatal(err)
	}
	told(ctx, t, waits.Name, "NotAttached", "volume data", "volumeattachments")
	for _, pod := range []*corev1.Pod{second, owner, waits} {
		remove(ctx, t, pod)
	}
}
