package volumes

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"minikubelet/e2e/csitest"
)

// blockPod is a pod whose container c has the claim's device.
func blockPod(readOnly bool) (*corev1.Pod, *corev1.Container) {
	pod := claimPod(readOnly)
	pod.Spec.EphemeralContainers = nil
	pod.Spec.Containers = []corev1.Container{{Name: "c", VolumeDevices: []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}}}
	return pod, &pod.Spec.Containers[0]
}

// TestBlockMode: a volume is used as what it is.
func TestBlockMode(t *testing.T) {
	mounts, devices := []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}, []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/data"}}
	local := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/dev/null"}}
	for name, tt := range map[string]struct {
		mode   corev1.PersistentVolumeMode
		source corev1.PersistentVolumeSource
		pod    corev1.PodSpec
		want   string
	}{
		"mount of a block volume": {
			corev1.PersistentVolumeBlock, local, corev1.PodSpec{Containers: []corev1.Container{{VolumeMounts: mounts}}},
			"Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: volume data has volumeMode Block, but is specified in volumeMounts",
		},
		"device of a file system": {
			corev1.PersistentVolumeFilesystem, local, corev1.PodSpec{InitContainers: []corev1.Container{{VolumeDevices: devices}}},
			"Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: volume data has volumeMode Filesystem, but is specified in volumeDevices",
		},
		"no block device": {
			corev1.PersistentVolumeBlock, local, corev1.PodSpec{Containers: []corev1.Container{{VolumeDevices: devices}}},
			`Warning FailedMapVolume MapVolume.MapBlockVolume failed for volume "pv" : block volume: /dev/null is not a block device`,
		},
		"CSI without drivers": {
			corev1.PersistentVolumeBlock, corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}, corev1.PodSpec{Containers: []corev1.Container{{VolumeDevices: devices}}},
			`Warning FailedMapVolume MapVolume.MapBlockVolume failed for volume "pv" : CSI volumes: there is no apiserver to ask`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := bound(tt.source)
			c.volume.Spec.VolumeMode = &tt.mode
			m, _ := withClaims(t, c)
			pod := claimPod(false)
			pod.Spec.EphemeralContainers, pod.Spec.Containers, pod.Spec.InitContainers = nil, tt.pod.Containers, tt.pod.InitContainers
			wantEvents(t, m, pod, tt.want)
		})
	}
}

// TestLocalBlock needs root. A pod has a device of the node and keeps it open until its volumes are gone; a kubelet that starts
// makes links good that lead elsewhere.
func TestLocalBlock(t *testing.T) {
	device := csitest.TestDevice(t, "")
	c := bound(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}})
	c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	m, dir := withClaims(t, c)
	m.opts.PodsDir = dir + "/pods"
	link := m.opts.PodsDir + "/uid-1/volumeDevices/kubernetes.io~local-volume/pv"
	for permissions, readOnly := range map[string]bool{"r": true, "mrw": false} {
		pod, container := blockPod(readOnly)
		if _, err := m.ContainerDevices(pod, container); err == nil || err.Error() != `cannot find volume "data" to pass into container "c"` {
			t.Errorf("before it is mapped: %v", err)
		}
		for range 2 {
			if err := m.Mount(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
		got, err := m.ContainerDevices(pod, container)
		if err != nil || len(got) != 1 || got[0].GetHostPath() != link || got[0].GetContainerPath() != "/dev/data" || got[0].GetPermissions() != permissions {
			t.Errorf("the container's devices: %v, %v", got, err)
		}
		if to, err := os.Readlink(link); err != nil || to != device {
			t.Errorf("the link leads to %s, %v", to, err)
		}
		if _, ok := m.Placed(pod, &pod.Spec.Volumes[0]); ok {
			t.Error("a device has statistics of files")
		}
		p, _ := m.placed(pod.UID, "data")
		if _, err := p.held.Read(make([]byte, 512)); err != nil {
			t.Errorf("the device is not open: %v", err)
		}

		m = New(m.opts) // a kubelet that was started again, after the device got another name
		for _, err := range []error{os.Remove(link), os.Symlink("/dev/gone", link)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(link); err != nil || to != device {
			t.Errorf("the link leads to %s, %v", to, err)
		}
		p, _ = m.placed(pod.UID, "data")
		if err := m.RemoveOrphans(t.Context(), func(types.UID) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if err := p.held.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the device is still open: %v", err)
		}
		if _, err := os.Stat(m.opts.PodsDir + "/uid-1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of a pod that is gone: %v", err)
		}
	}
	pod, container := blockPod(false)
	container.VolumeDevices[0].DevicePath = "data"
	if _, err := m.ContainerDevices(pod, container); err == nil || err.Error() != "error DevicePath `data` must be an absolute path" {
		t.Errorf("a path that is relative: %v", err)
	}
}

// TestLocalBlockOfUpstream needs root. What upstream's kubelet made of a device is taken away; nothing is removed that is mounted.
func TestLocalBlockOfUpstream(t *testing.T) {
	m, dir := withClaims(t, bound(corev1.PersistentVolumeSource{}))
	m.opts.PodsDir = dir + "/pods"
	links, mapped := dir+"/pods/uid-1/volumeDevices/kubernetes.io~local-volume", dir+"/plugins/kubernetes.io~local-volume/volumeDevices/pv"
	precious := links + "/mounted/precious"
	for _, err := range []error{
		os.MkdirAll(links+"/mounted", 0o750), os.MkdirAll(mapped, 0o750), os.WriteFile(mapped+"/uid-1", nil, 0o640), os.Symlink("/dev/x", links+"/pv"),
		unix.Mount(csitest.TestDevice(t, ""), mapped+"/uid-1", "", unix.MS_BIND, ""),
		unix.Mount("tmpfs", links+"/mounted", "tmpfs", 0, ""), os.WriteFile(precious, []byte("p"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	loop, _, err := csitest.NewDevice(mapped + "/uid-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod(t.Context(), "uid-1"); err == nil {
		t.Error("no error tells of what is mounted")
	}
	if read(t, precious) != "p" {
		t.Error("what is mounted is gone")
	}
	if err := unix.Unmount(links+"/mounted", 0); err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{dir + "/pods/uid-1", mapped + "/uid-1"} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if backing, err := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/loop/backing_file"); err == nil && strings.HasPrefix(string(backing), mapped) {
		t.Errorf("%s is left", loop)
	}
}

// TestStandingBlock needs root. A kubelet that starts while the driver is away uses the device that stands, and tells once; one
// that never stood keeps its pod waiting, as does one whose device is gone.
func TestStandingBlock(t *testing.T) {
	const name = "blocks.example.com"
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{
			AttachRequired: new(false), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}, RequiresRepublish: new(true),
		}},
	)
	c := bound(corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: name, VolumeHandle: "vol"}})
	c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	m, root := withClaims(t, c)
	m.opts.PodsDir = root + "/pods"
	driver := &csitest.Driver{Name: name, NodeID: "n", Dir: t.TempDir(), Device: csitest.TestDevice(t, "")}
	stop, err := driver.Serve(root + "/csi.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	m.opts.CSI = drivers(t, client, root)
	if err := m.opts.CSI.Register(t.Context(), name, root+"/csi.sock", []string{"1.0.0"}); err != nil {
		t.Fatal(err)
	}
	pod, container := blockPod(true)
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if p, _ := m.placed(pod.UID, "data"); p.csi == nil {
		t.Error("the driver is not asked again")
	}

	again := New(m.opts)
	again.opts.CSI = drivers(t, client, root)
	events := record.NewFakeRecorder(10)
	again.opts.Events = events
	if err := again.Mount(t.Context(), pod); err == nil {
		t.Error("nothing says that the volume ever stood")
	}
	again.Adopt(pod.UID)
	for range 2 {
		if err := again.Mount(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	got, err := again.ContainerDevices(pod, container)
	if want := root + "/pods/uid-1/volumeDevices/kubernetes.io~csi/pv"; err != nil || len(got) != 1 || got[0].GetHostPath() != want || got[0].GetPermissions() != "r" {
		t.Errorf("the container's devices: %v, %v", got, err)
	}
	want := `Warning FailedMapVolume MapVolume.SetUpDevice failed for volume "pv" : kubernetes.io/csi: blockMapper.SetUpDevice failed to get CSI client: driver name ` + name + " not found in the list of registered CSI drivers"
	for range 2 { // before it was known to stand, and after
		if got := <-events.Events; got != want {
			t.Errorf("told %q", got)
		}
	}
	if len(events.Events) > 0 {
		t.Errorf("told %q besides", <-events.Events)
	}
	again.letGo(pod.UID)
	m.letGo(pod.UID)

	if err := unix.Unmount(root+"/plugins/kubernetes.io/csi/volumeDevices/publish/pv/uid-1", 0); err != nil {
		t.Fatal(err)
	}
	rebooted := New(again.opts)
	rebooted.Adopt(pod.UID)
	if err := rebooted.Mount(t.Context(), pod); err == nil {
		t.Error("a device that is gone stands")
	}
	if err := m.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if calls := driver.Calls(); len(calls) != 2 || calls[1] != "Unpublish vol" {
		t.Errorf("calls: %v", calls)
	}
}

// TestSlowClose: the last close of a device writes what is left to it, and so waits for one that is away. Other pods do not wait.
func TestSlowClose(t *testing.T) {
	for name, let := range map[string]func(*Manager){
		"the pod ends":        func(m *Manager) { m.letGo("u") },
		"another device came": func(m *Manager) { m.put("u", "v", place{}) },
	} {
		t.Run(name, func(t *testing.T) {
			device, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			m := New(Options{})
			m.put("u", "v", place{held: device})
			raw, err := device.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			inUse, free := make(chan struct{}), make(chan struct{})
			var group sync.WaitGroup
			group.Go(func() { _ = raw.Control(func(uintptr) { close(inUse); <-free }) }) // Close waits for its end
			<-inUse
			group.Go(func() { let(m) })
			for device.SetDeadline(time.Time{}) == nil { // until it is being closed
				runtime.Gosched()
			}
			if !m.mu.TryLock() {
				t.Error("the lock is held meanwhile")
			} else {
				m.mu.Unlock()
			}
			close(free)
			group.Wait()
		})
	}
}
