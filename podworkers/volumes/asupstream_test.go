package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOwnersAndModes: all that a volume consists of has upstream's modes, and the pod's group where it has one. Needs root, for tmpfs.
func TestOwnersAndModes(t *testing.T) {
	meta, mode := metav1.ObjectMeta{Name: "o", Namespace: "ns"}, new(int32(0o640))
	items := []corev1.KeyToPath{{Key: "k", Path: "k"}, {Key: "k", Path: "deep/er/k"}}
	for group, want := range map[int64]map[string]string{
		0:    {"disk": "d0777 0", "memory": "d1777 0", "link": "L 0", "made": "d0755 0", "file": "-0640 0"},
		4321: {"disk": "d2777 4321", "memory": "d3777 4321", "link": "L 4321", "made": "d2755 4321", "file": "-0640 4321"},
	} {
		m, dir := manager(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": []byte("v")}})
		pod := testPod(
			corev1.Volume{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, DefaultMode: mode, Items: items}}},
			corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", DefaultMode: mode, Items: items}}},
			corev1.Volume{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode, Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, Items: items}},
			}}}},
			corev1.Volume{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: mode, Items: []corev1.DownwardAPIVolumeFile{
				{Path: "k", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}, {Path: "deep/er/k", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
			}}}},
			corev1.Volume{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		)
		for _, v := range pod.Spec.Volumes {
			pod.Spec.EphemeralContainers[0].VolumeMounts = append(pod.Spec.EphemeralContainers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/volumes/" + v.Name + "/nested"})
		}
		if group != 0 {
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
		}
		m.opts.Objects.Register(pod)
		t.Cleanup(func() {
			if err := m.Unmount(context.Background(), pod.UID); err != nil {
				t.Error(err)
			}
		})
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		stat := func(path string) string {
			info, err := os.Lstat(path)
			if err != nil {
				return err.Error()
			}
			s := info.Sys().(*syscall.Stat_t)
			if info.Mode()&fs.ModeSymlink != 0 {
				return fmt.Sprintf("L %d", s.Gid)
			}
			return fmt.Sprintf("%c%04o %d", info.Mode().String()[0], s.Mode&0o7777, s.Gid)
		}
		for _, above := range []string{"", "volumes"} {
			if got := stat(filepath.Join(dir, "uid-1", above)); got != "d0750 0" {
				t.Errorf("the pod's directory %s is %s", above, got)
			}
		}
		for volume, top := range map[string]string{"configmap/c": "disk", "secret/s": "memory", "projected/p": "memory", "downward-api/d": "memory", "empty-dir/e": "disk"} {
			at := filepath.Join(dir, "uid-1/volumes/kubernetes.io~"+volume)
			if got := stat(at); got != want[top] {
				t.Errorf("group %d: %s is %s, want %s", group, volume, got, want[top])
			}
			if volume == "empty-dir/e" {
				continue
			}
			data, err := filepath.EvalSymlinks(at + "/..data")
			if err != nil {
				t.Fatal(err)
			}
			for path, kind := range map[string]string{
				at + "/..data": "link", at + "/k": "link", at + "/deep": "link", data: "made", data + "/deep": "made", data + "/deep/er": "made", data + "/k": "file", data + "/deep/er/k": "file", at + "/nested": "made",
			} {
				if got := stat(path); got != want[kind] {
					t.Errorf("group %d: %s of %s is %s, want %s", group, strings.TrimPrefix(path, at), volume, got, want[kind])
				}
			}
		}
	}
}

// TestMissingContent: what is not there is told in upstream's words, and all that is missing in a projected volume at once.
func TestMissingContent(t *testing.T) {
	meta, mode := metav1.ObjectMeta{Name: "o", Namespace: "ns"}, new(int32(0o640))
	config, secret := &corev1.ConfigMap{ObjectMeta: meta}, &corev1.Secret{ObjectMeta: meta}
	ref, none := corev1.LocalObjectReference{Name: "o"}, []corev1.KeyToPath{{Key: "none", Path: "k"}}
	projected := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: mode, Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref, Items: none}}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref, Items: none}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: ref, Items: none}},
	}}}
	byContainer := func(path, container string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: path, ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: container, Resource: "limits.cpu"}}
	}
	for _, tt := range []struct {
		want   string
		source corev1.VolumeSource
		there  []any
	}{
		{`configmap references non-existent config key: none`, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: none, DefaultMode: mode}}, []any{config}},
		{`references non-existent secret key: none`, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", Items: none, DefaultMode: mode}}, []any{secret}},
		{`configmap "o" not found`, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref, DefaultMode: mode}}, nil},
		{`secret "o" not found`, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "o", DefaultMode: mode}}, nil},
		{`[configmap "o" not found, references non-existent secret key: none]`, projected, []any{secret}},
		{`[configmap references non-existent config key: none, secret "o" not found]`, projected, []any{config}},
		{`[container x not found, container y not found]`, corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
			DefaultMode: mode, Items: []corev1.DownwardAPIVolumeFile{byContainer("a", "x"), byContainer("b", "y")},
		}}, nil},
		{`container x not found`, corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{DefaultMode: mode, Items: []corev1.DownwardAPIVolumeFile{byContainer("a", "x")}}}, nil},
	} {
		m, _ := manager(t, tt.there...)
		pod := testPod(corev1.Volume{Name: "v", VolumeSource: tt.source})
		m.opts.Objects.Register(pod)
		if err, want := m.Mount(t.Context(), pod), `MountVolume.SetUp failed for volume "v" : `+tt.want; err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

// TestHostPathMessages: what is wrong with a path of the host is told in upstream's words.
func TestHostPathMessages(t *testing.T) {
	dir := t.TempDir()
	listener, err := net.Listen("unix", dir+"/socket")
	for _, err := range []error{err, os.WriteFile(dir+"/file", nil, 0o600), os.Mkdir(dir+"/dir", 0o700), syscall.Mkfifo(dir+"/pipe", 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	defer listener.Close()
	for _, tt := range []struct {
		name string
		kind corev1.HostPathType
		want string
	}{
		{"file", corev1.HostPathDirectory, "hostPath type check failed: DIR/file is not a directory, it's a File"},
		{"file", corev1.HostPathDirectoryOrCreate, "hostPath type check failed: DIR/file is not a directory, it's a File"},
		{"dir", corev1.HostPathFile, "hostPath type check failed: DIR/dir is not a file, it's a Directory"},
		{"dir", corev1.HostPathFileOrCreate, "hostPath type check failed: DIR/dir is not a file, it's a Directory"},
		{"dir", corev1.HostPathSocket, "hostPath type check failed: DIR/dir is not a socket file, it's a Directory"},
		{"socket", corev1.HostPathCharDev, "hostPath type check failed: DIR/socket is not a character device, it's a Socket"},
		{"socket", corev1.HostPathBlockDev, "hostPath type check failed: DIR/socket is not a block device, it's a Socket"},
		{"../../../dev/null", corev1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"},
		{"none", corev1.HostPathDirectory, `hostPath type check failed, DIR/none is not a directory, unable to determine its type: path "DIR/none" does not exist`},
		{"none", corev1.HostPathSocket, `hostPath type check failed, DIR/none is not a socket file, unable to determine its type: path "DIR/none" does not exist`},
		{"file/x", corev1.HostPathFile, `hostPath type check failed, DIR/file/x is not a file, unable to determine its type: stat DIR/file/x: not a directory`},
		{"file/x", corev1.HostPathDirectoryOrCreate, `mkdir DIR/file: not a directory`},
		{"file/x", corev1.HostPathFileOrCreate, `open DIR/file/x: not a directory`},
		{"none/x", corev1.HostPathFileOrCreate, `open DIR/none/x: no such file or directory`},
		{"pipe", corev1.HostPathFile, `hostPath type check failed, DIR/pipe is not a file, unable to determine its type: only recognise file, directory, socket, block device and character device`},
		{"file", "Other", `Other is an invalid volume type`},
	} {
		path := filepath.Join(dir, tt.name)
		if strings.HasSuffix(tt.name, "/dev/null") {
			path = "/dev/null"
		}
		err := checkHostPath(&corev1.HostPathVolumeSource{Path: path, Type: &tt.kind})
		if want := strings.ReplaceAll(tt.want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("%s as %s: %v\nwant %s", tt.name, tt.kind, err, want)
		}
	}
}

// TestSubPathErrors: a container whose subPath cannot be had is told so in upstream's words, which show nothing of the host.
func TestSubPathErrors(t *testing.T) {
	m, dir := manager(t)
	pod := testPod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir/v")
	for _, err := range []error{os.WriteFile(volume+"/file", nil, 0o600), os.Symlink("loop", volume+"/loop"), os.Symlink("file/deeper", volume+"/below"), os.Symlink("nowhere", volume+"/dangling")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const prepare, create = `failed to prepare subPath for volumeMount "v" of container "c"`, `failed to create subPath directory for volumeMount "v" of container "c"`
	for _, tt := range []struct {
		mount corev1.VolumeMount
		want  string
	}{
		{corev1.VolumeMount{SubPath: "file/x"}, prepare}, {corev1.VolumeMount{SubPath: "loop"}, prepare}, {corev1.VolumeMount{SubPath: "below"}, prepare},
		{corev1.VolumeMount{SubPath: "dangling"}, prepare}, {corev1.VolumeMount{SubPath: "dangling/x"}, prepare},
		{corev1.VolumeMount{SubPath: strings.Repeat("n", 256)}, prepare}, {corev1.VolumeMount{SubPath: "new/" + strings.Repeat("n", 256)}, create},
		{corev1.VolumeMount{SubPath: "a/../../x"}, "unable to provision SubPath `a/../../x`: must not contain '..'"},
		{corev1.VolumeMount{SubPath: "/etc"}, "error SubPath `/etc` must not be an absolute path"},
		{corev1.VolumeMount{SubPathExpr: "$(B)/$(A)/$(B)"}, "missing value for A, B"},
		{corev1.VolumeMount{RecursiveReadOnly: new(corev1.RecursiveReadOnlyEnabled)}, `failed to resolve recursive read-only mode: volume "v" requested recursive read-only mode, but it is not read-only`},
	} {
		tt.mount.Name, tt.mount.MountPath = "v", "/m"
		_, err := m.ContainerMounts(t.Context(), pod, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{tt.mount}}, nil)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%+v: %v\nwant %s", tt.mount, err, tt.want)
		}
	}
	for _, path := range []string{"file/x", "none", "loop"} {
		if _, err := m.ReadFile(pod, "v", path, 100); err == nil || strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "/proc") {
			t.Errorf("what is told of %s shows the host: %v", path, err)
		}
	}
}

// TestSubPathOfWrittenVolume: the directory that is made for a subPath which a written volume does not have stays under its container when
// the volume is written again.
func TestSubPathOfWrittenVolume(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"a": {data: []byte("1"), mode: 0o644}}
	if err := writeAtomic(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.MkdirAll(dir+"/missing/deeper", 0o777), os.Symlink("..data/gone", dir+"/gone"), os.Mkdir(dir+"/..2026_01_02_03_04_05.1", 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(dir + "/missing/deeper")
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"1", "2"} {
		files["a"] = file{data: []byte(content), mode: 0o644}
		if err := writeAtomic(dir, files, nil); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(dir + "/missing/deeper"); err != nil || !os.SameFile(before, after) {
			t.Errorf("the directory of a subPath is gone: %v", err)
		}
	}
	for _, gone := range []string{"/gone", "/..2026_01_02_03_04_05.1"} {
		if _, err := os.Lstat(dir + gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s stayed: %v", gone, err)
		}
	}
	files["missing"] = file{data: []byte("late"), mode: 0o644}
	if err := writeAtomic(dir, files, nil); err != nil || read(t, dir+"/missing") != "late" {
		t.Errorf("a file that comes later: %v", err)
	}
}

// TestHugePagesMessages: what is wrong with huge pages is told in upstream's words.
func TestHugePagesMessages(t *testing.T) {
	for _, tt := range []struct {
		medium   corev1.StorageMedium
		requests corev1.ResourceList
		want     string
	}{
		{"HugePages", requests("cpu", "1"), "medium HugePages: hugePages storage requested, but there is no resource request for huge pages"},
		{"HugePages-1Gi", requests("hugepages-2Mi", "4Mi"), "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages"},
		{"HugePages-two", requests("hugepages-2Mi", "4Mi"), "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"},
		{"HugePages", requests("hugepages-2Mi", "4Mi", "hugepages-1Gi", "1Gi"), "medium: HugePages can't be used if container requests multiple huge page sizes"},
	} {
		pod := testPod()
		pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: tt.requests}}}
		if got, err := pageSize(pod, tt.medium); err == nil || err.Error() != tt.want {
			t.Errorf("%s of %v: %v, %v\nwant %s", tt.medium, tt.requests, got.String(), err, tt.want)
		}
	}
}
