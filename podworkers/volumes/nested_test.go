package volumes

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestUnusedVolumes: what no container mounts need not exist, and is not mounted.
func TestUnusedVolumes(t *testing.T) {
	m, dir := manager(t)
	mode := int32(0o644)
	missing := corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, DefaultMode: &mode}
	pod := testPod(corev1.Volume{Name: "used", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &missing}},
		corev1.Volume{Name: "old", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}},
		corev1.Volume{Name: "file", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	)
	pod.Spec.Containers = []corev1.Container{{Name: "c", Env: []corev1.EnvVar{
		{Name: "V", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "file", Path: "env", Key: "V"}}},
	}}}
	m.opts.Objects.Register(pod)
	if err := m.Unsupported(pod); err != nil {
		t.Error(err)
	}
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]bool{"empty-dir/used": true, "empty-dir/file": true, "configmap/config": false} {
		if _, err := os.Stat(filepath.Join(dir, "uid-1/volumes/kubernetes.io~"+path)); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestNestedMounts: a volume that the kubelet writes is read-only for containers, so what they mount inside of it finds its directory
// there, also after the volume was written again.
func TestNestedMounts(t *testing.T) {
	m, dir := manager(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "o", Namespace: "ns"}, Data: map[string]string{"k": "v", "file": "f"}})
	mode := int32(0o644)
	source := corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "o"}, DefaultMode: &mode}
	pod := testPod(
		corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &source}},
		corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	)
	pod.Spec.Containers = []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{
		{Name: "scratch", MountPath: "/etc/app/deep/er"}, {Name: "config", MountPath: "/etc/app/"}, {Name: "scratch", MountPath: "/etc/app/dir"},
		{Name: "scratch", MountPath: "/etc/apps"}, {Name: "scratch", MountPath: "/etc/app/file", SubPath: "file"},
	}}}
	m.opts.Objects.Register(pod)
	t.Cleanup(func() {
		if err := m.Unmount(context.Background(), pod.UID); err != nil {
			t.Error(err)
		}
	})
	volume := filepath.Join(dir, "uid-1/volumes/kubernetes.io~configmap/config")
	for _, items := range [][]corev1.KeyToPath{nil, {{Key: "k", Path: "dir/k"}, {Key: "file", Path: "file"}}} {
		source.Items = items
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"deep/er", "dir"} {
			if info, err := os.Lstat(filepath.Join(volume, at)); err != nil || !info.IsDir() {
				t.Errorf("%s: %v, %v; want a directory", at, info, err)
			}
		}
		if got := read(t, volume+"/file"); got != "f" {
			t.Errorf("the file that another is mounted on holds %q", got)
		}
		if !complete(volume) {
			t.Error("it does not count as standing")
		}
	}
	if entries, err := os.ReadDir(volume); err != nil || len(entries) != 5 { // deep, dir, file, ..data and what it leads to
		t.Errorf("there are %v, %v", entries, err)
	}
}

// TestInterruptedUpdate: a kubelet that was killed after it had replaced the files leaves old ones, and names that lead nowhere. The
// next one removes them.
func TestInterruptedUpdate(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"a": {data: []byte("1"), mode: 0o644}}
	if err := writeAtomic(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Mkdir(dir+"/..2026_01_02_03_04_05.1", 0o755), os.Symlink("..data/gone", dir+"/gone")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := writeAtomic(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 { // a, ..data and what it leads to
		t.Errorf("there are %v, %v", entries, err)
	}
	if to, err := os.Readlink(dir + "/..data"); err != nil || !filepath.IsLocal(to) || len(to) < len("..2026_01_02_03_04_05.") || to[:4] != "..20" {
		t.Errorf("the files are in %s, %v; want the time of writing as upstream names it", to, err)
	}
}
