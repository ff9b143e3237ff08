package images_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/images"
)

func TestMountIsWritableAndPrivate(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "image"))))
	one, two := mount(t, s, "one", id), mount(t, s, "two", id)
	if err := os.WriteFile(filepath.Join(one, "a"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(one, "new"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, two, "a"); got != "image" || exists(filepath.Join(two, "new")) {
		t.Errorf("the other container sees %q", got)
	}
	used, err := s.SnapshotUsage(t.Context(), "one")
	if err != nil || used.Bytes < 100_000 || used.Bytes > 200_000 || used.Inodes != 3 {
		t.Errorf("writable layer: %+v, %v", used, err)
	}
	if _, err := s.SnapshotUsage(t.Context(), "three"); err == nil {
		t.Error("usage of a snapshot that does not exist")
	}
}

func TestMountIsIdempotentAndSurvivesRestarts(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"))))
	other := pull(t, s, registry.push(t, "app:2", imageOf(t, files(t, "a", "2"))))
	dir := filepath.Join(t.TempDir(), "rootfs")
	remount := func() {
		t.Helper()
		if err := s.Mount(testContext(t), "c1", id, dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	remount()
	if err := os.WriteFile(filepath.Join(dir, "written"), []byte("w"), 0o600); err != nil {
		t.Fatal(err)
	}
	remount()
	s.Close()
	s = open(t, images.Options{Root: root})
	remount()
	if err := unix.Unmount(dir, 0); err != nil { // as after a reboot; fails if it was mounted twice
		t.Fatal(err)
	}
	if exists(filepath.Join(dir, "a")) {
		t.Fatal("it was mounted more than once")
	}
	remount()
	if got := read(t, dir, "written"); got != "w" {
		t.Errorf("written file has %q", got)
	}
	wantError(t, s.Mount(testContext(t), "c1", other, dir, nil), "it exists")
	wantError(t, s.Mount(testContext(t), "c1", id, dir+"2", nil), "mounted at")
	for range 2 {
		if err := s.Unmount("c1", dir); err != nil {
			t.Error(err)
		}
	}
	if left := append(names(t, filepath.Join(root, "snapshots")), names(t, filepath.Join(root, "tmp"))...); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestOverlayBelow: a store on an overlay, which the kernel takes no writable layers from, is refused with that reason.
func TestOverlayBelow(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH) //nolint:errcheck // the directory cannot be removed then
	_, err := images.Open(testContext(t), images.Options{Root: filepath.Join(merged, "images")})
	wantError(t, err, merged, "root file systems", "not an overlay itself")
}

func TestMountErrors(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"))))
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ key, id, dir, says string }{
		{"../up", id, "/x", "not valid"},
		{"", id, "/x", "not valid"},
		{"a/b", id, "/x", "not valid"},
		{strings.Repeat("a", 200), id, "/x", "not valid"},
		{"c1", id, "relative", "absolute"},
		{"c1", "sha256:" + strings.Repeat("0", 64), t.TempDir(), "not found"},
		{"c1", id, filepath.Join(blocked, "dir"), "not a directory"},
	} {
		wantError(t, s.Mount(testContext(t), c.key, c.id, c.dir, nil), c.says)
	}
	mount(t, s, "c1", id) // the failures have left no snapshot of this key
	if err := s.Unmount("../up", "/"); err == nil {
		t.Error("unmount takes any key")
	}
}

// TestMountOfManyLayers: their paths together are far longer than the page that mount(2) has for options.
func TestMountOfManyLayers(t *testing.T) {
	const n = 500
	var config v1.ConfigFile
	contents, entries, layers := map[string]string{}, []entry{}, []string{}
	add := func(name, content string) {
		contents[name], entries = content, append(entries, entry{Name: name, Typeflag: '0'})
	}
	for i := range n {
		layer := files(t, fmt.Sprintf("f%d", i), "x", "top", fmt.Sprint(i))
		diffID, _, _ := v1.SHA256(bytes.NewReader(layer))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		layers = append(layers, diffID.Hex)
		add(diffID.Hex, string(layer))
	}
	configFile, _ := json.Marshal(config)
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config", "RepoTags": []string{"app:1"}, "Layers": layers}})
	add("config", string(configFile))
	add("manifest.json", string(manifest))
	archives := t.TempDir() // no registry: its library takes a square of the layers' number
	write(t, filepath.Join(archives, "a.tar"), layerTar(t, contents, entries...))
	s := open(t, images.Options{ArchiveDir: archives})
	image, ok := s.Image("app:1")
	if !ok {
		t.Fatal("the image was not imported")
	}
	dir := mount(t, s, "c1", image.ID)
	if got := read(t, dir, "top"); got != fmt.Sprint(n-1) || len(names(t, dir)) != n+1 {
		t.Errorf("top layer is %s of %d files", got, len(names(t, dir)))
	}
}

// TestMountBelowALongPath: a path that is longer than an option may be, with characters that options give a meaning.
func TestMountBelowALongPath(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), strings.Repeat("long/", 60), "images,with:odd\\names")
	s := open(t, images.Options{Root: root})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"), files(t, "b", "2"))))
	dir := mount(t, s, "c1", id)
	if got := read(t, dir, "a") + read(t, dir, "b"); got != "12" {
		t.Errorf("files have %q", got)
	}
}

func TestMountOfAnImageWithoutLayers(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	dir := mount(t, s, "c1", pull(t, s, registry.push(t, "scratch:1", imageOf(t))))
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if got := lstat(t, dir).Mode & 0o7777; got != 0o755 {
		t.Errorf("the root has mode %o", got)
	}
}

func TestRootHasTheImagesAttributes(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	top := entry{Name: "./", Typeflag: '5', Mode: 0o1711, Uid: 12, Gid: 34}
	dir := mount(t, s, "c1", pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"), layerTar(t, nil, top), files(t, "b", "1")))))
	if got := lstat(t, dir); got.Mode&0o7777 != 0o1711 || got.Uid != 12 || got.Gid != 34 {
		t.Errorf("the root has mode %o and owner %d:%d", got.Mode&0o7777, got.Uid, got.Gid)
	}
}

// TestSnapshots: a new store knows the snapshots of the one before, also one whose record is lost, and each can be removed.
func TestSnapshots(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"))))
	stays, goes, broken := mount(t, s, "stays", id), mount(t, s, "goes", id), mount(t, s, "goes-broken", id)
	s.Close()
	if err := unix.Unmount(broken, 0); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "snapshots", "goes-broken", "snapshot.json"), []byte("{"))
	foreign := filepath.Join(root, "snapshots", "lost+found")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	s = open(t, images.Options{Root: root})
	if got := s.Snapshots("goes"); len(got) != 2 || len(s.Snapshots("")) != 3 {
		t.Errorf("found %v of %v", got, s.Snapshots(""))
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Unmount("goes", goes), s.Unmount("goes-broken", broken)); err != nil {
		t.Error(err)
	}
	if !exists(filepath.Join(stays, "a")) || exists(filepath.Join(goes, "a")) || len(names(t, filepath.Join(root, "snapshots"))) != 1 {
		t.Errorf("snapshots %v", names(t, filepath.Join(root, "snapshots")))
	}
}

// TestUnmountOfABusyMount: a process in the container's directory does not keep the container.
func TestUnmountOfABusyMount(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	dir := mount(t, s, "c1", pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))))
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount("c1", dir); err != nil {
		t.Error(err)
	}
	if exists(filepath.Join(dir, "a")) {
		t.Error("it is still mounted")
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestConcurrentMounts(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "a", "1"), files(t, "b", "2"))))
	base := t.TempDir()
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			key := fmt.Sprintf("c%d", i/2) // two callers each
			dir := filepath.Join(base, key)
			if err := s.Mount(testContext(t), key, id, dir, nil); err != nil {
				t.Error(err)
			} else if got := read(t, dir, "a"); got != "1" {
				t.Errorf("files have %q", got)
			}
		})
	}
	group.Wait()
	for i := range 30 {
		group.Go(func() {
			key := fmt.Sprintf("c%d", i/2)
			if err := s.Unmount(key, filepath.Join(base, key)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	mounts := read(t, "/proc/self/mountinfo")
	if strings.Contains(mounts, base) {
		t.Error("mounts are left")
	}
}
