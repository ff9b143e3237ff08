package volumes

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// TestSubPathSwap: a container swaps a directory of its volume for a link out of it, over and over, while a subPath through
// it is mounted. Nothing outside is ever mounted or made.
func TestSubPathSwap(t *testing.T) {
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
	volume, outside := filepath.Join(dir, "uid-1/volumes/kubernetes.io~empty-dir/scratch"), t.TempDir()
	for _, made := range []string{volume + "/at/deep", outside + "/deep"} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(outside+"/deep/secret", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, volume+"/link"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var swapping sync.WaitGroup
	swaps := 0
	swapping.Go(func() {
		for ; ctx.Err() == nil; swaps++ {
			if err := unix.Renameat2(unix.AT_FDCWD, volume+"/at", unix.AT_FDCWD, volume+"/link", unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	mounted := 0
	for i := range 300 {
		sub := "at/deep"
		if i%3 == 0 {
			sub = "at/new/made" // which is made, wherever that is
		}
		mounts, err := m.ContainerMounts(t.Context(), pod, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "scratch", MountPath: "/m", SubPath: sub}}}, nil)
		if err != nil {
			continue // noticed; the pod is tried again
		}
		mounted++
		if _, err := os.Lstat(mounts[0].GetHostPath() + "/secret"); err == nil {
			t.Fatal("what is outside of the volume is mounted")
		}
	}
	cancel()
	swapping.Wait()
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
	if mounted == 0 || swaps == 0 {
		t.Errorf("%d mounts, %d swaps: nothing is shown", mounted, swaps)
	}
}

// TestWritten: what the kubelet writes no container may, whatever its spec says.
func TestWritten(t *testing.T) {
	m, _ := manager(t)
	for name, tt := range map[string]struct {
		source corev1.VolumeSource
		want   bool
	}{
		"emptyDir":    {corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, false},
		"hostPath":    {corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}, false},
		"configMap":   {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}, true},
		"secret":      {corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}, true},
		"downwardAPI": {corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}}, true},
		"projected":   {corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}, true},
	} {
		pod := testPod(corev1.Volume{Name: "v", VolumeSource: tt.source})
		c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/m"}}}
		mounts, err := m.ContainerMounts(t.Context(), pod, c, nil)
		if err != nil || mounts[0].GetReadonly() != tt.want {
			t.Errorf("%s: %v, %v", name, mounts, err)
		}
	}
}
