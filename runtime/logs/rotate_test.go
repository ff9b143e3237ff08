package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/crifake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		entries      string
		maxFiles     int
		keep, remove string
	}{
		{"0.log", 5, "", ""},
		{"0.log 1.log 10.log.a 0.log.b", 5, "0.log.b", ""},
		{"0.log 0.log.3 0.log.1.gz 0.log.2.gz", 5, "0.log.1.gz 0.log.2.gz 0.log.3", ""},
		{"0.log 0.log.4 0.log.1.gz 0.log.3.gz 0.log.2.gz", 5, "0.log.2.gz 0.log.3.gz 0.log.4", "0.log.1.gz"},
		{"0.log 0.log.1 0.log.1.gz 0.log.1.tmp", 5, "0.log.1.gz", "0.log.1 0.log.1.tmp"},
		{"0.log 0.log.1 0.log.2", 2, "", "0.log.1 0.log.2"},
		{"0.log 0.log.1 0.log.2", 1, "", "0.log.1 0.log.2"},
		{"0.log.", 5, "", ""},
	} {
		keep, remove := plan(strings.Fields(tt.entries), "0.log", tt.maxFiles)
		if got := strings.Join(keep, " ") + "|" + strings.Join(remove, " "); got != tt.keep+"|"+tt.remove {
			t.Errorf("%s of %d: got %q, want %q", tt.entries, tt.maxFiles, got, tt.keep+"|"+tt.remove)
		}
	}
}

// bench is a running container with a log.
type bench struct {
	*Rotator
	fake *crifake.Server
	id   string
	dir  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	fake := crifake.New()
	fake.AddImage("image:1")
	client := fake.Direct()
	root := t.TempDir()
	b := &bench{fake: fake, dir: filepath.Join(root, "ns_pod_uid", "app")}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Rotator = New(Options{CRI: client, PodLogsDir: root, MaxSize: 100, MaxFiles: 3, Workers: 2, Interval: 10 * time.Second})
	box := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "uid"}, LogDirectory: filepath.Dir(b.dir),
	}
	sandbox, err := client.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: box})
	if err != nil {
		t.Fatal(err)
	}
	made, err := client.Runtime.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: box, Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: "image:1"}, LogPath: "app/0.log",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.id = made.ContainerId
	if _, err := client.Runtime.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: b.id}); err != nil {
		t.Fatal(err)
	}
	fake.OnReopen = func(string) error {
		return os.WriteFile(filepath.Join(b.dir, "0.log"), nil, 0o640)
	}
	return b
}

func (b *bench) write(t *testing.T, name string, size int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(strings.Repeat("x", size)), 0o640); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) files(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		word := entry.Name()
		if !strings.HasSuffix(word, ".gz") {
			word += fmt.Sprint(":", info.Size())
		}
		out = append(out, word)
	}
	return strings.Join(out, " ")
}

// TestRun lets a container write 60 bytes every 10 seconds: its log is rotated at the size, the one before compressed,
// the oldest removed.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		go b.Run(t.Context())
		time.Sleep(5 * time.Second)
		for _, want := range []string{
			"0.log:60",
			"0.log:0 0.log.20000101-000020:120",
			"0.log:60 0.log.20000101-000020:120",
			"0.log:0 0.log.20000101-000020.gz 0.log.20000101-000040:120",
			"0.log:60 0.log.20000101-000020.gz 0.log.20000101-000040:120",
			"0.log:0 0.log.20000101-000040.gz 0.log.20000101-000100:120",
		} {
			f, err := os.OpenFile(filepath.Join(b.dir, "0.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(strings.Repeat("x", 60)); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			if got := b.files(t); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		}
	})
}

func TestCompressed(t *testing.T) {
	b := newBench(t)
	b.write(t, "0.log", 100)
	b.write(t, "0.log.1", 5000)
	b.write(t, "0.log.1.tmp", 7)
	if err := b.RotateLogs(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(b.dir, "0.log.1.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || string(text) != strings.Repeat("x", 5000) {
		t.Errorf("%d bytes came back, %v", len(text), err)
	}
	if got := b.fake.Count("ContainerStatus"); got != 1 {
		t.Errorf("the runtime was asked %d times for the log's path", got)
	}
	if err := b.RotateLogs(t.Context()); err != nil || b.fake.Count("ContainerStatus") != 1 || b.fake.Count("ReopenContainerLog") != 1 {
		t.Errorf("a second time: %v, calls %v", err, b.fake.Calls())
	}
}

func TestReopenFails(t *testing.T) {
	b := newBench(t)
	b.write(t, "0.log", 100)
	b.fake.OnReopen = func(string) error { return errors.New("busy") }
	if err := b.RotateLogs(t.Context()); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the error is %v", err)
	}
	if got := b.files(t); got != "0.log:100" {
		t.Errorf("the log lost its name: %q", got)
	}
}

func TestMissingLogIsReopened(t *testing.T) {
	b := newBench(t)
	if err := b.RotateLogs(t.Context()); err != nil || b.files(t) != "0.log:0" {
		t.Errorf("%v, files %q", err, b.files(t))
	}
}

// TestNothingForeign: links, FIFOs and logs elsewhere stay as they are, and what they point to.
func TestNothingForeign(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func(b *bench) error{
		"log is a link": func(b *bench) error { return os.Symlink(victim, filepath.Join(b.dir, "0.log")) },
		"log is a FIFO": func(b *bench) error { return syscall.Mkfifo(filepath.Join(b.dir, "0.log"), 0o600) },
		"directory is a link": func(b *bench) error {
			return errors.Join(os.Remove(b.dir), os.Symlink(filepath.Dir(victim), b.dir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := prepare(b); err != nil {
				t.Fatal(err)
			}
			if err := b.RotateLogs(t.Context()); err == nil {
				t.Error("no error")
			}
			if b.fake.Count("ReopenContainerLog") != 0 {
				t.Error("the log was rotated")
			}
		})
	}
	b := newBench(t)
	b.write(t, "0.log", 100)
	if err := errors.Join(os.Symlink(victim, filepath.Join(b.dir, "0.log.1")), syscall.Mkfifo(filepath.Join(b.dir, "0.log.2"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.MaxFiles = 9
	if err := b.RotateLogs(t.Context()); err == nil || !strings.Contains(b.files(t), "0.log:0") {
		t.Errorf("%v, files %q: want that the log is rotated all the same, and an error", err, b.files(t))
	}
	b.fake.Corrupt(b.id, func(s *runtimeapi.ContainerStatus) { s.LogPath = victim })
	b.paths = nil
	if err := b.RotateLogs(t.Context()); err != nil {
		t.Errorf("a log elsewhere: %v", err)
	}
	if info, err := os.Stat(victim); err != nil || info.Size() != 1000 {
		t.Errorf("what the links point to: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(victim)); err != nil || len(entries) != 1 {
		t.Errorf("beside what the links point to: %v, %v", entries, err)
	}
}

func TestGoneContainersAreForgotten(t *testing.T) {
	b := newBench(t)
	b.write(t, "0.log", 10)
	if err := b.RotateLogs(t.Context()); err != nil || len(b.paths) != 1 {
		t.Fatal(err, b.paths)
	}
	b.write(t, "0.log", 1000)
	b.fake.SetExit(b.id, 0)
	if err := b.RotateLogs(t.Context()); err != nil || len(b.paths) != 0 || !slices.Contains(strings.Fields(b.files(t)), "0.log:1000") {
		t.Errorf("an ended container's log: %v, %v, %q", err, b.paths, b.files(t))
	}
}
