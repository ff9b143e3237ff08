package csi

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// damages are what a power loss or a stray hand leaves of a file.
var damages = map[string]func(path string) error{
	"empty":     func(path string) error { return os.Truncate(path, 0) },
	"truncated": func(path string) error { return os.Truncate(path, 20) },
	"zeros":     func(path string) error { return os.WriteFile(path, make([]byte, 100), 0o600) },
	"garbage":   func(path string) error { return os.WriteFile(path, []byte("\x00}{]"), 0o600) },
	"other":     func(path string) error { return os.WriteFile(path, []byte("{}"), 0o600) },
	"missing":   os.Remove,
}

// TestBrokenRecords needs root. A kubelet starts with whatever is left of its records, uses the volumes again and takes them
// away in the end.
func TestBrokenRecords(t *testing.T) {
	for name, damage := range damages {
		for _, which := range []string{"pods/*/volumes/kubernetes.io~csi/*/" + dataFile, "plugins/kubernetes.io/csi/*/*/" + dataFile} {
			t.Run(name+" "+filepath.Dir(filepath.Dir(filepath.Dir(which))), func(t *testing.T) {
				w := newWorld(t, object(nil))
				r := Persistent(pod("1"), volume(corev1.ReadWriteOnce), false)
				r.Volume = "data"
				mounted := w.mount(r)
				files, err := filepath.Glob(filepath.Join(w.opts.RootDir, which))
				if err != nil || len(files) != 1 {
					t.Fatal(files, err)
				}
				if err := damage(files[0]); err != nil {
					t.Fatal(err)
				}
				w.restart()
				w.register()
				if got := w.used(); len(got) != 1 {
					t.Errorf("in use: %v", got)
				}
				if err := w.Sweep(t.Context()); err != nil && name != "missing" {
					t.Fatal(err)
				}
				w.mount(r)
				if got, ok := w.Standing("1", "data", answers); !ok || got.Dir != mounted.Dir {
					t.Errorf("the volume stands at %q", got.Dir)
				}
				w.unmount(mounted, "1")
				w.wantNothingLeft()
			})
		}
	}
}

// TestBrokenRecordOfPodThatIsGone needs root. The driver is not known any more: the volume is not the driver's to unmount,
// and what it shows stays staged until no pod can have it.
func TestBrokenRecordOfPodThatIsGone(t *testing.T) {
	w := newWorld(t, object(nil))
	mounted := w.mount(Persistent(pod("1"), volume(corev1.ReadWriteOnce), false))
	if err := os.Truncate(filepath.Join(filepath.Dir(mounted.Dir), dataFile), 0); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.register()
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantCalls("Stage vol", "Publish vol")
	if err := w.Unmount(t.Context(), filepath.Dir(mounted.Dir)); err != nil {
		t.Errorf("a volume whose driver is not known: %v", err)
	}
	for _, err := range []error{unix.Unmount(mounted.Dir, 0), os.RemoveAll(filepath.Dir(mounted.Dir)), w.Sweep(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.wantCalls("Stage vol", "Publish vol", "Unstage vol")
	w.wantNothingLeft()
}
