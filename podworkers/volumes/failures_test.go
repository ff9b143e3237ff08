package volumes

import (
	"path/filepath"
	"slices"
	"testing"

	csiapi "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"minikubelet/e2e/csitest"
)

// wantEvents mounts the pod's volumes, which fails, or not if all events are of type Normal.
func wantEvents(t *testing.T, m *Manager, pod *corev1.Pod, want ...string) {
	t.Helper()
	events := record.NewFakeRecorder(10)
	m.opts.Events = events
	err := m.Mount(t.Context(), pod)
	if fails := !slices.ContainsFunc(want, func(e string) bool { return e[:6] == "Normal" }); (err != nil) != fails {
		t.Errorf("the error is %v", err)
	}
	var got []string
	for len(events.Events) > 0 {
		got = append(got, <-events.Events)
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%q\nwant:\n%q", got, want)
	}
}

// TestFailureEvents: each volume that fails has an event of its own, which names the PersistentVolume of a claim. All that cannot be
// looked at have one together.
func TestFailureEvents(t *testing.T) {
	const unable = "Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: "
	elsewhere := &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}},
	}}}
	for name, tt := range map[string]struct {
		change func(*cluster)
		want   string
	}{
		"no claim":  {func(c *cluster) { c.claim.Name = "other" }, unable + `error processing PVC ns/c: failed to fetch PVC from API server: persistentvolumeclaims "c" not found`},
		"unbound":   {func(c *cluster) { c.claim.Status.Phase = corev1.ClaimPending }, unable + "error processing PVC ns/c: PVC is not bound"},
		"elsewhere": {func(c *cluster) { c.volume.Spec.NodeAffinity = elsewhere }, `Warning FailedMount MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		"elsewhere, a device": {func(c *cluster) {
			c.volume.Spec.NodeAffinity, c.volume.Spec.VolumeMode = elsewhere, new(corev1.PersistentVolumeBlock)
		}, `Warning FailedMount MapVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		"mount options": {func(c *cluster) { c.volume.Spec.MountOptions = []string{"ro"} }, `Warning FailedMount MountVolume.MountOptionSupport check failed for volume "pv" : mount options are not supported for this volume type`},
		"a file":        {func(c *cluster) { c.volume.Spec.HostPath.Path = "/dev/null" }, `Warning FailedMount MountVolume.SetUp failed for volume "pv" : hostPath type check failed: /dev/null is not a directory, it's a CharDevice`},
		"no device": {func(c *cluster) {
			c.volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/dev/none"}}
			c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
		}, `Warning FailedMapVolume MapVolume.EvalHostSymlinks failed for volume "pv" : lstat /dev/none: no such file or directory`},
		"no local path": {func(c *cluster) {
			c.volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/dev/none"}}
		}, `Warning FailedMount MountVolume.NewMounter initialization failed for volume "pv" : path "/dev/none" does not exist`},
		"a local path that is a file": {func(c *cluster) {
			c.volume.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/proc/version"}}
		}, `Warning FailedMount MountVolume.NewMounter initialization failed for volume "pv" : only directory and block device are supported`},
	} {
		t.Run(name, func(t *testing.T) {
			c := bound(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir(), Type: new(corev1.HostPathDirectory)}})
			tt.change(c)
			m, _ := withClaims(t, c)
			pod := claimPod(false)
			if isBlock(c.volume) {
				pod, _ = blockPod(false)
			}
			wantEvents(t, m, pod, tt.want)
		})
	}
	t.Run("several", func(t *testing.T) {
		m, _ := withClaims(t, bound(corev1.PersistentVolumeSource{}))
		host := func(name string) corev1.Volume {
			return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/dev/null", Type: new(corev1.HostPathDirectory)}}}
		}
		claim := func(name string) corev1.Volume {
			return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
		}
		wantEvents(t, m, testPod(host("y"), claim("x"), host("b"), claim("a")),
			`Warning FailedMount MountVolume.SetUp failed for volume "y" : hostPath type check failed: /dev/null is not a directory, it's a CharDevice`,
			`Warning FailedMount MountVolume.SetUp failed for volume "b" : hostPath type check failed: /dev/null is not a directory, it's a CharDevice`,
			`Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[a b x y], unattached volumes=[], failed to process volumes=[x a]: `+
				`error processing PVC ns/x: failed to fetch PVC from API server: persistentvolumeclaims "x" not found; error processing PVC ns/a: failed to fetch PVC from API server: persistentvolumeclaims "a" not found`)
	})
}

// TestFailureEventsOfDrivers needs root. The events of CSI volumes name the step that failed.
func TestFailureEventsOfDrivers(t *testing.T) {
	const name = "fails.example.com"
	const absent = "driver name " + name + " not found in the list of registered CSI drivers"
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{AttachRequired: new(false), VolumeLifecycleModes: modes}},
	)
	c := bound(corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: name, VolumeHandle: "vol"}})
	m, root := withClaims(t, c)
	m.opts.PodsDir = root + "/pods"
	driver := &csitest.Driver{
		Name: name, NodeID: "n", Dir: t.TempDir(), Device: csitest.TestDevice(t, ""),
		Capabilities: []csiapi.NodeServiceCapability_RPC_Type{csiapi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
	}
	stop, err := driver.Serve(root + "/csi.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	m.opts.CSI = drivers(t, client, root)
	files := claimPod(false)
	device, _ := blockPod(false)
	asDevice := func(yes bool) *corev1.Pod {
		c.volume.Spec.VolumeMode = nil
		if yes {
			c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
			return device
		}
		return files
	}
	wantEvents(t, m, asDevice(false), `Warning FailedMount MountVolume.MountDevice failed for volume "pv" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: `+absent)
	wantEvents(t, m, asDevice(true), `Warning FailedMapVolume MapVolume.SetUpDevice failed for volume "pv" : kubernetes.io/csi: blockMapper.SetUpDevice failed to get CSI client: `+absent)
	if err := m.opts.CSI.Register(t.Context(), name, root+"/csi.sock", []string{"1.0.0"}); err != nil {
		t.Fatal(err)
	}
	inline := testPod(corev1.Volume{Name: "inline", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: name}}})
	wantEvents(t, m, inline, `Warning FailedMount MountVolume.SetUp failed for volume "inline" : kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: `+
		`volume mode "Ephemeral" not supported by driver `+name+` (only supports ["Persistent"])`)
	for step, want := range map[string][2]string{
		"Stage":   {"FailedMount MountVolume.MountDevice", "FailedMapVolume MapVolume.SetUpDevice"},
		"Publish": {"FailedMount MountVolume.SetUp", "FailedMapVolume MapVolume.MapPodDevice"},
	} {
		driver.Fail(step, status.Error(codes.Internal, "no"))
		for i, what := range want {
			wantEvents(t, m, asDevice(i > 0), "Warning "+what+` failed for volume "pv" : rpc error: code = Internal desc = no`)
			if err := m.Unmount(t.Context(), files.UID); err != nil {
				t.Error(err)
			}
		}
		driver.Fail(step, nil)
	}
	wantEvents(t, m, asDevice(true),
		`Normal SuccessfulMountVolume MapVolume.MapPodDevice succeeded for volume "pv" globalMapPath "`+filepath.Join(root, "plugins/kubernetes.io/csi/volumeDevices/pv/dev")+`"`,
		`Normal SuccessfulMountVolume MapVolume.MapPodDevice succeeded for volume "pv" volumeMapPath "`+filepath.Join(root, "pods/uid-1/volumeDevices/kubernetes.io~csi")+`"`)
	if err := m.Unmount(t.Context(), files.UID); err != nil {
		t.Error(err)
	}
}
