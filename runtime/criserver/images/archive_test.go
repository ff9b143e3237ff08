package images_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"minikubelet/runtime/criserver/images"
)

// writeLayout writes an OCI layout of images by the name in their annotation; "" for none.
func writeLayout(t testing.TB, dir, annotation string, byName map[string]v1.Image) {
	t.Helper()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for name, image := range byName {
		var options []layout.Option
		if name != "" {
			options = append(options, layout.WithAnnotations(map[string]string{annotation: name}))
		}
		if err := l.AppendImage(image, options...); err != nil {
			t.Fatal(err)
		}
	}
}

// tarOf packs a directory.
func tarOf(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// dockerSave writes what docker save would.
func dockerSave(t testing.TB, byName map[string]v1.Image) []byte {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for ref, image := range byName {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = image
	}
	var b bytes.Buffer
	if err := tarball.MultiWrite(refs, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestImportArchives(t *testing.T) {
	image := func(content string) v1.Image { return imageOf(t, files(t, "shared", "s"), files(t, "which", content)) }
	dir := t.TempDir()
	const containerd, oci = "io.containerd.image.name", "org.opencontainers.image.ref.name"
	writeLayout(t, filepath.Join(dir, "layout"), oci, map[string]v1.Image{"example.com/dir:1": image("dir"), "example.com/dir:2": image("dir2")})
	writeLayout(t, filepath.Join(dir, "plain"), oci, map[string]v1.Image{"v7": image("tag only")})
	temp := t.TempDir()
	writeLayout(t, filepath.Join(temp, "a"), containerd, map[string]v1.Image{"example.com/tar:1": image("tar")})
	write(t, filepath.Join(dir, "a.tar"), tarOf(t, filepath.Join(temp, "a")))
	writeLayout(t, filepath.Join(temp, "b"), "", map[string]v1.Image{"": image("no name")})
	write(t, filepath.Join(dir, "tool.tar.gz"), gzipped(t, tarOf(t, filepath.Join(temp, "b"))))
	other := withConfig(t, image("s390x"), func(c *v1.ConfigFile) { c.Architecture = "s390x" })
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: image("index")})
	l, err := layout.Write(filepath.Join(dir, "index"), empty.Index)
	if err == nil {
		err = l.AppendIndex(index, layout.WithAnnotations(map[string]string{oci: "example.com/index:1"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "saved.tar"), dockerSave(t, map[string]v1.Image{"saved": image("saved"), "example.com/other:3": image("other")}))
	write(t, filepath.Join(dir, "zipped.tgz"), gzipped(t, dockerSave(t, map[string]v1.Image{"zipped:1": image("zipped")})))
	write(t, filepath.Join(dir, "README.md"), []byte("not an archive"))

	s := open(t, images.Options{ArchiveDir: dir, Root: filepath.Join(t.TempDir(), "images")})
	n := 0
	for ref, want := range map[string]string{
		"example.com/dir:1": "dir", "example.com/dir:2": "dir2", "plain:v7": "tag only", "example.com/tar:1": "tar", "tool": "no name",
		"example.com/index:1": "index", "docker.io/library/saved:latest": "saved", "example.com/other:3": "other", "zipped:1": "zipped",
	} {
		n++
		got, ok := s.Image(ref)
		if !ok {
			t.Errorf("%s is not imported", ref)
			continue
		}
		if content := read(t, mount(t, s, fmt.Sprintf("c%d", n), got.ID), "which"); content != want {
			t.Errorf("%s has %q, want %q", ref, content, want)
		}
	}
	if len(s.List()) != n {
		t.Errorf("%d images, want %d", len(s.List()), n)
	}
	indexDigest, _ := index.Digest()
	if _, ok := s.Image("example.com/index@" + indexDigest.String()); !ok {
		t.Error("an imported image has no digest")
	}
}

// TestArchivesAreReadOnce: but again when they change, or when an image is gone.
func TestArchivesAreReadOnce(t *testing.T) {
	dir := t.TempDir()
	archive := filepath.Join(dir, "a.tar")
	write(t, archive, dockerSave(t, map[string]v1.Image{"app:1": imageOf(t, files(t, "a", "1")), "more:1": imageOf(t, files(t, "b", "1"))}))
	var imports int
	o := images.Options{ArchiveDir: dir, Root: filepath.Join(t.TempDir(), "images"), Progress: func(e images.Event) {
		if e.Layer == "" && e.Phase == images.Ready {
			imports++
		}
	}}
	for _, c := range []struct {
		name    string
		before  func(s *images.Store)
		imports int
	}{
		{"first", func(*images.Store) {}, 2},
		{"unchanged", func(*images.Store) {}, 0},
		{"image removed", func(s *images.Store) {
			if err := s.Remove(testContext(t), "app:1"); err != nil {
				t.Error(err)
			}
		}, 2},
		{"changed", func(*images.Store) {
			write(t, archive, dockerSave(t, map[string]v1.Image{"app:1": imageOf(t, files(t, "a", "changed"))}))
		}, 1},
	} {
		s := open(t, o)
		c.before(s)
		s.Close()
		imports = 0
		if c.name == "first" {
			o.Root = filepath.Join(t.TempDir(), "images")
		}
		s = open(t, o)
		if imports != c.imports {
			t.Errorf("%s: %d imports, want %d", c.name, imports, c.imports)
		}
		if _, ok := s.Image("app:1"); !ok {
			t.Errorf("%s: the image is not there", c.name)
		}
		s.Close()
	}
}

// TestBrokenArchives: each is skipped, and the good one beside it imported.
func TestBrokenArchives(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, []byte("{}"))
	good := dockerSave(t, map[string]v1.Image{"good:1": imageOf(t, files(t, "a", "1"))})
	layoutOf := func(image v1.Image) string {
		dir := filepath.Join(t.TempDir(), "l")
		writeLayout(t, dir, "io.containerd.image.name", map[string]v1.Image{"bad:1": image})
		return dir
	}
	tarWith := func(entries ...entry) []byte {
		return layerTar(t, map[string]string{"manifest.json": `[{"Config":"config","RepoTags":["bad:1"],"Layers":["layer"]}]`, "oci-layout": `{}`,
			"config": `{"rootfs":{"diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`}, entries...)
	}
	regular := func(name string) entry { return entry{Name: name, Typeflag: tar.TypeReg} }
	for name, archive := range map[string][]byte{
		"empty":            nil,
		"no tar":           []byte("something else"),
		"truncated":        good[:len(good)/2],
		"truncated gzip":   gzipped(t, good)[:200],
		"neither":          files(t, "a", "1"),
		"outside":          tarWith(regular("manifest.json"), entry{Name: "config", Typeflag: tar.TypeSymlink, Linkname: "../../.." + secret}, regular("layer")),
		"loop":             tarWith(regular("manifest.json"), entry{Name: "config", Typeflag: tar.TypeSymlink, Linkname: "config"}),
		"no layer":         tarWith(regular("manifest.json"), regular("config")),
		"wrong layer":      tarWith(regular("manifest.json"), regular("config"), regular("layer")),
		"no index":         tarWith(regular("oci-layout")),
		"dot-dot":          tarWith(regular("../manifest.json"), regular("config")),
		"manifest no JSON": files(t, "manifest.json", "["),
		"index no JSON":    files(t, "oci-layout", "{}", "index.json", "["),
		"digest traversal": files(t, "oci-layout", "{}", "index.json", `{"manifests":[{"digest":"sha256:../../../x","size":2}]}`),
		"no digest":        files(t, "oci-layout", "{}", "index.json", `{"manifests":[{"size":2}]}`),
	} {
		checkBroken(t, name, good, func(dir string) { write(t, filepath.Join(dir, "bad.tar"), archive) })
	}
	for name, spoil := range map[string]func(path string) []byte{
		"blob with other content": func(path string) []byte {
			content := []byte(read(t, path))
			content[len(content)-1] ^= 1
			return content
		},
		"blob cut off":  func(path string) []byte { c := read(t, path); return []byte(c[:len(c)-1]) },
		"blob too long": func(path string) []byte { return []byte(read(t, path) + "x") },
	} {
		layout := layoutOf(imageOf(t, files(t, "a", "1")))
		for _, blob := range names(t, filepath.Join(layout, "blobs/sha256")) {
			path := filepath.Join(layout, "blobs/sha256", blob)
			whole := []byte(read(t, path))
			write(t, path, spoil(path))
			checkBroken(t, name, good, func(dir string) {
				if err := os.CopyFS(filepath.Join(dir, "bad"), os.DirFS(layout)); err != nil {
					t.Fatal(err)
				}
			})
			write(t, path, whole)
		}
	}
	outside := layoutOf(imageOf(t, files(t, "a", "1")))
	checkBroken(t, "links out of a layout", good, func(dir string) {
		bad := filepath.Join(dir, "bad")
		if err := os.MkdirAll(filepath.Join(bad, "blobs"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"oci-layout", "index.json"} {
			write(t, filepath.Join(bad, name), []byte(read(t, outside, name)))
		}
		if err := os.Symlink(filepath.Join(outside, "blobs/sha256"), filepath.Join(bad, "blobs/sha256")); err != nil {
			t.Fatal(err)
		}
	})
}

func checkBroken(t *testing.T, name string, good []byte, add func(dir string)) {
	t.Run(name, func(t *testing.T) {
		dir, root := t.TempDir(), filepath.Join(t.TempDir(), "images")
		write(t, filepath.Join(dir, "good.tar"), good)
		add(dir)
		s := open(t, images.Options{ArchiveDir: dir, Root: root})
		if _, ok := s.Image("bad:1"); ok || len(s.List()) != 1 {
			t.Errorf("images %v", s.List())
		}
		if _, ok := s.Image("good:1"); !ok {
			t.Error("the good archive was not imported")
		}
		if got := names(t, filepath.Join(root, "tmp")); len(got) != 0 {
			t.Errorf("left behind: %v", got)
		}
		if n := len(names(t, filepath.Join(root, "layers"))); n != 1 {
			t.Errorf("%d layers", n)
		}
	})
}

// TestDockerArchiveWithLinks: docker wrote equal layers as symbolic links, and long tars of directories.
func TestDockerArchiveWithLinks(t *testing.T) {
	layer := files(t, "a", "1")
	image := imageOfLayers(t, layerOf(t, layer, layer), layerOf(t, layer, layer), layerOf(t, layer, layer))
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	archive := layerTar(t, map[string]string{"cfg.json": string(config), "one/layer.tar": string(layer),
		"manifest.json": `[{"Config":"cfg.json","RepoTags":["linked:1","linked:2","not a name"],"Layers":["one/layer.tar","two/layer.tar","three/layer.tar"]}]`},
		dir("one"), entry{Name: "one/layer.tar", Typeflag: tar.TypeReg}, dir("two"),
		entry{Name: "two/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../one/layer.tar"},
		entry{Name: "three/layer.tar", Typeflag: tar.TypeLink, Linkname: "one/layer.tar"},
		entry{Name: "cfg.json", Typeflag: tar.TypeReg}, entry{Name: "manifest.json", Typeflag: tar.TypeReg})
	archives := t.TempDir()
	write(t, filepath.Join(archives, "a.tar"), archive)
	s := open(t, images.Options{ArchiveDir: archives})
	got, ok := s.Image("linked:2")
	if !ok || !slices.Equal(got.Tags, []string{"docker.io/library/linked:1", "docker.io/library/linked:2"}) {
		t.Errorf("image %+v", got)
	}
}

// TestImportDoesNotUndoAPull: a tag that was pulled since stays with what was pulled.
func TestImportDoesNotUndoAPull(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "pulled")))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.tar"), dockerSave(t, map[string]v1.Image{ref: imageOf(t, files(t, "a", "imported"))}))
	o := images.Options{ArchiveDir: dir, Root: filepath.Join(t.TempDir(), "images")}
	s := open(t, o)
	id := pull(t, s, ref)
	s.Close()
	s = open(t, o)
	if got, ok := s.Image(ref); !ok || got.ID != id {
		t.Errorf("%s is %+v, want the pulled image", ref, got)
	}
}
