package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"minikubelet/e2e/stack"
)

// ownFiles are the files that the kubelet wrote below its root directory for itself. What pods' volumes hold is not its
// own, and the embedded runtime has tests of its own for its files.
func ownFiles(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, _ := filepath.Rel(root, path)
		switch {
		case entry.IsDir() && (below == "cri" || entry.Name() == "mount" || entry.Name() == "globalmount" || entry.Name() == "volume-subpaths"):
			return fs.SkipDir
		case entry.IsDir() && strings.HasPrefix(entry.Name(), "kubernetes.io~") && entry.Name() != "kubernetes.io~csi":
			return fs.SkipDir
		case entry.Type().IsRegular():
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestPowerLoss: whatever is left of the files that the kubelet wrote, it starts, keeps the pods that run, runs new ones and
// takes away what was there.
func TestPowerLoss(t *testing.T) {
	ctx, s := node(t)
	const name = "loss.example.com"
	d := newDriver(ctx, t, s, name, storagev1.CSIDriverSpec{AttachRequired: new(false), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}})
	newClaim(ctx, t, s, "loss", csiSource(name, "loss-1"), corev1.ReadWriteOnce)
	pod := ready(ctx, t, withVolume(t, claimed("loss")))
	before := running(ctx, t, pod.Name)
	for _, damage := range []struct {
		name string
		do   func(path string) error
	}{
		{"truncated", func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		}},
		{"empty", func(path string) error { return os.Truncate(path, 0) }},
		{"garbage", func(path string) error { return os.WriteFile(path, []byte("\x00}{garbage"), 0o600) }},
		{"missing", os.Remove},
	} {
		if err := kubelet.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-kubelet.Done()
		files := ownFiles(t, s.RootDir())
		t.Logf("%s: %s", damage.name, strings.Join(files, "\n"))
		records := 0
		for _, file := range files {
			if filepath.Base(file) == "vol_data.json" {
				records++
			}
			if err := damage.do(file); err != nil {
				t.Fatal(err)
			}
		}
		if records != 2 {
			t.Errorf("%s: %d records of CSI volumes", damage.name, records)
		}
		startKubelet(ctx, t, stack.KubeletOptions{})
		remove(ctx, t, ready(ctx, t, newPod(t)))
		if now := running(ctx, t, pod.Name); len(now) != 1 || now[0].GetId() != before[0].GetId() {
			t.Errorf("%s: the pod that ran: %v", damage.name, now)
		}
		eventually(ctx, t, "the records are whole again", func() bool {
			whole := 0
			for _, file := range ownFiles(t, s.RootDir()) {
				if filepath.Base(file) == "vol_data.json" && strings.Contains(read(t, file), "loss-1") {
					whole++
				}
			}
			return whole == 2
		})
	}
	remove(ctx, t, pod)
	eventually(ctx, t, "the volume is taken off the node", func() bool {
		calls := d.Calls()
		return len(calls) > 1 && strings.HasPrefix(calls[len(calls)-2], "Unpublish") && strings.HasPrefix(calls[len(calls)-1], "Unstage")
	})
	eventually(ctx, t, "nothing of the pod is left", func() bool {
		_, err := os.Stat(filepath.Join(s.RootDir(), "pods", string(pod.UID)))
		return os.IsNotExist(err)
	})
}
