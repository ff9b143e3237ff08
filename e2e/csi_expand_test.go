package e2e

import (
	"encoding/json"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"minikubelet/podworkers/csi/csitest"
)

// TestCSIExpand: a volume whose storage has grown grows on the node before a pod gets it, and its claim says so. What the driver
// finds impossible stands in the claim.
func TestCSIExpand(t *testing.T) {
	ctx, s := node(t)
	const name = "grows.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)}, csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME)
	newClaim(ctx, t, s, "grows", csiSource(name, "vol-1"), corev1.ReadWriteOnce)
	ready(ctx, t, withVolume(t, claimed("grows")))

	two := resource.MustParse("2Mi")
	// The part of the resize controller: the storage has grown, the node's turn is next.
	core := s.Client.CoreV1()
	if _, err := core.PersistentVolumes().Patch(ctx, "grows", types.MergePatchType, []byte(`{"spec":{"capacity":{"storage":"2Mi"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	claims := core.PersistentVolumeClaims(corev1.NamespaceDefault)
	pending, err := json.Marshal(map[string]any{"status": corev1.PersistentVolumeClaimStatus{
		AllocatedResources:        corev1.ResourceList{corev1.ResourceStorage: two},
		AllocatedResourceStatuses: map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending},
		Conditions:                []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claims.Patch(ctx, "grows", types.MergePatchType, pending, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	second := ready(ctx, t, withVolume(t, claimed("grows")))
	claim, err := claims.Get(ctx, "grows", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if claim.Status.Capacity.Storage().Cmp(two) != 0 || len(claim.Status.AllocatedResourceStatuses) != 0 || len(claim.Status.Conditions) != 0 {
		t.Errorf("the claim's status: %+v", claim.Status)
	}
	requests := csitest.Requests[*csiapi.NodeExpandVolumeRequest](d)
	if len(requests) != 1 || requests[0].GetCapacityRange().GetRequiredBytes() != 2<<20 || requests[0].GetVolumePath() == "" || requests[0].GetStagingTargetPath() == "" {
		t.Errorf("the driver was asked: %v", requests)
	}
	want := `MountVolume.NodeExpandVolume succeeded for volume "grows" ` + s.NodeName
	if got := event(ctx, t, second.Name, "FileSystemResizeSuccessful"); got != want {
		t.Errorf("the event: %q, not %q", got, want)
	}
}
