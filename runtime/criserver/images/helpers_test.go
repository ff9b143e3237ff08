package images_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"minikubelet/runtime/criserver/images"
)

// server is a registry on the loopback interface, whose answers a test can replace.
type server struct {
	*httptest.Server
	host string

	mu        sync.Mutex
	requests  []string // method and path
	intercept func(http.ResponseWriter, *http.Request) bool
}

func newServer(t testing.TB) *server {
	s := &server{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		intercept := s.intercept
		s.mu.Unlock()
		if r.Method == http.MethodGet && intercept != nil && intercept(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *server) onGet(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// count is how many requests there were that contain all of the words.
func (s *server) count(words ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
next:
	for _, r := range s.requests {
		for _, w := range words {
			if !strings.Contains(r, w) {
				continue next
			}
		}
		n++
	}
	return n
}

// push returns the image's reference at the server.
func (s *server) push(t testing.TB, ref string, image remote.Taggable) string {
	t.Helper()
	ref = s.host + "/" + ref
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch i := image.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, i)
	case v1.Image:
		err = remote.Write(tag, i)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers have owners and devices")
	}
}

func open(t testing.TB, o images.Options) *images.Store {
	t.Helper()
	needRoot(t)
	if o.Root == "" {
		o.Root = filepath.Join(t.TempDir(), "images")
	}
	s, err := images.Open(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.UnmountAll(); err != nil { // what the test has mounted
			t.Error(err)
		}
		s.Close()
	})
	return s
}

// testContext has a logger that shows only what failed tests logged.
func testContext(t testing.TB) context.Context {
	return klog.NewContext(t.Context(), ktesting.NewLogger(t, ktesting.DefaultConfig))
}

// entry is one file of a layer to be.
type entry = tar.Header

func file(name, content string) (entry, string) {
	return entry{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content
}

func dir(name string) entry { return entry{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }

// layerTar writes a tar; contents are by name of the entry.
func layerTar(t testing.TB, contents map[string]string, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		content := contents[e.Name]
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(content))
		}
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		if err := w.WriteHeader(&e); err != nil {
			t.Fatal(err)
		}
		if e.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// files is a layer of regular files: name, content, name, content...
func files(t testing.TB, pairs ...string) []byte {
	contents := map[string]string{}
	var entries []entry
	for i := 0; i < len(pairs); i += 2 {
		e, content := file(pairs[i], pairs[i+1])
		entries, contents[e.Name] = append(entries, e), content
	}
	return layerTar(t, contents, entries...)
}

func gzipped(t testing.TB, content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rawLayer is a layer whose blob is exactly what the test says.
type rawLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l rawLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

// layerOf makes a layer of a tar and the blob it is transported as.
func layerOf(t testing.TB, plain, blob []byte) v1.Layer {
	diffID, _, err := v1.SHA256(bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	return rawLayer{static.NewLayer(blob, types.OCILayer), diffID}
}

// imageOf makes an image for this machine of gzipped layers.
func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	made := make([]v1.Layer, len(layers))
	for i, l := range layers {
		made[i] = layerOf(t, l, gzipped(t, l))
	}
	return imageOfLayers(t, made...)
}

func imageOfLayers(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.AppendLayers(image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return withConfig(t, image, func(c *v1.ConfigFile) { c.OS, c.Architecture = runtime.GOOS, runtime.GOARCH })
}

func withConfig(t testing.TB, image v1.Image, change func(*v1.ConfigFile)) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	change(config)
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// mount mounts an image and returns where.
func mount(t testing.TB, s *images.Store, key, id string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	if err := s.Mount(testContext(t), key, id, dir, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(key, dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func pull(t testing.TB, s *images.Store, ref string) string {
	t.Helper()
	id, err := s.Pull(testContext(t), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func read(t testing.TB, path ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return stat
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// names lists a directory.
func names(t testing.TB, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// wantError fails unless err says all of the words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one about %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func contextWithCancel(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(testContext(t))
}
