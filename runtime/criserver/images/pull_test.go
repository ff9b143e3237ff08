package images_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
)

func TestPull(t *testing.T) {
	registry := newServer(t)
	image := withConfig(t, imageOf(t, files(t, "bin/app", "one", "etc/conf", "old"), files(t, "etc/conf", "new")),
		func(c *v1.ConfigFile) { c.Config.User = "1000:7"; c.Config.Env = []string{"A=b"} })
	ref := registry.push(t, "team/app:1", image)
	var mu sync.Mutex
	var phases []images.Phase
	s := open(t, images.Options{Progress: func(e images.Event) {
		mu.Lock()
		defer mu.Unlock()
		phases = append(phases, e.Phase)
	}})
	id := pull(t, s, ref)

	config, _ := image.ConfigName()
	digest, _ := image.Digest()
	if id != config.String() {
		t.Errorf("ID %s, want the config's digest %s", id, config)
	}
	repository := registry.host + "/team/app"
	for _, name := range []string{ref, id, strings.TrimPrefix(id, "sha256:")[:12], repository + "@" + digest.String(), repository + ":1@" + digest.String()} {
		got, ok := s.Image(name)
		if !ok {
			t.Errorf("%s is not found", name)
			continue
		}
		got.Size, got.Config = min(got.Size, 1), v1.ConfigFile{}
		want := &images.Image{ID: id, Tags: []string{ref}, Digests: []string{repository + "@" + digest.String()}, Size: 1, User: "1000:7"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, name := range []string{repository + ":2", "sha256:" + strings.Repeat("0", 64), "a", id[7:10], "!"} {
		if _, ok := s.Image(name); ok {
			t.Errorf("%q is found", name)
		}
	}
	root := mount(t, s, "c1", id)
	if got := read(t, root, "bin/app") + read(t, root, "etc/conf"); got != "onenew" {
		t.Errorf("files have %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if phases[0] != images.Resolving || !slices.Contains(phases, images.Downloading) || !slices.Contains(phases, images.Unpacking) || phases[len(phases)-1] != images.Ready {
		t.Errorf("phases %v", phases)
	}
}

func TestPullDownloadsOnlyWhatIsMissing(t *testing.T) {
	registry := newServer(t)
	base, top := files(t, "base", "1"), files(t, "top", "2")
	first := registry.push(t, "first:1", imageOf(t, base))
	second := registry.push(t, "second:1", imageOf(t, base, top, top)) // with a layer twice
	s := open(t, images.Options{})
	pull(t, s, first)
	downloads := registry.count("GET", "/blobs/")
	id := pull(t, s, second)
	if n := registry.count("GET", "/blobs/") - downloads; n != 2 { // the config and the layer
		t.Errorf("%d blobs read, want 2", n)
	}
	downloads = registry.count("GET", "/blobs/")
	pull(t, s, second)
	if n := registry.count("GET", "/blobs/") - downloads; n != 0 {
		t.Errorf("%d blobs read by a pull of what is here, want none", n)
	}
	root := mount(t, s, "c1", id)
	if got := read(t, root, "base") + read(t, root, "top"); got != "12" {
		t.Errorf("files have %q", got)
	}
}

func TestPullByDigest(t *testing.T) {
	registry := newServer(t)
	image := imageOf(t, files(t, "a", "1"))
	registry.push(t, "app:1", image)
	digest, _ := image.Digest()
	ref := registry.host + "/app@" + digest.String()
	s := open(t, images.Options{})
	id := pull(t, s, ref)
	if got, _ := s.Image(ref); got == nil || got.ID != id || len(got.Tags) != 0 {
		t.Errorf("found %+v", got)
	}

	other, _ := imageOf(t, files(t, "a", "2")).RawManifest()
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(other)
			return true
		}
		return false
	})
	_, err := s.Pull(testContext(t), ref, nil)
	wantError(t, err, "digest")
}

func TestPullMovesATag(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:latest", imageOf(t, files(t, "a", "1")))
	options := images.Options{Root: filepath.Join(t.TempDir(), "images")}
	s := open(t, options)
	old := pull(t, s, ref)
	registry.push(t, "app:latest", imageOf(t, files(t, "a", "2")))
	fresh := pull(t, s, ref)
	for range 2 { // again after a restart
		if got, _ := s.Image(ref); got == nil || got.ID != fresh {
			t.Errorf("%s is %v, want %s", ref, got, fresh)
		}
		if got, _ := s.Image(old); got == nil || len(got.Tags) != 0 {
			t.Errorf("the old image is %+v", got)
		}
		s.Close()
		s = open(t, options)
	}
	if n := len(s.List()); n != 2 {
		t.Errorf("%d images", n)
	}
}

func TestPullDecompresses(t *testing.T) {
	registry := newServer(t)
	plain := files(t, "a", strings.Repeat("content ", 10000))
	encoder, _ := zstd.NewWriter(nil)
	skipped := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4} // a frame
	for _, c := range []struct {
		name string
		blob []byte
	}{
		{"plain", plain},
		{"gzip", gzipped(t, plain)},
		{"zstd", encoder.EncodeAll(plain, nil)},
		{"zstd after a frame to skip", encoder.EncodeAll(plain, bytes.Clone(skipped))},
		{"zstd:chunked", slices.Concat(encoder.EncodeAll(plain[:1000], nil), encoder.EncodeAll(plain[1000:], nil), skipped, skipped)},
		{"gzip of two members", append(gzipped(t, plain[:1000]), gzipped(t, plain[1000:])...)},
		{"eStargz, which ends with an empty member", slices.Concat(gzipped(t, plain), gzipped(t, nil))},
	} {
		ref := registry.push(t, "app:1", imageOfLayers(t, layerOf(t, plain, c.blob)))
		s := open(t, images.Options{})
		if got := read(t, mount(t, s, "c1", pull(t, s, ref)), "a"); len(got) != 80000 {
			t.Errorf("%s: %d bytes", c.name, len(got))
		}
	}
}

func TestPullRefusesWrongContent(t *testing.T) {
	registry := newServer(t)
	good := files(t, "a", "1")
	other, _, _ := v1.SHA256(strings.NewReader("other"))
	ofOtherDiffID := imageOfLayers(t, rawLayer{layerOf(t, good, gzipped(t, good)), other})
	ref := registry.push(t, "app:1", ofOtherDiffID)
	root := filepath.Join(t.TempDir(), "images")
	s := open(t, images.Options{Root: root})
	_, err := s.Pull(testContext(t), ref, nil)
	wantError(t, err, "diffID")

	ref = registry.push(t, "app:2", imageOf(t, good))
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		_, _ = w.Write(make([]byte, 100)) // fewer or other bytes than the digest stands for
		return true
	})
	_, err = s.Pull(testContext(t), ref, nil)
	wantError(t, err, "config")
	if len(s.List()) != 0 {
		t.Errorf("images %v", s.List())
	}
	if left := append(names(t, filepath.Join(root, "layers")), names(t, filepath.Join(root, "tmp"))...); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPullErrors(t *testing.T) {
	registry := newServer(t)
	artifact := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/artifact/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = w.Write(artifact)
		} else if strings.Contains(r.URL.Path, "/large/manifests/") {
			_, _ = w.Write(make([]byte, 5<<20))
		} else if strings.Contains(r.URL.Path, "/secret/manifests/") {
			w.WriteHeader(http.StatusForbidden)
		} else {
			return false
		}
		return true
	})
	s := open(t, images.Options{})
	for _, c := range []struct {
		ref  string
		is   error
		says string
	}{
		{"", images.ErrInvalidReference, ""},
		{"UPPER", images.ErrInvalidReference, ""},
		{strings.Repeat("a", 5000), images.ErrInvalidReference, ""},
		{"sha256:" + strings.Repeat("0", 64), images.ErrInvalidReference, "ID"},
		{registry.host + "/none:1", images.ErrNotFound, "none:1"},
		{registry.host + "/secret:1", images.ErrUnauthorized, ""},
		{registry.host + "/artifact:1", nil, "not that of an image"},
		{registry.host + "/large:1", nil, "larger than"},
		{registry.push(t, "chart:1", withConfig(t, imageOf(t, files(t, "a", "1")), func(c *v1.ConfigFile) { c.RootFS.DiffIDs = nil })), nil, "artifact"},
	} {
		_, err := s.Pull(testContext(t), c.ref, nil)
		wantError(t, err, c.says)
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%.50s: error %v is not %v", c.ref, err, c.is)
		}
	}
}

// TestEqualPullsShareLayers: pulls at the same time ask the registry each, since their credentials may differ, and download
// and unpack each layer once.
func TestEqualPullsShareLayers(t *testing.T) {
	registry := newServer(t)
	image := imageOf(t, files(t, "a", "1"), files(t, "b", "2"))
	ref := registry.push(t, "app:1", image)
	config, _ := image.ConfigName()
	const pulls = 9
	var described sync.WaitGroup // all pulls know what they need before any layer comes
	described.Add(pulls)
	var configs, layers, unpacked atomic.Int32
	registry.onGet(func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/blobs/"+config.String()):
			configs.Add(1)
			described.Done()
		case strings.Contains(r.URL.Path, "/blobs/"):
			layers.Add(1)
			described.Wait()
		}
		return false
	})
	s := open(t, images.Options{Progress: func(e images.Event) {
		if e.Phase == images.Unpacking {
			unpacked.Add(1)
		}
	}})
	var group sync.WaitGroup
	for i := range pulls {
		group.Go(func() {
			var auth *runtimeapi.AuthConfig
			if i%2 == 0 {
				auth = &runtimeapi.AuthConfig{Username: fmt.Sprint("u", i), Password: "p"}
			}
			if _, err := s.Pull(testContext(t), ref, auth); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if configs.Load() != pulls || layers.Load() != 2 || unpacked.Load() != 2 {
		t.Errorf("%d pulls downloaded %d layers and unpacked %d, want each of the two once", configs.Load(), layers.Load(), unpacked.Load())
	}
}

func TestConcurrentPullsOfDifferentImages(t *testing.T) {
	registry := newServer(t)
	const n = 6
	shared := files(t, "shared", strings.Repeat("x", 100000))
	var refs []string
	for i := range n {
		refs = append(refs, registry.push(t, fmt.Sprintf("app%d:1", i), imageOf(t, shared, files(t, "own", fmt.Sprint(i)), files(t, "dir/own", fmt.Sprint(i)))))
	}
	s := open(t, images.Options{})
	var group sync.WaitGroup
	for i, ref := range refs {
		group.Go(func() {
			for range 3 { // against removals of the others and of itself
				id, err := s.Pull(testContext(t), ref, nil)
				if err != nil {
					t.Error(err)
					return
				}
				dir := filepath.Join(t.TempDir(), "rootfs")
				key := fmt.Sprintf("c%d", i)
				if err := s.Mount(testContext(t), key, id, dir, nil); err != nil {
					t.Error(err)
					return
				}
				if err := s.Remove(testContext(t), ref); err != nil {
					t.Error(err)
				}
				if got := read(t, dir, "own") + read(t, dir, "dir/own") + read(t, dir, "shared")[:1]; got != fmt.Sprintf("%d%dx", i, i) {
					t.Errorf("files have %q", got)
				}
				if err := s.Unmount(key, dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if bytes, inodes, err := s.Usage(t.Context()); err != nil || len(s.List()) != 0 {
		t.Errorf("left: %d bytes, %d inodes, %d images, %v", bytes, inodes, len(s.List()), err)
	}
}

func TestPullIsCancelled(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	entered := make(chan struct{})
	registry.onGet(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			close(entered)
			<-r.Context().Done()
		}
		return false
	})
	s := open(t, images.Options{})
	ctx, cancel := contextWithCancel(t)
	go func() { <-entered; cancel() }()
	if _, err := s.Pull(ctx, ref, nil); err == nil {
		t.Fatal("a cancelled pull has worked")
	}
	registry.onGet(nil)
	pull(t, s, ref)
}
