package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// cluster is one claim and its volume.
type cluster struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
	early  atomic.Int64 // so many reads are refused, as by an apiserver that does not know the pod yet
}

func (c *cluster) refuse(resource, name string) error {
	if c.early.Add(-1) < 0 {
		return nil
	}
	return apierrors.NewForbidden(corev1.Resource(resource), name, errors.New("no relationship found"))
}

func (c *cluster) Claim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	if err := c.refuse("persistentvolumeclaims", name); err != nil {
		return nil, err
	}
	if namespace != c.claim.Namespace || name != c.claim.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), name)
	}
	return c.claim, nil
}

func (c *cluster) Volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if name != c.volume.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumes"), name)
	}
	return c.volume, nil
}

// bound is a claim that is bound to a volume of a source.
func bound(source corev1.PersistentVolumeSource) *cluster {
	return &cluster{
		claim: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "claim"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		},
		volume: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: source, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "c", UID: "claim"},
		}},
	}
}

func withClaims(t *testing.T, c *cluster) (*Manager, string) {
	m, dir := manager(t)
	m.opts.Claims = c
	m.opts.Node = func() *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", Labels: map[string]string{"zone": "a"}}}
	}
	return m, dir
}

func claimPod(readOnly bool) *corev1.Pod {
	return testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly},
	}})
}

// TestEarlyClaim: an apiserver that does not know yet that the node has the pod is asked again.
func TestEarlyClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := bound(corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}})
		c.early.Store(3)
		m, _ := withClaims(t, c)
		if _, err := m.volumeOf(t.Context(), claimPod(false), "c", false); err != nil || c.early.Load() != -1 {
			t.Errorf("%v, %d reads left to be refused", err, c.early.Load())
		}
	})
}

// TestClaims: what stands in the way of a claim is told.
func TestClaims(t *testing.T) {
	zone := func(value string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}},
		}}}
	}
	now := metav1.Now()
	for name, tt := range map[string]struct {
		change func(*cluster)
		want   string
	}{
		"all well":         {func(*cluster) {}, ""},
		"no claim":         {func(c *cluster) { c.claim.Name = "other" }, "failed to fetch PVC"},
		"pending":          {func(c *cluster) { c.claim.Status.Phase = corev1.ClaimPending }, "PVC is not bound"},
		"without a volume": {func(c *cluster) { c.claim.Spec.VolumeName = "" }, "empty pvc.Spec.VolumeName"},
		"deleted":          {func(c *cluster) { c.claim.DeletionTimestamp = &now }, "PVC is being deleted"},
		"deleted, protected": {func(c *cluster) {
			c.claim.DeletionTimestamp, c.claim.Finalizers = &now, []string{"kubernetes.io/pvc-protection"}
		}, ""},
		"no volume":        {func(c *cluster) { c.volume.Name = "other" }, "failed to fetch PV pv"},
		"volume unbound":   {func(c *cluster) { c.volume.Spec.ClaimRef = nil }, "nil pv.Spec.ClaimRef"},
		"of another claim": {func(c *cluster) { c.volume.Spec.ClaimRef.UID = "x" }, "does not point to claim.UID"},
		"block":            {func(c *cluster) { c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock) }, "no block volumes of kind hostPath"},
		"here":             {func(c *cluster) { c.volume.Spec.NodeAffinity = zone("a") }, ""},
		"elsewhere":        {func(c *cluster) { c.volume.Spec.NodeAffinity = zone("b") }, "no matching NodeSelectorTerms"},
		"of a kind that is not built": {func(c *cluster) {
			c.volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}
		}, "volumes of kind iscsi are not supported"},
		"CSI without drivers": {func(c *cluster) {
			c.volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}
		}, "no apiserver"},
	} {
		t.Run(name, func(t *testing.T) {
			c := bound(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}})
			tt.change(c)
			m, _ := withClaims(t, c)
			pod := claimPod(false)
			if isBlock(c.volume) {
				pod, _ = blockPod(false)
			}
			err := m.Mount(t.Context(), pod)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v, want %q", err, tt.want)
			}
		})
	}
}

// TestEphemeralClaim: the claim must be the pod's own.
func TestEphemeralClaim(t *testing.T) {
	c := bound(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}})
	c.claim.Name = "p-data"
	m, _ := withClaims(t, c)
	pod := testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
	if err := m.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "pod is not owner") {
		t.Errorf("another's claim: %v", err)
	}
	c.claim.OwnerReferences = []metav1.OwnerReference{{UID: pod.UID, Controller: new(true)}}
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

// TestLocal needs root. A directory of the node is bound into the pod's, once, and given to the pod's group; another
// Manager, as after a restart, takes it away and leaves what is in it.
func TestLocal(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(source+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := bound(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: source}})
	m, dir := withClaims(t, c)
	for _, readOnly := range []bool{false, true} {
		pod := claimPod(readOnly)
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4711))}
		for range 2 {
			if err := m.Mount(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
		mounts, err := m.ContainerMounts(t.Context(), pod, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, "uid-1/volumes/kubernetes.io~local-volume/pv"); mounts[0].HostPath != want || mounts[0].Readonly != readOnly {
			t.Errorf("mount %v, want %s", mounts[0], want)
		}
		if err := os.WriteFile(mounts[0].HostPath+"/new", nil, 0o600); (err == nil) == readOnly {
			t.Errorf("read-only %v: write: %v", readOnly, err)
		}
		if err := New(m.opts).RemoveOrphans(t.Context(), func(types.UID) bool { return true }); err != nil {
			t.Fatal(err)
		}
		if read(t, mounts[0].HostPath+"/file") != "x" {
			t.Error("the volume of a pod that is known was taken away")
		}
		if err := New(m.opts).RemoveOrphans(t.Context(), func(types.UID) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "uid-1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of a pod that is gone: %v", err)
		}
		m = New(m.opts)
	}
	info, err := os.Stat(source + "/file")
	if err != nil || info.Sys().(*syscall.Stat_t).Gid != 4711 || info.Mode().Perm() != 0o660 {
		t.Errorf("the file: %v, %v", info, err)
	}
	c.volume.Spec.Local.Path = source + "/file"
	if err := m.Mount(t.Context(), claimPod(false)); err == nil || !strings.Contains(err.Error(), "only directory and block device are supported") {
		t.Errorf("a file: %v", err)
	}
}

// TestSetOwnership needs root.
func TestSetOwnership(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.Mkdir(dir+"/sub", 0o700), os.WriteFile(dir+"/sub/f", nil, 0o400), os.WriteFile(outside+"/f", nil, 0o600), os.Symlink(outside+"/f", dir+"/link"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(path string, mode fs.FileMode, group uint32) {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != mode || info.Sys().(*syscall.Stat_t).Gid != group {
			t.Errorf("%s: %v of group %d, %v; want %v of %d", path, info.Mode(), info.Sys().(*syscall.Stat_t).Gid, err, mode, group)
		}
	}
	if err := setOwnership(t.Context(), &progress{at: dir}, 77, corev1.FSGroupChangeAlways); err != nil {
		t.Fatal(err)
	}
	check(dir+"/sub", fs.ModeDir|fs.ModeSetgid|0o770, 77)
	check(dir+"/sub/f", 0o660, 77)
	check(outside+"/f", 0o600, uint32(os.Getgid()))
	if err := os.Chown(dir+"/sub/f", -1, 0); err != nil {
		t.Fatal(err)
	}
	if err := setOwnership(t.Context(), &progress{at: dir}, 77, corev1.FSGroupChangeOnRootMismatch); err != nil {
		t.Fatal(err)
	}
	check(dir+"/sub/f", 0o660, 0) // the top is the group's: the rest is not looked at
	if err := setOwnership(t.Context(), &progress{at: dir}, 78, corev1.FSGroupChangeOnRootMismatch); err != nil {
		t.Fatal(err)
	}
	check(dir+"/sub/f", 0o660, 78)
}

func (c *cluster) PatchClaimStatus(_ context.Context, _, _ string, patch []byte) (*corev1.PersistentVolumeClaim, error) {
	before, err := json.Marshal(c.claim)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, c.claim)
	if err != nil {
		return nil, err
	}
	c.claim = &corev1.PersistentVolumeClaim{}
	return c.claim, json.Unmarshal(after, c.claim)
}
