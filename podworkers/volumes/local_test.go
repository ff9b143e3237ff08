package volumes

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// grouped is a pod that has the claim c and wants its files to be a group's.
func grouped(uid types.UID, group int64) *corev1.Pod {
	pod := claimPod(false)
	pod.UID = uid
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	return pod
}

// localVolume is a Manager with a claim on a directory of the node, which is a file system of its own with these options.
func localVolume(t *testing.T, options uintptr) (*Manager, *cluster, string, *record.FakeRecorder) {
	t.Helper()
	source := t.TempDir()
	if err := unix.Mount("tmpfs", source, "tmpfs", options, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(source, unix.MNT_DETACH) })
	c := bound(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: source}})
	m, dir := withClaims(t, c)
	t.Cleanup(func() {
		for _, uid := range []types.UID{"uid-1", "uid-2"} {
			if err := m.Unmount(context.Background(), uid); err != nil {
				t.Error(err)
			}
		}
	})
	events := record.NewFakeRecorder(10)
	m.opts.Events = events
	return m, c, filepath.Join(dir, "uid-1/volumes/kubernetes.io~local-volume/pv"), events
}

func groupOf(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Gid
}

// TestLocalGroup needs root. The files of a local volume go to the group of the first pod that has it; a second one with another
// group is told, and takes nothing from the first. A kubelet that starts leaves the files of a pod that runs as they are.
func TestLocalGroup(t *testing.T) {
	m, _, dir, events := localVolume(t, 0)
	for _, pod := range []*corev1.Pod{grouped("uid-1", 11), grouped("uid-2", 22)} {
		if err := m.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if got := groupOf(t, dir); got != 11 {
			t.Errorf("with pod %s the volume is of group %d", pod.UID, got)
		}
	}
	if want := "Warning AlreadyMountedVolume The requested fsGroup is 22, but the volume pv has GID 11. The volume may not be shareable."; len(events.Events) != 1 || <-events.Events != want {
		t.Errorf("the second pod is not told: %s", want)
	}
	if err := m.Unmount(t.Context(), "uid-2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(dir, -1, 33); err != nil { // as the pod itself did
		t.Fatal(err)
	}
	again := New(m.opts)
	again.Adopt("uid-1")
	if err := again.Mount(t.Context(), grouped("uid-1", 11)); err != nil {
		t.Fatal(err)
	}
	if got := groupOf(t, dir); got != 33 {
		t.Errorf("a kubelet that started gave the volume to group %d", got)
	}
}

// TestLocalGroupAtOnce needs root. Of two pods that get a local volume at the same time one is the first, whose group has the files.
func TestLocalGroupAtOnce(t *testing.T) {
	for range 20 {
		m, _, dir, _ := localVolume(t, 0)
		var both sync.WaitGroup
		for _, pod := range []*corev1.Pod{grouped("uid-1", 11), grouped("uid-2", 22)} {
			both.Go(func() {
				if err := m.Mount(t.Context(), pod); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if got := groupOf(t, dir); got != 11 && got != 22 {
			t.Fatalf("the volume is of group %d", got)
		}
	}
}

// TestLocalForOnePod needs root. A local volume that is for one pod alone is not given to another while one has it.
func TestLocalForOnePod(t *testing.T) {
	m, c, _, _ := localVolume(t, 0)
	c.volume.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	for range 2 {
		if err := m.Mount(t.Context(), grouped("uid-1", 11)); err != nil {
			t.Fatal(err)
		}
	}
	const refused = `failed for volume "pv" : volume uses the ReadWriteOncePod access mode and is already in use by another pod`
	wantEvents(t, m, grouped("uid-2", 11), "Warning FailedMount MountVolume.SetUp "+refused)
	c.volume.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	device, _ := blockPod(false)
	device.UID = "uid-2"
	wantEvents(t, m, device, "Warning FailedMapVolume MapVolume.SetUpDevice "+refused)
	c.volume.Spec.VolumeMode = nil
	if err := m.Unmount(t.Context(), "uid-1"); err != nil {
		t.Fatal(err)
	}
	if err := m.Mount(t.Context(), grouped("uid-2", 11)); err != nil {
		t.Error(err)
	}
}

// TestLocalMountOptions needs root. The options of a PersistentVolume count, and those of the file system that the directory is on
// are not lost.
func TestLocalMountOptions(t *testing.T) {
	const all = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	for _, tt := range []struct {
		options  []string
		readOnly bool
		want     int64
	}{
		{nil, false, unix.ST_NOSUID}, {nil, true, unix.ST_NOSUID | unix.ST_RDONLY}, {[]string{"noexec", "nodev"}, false, unix.ST_NOSUID | unix.ST_NOEXEC | unix.ST_NODEV},
		{[]string{"ro"}, false, unix.ST_NOSUID | unix.ST_RDONLY},
		{[]string{"data=journal,noexec", "discard"}, false, unix.ST_NOSUID | unix.ST_NOEXEC}, // a directory has none of the others
	} {
		m, c, dir, _ := localVolume(t, unix.MS_NOSUID)
		c.volume.Spec.MountOptions = tt.options
		if err := m.Mount(t.Context(), claimPod(tt.readOnly)); err != nil {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&all != tt.want {
			t.Errorf("%v, read-only %v: flags %#x, %v; want %#x", tt.options, tt.readOnly, fs.Flags&all, err, tt.want)
		}
	}
}

// TestOwnershipRefused needs root. Files that cannot be given to the group, such as a snapshot's, keep no pod from starting.
func TestOwnershipRefused(t *testing.T) {
	m, c, dir, _ := localVolume(t, 0)
	snapshot := filepath.Join(c.volume.Spec.Local.Path, "a-snapshot")
	for _, err := range []error{
		os.Mkdir(snapshot, 0o755), unix.Mount("tmpfs", snapshot, "tmpfs", unix.MS_RDONLY, ""), os.WriteFile(filepath.Join(c.volume.Spec.Local.Path, "file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := setOwnership(t.Context(), &progress{at: c.volume.Spec.Local.Path}, 11, corev1.FSGroupChangeAlways); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(snapshot, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Mount(t.Context(), grouped("uid-1", 11)); err != nil {
		t.Fatal(err)
	}
	if got := groupOf(t, dir+"/file"); got != 11 {
		t.Errorf("another file is of group %d", got)
	}
}

// TestOwnershipProgress: giving many files to a group takes long, and the pod is told why it waits.
func TestOwnershipProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := record.NewFakeRecorder(10)
		m := New(Options{PodsDir: "/pods", Events: events})
		files := progress{at: "/pods/uid-1/volumes/v"}
		files.done.Store(7)
		ctx, cancel := context.WithCancel(t.Context())
		go m.tellProgress(ctx, testPod(), &files)
		for _, want := range []string{
			"is taking longer than expected, consider using OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods",
			", processed 7 files.", ", processed 7 files.",
		} {
			start := time.Now()
			got := <-events.Events
			if full := "Warning VolumePermissionChangeInProgress Setting volume ownership for uid-1/volumes/v"; !strings.HasPrefix(got, full) || !strings.HasSuffix(got, want) {
				t.Errorf("told %q", got)
			}
			if wait := time.Since(start); wait != 30*time.Second && wait != time.Minute {
				t.Errorf("told after %v", wait)
			}
		}
		cancel()
		synctest.Wait()
	})
}

// TestVolumeGroup: the group of a PersistentVolume's annotation is one of the pod's, once, and the pod itself stays as it is.
func TestVolumeGroup(t *testing.T) {
	c := bound(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: t.TempDir()}})
	c.volume.Annotations = map[string]string{"pv.beta.kubernetes.io/gid": "1234"}
	m, _ := withClaims(t, c)
	pod := claimPod(false)
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := m.WithGroups(pod).Spec.SecurityContext; got == nil || len(got.SupplementalGroups) != 1 || got.SupplementalGroups[0] != 1234 || pod.Spec.SecurityContext != nil {
		t.Errorf("%+v, and the pod's own is %+v", got, pod.Spec.SecurityContext)
	}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{5, 1234}}
	if m.WithGroups(pod) != pod {
		t.Error("a pod that has the group already is another")
	}
	c.volume.Annotations["pv.beta.kubernetes.io/gid"] = "staff"
	m, _ = withClaims(t, c)
	if err := m.Mount(t.Context(), pod); err != nil || m.WithGroups(pod) != pod {
		t.Errorf("an annotation that is no group: %v", err)
	}
}
