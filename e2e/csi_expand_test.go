package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/e2e/csitest"
)

func isPending(c corev1.PersistentVolumeClaimCondition) bool {
	return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
}

// TestCSIExpand: a volume whose storage has grown grows on the node before a pod gets it, and its claim says so. What the driver
// finds impossible stands in the claim.
func TestCSIExpand(t *testing.T) {
	ctx, s := node(t)
	const name = "grows.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)}, csiapi.NodeServiceCapability_RPC_EXPAND_VOLUME)
	newClaim(ctx, t, s, "grows", csiSource(name, "vol-1"), corev1.ReadWriteOnce)
	first := ready(ctx, t, withVolume(t, claimed("grows")))

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
	if claim.Status.Capacity.Storage().Cmp(two) != 0 || len(claim.Status.AllocatedResourceStatuses) != 0 || slices.ContainsFunc(claim.Status.Conditions, isPending) {
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
	remove(ctx, t, first)
	remove(ctx, t, second)
}

// TestCSIUsage: what the driver says of a volume is in /stats/summary and the metrics, under the claim's name.
func TestCSIUsage(t *testing.T) {
	ctx, s := node(t)
	const name = "counts.example.com"
	newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false)}, csiapi.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	newClaim(ctx, t, s, "counted", csiSource(name, "vol-1"), corev1.ReadWriteOnce)
	pod := ready(ctx, t, withVolume(t, claimed("counted")))
	admin := kubeletClient(t, "admin", "system:masters")
	eventually(ctx, t, "the summary has the volume", func() bool {
		var summary statsapi.Summary
		if _, body := askKubelet(ctx, t, admin, "", "GET /stats/summary"); json.Unmarshal([]byte(body), &summary) != nil {
			return false
		}
		for _, p := range summary.Pods {
			for _, v := range p.VolumeStats {
				if p.PodRef.Name == pod.Name && v.PVCRef != nil {
					return *v.PVCRef == statsapi.PVCReference{Name: "counted", Namespace: pod.Namespace} && v.Name == "data" &&
						*v.CapacityBytes == 1000 && *v.UsedBytes == 300 && *v.AvailableBytes == 700 && *v.Inodes == 10 && *v.InodesUsed == 3 && *v.InodesFree == 7
				}
			}
		}
		return false
	})
	want := `kubelet_volume_stats_used_bytes{namespace="default",persistentvolumeclaim="counted"} 300`
	if _, got := askKubelet(ctx, t, admin, "", "GET /metrics"); !strings.Contains(got, want) {
		t.Errorf("/metrics has no %s", want)
	}
	remove(ctx, t, pod)
}
