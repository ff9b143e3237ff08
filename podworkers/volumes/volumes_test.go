package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"minikubelet/podworkers/objects"
	"minikubelet/podworkers/objects/objectstest"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteAtomic(t *testing.T) {
	dir := t.TempDir()
	write := func(files map[string]file) string {
		t.Helper()
		if err := writeAtomic(dir, files, nil); err != nil {
			t.Fatal(err)
		}
		target, err := os.Readlink(dir + "/..data")
		if err != nil {
			t.Fatal(err)
		}
		return target
	}
	first := write(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "deep/b": {data: []byte("2"), mode: 0o400}})
	if read(t, dir+"/a") != "1" || read(t, dir+"/deep/b") != "2" {
		t.Error("the files are not there")
	}
	if info, err := os.Stat(dir + "/deep/b"); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode of deep/b: %v, %v", info.Mode(), err)
	}
	held, err := os.Open(dir + "/..data/a")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if again := write(map[string]file{"a": {data: []byte("1"), mode: 0o644}, "deep/b": {data: []byte("2"), mode: 0o400}}); again != first {
		t.Error("what did not change was written again")
	}
	if second := write(map[string]file{"a": {data: []byte("3"), mode: 0o644}, "c": {data: []byte("4"), mode: 0o644}}); second == first {
		t.Error("what changed was not replaced")
	}
	if read(t, dir+"/a") != "3" || read(t, dir+"/c") != "4" {
		t.Error("the new files are not there")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 4 { // a, c, ..data and what it leads to
		t.Errorf("left over: %v", entries)
	}
	group := int64(1234)
	if err := writeAtomic(dir, map[string]file{"a": {data: []byte("3"), mode: 0o600}}, &group); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir + "/a"); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("with an fsGroup the mode is %v, %v", info.Mode(), err)
	}
}

func TestClean(t *testing.T) {
	for _, bad := range []string{"", "/a", "..", "../a", "a/../../b", "..a", "."} {
		if got, err := clean(bad); err == nil {
			t.Errorf("clean(%q) = %q, want an error", bad, got)
		}
	}
	for in, want := range map[string]string{"a": "a", "a/b": "a/b", "a/../b": "b", "a//b": "a/b"} {
		if got, err := clean(in); err != nil || got != want {
			t.Errorf("clean(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func manager(t *testing.T, objs ...any) (*Manager, string) {
	t.Helper()
	client := fake.NewClientset()
	for _, o := range objs {
		var err error
		switch o := o.(type) {
		case *corev1.ConfigMap:
			_, err = client.CoreV1().ConfigMaps(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		case *corev1.Secret:
			_, err = client.CoreV1().Secrets(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m := objects.New(objects.Options{Watch: objectstest.Watch(client), CreateToken: objectstest.CreateToken(client)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	dir := t.TempDir()
	return New(Options{PodsDir: dir, Objects: m, Allocatable: func() corev1.ResourceList { return nil }}), dir
}

// testPod is a pod whose only container, an ephemeral one, mounts all of the volumes.
func testPod(volumes ...corev1.Volume) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1", Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Volumes: volumes}}
	debug := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}
	for _, v := range volumes {
		debug.VolumeMounts = append(debug.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/volumes/" + v.Name})
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{debug}
	return pod
}

// TestMountAndUnmount needs root, for tmpfs.
func TestMountAndUnmount(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "o", Namespace: "ns"}
	m, dir := manager(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"s": []byte("x")}})
	mode := int32(0o644)
	size := resource.MustParse("1Mi")
	ref := corev1.LocalObjectReference{Name: "o"}
	pod := testPod(
		corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, DefaultMode: &mode}}},
		corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", DefaultMode: &mode}}},
		corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
		corev1.Volume{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: &mode, Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		}}}},
	)
	m.opts.Objects.Register(pod)
	for range 2 { // the second time changes nothing
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	base := filepath.Join(dir, "uid-1", "volumes")
	for path, want := range map[string]string{
		"kubernetes.io~configmap/config/k": "v", "kubernetes.io~secret/secret/s": "x", "kubernetes.io~downward-api/down/labels": `a="b"`,
	} {
		if got := read(t, filepath.Join(base, path)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]bool{"kubernetes.io~secret/secret": true, "kubernetes.io~empty-dir/memory": true, "kubernetes.io~configmap/config": false} {
		if got, err := isMountpoint(filepath.Join(base, path)); err != nil || got != want {
			t.Errorf("%s is on a mount of its own: %v (%v), want %v", path, got, err, want)
		}
	}

	// A container plants links that lead out; what is behind them stays.
	outside := t.TempDir()
	if err := os.WriteFile(outside+"/precious", []byte("p"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(base, "kubernetes.io~empty-dir/scratch/out")); err != nil {
		t.Fatal(err)
	}
	restarted := New(m.opts) // knows nothing but the disk
	for range 2 {
		if err := restarted.Unmount(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(base); !os.IsNotExist(err) {
		t.Errorf("the volumes are still there: %v", err)
	}
	if read(t, outside+"/precious") != "p" {
		t.Error("what a link led to is gone")
	}
	for _, bad := range []types.UID{"", "..", "a/b"} {
		if err := m.Unmount(t.Context(), bad); err == nil {
			t.Errorf("the UID %q is accepted", bad)
		}
	}
}

func TestSubPath(t *testing.T) {
	m, dir := manager(t)
	pod := testPod(corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
	})
	volume := filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir/scratch")
	outside := t.TempDir()
	if err := os.Symlink(outside, volume+"/out"); err != nil {
		t.Fatal(err)
	}
	mount := func(vm corev1.VolumeMount, vars map[string]string) (string, error) {
		vm.Name, vm.MountPath = "scratch", "/m"
		mounts, err := m.ContainerMounts(t.Context(), pod, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{vm}}, vars)
		if err != nil {
			return "", err
		}
		return mounts[0].HostPath, nil
	}
	at, err := mount(corev1.VolumeMount{SubPath: "a/b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at+"/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if read(t, volume+"/a/b/f") != "x" {
		t.Error("the mount leads elsewhere")
	}
	for _, made := range []string{"/a", "/a/b"} { // whatever the umask
		if info, err := os.Stat(volume + made); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v, %v; want the volume's permissions", made, info.Mode(), err)
		}
	}
	for _, err := range []error{os.RemoveAll(volume + "/a/b"), os.WriteFile(volume+"/a/b", []byte("now a file"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if at, err := mount(corev1.VolumeMount{SubPath: "a/b"}, nil); err != nil || read(t, at) != "now a file" {
		t.Errorf("what was a directory is a file: %s, %v", at, err)
	}
	if at, err := mount(corev1.VolumeMount{SubPathExpr: "$(DIR)/c"}, map[string]string{"DIR": "d"}); err != nil || at == "" {
		t.Errorf("subPathExpr: %q, %v", at, err)
	}
	if _, err := os.Stat(volume + "/d/c"); err != nil {
		t.Error(err)
	}
	for _, vars := range []map[string]string{nil, {"NONE": ""}} { // which would be the whole volume
		if at, err := mount(corev1.VolumeMount{SubPathExpr: "$(NONE)"}, vars); err == nil || !strings.Contains(err.Error(), "missing value for NONE") {
			t.Errorf("a variable that is not there, or empty: %q, %v", at, err)
		}
	}
	for _, bad := range []string{"../x", "a/../../x", "/etc"} {
		if at, err := mount(corev1.VolumeMount{SubPath: bad}, nil); err == nil {
			t.Errorf("subPath %q is mounted at %s", bad, at)
		}
	}
	// The link leads out of the volume; inside of it the same path is something else, or nothing.
	at, err = mount(corev1.VolumeMount{SubPath: "out"}, nil)
	if err == nil {
		if err := os.WriteFile(at+"/escaped", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(outside + "/escaped"); err == nil {
		t.Error("a link in the volume led out of it")
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	path := func(name string, kind corev1.HostPathType) *corev1.HostPathVolumeSource {
		return &corev1.HostPathVolumeSource{Path: filepath.Join(dir, name), Type: &kind}
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		source *corev1.HostPathVolumeSource
		ok     bool
	}{
		{path("none", corev1.HostPathUnset), true}, {path("made", corev1.HostPathDirectoryOrCreate), true}, {path("made", corev1.HostPathDirectory), true},
		{path("new", corev1.HostPathFileOrCreate), true}, {path("file", corev1.HostPathFile), true}, {path("none", corev1.HostPathFile), false},
		{path("file", corev1.HostPathDirectory), false}, {path("made", corev1.HostPathFile), false}, {path("file", corev1.HostPathSocket), false},
		{path("file", corev1.HostPathCharDev), false}, {path("file", corev1.HostPathBlockDev), false}, {path("file", "Other"), false},
		{&corev1.HostPathVolumeSource{Path: "relative"}, false},
	} {
		if err := checkHostPath(tt.source); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.source, err)
		}
	}
}

func TestUnsupported(t *testing.T) {
	ok := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := Unsupported(ok); err != nil {
		t.Error(err)
	}
	for want, source := range map[string]corev1.VolumeSource{
		"nfs":   {NFS: &corev1.NFSVolumeSource{}},
		"iscsi": {ISCSI: &corev1.ISCSIVolumeSource{}},
	} {
		err := Unsupported(testPod(corev1.Volume{Name: "data", VolumeSource: source}))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "data") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestRemoveOrphans: the directories of pods that the kubelet does not know go with all that is mounted in them; what else is there
// stays, and so does what the mounts showed.
func TestRemoveOrphans(t *testing.T) {
	dir, shown := t.TempDir(), t.TempDir()
	m := New(Options{PodsDir: filepath.Join(dir, "pods")})
	if err := m.RemoveOrphans(t.Context(), nil); err != nil {
		t.Errorf("without any pods: %v", err)
	}
	for _, path := range []string{"pods/known/volumes", "pods/gone/containers/a", "pods/gone/volumes/kubernetes.io~empty-dir/v", "pods/gone/extra"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(shown, "kept")
	for _, path := range []string{filepath.Join(dir, "pods/gone/etc-hosts"), filepath.Join(dir, "pods/file"), kept} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []string{"volumes/kubernetes.io~empty-dir/v", "extra"} {
		target := filepath.Join(dir, "pods/gone", at)
		if err := unix.Mount(shown, target, "", unix.MS_BIND, ""); errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to mount: ", err)
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	if err := m.RemoveOrphans(t.Context(), func(uid types.UID) bool { return uid == "known" }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "pods"))
	if err != nil || len(entries) != 2 || entries[0].Name() != "file" || entries[1].Name() != "known" {
		t.Errorf("left are %v, %v", entries, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
}
