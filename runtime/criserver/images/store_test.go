package images_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"minikubelet/runtime/criserver/images"
)

// TestOpenCleansUp crashes the store at its worst moments, by making what it would have left.
func TestOpenCleansUp(t *testing.T) {
	registry := newServer(t)
	refs := []string{
		registry.push(t, "good:1", imageOf(t, files(t, "shared", "1"), files(t, "good", "1"))),
		registry.push(t, "truncated:1", imageOf(t, files(t, "shared", "1"), files(t, "truncated", "1"))),
		registry.push(t, "swapped:1", imageOf(t, files(t, "shared", "1"), files(t, "swapped", "1"))),
		registry.push(t, "layerless:1", imageOf(t, files(t, "layerless", "1"))),
		registry.push(t, "badlayer:1", imageOf(t, files(t, "badlayer", "1"))),
	}
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	var ids []string
	for _, ref := range refs {
		ids = append(ids, strings.TrimPrefix(pull(t, s, ref), "sha256:"))
	}
	s.Close()
	at := func(elements ...string) string { return filepath.Join(append([]string{root}, elements...)...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	layersOf := func(id string) []string {
		var record struct{ Chains []string }
		must(json.Unmarshal([]byte(read(t, at("images", id+".json"))), &record))
		return record.Chains
	}
	must(os.Truncate(at("images", ids[1]+".json"), 100))
	must(os.WriteFile(at("images", ids[2]+".json"), []byte(read(t, at("images", ids[0]+".json"))), 0o600))
	must(os.RemoveAll(at("layers", layersOf(ids[3])[0], "fs")))
	must(os.WriteFile(at("layers", layersOf(ids[4])[0], "layer.json"), []byte("{"), 0o600))
	must(os.WriteFile(at("images", ".tmp-123"), []byte("half"), 0o600))
	must(os.MkdirAll(at("tmp", "layer-1", "fs", "half"), 0o700))
	must(os.MkdirAll(at("layers", strings.Repeat("0", 64), "fs"), 0o700))
	must(os.WriteFile(at("blobs", "sha256-young"), nil, 0o600))
	must(os.WriteFile(at("blobs", "sha256-old"), nil, 0o600))
	must(os.Chtimes(at("blobs", "sha256-old"), time.Now(), time.Now().Add(-48*time.Hour)))
	must(os.WriteFile(at("imports.json"), []byte("{"), 0o600))

	s = open(t, images.Options{Root: root})
	list := s.List()
	if len(list) != 1 || list[0].Tags[0] != refs[0] {
		t.Fatalf("images %v", list)
	}
	if got := read(t, mount(t, s, "c1", list[0].ID), "good"); got != "1" {
		t.Errorf("the good image has %q", got)
	}
	corrupt := 0
	for _, name := range names(t, at("images")) {
		if strings.HasSuffix(name, ".corrupt") {
			corrupt++
		} else if name != ids[0]+".json" {
			t.Errorf("there is %s", name)
		}
	}
	if corrupt != 4 {
		t.Errorf("%d records set aside, want 4: %v", corrupt, names(t, at("images")))
	}
	if got := names(t, at("layers")); len(got) != 2 {
		t.Errorf("layers %v, want those of the good image", got)
	}
	if got := append(names(t, at("tmp")), names(t, at("blobs"))...); !slices.Equal(got, []string{"sha256-young"}) {
		t.Errorf("left: %v", got)
	}
	for _, ref := range refs {
		pull(t, s, ref)
	}
	if n := len(s.List()); n != len(refs) {
		t.Errorf("%d images after all were pulled again", n)
	}
}

func TestOpenIsExclusive(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	_, err := images.Open(testContext(t), images.Options{Root: root})
	wantError(t, err, "another process")
	s.Close()
	open(t, images.Options{Root: root})
}

func TestOpenErrors(t *testing.T) {
	needRoot(t)
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]images.Options{
		"not a directory": {Root: filepath.Join(blocked, "images")},
		"no such file":    {Root: filepath.Join(t.TempDir(), "images"), ArchiveDir: blocked + "s"},
		"registry":        {Root: filepath.Join(t.TempDir(), "images"), Registries: map[string]images.Registry{"a/b": {}}},
	} {
		_, err := images.Open(testContext(t), o)
		wantError(t, err, says)
	}
}

func TestRemove(t *testing.T) {
	registry := newServer(t)
	shared := files(t, "shared", "1")
	one := registry.push(t, "one:1", imageOf(t, shared, files(t, "one", "1")))
	two := registry.push(t, "two:1", imageOf(t, shared, files(t, "two", "1")))
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	pull(t, s, one)
	id := pull(t, s, two)
	layers := func() int { return len(names(t, filepath.Join(root, "layers"))) }
	if layers() != 3 {
		t.Fatalf("%d layers, want 3: one is shared", layers())
	}
	if err := s.Remove(testContext(t), one); err != nil || layers() != 2 {
		t.Errorf("%d layers after the first removal: %v", layers(), err)
	}
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := s.Mount(testContext(t), "c1", id, dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(testContext(t), id); err != nil || layers() != 2 || len(s.List()) != 0 {
		t.Errorf("%d layers, %d images after the removal of an image in use: %v", layers(), len(s.List()), err)
	}
	if got := read(t, dir, "two") + read(t, dir, "shared"); got != "11" {
		t.Errorf("the container's files have %q", got)
	}
	s.Close() // and a restart does not forget who uses the layers
	s = open(t, images.Options{Root: root})
	if got := read(t, dir, "two") + read(t, dir, "shared"); got != "11" || layers() != 2 {
		t.Errorf("the container's files have %q", got)
	}
	pull(t, s, two) // while its layers are in use
	if err := s.Remove(testContext(t), two); err != nil {
		t.Error(err)
	}
	if err := s.Unmount("c1", dir); err != nil || layers() != 0 {
		t.Errorf("%d layers after the last use: %v", layers(), err)
	}
	for _, ref := range []string{two, id, "never.example/was:1", "!"} {
		if err := s.Remove(testContext(t), ref); err != nil {
			t.Errorf("removal of %s, which is not there: %v", ref, err)
		}
	}
}

func TestUsage(t *testing.T) {
	registry := newServer(t)
	s := open(t, images.Options{})
	emptyBytes, emptyInodes, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := pull(t, s, registry.push(t, "app:1", imageOf(t, files(t, "d/a", strings.Repeat("x", 100_000)))))
	bytes, inodes, err := s.Usage(t.Context())
	if err != nil || bytes-emptyBytes < 100_000 || bytes-emptyBytes > 150_000 || inodes-emptyInodes < 2 || inodes-emptyInodes > 6 {
		t.Errorf("%d bytes and %d inodes more: %v", bytes-emptyBytes, inodes-emptyInodes, err)
	}
	if image, _ := s.Image(id); image.Size < 100_000 || image.Size > 120_000 {
		t.Errorf("the image has size %d", image.Size)
	}
}

// TestDigestsAreBounded: an image that comes under ever new digests does not make its record grow for ever.
func TestDigestsAreBounded(t *testing.T) {
	registry := newServer(t)
	layer := files(t, "a", "1")
	s := open(t, images.Options{})
	var id, last string
	for i := range 70 {
		last = registry.push(t, fmt.Sprintf("app%d:1", i), imageOf(t, layer))
		id = pull(t, s, last)
	}
	image, _ := s.Image(id)
	if len(image.Digests) > 64 || !slices.Contains(image.Tags, last) || !strings.Contains(image.Digests[len(image.Digests)-1], "app69@") {
		t.Errorf("%d digests, the last is %s", len(image.Digests), image.Digests[len(image.Digests)-1])
	}
}

// TestLossOfPower: a record that was not known to be on the disk is good for this boot only.
func TestLossOfPower(t *testing.T) {
	registry := newServer(t)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	id := pull(t, s, ref)
	s.Close()
	path := filepath.Join(root, "images", strings.TrimPrefix(id, "sha256:")+".json")
	settled := read(t, path)
	if strings.Contains(settled, `"boot"`) {
		t.Errorf("the record does not say that all is on the disk: %s", settled)
	}
	boot := strings.TrimSpace(read(t, "/proc/sys/kernel/random/boot_id"))
	for id, want := range map[string]bool{boot: true, "another": false} {
		write(t, path, []byte(strings.Replace(settled, "{", `{"boot":"`+id+`",`, 1)))
		s = open(t, images.Options{Root: root})
		if _, ok := s.Image(ref); ok != want {
			t.Errorf("record of boot %s: image is there: %v", id, ok)
		}
		pull(t, s, ref)
		s.Close()
		if got := read(t, path); strings.Contains(got, `"boot"`) {
			t.Errorf("the record does not say that all is on the disk: %s", got)
		}
	}
}
