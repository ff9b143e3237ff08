package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/csitest"
	"minikubelet/e2e/stack"
)

// newDriver serves a CSI driver for the kubelet to find, and makes its CSIDriver object.
func newDriver(ctx testContext, t *testing.T, s *stack.Stack, name string, spec storagev1.CSIDriverSpec, can ...csiapi.NodeServiceCapability_RPC_Type) *csitest.Driver {
	t.Helper()
	d := &csitest.Driver{
		Name: name, NodeID: "node-of-" + name, Dir: t.TempDir(), MaxVolumes: 7, Topology: map[string]string{"topology." + name + "/zone": "here"},
		Capabilities: append(can, csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME),
	}
	objects := s.Client.StorageV1().CSIDrivers()
	if _, err := objects.Create(ctx, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = objects.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}) })
	for _, start := range []func() (func(), error){
		func() (func(), error) { return d.Serve(filepath.Join(s.RootDir(), "plugins", name, "csi.sock")) },
		func() (func(), error) { return d.Announce(filepath.Join(s.RootDir(), "plugins_registry")) },
	} {
		stop, err := start()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	return d
}

// newClaim makes a bound claim and its volume, of a file system.
func newClaim(ctx testContext, t *testing.T, s *stack.Stack, name string, source corev1.PersistentVolumeSource, mode corev1.PersistentVolumeAccessMode) {
	t.Helper()
	newClaimOf(ctx, t, s, name, source, mode, corev1.PersistentVolumeFilesystem)
}

func newClaimOf(ctx testContext, t *testing.T, s *stack.Stack, name string, source corev1.PersistentVolumeSource, mode corev1.PersistentVolumeAccessMode, what corev1.PersistentVolumeMode) {
	t.Helper()
	core := s.Client.CoreV1()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{mode}, VolumeMode: &what, PersistentVolumeSource: source,
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		ClaimRef:                      &corev1.ObjectReference{Namespace: corev1.NamespaceDefault, Name: name},
	}}
	if source.Local != nil {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{s.NodeName}}}},
		}}}
	}
	if _, err := core.PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceDefault}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{mode}, Resources: corev1.VolumeResourceRequirements{Requests: size},
		VolumeName: name, StorageClassName: new(""), VolumeMode: &what,
	}}
	if _, err := core.PersistentVolumeClaims(corev1.NamespaceDefault).Create(ctx, claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(ctx, t, "claim "+name+" is bound", func() bool {
		c, err := core.PersistentVolumeClaims(corev1.NamespaceDefault).Get(ctx, name, metav1.GetOptions{})
		return err == nil && c.Status.Phase == corev1.ClaimBound
	})
}

// withVolume is a pod that mounts one volume at /data.
func withVolume(t *testing.T, source corev1.VolumeSource) *corev1.Pod {
	pod := newPod(t)
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: source}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	return pod
}

func claimed(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func csiSource(driver, handle string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle, FSType: "ext4"}}
}

// TestCSI: a driver is registered and told of to the cluster; two pods share a volume, which is staged once; a pod that
// goes while no kubelet runs leaves nothing; the driver goes.
func TestCSI(t *testing.T) {
	ctx, s := node(t)
	const name = "dirs.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false), PodInfoOnMount: new(true), NodeAllocatableUpdatePeriodSeconds: new(int64(10))})
	newClaim(ctx, t, s, "csi", csiSource(name, "vol-1"), corev1.ReadWriteMany)
	takes := func(most int32) func() bool {
		return func() bool {
			n, err := s.Client.StorageV1().CSINodes().Get(ctx, s.NodeName, metav1.GetOptions{})
			return err == nil && slices.ContainsFunc(n.Spec.Drivers, func(e storagev1.CSINodeDriver) bool {
				return e.Name == name && e.NodeID == d.NodeID && *e.Allocatable.Count == most && len(e.TopologyKeys) == 1
			})
		}
	}
	eventually(ctx, t, "the driver is in the CSINode", takes(7))
	d.SetMaxVolumes(5)
	object, err := s.Client.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.Labels["topology."+name+"/zone"] != "here" || !strings.Contains(object.Annotations["csi.volume.kubernetes.io/nodeid"], d.NodeID) {
		t.Errorf("the node has labels %v and annotations %v", object.Labels, object.Annotations)
	}

	first := ready(ctx, t, withVolume(t, claimed("csi")))
	second := ready(ctx, t, withVolume(t, claimed("csi")))
	write(t, d.Dir+"/vol-1/file", "content")
	for _, pod := range []*corev1.Pod{first, second} {
		if got := get(ctx, t, "http://"+pod.Status.PodIP+":8080/file?path=/data/file"); got != "content" {
			t.Errorf("pod %s reads %q", pod.Name, got)
		}
	}
	if got := csitest.Requests[*csiapi.NodePublishVolumeRequest](d)[0].GetVolumeContext()["csi.storage.k8s.io/pod.name"]; got != first.Name {
		t.Errorf("the driver is told of pod %q", got)
	}
	remove(ctx, t, first)
	if calls := d.Calls(); !slices.Equal(calls, []string{"Stage vol-1", "Publish vol-1", "Publish vol-1", "Unpublish vol-1"}) {
		t.Errorf("calls: %v", calls)
	}

	eventually(ctx, t, "the driver was asked again how many volumes the node takes", takes(5))

	stopKubelet(t)
	if err := s.Client.CoreV1().Pods(second.Namespace).Delete(ctx, second.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitPodGone(ctx, second.Namespace, second.Name); err != nil {
		t.Fatal(err)
	}
	startKubelet(ctx, t, stack.KubeletOptions{})
	eventually(ctx, t, "the volume is off the node", func() bool { return slices.Contains(d.Calls(), "Unstage vol-1") })
	eventually(ctx, t, "its directories are gone", func() bool {
		left, err := filepath.Glob(s.RootDir() + "/plugins/kubernetes.io/csi/" + name + "/*")
		pod, err2 := os.ReadDir(s.RootDir() + "/pods/" + string(second.UID) + "/volumes")
		return err == nil && len(left) == 0 && os.IsNotExist(err2) && len(pod) == 0
	})
	if read(t, d.Dir+"/vol-1/file") != "content" {
		t.Error("the volume's content is gone")
	}
}

// TestCSIAttach: a volume that a controller attaches is mounted when that is done, and is in use until it is not.
func TestCSIAttach(t *testing.T) {
	ctx, s := node(t)
	const name = "attached.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(true)})
	newClaim(ctx, t, s, "attach", csiSource(name, "vol-2"), corev1.ReadWriteOnce)
	pod := create(ctx, t, withVolume(t, claimed("attach")))
	var attachment *storagev1.VolumeAttachment
	eventually(ctx, t, "the controller asks for the volume to be attached", func() bool {
		list, err := s.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return false
		}
		attachment = &list.Items[0]
		return true
	})
	if calls := d.Calls(); len(calls) > 0 {
		t.Errorf("before it is attached: %v", calls)
	}
	attachment.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"device": "sdx"}}
	if _, err := s.Client.StorageV1().VolumeAttachments().UpdateStatus(ctx, attachment, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name); err != nil {
		t.Fatal(err)
	}
	if got := csitest.Requests[*csiapi.NodeStageVolumeRequest](d)[0].GetPublishContext()["device"]; got != "sdx" {
		t.Errorf("the driver is told of device %q", got)
	}
	inUse := func() bool {
		object, err := s.Client.CoreV1().Nodes().Get(ctx, s.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(object.Status.VolumesInUse, corev1.UniqueVolumeName("kubernetes.io/csi/"+name+"^vol-2"))
	}
	if !inUse() {
		t.Error("the volume is not in use")
	}
	remove(ctx, t, pod)
	eventually(ctx, t, "the volume is not in use", func() bool { return !inUse() })
	eventually(ctx, t, "the controller detaches the volume", func() bool {
		_, err := s.Client.StorageV1().VolumeAttachments().Get(ctx, attachment.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestCSIInline: a driver makes a volume for one pod alone, and is given its service account's token.
func TestCSIInline(t *testing.T) {
	ctx, s := node(t)
	const name = "inline.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{
		AttachRequired: new(false), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
		TokenRequests: []storagev1.TokenRequest{{Audience: "driver"}}, RequiresRepublish: new(true),
	})
	pod := ready(ctx, t, withVolume(t, corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: name, VolumeAttributes: map[string]string{"a": "b"}}}))
	request := csitest.Requests[*csiapi.NodePublishVolumeRequest](d)[0]
	if request.GetVolumeContext()["a"] != "b" || !strings.Contains(request.GetVolumeContext()["csi.storage.k8s.io/serviceAccount.tokens"], `"driver":{"token":`) {
		t.Errorf("the driver is told %v", request.GetVolumeContext())
	}
	remove(ctx, t, pod)
	if calls := d.Calls(); len(calls) != 2 || !strings.HasPrefix(calls[1], "Unpublish csi-") {
		t.Errorf("calls: %v", calls)
	}
}

// TestLocalVolumes: claims of the node's own directories; what cannot be mounted is told.
func TestLocalVolumes(t *testing.T) {
	ctx, s := node(t)
	local, host := t.TempDir(), t.TempDir()
	write(t, local+"/file", "local")
	write(t, host+"/file", "host")
	newClaim(ctx, t, s, "local", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}}, corev1.ReadWriteOnce)
	newClaim(ctx, t, s, "host", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}, corev1.ReadWriteOnce)
	newClaim(ctx, t, s, "nfs", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "192.0.2.1", Path: "/"}}, corev1.ReadWriteOnce)
	for _, name := range []string{"local", "host"} {
		pod := ready(ctx, t, withVolume(t, claimed(name)))
		if got := get(ctx, t, "http://"+pod.Status.PodIP+":8080/file?path=/data/file"); got != name {
			t.Errorf("the pod with %s reads %q", name, got)
		}
		remove(ctx, t, pod)
	}
	if read(t, local+"/file") != "local" {
		t.Error("the local volume's content is gone")
	}
	refused := create(ctx, t, withVolume(t, claimed("nfs")))
	if message := event(ctx, t, refused.Name, "FailedMount"); !strings.Contains(message, "volumes of kind nfs are not supported") {
		t.Errorf("the event says %q", message)
	}
}

// TestGenericEphemeral: the controller makes a claim for the pod, which is used when it is bound.
func TestGenericEphemeral(t *testing.T) {
	ctx, s := node(t)
	host := t.TempDir()
	write(t, host+"/file", "ephemeral")
	pod := withVolume(t, corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new(""),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}}})
	create(ctx, t, pod)
	if message := event(ctx, t, pod.Name, "FailedMount"); !strings.Contains(message, pod.Name+"-data") {
		t.Errorf("the event says %q", message)
	}
	if _, err := s.Client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "for-ephemeral"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}},
		ClaimRef:                      &corev1.ObjectReference{Namespace: corev1.NamespaceDefault, Name: pod.Name + "-data"},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	made, err := s.WaitPodReady(ctx, pod.Namespace, pod.Name)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(ctx, t, "http://"+made.Status.PodIP+":8080/file?path=/data/file"); got != "ephemeral" {
		t.Errorf("the pod reads %q", got)
	}
}

// TestEnvFile: a container's environment from a file that an init container wrote.
func TestEnvFile(t *testing.T) {
	ctx, _ := node(t)
	pod := newPod(t)
	init := shell("init", `printf "GREETING='hello\nthere'\n" > /data/env`)
	init.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	pod.Spec.InitContainers = []corev1.Container{init}
	pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "data", Path: "env", Key: "GREETING"}}}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	made := ready(ctx, t, pod)
	if got := get(ctx, t, "http://"+made.Status.PodIP+":8080/env"); !strings.Contains(got, "GREETING=hello\nthere") {
		t.Errorf("environment:\n%s", got)
	}
}
