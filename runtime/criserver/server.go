// Package criserver is the embedded CRI server: it runs pods on a bare Linux machine with an OCI runtime, conmon and CNI
// plugins, and answers kubelets, crictl and critest over a unix socket. Read run_pod_sandbox.go, create_container.go and
// start_container.go in this order; other methods are in files that are named after them or their group.
package criserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/apparmor"
	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
	"minikubelet/runtime/criserver/streaming"
)

// Ways to have pause processes.
const (
	PauseNeeded = "needed" // where a pod shares its PID namespace
	PauseAlways = "always"
)

// Cgroup managers.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

const (
	maxMessage = 16 << 20
	// workTimeout bounds work that goes on after its caller has gone.
	workTimeout = 4 * time.Minute
	// undoTimeout bounds how long undoing a step may take.
	undoTimeout = time.Minute
)

// Options configure a server.
type Options struct {
	Root  string // what survives a reboot: images, records
	State string // what does not: namespaces, mounts, bundles
	// Runtimes are the OCI runtimes by the name of their handler. The default is that of DefaultRuntime.
	Runtimes       map[string]string
	DefaultRuntime string
	Conmon         string
	CNIConfDir     string
	CNIBinDirs     []string
	CDISpecDirs    []string
	Pause          string
	CgroupManager  string
	CgroupParent   string // of pods that name none; "" for the default
	StreamAddress  string
	// Images configures the image store but for its directory.
	Images images.Options
	// Traces lets a call begin a trace when its caller sends none, as crictl does not.
	Traces bool
	// Step is called before each step of making and removing sandboxes and containers. Tests end the process there; no flag
	// sets it.
	Step func(name string)
}

// Server answers the CRI.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	options  Options
	runtimes map[string]*monitor.Runtime // by handler; "" is the default
	conmon   *monitor.Conmon
	machine  oci.Machine
	appArmor *apparmor.Host
	images   *images.Store
	cni      *cni.Plugins
	streams  *streaming.Server
	events   *broker
	work     singleflight.Group // sandboxes and containers being made, by reserved name
	watches  sync.WaitGroup     // goroutines beside containers
	stopped  context.Context    // ends with the server; containers go on
	stop     context.CancelFunc

	sandboxes  *store.Index[*sandbox]
	containers *store.Index[*container]
	unmade     *store.Index[*container] // could neither be made nor taken back: see undoContainer
}

// New opens the server's directories and takes over the pods in them.
func New(ctx context.Context, o Options) (*Server, error) {
	if o.CgroupManager == Systemd && !systemd.IsRunningSystemd() {
		return nil, errors.New("systemd is to manage the cgroups of containers, but does not run on this machine: use cgroupfs")
	}
	monitor.HearHangup()
	s := &Server{
		options: o, conmon: &monitor.Conmon{Path: o.Conmon}, events: newBroker(),
		runtimes:  map[string]*monitor.Runtime{},
		sandboxes: store.NewIndex[*sandbox](), containers: store.NewIndex[*container](), unmade: store.NewIndex[*container](),
	}
	if s.options.CgroupParent == "" {
		s.options.CgroupParent = map[string]string{Cgroupfs: "/crid", Systemd: "crid.slice"}[o.CgroupManager]
	}
	s.stopped, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, dir := range []string{o.Root, s.path("sandboxes"), s.path("containers"), s.state("sandboxes"), s.state("containers"), s.state("tmp")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directories of the CRI server: %w", err)
		}
	}
	// Pods in user namespaces pass through these to what is theirs.
	for _, dir := range []string{o.State, s.state("sandboxes"), s.state("containers")} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make directories of the CRI server: %w", err)
		}
	}
	if err := s.findPrograms(ctx); err != nil {
		return nil, err
	}
	s.machine, s.appArmor = oci.ReadMachine(), apparmor.Read()
	imageOptions := o.Images
	imageOptions.Root = s.path("images")
	imageStore, err := images.Open(ctx, imageOptions)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.images = imageStore
	s.findFeatures(ctx)
	s.cni = &cni.Plugins{ConfDir: o.CNIConfDir, BinDirs: o.CNIBinDirs, CacheDir: s.path("cni")}
	if err := s.adopt(ctx); err != nil {
		return nil, errors.Join(err, imageStore.Close())
	}
	if s.streams, err = streaming.New(o.StreamAddress, streams{s}); err != nil {
		return nil, errors.Join(err, imageStore.Close())
	}
	return s, nil
}

// path is a path below the directory that survives a reboot.
func (s *Server) path(elements ...string) string {
	return filepath.Join(append([]string{s.options.Root}, elements...)...)
}

// state is a path below the directory that does not.
func (s *Server) state(elements ...string) string {
	return filepath.Join(append([]string{s.options.State}, elements...)...)
}

// runtimeOf is the OCI runtime of a sandbox; the default one for one whose handler is not configured any more.
func (s *Server) runtimeOf(sb *sandbox) *monitor.Runtime {
	if runtime := s.runtimes[sb.Config.RuntimeHandler]; runtime != nil {
		return runtime
	}
	return s.runtimes[""]
}

// findPrograms checks that conmon and the OCI runtimes are there and fit to be used.
func (s *Server) findPrograms(ctx context.Context) error {
	path, err := exec.LookPath(s.options.Conmon)
	if err != nil {
		return fmt.Errorf("find conmon (install the package conmon, or name the program with --conmon): %w", err)
	}
	s.conmon.Path = path
	// Console sockets of conmon must have short names. Where this directory's is too long they are in /tmp.
	if dir := s.state("tmp"); len(dir) < 60 {
		s.conmon.TempDir = dir
	}
	for name, program := range s.options.Runtimes {
		path, err := exec.LookPath(program)
		if err != nil {
			return fmt.Errorf("find OCI runtime %s (install the package %s, or name the program with --oci-runtime=%[1]s=PATH): %[3]w", name, filepath.Base(program), err)
		}
		r := &monitor.Runtime{Path: path, Root: s.state("runtimes", name), Systemd: s.options.CgroupManager == Systemd}
		if err := r.Check(ctx); err != nil {
			return err
		}
		s.runtimes[name] = r
	}
	s.runtimes[""] = s.runtimes[s.options.DefaultRuntime]
	if s.runtimes[""] == nil {
		return fmt.Errorf("the default OCI runtime %q is not among the configured ones", s.options.DefaultRuntime)
	}
	return nil
}

// Serve answers calls on a listener until the context ends. Containers go on after it.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	)
	runtimeapi.RegisterRuntimeServiceServer(server, s)
	runtimeapi.RegisterImageServiceServer(server, s)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(s.streams.Serve)
	group.Go(func() error {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve the CRI: %w", err)
		}
		return nil
	})
	klog.FromContext(ctx).Info("CRI server is ready", "address", listener.Addr(), "sandboxes", len(s.sandboxes.All()), "containers", len(s.containers.All()))
	<-ctx.Done()
	s.events.close() // or those who listen would hold up the end
	// What is being made gets a moment to be finished rather than be taken back at the next start.
	done := time.AfterFunc(10*time.Second, server.Stop)
	server.GracefulStop()
	done.Stop()
	return errors.Join(s.streams.Close(), group.Wait(), s.close())
}

// close lets go of containers and images.
func (s *Server) close() error {
	s.stop()
	s.watches.Wait()
	return s.images.Close()
}

// Listen makes the socket of a server, for root only. A lock beside it tells a socket in use from what a
// server that was killed left. The function it returns lets both go.
func Listen(address string) (net.Listener, func(), error) {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil, nil, fmt.Errorf("listen on %q: the CRI is served on a unix socket, as in unix:///run/minikubelet/crid.sock", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make directory of socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open lock of socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("lock %s: another server uses the socket: %w", lock.Name(), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		lock.Close()
		return nil, nil, fmt.Errorf("remove old socket: %w", err)
	}
	// The socket has its mode before it is bound, so that there is no moment when others may connect. The umask would do that
	// too, but all threads share it.
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	listener, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return listener, func() { listener.Close(); lock.Close() }, nil
}
