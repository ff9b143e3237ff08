package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"minikubelet/e2e/hungdisk"
)

// waitFor returns when a file system is asked, or when none is any more.
func waitFor(m *Manager, asked bool) {
	for {
		m.files.mu.Lock()
		n := len(m.files.asked)
		m.files.mu.Unlock()
		if (n > 0) == asked {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// overdueNow makes the questions ones that have waited for long.
func overdueNow(m *Manager) {
	m.files.mu.Lock()
	defer m.files.mu.Unlock()
	for _, q := range m.files.asked {
		q.since = q.since.Add(-patience)
	}
}

// TestHungFilesystem needs root. A pod whose volume is on a file system that does not answer can be ended at once; other pods do not
// wait for it, and it gets its volume when the file system answers again.
func TestHungFilesystem(t *testing.T) {
	kind := func(k corev1.HostPathType) *corev1.HostPathType { return &k }
	for name, volume := range map[string]func(path string) (*cluster, *corev1.Pod){
		"hostPath": func(path string) (*cluster, *corev1.Pod) {
			source := &corev1.HostPathVolumeSource{Path: path, Type: kind(corev1.HostPathDirectory)}
			return bound(corev1.PersistentVolumeSource{}), testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: source}})
		},
		"claim on a hostPath": func(path string) (*cluster, *corev1.Pod) {
			return bound(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: kind(corev1.HostPathDirectory)}}), claimPod(false)
		},
		"local": func(path string) (*cluster, *corev1.Pod) {
			return bound(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}), claimPod(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, wake := hungdisk.Mount(t)
			c, pod := volume(dir)
			m, _ := withClaims(t, c)
			events := record.NewFakeRecorder(10)
			m.opts.Events = events
			ctx, end := context.WithCancel(t.Context())
			mounting := make(chan error)
			go func() { mounting <- m.Mount(ctx, pod) }()
			waitFor(m, true)
			other := testPod(corev1.Volume{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
			other.UID = "uid-2"
			for _, err := range []error{m.Mount(t.Context(), other), m.Unmount(t.Context(), other.UID)} {
				if err != nil {
					t.Errorf("another pod: %v", err)
				}
			}
			end()
			if err := <-mounting; !errors.Is(err, context.Canceled) {
				t.Errorf("the pod is ended: %v", err)
			}
			if err := m.Unmount(t.Context(), pod.UID); err != nil {
				t.Error(err)
			}
			if len(events.Events) > 0 {
				t.Errorf("a pod that is ended is told %q", <-events.Events)
			}
			overdueNow(m)
			if err := m.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "the file system of "+dir+" does not answer") {
				t.Errorf("it has not answered for long: %v", err)
			}
			wake()
			waitFor(m, false)
			if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), unix.Mount("tmpfs", dir, "tmpfs", 0, "")); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{m.Mount(t.Context(), pod), m.Unmount(t.Context(), pod.UID)} {
				if err != nil {
					t.Errorf("it answers again: %v", err)
				}
			}
		})
	}
}

// TestHungStandingVolume needs root. A volume that stands and whose file system does not answer any more holds up no step of its pod
// but the first.
func TestHungStandingVolume(t *testing.T) {
	dir, _ := hungdisk.Mount(t)
	m, _ := manager(t)
	link := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(link, 0o755); err != nil {
		t.Fatal(err)
	}
	pod := testPod(corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: link, Type: new(corev1.HostPathDirectory),
	}}})
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(dir, link)); err != nil { // whose server is away now
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	mounting := make(chan error)
	go func() { mounting <- m.Mount(ctx, pod) }()
	waitFor(m, true)
	end()
	if err := <-mounting; !errors.Is(err, context.Canceled) {
		t.Errorf("the pod is ended: %v", err)
	}
	overdueNow(m)
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Errorf("a volume that stands: %v", err)
	}
}
