package images_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"minikubelet/runtime/criserver/images"
)

// TestLayersAfterPowerLoss: a layer that only a container of before still names may not have reached the disk, so it is
// made again.
func TestLayersAfterPowerLoss(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	ref := newServer(t).push(t, "app", imageOf(t, files(t, "file", "content")))
	s := open(t, images.Options{Root: root})
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := s.Mount(testContext(t), "old", pull(t, s, ref), dir, nil); err != nil {
		t.Fatal(err)
	}
	// The mount goes with the machine, and here its writable layer stays.
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.Rename(filepath.Join(root, "snapshots", "old"), saved); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("old", dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(saved, filepath.Join(root, "snapshots", "old")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"images/*.json", "snapshots/*/snapshot.json"} {
		for _, path := range glob(t, root, pattern) {
			var record map[string]any
			if err := json.Unmarshal([]byte(read(t, path)), &record); err != nil {
				t.Fatal(err)
			}
			record["boot"] = "an earlier one"
			data, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, string(data))
		}
	}
	for _, path := range glob(t, root, "layers/*/fs/file") {
		overwrite(t, path, "")
	}
	s = open(t, images.Options{Root: root})
	if got := read(t, mount(t, s, "new", pull(t, s, ref)), "file"); got != "content" {
		t.Errorf("the layer has %q", got)
	}
	if err := s.Unmount("old", dir); err != nil {
		t.Error(err)
	}
}

func glob(t *testing.T, root, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	return found
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedFiles: whatever becomes of a file of the store, it opens, and the image can be had again.
func TestDamagedFiles(t *testing.T) {
	ref := newServer(t).push(t, "app", imageOf(t, files(t, "file", "content")))
	damages := map[string]func(t *testing.T, path string){
		"truncated": func(t *testing.T, path string) { overwrite(t, path, read(t, path)[:len(read(t, path))/2]) },
		"empty":     func(t *testing.T, path string) { overwrite(t, path, "") },
		"garbage":   func(t *testing.T, path string) { overwrite(t, path, "\x00\xffwhat") },
		"null":      func(t *testing.T, path string) { overwrite(t, path, "null") },
		"missing": func(t *testing.T, path string) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(t *testing.T, path string) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(path, "inside"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	}
	for _, file := range []string{"images/*.json", "layers/*/layer.json", "layers/*/fs", "layers/*", "snapshots/*/snapshot.json", "snapshots/*", "blobs", "tmp", "empty", "imports.json"} {
		for name, damage := range damages {
			if len(filepath.Ext(file)) == 0 && name != "missing" {
				continue // not a file
			}
			t.Run(name+" "+file, func(t *testing.T) {
				root := filepath.Join(t.TempDir(), "images")
				s := open(t, images.Options{Root: root, ArchiveDir: t.TempDir()})
				dir := filepath.Join(t.TempDir(), "rootfs")
				if err := s.Mount(testContext(t), "old", pull(t, s, ref), dir, nil); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				for _, path := range glob(t, root, file) {
					damage(t, path)
				}
				s = open(t, images.Options{Root: root, ArchiveDir: t.TempDir()})
				if err := s.Unmount("old", dir); err != nil {
					t.Error(err)
				}
				if got := read(t, mount(t, s, "new", pull(t, s, ref)), "file"); got != "content" {
					t.Errorf("the image has %q", got)
				}
			})
		}
	}
}
