package volumes

import (
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/fake"

	"minikubelet/e2e/csitest"
	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects/objectstest"
)

// drivers is what a kubelet that starts knows of CSI drivers: none is registered.
func drivers(t *testing.T, client *fake.Clientset, root string) *csi.Manager {
	c := csi.New(csi.Options{
		RootDir: root, NodeName: "node", Drivers: objectstest.ListWatch(client, client.StorageV1().CSIDrivers(), fields.Everything()),
		Nodes: client.CoreV1().Nodes(), CSINodes: client.StorageV1().CSINodes(), InUseChanged: func() {},
		Node: func() (*corev1.Node, <-chan struct{}) { return &corev1.Node{}, nil },
	})
	go c.Run(t.Context())
	return c
}

// TestRepublish needs root. A driver that does not answer when it is asked again holds up nothing: not the pod's worker, nor
// the volume's end, after which it is asked nothing more. A kubelet that starts while the driver is away uses what stands.
func TestRepublish(t *testing.T) {
	const name = "slow.example.com"
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}, RequiresRepublish: new(true),
		}},
	)
	m, _ := manager(t)
	root := t.TempDir()
	pods := filepath.Join(root, "pods")
	m.opts.PodsDir = pods
	driver := &csitest.Driver{Name: name, NodeID: "n", Dir: t.TempDir()}
	stop, err := driver.Serve(filepath.Join(root, "csi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	m.opts.CSI = drivers(t, client, root)
	if err := m.opts.CSI.Register(t.Context(), name, filepath.Join(root, "csi.sock"), []string{"1.0.0"}); err != nil {
		t.Fatal(err)
	}
	pod := testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: name}}})
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	never := make(chan struct{})
	driver.HoldPublish(never)
	p, _ := m.placed(pod.UID, "data")
	p.next = time.Now()
	m.put(pod.UID, "data", p)
	m.Republish(t.Context(), pod)
	for len(driver.Calls()) < 2 {
		time.Sleep(time.Millisecond)
	}
	p, _ = m.placed(pod.UID, "data")
	p.next = time.Now()
	m.put(pod.UID, "data", p)
	m.Republish(t.Context(), pod) // while the first one is under way
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if next := m.Next(pod.UID); time.Until(next) < 50*time.Second || time.Until(next) > republishPeriod {
		t.Errorf("asked again at %v", next)
	}

	again := New(m.opts)
	again.opts.CSI = drivers(t, client, root) // with which no driver is registered yet
	if err := again.Mount(t.Context(), pod); err == nil {
		t.Error("nothing says that the volume ever stood")
	}
	again.Adopt(pod.UID)
	if err := again.Mount(t.Context(), pod); err != nil {
		t.Error(err)
	}
	mounts, err := again.ContainerMounts(t.Context(), pod, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}, nil)
	if want := filepath.Join(pods, "uid-1/volumes/kubernetes.io~csi/data/mount"); err != nil || mounts[0].HostPath != want || mounts[0].Readonly {
		t.Errorf("the container's mounts: %v, %v", mounts, err)
	}

	if err := m.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if calls := driver.Calls(); len(calls) != 3 || calls[2][:9] != "Unpublish" {
		t.Errorf("calls: %v", calls)
	}
}
