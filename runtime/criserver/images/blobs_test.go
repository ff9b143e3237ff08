package images_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
)

// largeLayer is a layer of random content, and its blob.
func largeLayer(t testing.TB, size int) (v1.Layer, []byte) {
	content := make([]byte, size)
	_, _ = rand.Read(content)
	plain := files(t, "large", string(content))
	return layerOf(t, plain, plain), plain
}

func isBlob(r *http.Request, layer v1.Layer) bool {
	digest, _ := layer.Digest()
	return strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String())
}

// hangUp sends the first half of a blob and closes the connection.
func hangUp(w http.ResponseWriter, blob []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
	_, _ = w.Write(blob[:len(blob)/2])
	panic(http.ErrAbortHandler)
}

func TestInterruptedDownloadGoesOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		ranges bool // the registry knows them
	}{{"with ranges", true}, {"without ranges", false}} {
		t.Run(c.name, func(t *testing.T) {
			registry := newServer(t)
			layer, blob := largeLayer(t, 1<<20)
			ref := registry.push(t, "app:1", imageOfLayers(t, layer))
			var tries atomic.Int32
			ranges := make(chan string, 10)
			registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
				if !isBlob(r, layer) {
					return false
				}
				ranges <- r.Header.Get("Range")
				if tries.Add(1) == 1 {
					hangUp(w, blob)
				}
				if !c.ranges {
					r.Header.Del("Range")
				}
				return false
			})
			s := open(t, images.Options{})
			pull(t, s, ref)
			if first, second := <-ranges, <-ranges; first != "" || !strings.HasPrefix(second, "bytes=") || tries.Load() != 2 {
				t.Errorf("asked for %q, then for %q", first, second)
			}
		})
	}
}

// TestDownloadGoesOnAfterARestart leaves parts of blobs as a crash would, good and bad ones.
func TestDownloadGoesOnAfterARestart(t *testing.T) {
	layer, blob := largeLayer(t, 1<<20)
	digest, _ := layer.Digest()
	flipped := bytes.Clone(blob)
	flipped[100] ^= 1
	for _, c := range []struct {
		name string
		left []byte
		want string // the ranges asked for
	}{
		{"half", blob[:1000], fmt.Sprintf("bytes=1000-%d", len(blob)-1)},
		{"whole", blob, ""},
		{"empty", nil, "all"},
		{"half of something else", flipped[:1000], fmt.Sprintf("bytes=1000-%d all", len(blob)-1)},
		{"whole of something else", flipped, "all"},
		{"too long", append(bytes.Clone(blob), 0), "all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			registry := newServer(t)
			ref := registry.push(t, "app:1", imageOfLayers(t, layer))
			asked := make(chan string, 10)
			registry.onGet(func(_ http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, layer) {
					if value := r.Header.Get("Range"); value != "" {
						asked <- value
					} else {
						asked <- "all"
					}
				}
				return false
			})
			root := filepath.Join(t.TempDir(), "images")
			open(t, images.Options{Root: root}).Close()
			if err := os.WriteFile(filepath.Join(root, "blobs", fmt.Sprintf("sha256-%s-%d", digest.Hex, len(blob))), c.left, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, images.Options{Root: root})
			id := pull(t, s, ref)
			close(asked)
			var got []string
			for a := range asked {
				got = append(got, a)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("asked for %q, want %q", got, c.want)
			}
			if content := read(t, mount(t, s, "c1", id), "large"); !strings.Contains(string(blob), content) {
				t.Error("the file has other content")
			}
			if left := names(t, filepath.Join(root, "blobs")); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestRangeIsRefused: a registry that answers every range with 416 sends all of a blob of which a part is here.
func TestRangeIsRefused(t *testing.T) {
	registry := newServer(t)
	layer, blob := largeLayer(t, 1<<20)
	ref := registry.push(t, "app:1", imageOfLayers(t, layer))
	var tries atomic.Int32
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, layer) {
			return false
		}
		if tries.Add(1) == 1 {
			hangUp(w, blob)
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}
		return false
	})
	pull(t, open(t, images.Options{}), ref)
}

// TestBlobOfAnotherSize: a manifest that gives a layer a wrong size breaks the pull of its own image, and not that of another
// image, which reads the same layer at that time.
func TestBlobOfAnotherSize(t *testing.T) {
	for _, wrong := range []int64{-1, +100} {
		registry := newServer(t)
		layer, blob := largeLayer(t, 1<<20)
		ref := registry.push(t, "good:1", imageOfLayers(t, layer))
		below := files(t, "a", "1")
		evil := imageOfLayers(t, layerOf(t, below, below), layer)
		liar := registry.push(t, "evil:1", evil)
		manifest, err := evil.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		manifest = manifest.DeepCopy()
		manifest.Layers[1].Size += wrong
		lie, err := json.Marshal(manifest)
		if err != nil {
			t.Fatal(err)
		}
		registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.HasPrefix(r.URL.Path, "/v2/evil/manifests/"):
				w.Header().Set("Content-Type", string(manifest.MediaType))
				_, _ = w.Write(lie)
			case strings.HasPrefix(r.URL.Path, "/v2/evil/") && isBlob(r, layer): // as if more followed the blob
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-", len(blob)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(make([]byte, 100))
			default:
				return false
			}
			return true
		})
		reading, goOn := make(chan bool, 1), make(chan bool)
		s := open(t, images.Options{Progress: func(e images.Event) {
			if e.Phase == images.Unpacking && strings.Contains(e.Image, "/good:") {
				reading <- true
				<-goOn
			}
		}})
		pulled := make(chan error)
		go func() {
			_, err := s.Pull(testContext(t), ref, nil)
			pulled <- err
		}()
		<-reading
		if _, err := s.Pull(testContext(t), liar, nil); err == nil {
			t.Error("a layer of a wrong size is taken")
		}
		close(goOn)
		if err := <-pulled; err != nil {
			t.Errorf("%+d bytes elsewhere: %v", wrong, err)
		}
	}
}

func TestDownloadIsGivenUp(t *testing.T) {
	layer, blob := largeLayer(t, 1<<16)
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		says   string
		tries  int32
	}{
		{"missing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "not found", 1},
		{"broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "500", 3},
		{"nothing", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", 3},
		{"too little", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob[:100]) }, fmt.Sprintf("sent 100 bytes of %d", len(blob)), 4},
		{"too much", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(append(bytes.Clone(blob), 0)) }, "more than the manifest", 1},
		{"other content", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, len(blob))) }, "another digest", 1},
		{"wrong range", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}, "range", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			registry := newServer(t)
			registry.Config.ErrorLog = nil
			ref := registry.push(t, "app:1", imageOfLayers(t, layer))
			var tries atomic.Int32
			registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
				if !isBlob(r, layer) {
					return false
				}
				tries.Add(1)
				c.answer(w, r)
				return true
			})
			s := open(t, images.Options{})
			_, err := s.Pull(testContext(t), ref, nil)
			wantError(t, err, c.says)
			if got := tries.Load(); got < c.tries || got > c.tries+1 { // net/http may try once by itself
				t.Errorf("%d tries, want %d", got, c.tries)
			}
			registry.onGet(nil)
			pull(t, s, ref) // what is left behind does no harm
		})
	}
}

// stalled sends the beginning of something and then nothing, until the client goes.
func stalled(w http.ResponseWriter, r *http.Request, begin []byte, length int) {
	w.Header().Set("Content-Length", fmt.Sprint(length))
	_, _ = w.Write(begin)
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func TestStalledDownloadGoesOn(t *testing.T) {
	registry := newServer(t)
	layer, blob := largeLayer(t, 1<<20)
	ref := registry.push(t, "app:1", imageOfLayers(t, layer))
	var tries atomic.Int32
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, layer) || tries.Add(1) > 1 {
			return false
		}
		stalled(w, r, blob[:1000], len(blob))
		return true
	})
	s := open(t, images.Options{})
	images.SetTimeouts(t)
	pull(t, s, ref)
	if tries.Load() != 2 {
		t.Errorf("%d tries", tries.Load())
	}
}

func TestStalledDescriptionFails(t *testing.T) {
	registry := newServer(t)
	ref := registry.push(t, "app:1", imageOf(t, files(t, "a", "1")))
	for _, part := range []string{"/manifests/", "/blobs/"} {
		registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			stalled(w, r, []byte("{"), 1000)
			return true
		})
		s := open(t, images.Options{})
		images.SetTimeouts(t)
		_, err := s.Pull(testContext(t), ref, nil)
		wantError(t, err, "longer than")
	}
}

func TestRedirects(t *testing.T) {
	registry, store := newServer(t), newServer(t)
	layer, blob := largeLayer(t, 1<<10)
	ref := registry.push(t, "app:1", imageOfLayers(t, layer))
	var broken atomic.Bool
	broken.Store(true)
	registry.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, layer) {
			http.Redirect(w, r, store.URL+"/stored?signature=secret", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	store.onGet(func(w http.ResponseWriter, r *http.Request) bool {
		if broken.Load() {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Query().Get("signature") != "secret" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %s with %q", r.URL, r.Header)
		}
		_, _ = w.Write(blob)
		return true
	})
	s := open(t, images.Options{})
	_, err := s.Pull(testContext(t), ref, nil)
	wantError(t, err, "/stored")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the signature: %v", err)
	}
	broken.Store(false)
	if _, err := s.Pull(testContext(t), ref, &runtimeapi.AuthConfig{Username: "user", Password: "word"}); err != nil {
		t.Error(err)
	}
}
