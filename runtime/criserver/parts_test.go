package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/oci"
)

func TestSignalNumber(t *testing.T) {
	for name, want := range map[string]syscall.Signal{
		"SIGTERM": 15, "term": 15, "9": 9, " SIGQUIT ": 3, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMINPLUS3": 37, "SIGRTMAX-1": 63, "RTMAXMINUS1": 63, "SIGRTMAX": 64,
		"": 0, "0": 0, "65": 0, "-1": 0, "SIGWHAT": 0, "SIGRTMIN+99": 0, "SIGRTMIN-1": 0, "SIGRTMINx": 0,
	} {
		if got, ok := signalNumber(name); ok != (want != 0) || ok && got != want {
			t.Errorf("%q: %d, %v", name, got, ok)
		}
	}
}

func FuzzSignalNumber(f *testing.F) {
	f.Add("SIGRTMIN+3")
	f.Fuzz(func(t *testing.T, name string) {
		if number, ok := signalNumber(name); ok && (number < 1 || number > 64) {
			t.Errorf("%q is signal %d", name, number)
		}
	})
}

// TestStopSignals: every signal that the CRI knows by name is one.
func TestStopSignals(t *testing.T) {
	image := &images.Image{Config: v1.ConfigFile{Config: v1.Config{StopSignal: "SIGQUIT"}}}
	for value := range runtimeapi.Signal_name {
		name := stopSignal(&runtimeapi.ContainerConfig{StopSignal: runtimeapi.Signal(value)}, image)
		if _, ok := signalNumber(name); !ok {
			t.Errorf("signal %d is %q", value, name)
		}
		if value == 0 && name != "SIGQUIT" {
			t.Errorf("the image's signal is %q", name)
		}
	}
	image.Config.Config.StopSignal = "whatever"
	if name := stopSignal(&runtimeapi.ContainerConfig{}, image); name != "SIGTERM" {
		t.Errorf("of an image with an unknown signal: %q", name)
	}
}

func TestResolvConf(t *testing.T) {
	got, err := resolvConf(&runtimeapi.DNSConfig{Servers: []string{"1.1.1.1", "::1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}})
	if want := "search a b\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	own, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got, err := resolvConf(nil); err != nil || string(got) != string(own) {
		t.Errorf("the machine's own: %q, %v", got, err)
	}
	for _, bad := range []*runtimeapi.DNSConfig{{Servers: []string{"1.1.1.1\nx"}}, {Searches: []string{""}}, {Options: []string{strings.Repeat("x", maxResolvConf)}}} {
		if _, err := resolvConf(bad); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%.40v: %v", bad, err)
		}
	}
}

// TestLargeResolvConf: the machine's own file may be as large as kubelets read.
func TestLargeResolvConf(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	large := "nameserver 1.1.1.1\n" + strings.Repeat("# a comment\n", 100_000)
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte(large), 0o644); err != nil {
		t.Fatal(err)
	}
	var got []byte
	result := make(chan error)
	namespaces.OnThread(func() { // a thread with mounts of its own
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(file, "/etc/resolv.conf", "", unix.MS_BIND, "")
		}
		if err == nil {
			got, err = resolvConf(nil)
		}
		result <- err
	})
	if err := <-result; err != nil || string(got) != large {
		t.Errorf("%d bytes of %d, %v", len(got), len(large), err)
	}
}

func TestToStatus(t *testing.T) {
	for want, err := range map[codes.Code]error{
		codes.OK: nil, codes.NotFound: fmt.Errorf("find: %w", errNotFound), codes.InvalidArgument: fmt.Errorf("make: %w", oci.ErrInvalid),
		codes.DeadlineExceeded: fmt.Errorf("exec: %w: %w", monitor.ErrTimeout, context.DeadlineExceeded), codes.Canceled: context.Canceled,
		codes.Unimplemented: fmt.Errorf("checkpoint: %w", errors.ErrUnsupported), codes.AlreadyExists: errAlreadyExists,
		codes.FailedPrecondition: errPrecondition, codes.Unknown: errors.New("what"), codes.ResourceExhausted: status.Error(codes.ResourceExhausted, "full"),
	} {
		if got := status.Code(toStatus(err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// TestBroker: one who does not listen holds nobody up, and knows that something was lost.
func TestBroker(t *testing.T) {
	b := newBroker()
	slow, err := b.listen()
	if err != nil {
		t.Fatal(err)
	}
	quick, err := b.listen()
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for range maxUnreceived + 1 {
		b.send(&runtimeapi.ContainerEventResponse{})
		<-quick
		got++
	}
	for range slow { // it was closed
		got--
	}
	if got != 1 {
		t.Errorf("the slow one missed %d events", got)
	}
	b.leave(slow)
	b.leave(quick)
	if !b.idle() {
		t.Error("somebody listens still")
	}
	for range maxListeners {
		if _, err := b.listen(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.listen(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	b.close()
	if _, err := b.listen(); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// TestNoSystemd: a server whose containers' cgroups systemd is to make does not start without it.
func TestNoSystemd(t *testing.T) {
	if systemd.IsRunningSystemd() {
		t.Skip("systemd runs here")
	}
	dir := t.TempDir()
	if _, err := New(t.Context(), Options{CgroupManager: Systemd, Root: dir + "/root", State: dir + "/state"}); err == nil || !strings.Contains(err.Error(), "use cgroupfs") {
		t.Error(err)
	}
}

func TestLoadRegistries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries.yaml")
	for text, ok := range map[string]bool{"docker.io: {mirrors: [\"http://a:1\"]}\nb:1: {insecure: true}\n": true, "a: {mirror: b}": false, "[": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadRegistries(file)
		if (err == nil) != ok || ok && (got["docker.io"].Mirrors[0] != "http://a:1" || !got["b:1"].Insecure) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := LoadRegistries(file + "x"); err == nil {
		t.Error("a file that is not there")
	}
}

func TestListen(t *testing.T) {
	path := t.TempDir() + "/dir/crid.sock"
	if _, _, err := Listen("tcp://127.0.0.1:1"); err == nil {
		t.Error("listens on TCP")
	}
	for range 2 { // what a killed server leaves is no hindrance
		_, release, err := Listen("unix://" + path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v", info, err)
		}
		if _, _, err := Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "another server") {
			t.Errorf("a second server: %v", err)
		}
		release()
	}
}
