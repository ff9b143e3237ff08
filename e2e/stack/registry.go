package stack

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// registryAddress is where the registry listens inside the namespace. Runtimes
// are told to fetch the images of every other registry from it as well, so a
// pod may simply say "busybox".
const registryAddress = "127.0.0.1:5000"

// Images every stack can pull.
const (
	PauseImage   = registryAddress + "/pause:1"
	BusyboxImage = "busybox:1" // a shell and Debian's busybox applets; runs "sh"
	TestappImage = "testapp:1" // images/testapp; serves on :8080
)

// Registry is an image registry on the stack's loopback interface.
type Registry struct {
	listener  net.Listener
	server    *http.Server
	transport http.RoundTripper

	mu        sync.Mutex
	pulls     map[string]int
	intercept func(http.ResponseWriter, *http.Request) bool
}

// Pulls returns how often a manifest of the repository ("library/busybox") was
// read, which is once a pull.
func (r *Registry) Pulls(repository string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[repository]
}

// Intercept lets a test answer requests itself: fn returns true when it has
// answered (an error, a demand for credentials) or after a delay false. Nil
// ends it.
func (r *Registry) Intercept(fn func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = fn
}

// startRegistry serves an empty registry inside the namespace.
func startRegistry(ns *namespace) (*Registry, error) {
	l, err := ns.listen(registryAddress)
	if err != nil {
		return nil, fmt.Errorf("listen for the registry: %w", err)
	}
	r := &Registry{listener: l, pulls: map[string]int{}, transport: &http.Transport{DialContext: ns.dialContext, DisableKeepAlives: true}}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { //nolint:gosec // loopback of a test namespace
		r.mu.Lock()
		repository, _, isManifest := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/manifests/")
		if isManifest && req.Method == http.MethodGet {
			r.pulls[repository]++
		}
		intercept := r.intercept
		r.mu.Unlock()
		if intercept == nil || !intercept(w, req) {
			images.ServeHTTP(w, req)
		}
	})}
	go func() { _ = r.server.Serve(l) }()
	return r, nil
}

func (r *Registry) close() {
	_ = r.server.Close()
}

// Push stores an image under a reference such as "busybox:1" or "ns/app:v2"; one that begins with a slash, as
// "/pause:3", is a path of any other registry.
func (r *Registry) Push(ctx context.Context, reference string, image v1.Image) error {
	reference = strings.TrimPrefix(reference, registryAddress+"/")
	if path, exact := strings.CutPrefix(reference, "/"); exact {
		reference = registryAddress + "/" + path
	}
	ref, err := name.ParseReference(reference, name.WithDefaultRegistry(registryAddress), name.Insecure)
	if err != nil {
		return fmt.Errorf("parse image reference %q: %w", reference, err)
	}
	if !strings.Contains(reference, "/") && !strings.HasPrefix(reference, "pause:") {
		// Where runtimes look for a short name.
		ref, err = name.ParseReference(registryAddress+"/library/"+reference, name.Insecure)
		if err != nil {
			return fmt.Errorf("parse image reference %q: %w", reference, err)
		}
	}
	if err := remote.Write(ref, image, remote.WithTransport(r.transport), remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push image %s: %w", reference, err)
	}
	return nil
}

// File is one entry of an image's file system. Link makes it a symbolic link.
type File struct {
	Path, Link string
	Data       []byte
	Mode       int64
	Dir        bool
	UID, GID   int
}

// BuildImage makes a one-layer image.
func BuildImage(files []File, config v1.Config) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Size: int64(len(f.Data)), Typeflag: tar.TypeReg, Uid: f.UID, Gid: f.GID}
		switch {
		case f.Dir:
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write %s into image: %w", f.Path, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("write %s into image: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, fmt.Errorf("make image layer: %w", err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS, file.Config = runtimeArch, "linux", config
	return mutate.ConfigFile(image, file)
}

// publishImages builds the images every stack has.
func (s *Stack) publishImages(ctx context.Context) error {
	busybox, err := BusyboxFiles(ctx)
	if err != nil {
		return err
	}
	image, err := BuildImage(busybox, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}})
	if err != nil {
		return fmt.Errorf("build image %s: %w", BusyboxImage, err)
	}
	if err := s.Publish(ctx, BusyboxImage, image); err != nil || s.options.NoRegistry {
		return err
	}
	pause, err := s.BuildProgram(ctx, programs+"pause")
	if err != nil {
		return err
	}
	testapp, config, err := s.TestappFiles(ctx)
	if err != nil {
		return err
	}
	for _, i := range []struct {
		reference string
		files     []File
		config    v1.Config
	}{
		{PauseImage, []File{{Path: "/pause", Data: pause, Mode: 0o755}}, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{TestappImage, testapp, config},
	} {
		image, err := BuildImage(i.files, i.config)
		if err != nil {
			return fmt.Errorf("build image %s: %w", i.reference, err)
		}
		if err := s.Publish(ctx, i.reference, image); err != nil {
			return err
		}
	}
	return nil
}

// TestappFiles are what TestappImage is made of.
func (s *Stack) TestappFiles(ctx context.Context) ([]File, v1.Config, error) {
	config := v1.Config{Entrypoint: []string{"/testapp"}, Env: []string{"PATH=/bin"}}
	files, err := BusyboxFiles(ctx)
	if err != nil {
		return nil, config, err
	}
	testapp, err := s.BuildProgram(ctx, programs+"testapp")
	return append(files, File{Path: "/testapp", Data: testapp, Mode: 0o755}), config, err
}

// programs is where the stack's own programs for images are.
const programs = "e2e/stack/images/"

// BuildProgram compiles a program of this module, by its directory, and returns the binary.
func (s *Stack) BuildProgram(ctx context.Context, program string) ([]byte, error) {
	out := filepath.Join(s.Dir, "images", path.Base(program))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, "minikubelet/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build image program %s: %w: %s", program, err, text)
	}
	return os.ReadFile(out)
}

// BusyboxFiles are the machine's static busybox with a link for each applet.
func BusyboxFiles(ctx context.Context) ([]File, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox (make deps installs busybox-static): %w", err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	program, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s needs a dynamic linker: install busybox-static (make deps)", path)
		}
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox applets: %w", err)
	}
	files := []File{
		{Path: "/bin", Dir: true, Mode: 0o755}, {Path: "/etc", Dir: true, Mode: 0o755},
		{Path: "/tmp", Dir: true, Mode: 0o1777}, {Path: "/root", Dir: true, Mode: 0o700},
		{Path: "/etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")},
		{Path: "/etc/group", Mode: 0o644, Data: []byte("root:x:0:\nuser:x:1000:\n")},
		{Path: "/bin/busybox", Data: binary, Mode: 0o755},
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Path: "/bin/" + applet, Link: "busybox", Mode: 0o777})
		}
	}
	return files, nil
}
