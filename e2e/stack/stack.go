// Package stack runs a real Kubernetes node's surroundings for tests, demos and
// benchmarks: etcd, kube-apiserver, kube-controller-manager, containerd with
// runc and CNI, an image registry, and a kubelet, all in one network namespace.
// It needs root, and nothing of it touches the host's network.
package stack

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// BinEnv names the directory with the stack's programs when Options.BinDir is
// empty. `make stack` builds them.
const BinEnv = "E2E_BIN"

// UpstreamEnv is set for tests that compare with upstream's kubelet, which takes minutes to build: make compare sets it.
const UpstreamEnv = "E2E_UPSTREAM"

// KubeletEnv names this project's kubelet when Options.KubeletBinary is empty, for instance one built with the race
// detector: Close fails when that reported anything.
const KubeletEnv = "E2E_KUBELET"

// ControlPlaneEnv names a directory whose kube-apiserver and kube-controller-manager stacks run instead of BinDir's, for
// tests of a kubelet with an older apiserver.
const ControlPlaneEnv = "E2E_CONTROL_PLANE"

const (
	namePrefix  = "mk-"
	runtimeArch = runtime.GOARCH
)

// Options configure a stack. The zero value is a stack with containerd and a
// control plane without scheduler.
type Options struct {
	// BinDir holds the stack's programs. Default: $E2E_BIN.
	BinDir string
	// KubeletBinary is this project's kubelet. Default: $E2E_KUBELET, or bin/kubelet in the module.
	KubeletBinary string
	// ParentDir is where the stack's directory is made. Default: /var/tmp, since
	// an overlay upper directory on tmpfs costs memory, and socket paths must
	// stay short. Dead stacks found there are removed first.
	ParentDir string
	// KeepDir leaves the directory, with the logs, behind.
	KeepDir bool
	// Runtime is the CRI server: containerd, the default, crid, or embedded.
	Runtime string
	// KubeletDiskMiB gives the kubelet's root directory a filesystem of that size, in memory. Default: the disk's.
	KubeletDiskMiB int
	// CridBinary is this project's CRI server. Default: $E2E_CRID, or bin/crid in the module.
	CridBinary string
	// CridArgs are added to its command line.
	CridArgs []string
	// NodeName is the name of the node. Default: node.
	NodeName string
	// NoControlPlane leaves out etcd, kube-apiserver and controllers.
	NoControlPlane bool
	// NoRegistry has OCI archives instead of an image registry, and of images only busybox; only the embedded runtime
	// takes them.
	NoRegistry bool
	// Scheduler adds kube-scheduler, for pods without spec.nodeName.
	Scheduler bool
	// OwnMachine hides the machine's directories and cgroups from the stack's programs, for suites that cannot be told
	// where to write: see ownMachine.
	OwnMachine bool
	// AllControllers runs every controller of kube-controller-manager, not only those that pods need.
	AllControllers bool
	// Progress, if not nil, is told what is being started.
	Progress func(format string, args ...any)
}

// Stack is a running stack.
type Stack struct {
	Name            string // unique: its cgroup and CNI network
	Dir             string // everything it writes
	BinDir          string
	KubeletBinary   string
	NodeName        string
	RuntimeSocket   string // path of the CRI socket
	AdminKubeconfig string
	NodeKubeconfig  string // system:node:NAME in system:nodes
	// Config and Client reach the apiserver as cluster admin from outside the
	// namespace. Config has no client-side rate limit.
	Config *rest.Config
	Client kubernetes.Interface
	// HTTP connects from inside the namespace: to pods, the kubelet, metrics.
	HTTP *http.Client
	// CRI is a connection to the runtime, for k8s.io/cri-api clients.
	CRI      *grpc.ClientConn
	Registry *Registry // nil with NoRegistry

	options        Options
	print          footprint
	ns             *namespace
	cgroup         cgroupTree
	ca             *authority
	kubeletServing KeyPair
	stopJanitor    func()
	runtimeArgs    []string // of kubelets

	mu         sync.Mutex // guards what follows
	components map[string]*component
}

// runtimes are the CRI servers a stack can run, by Options.Runtime.
var runtimes = map[string]func(*Stack, context.Context) error{
	Containerd: (*Stack).startContainerd,
	Crid:       (*Stack).startCrid,
	Embedded:   (*Stack).prepareEmbedded,
}

// Start starts a stack and waits until it can take a kubelet. On error nothing
// is left behind but, with KeepDir, the logs.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	s, err := newStack(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if !o.NoRegistry {
		if s.Registry, err = startRegistry(s.ns); err != nil {
			return nil, err
		}
	}
	// The control plane takes longest and needs neither images nor runtime.
	group, ctx := errgroup.WithContext(ctx)
	if !o.NoControlPlane {
		group.Go(func() error { return s.startControlPlane(ctx) })
	}
	group.Go(func() error {
		s.progress("building images")
		if err := s.publishImages(ctx); err != nil {
			return err
		}
		return runtimes[s.options.Runtime](s, ctx)
	})
	return s, group.Wait()
}

// newStack checks the options and makes the stack's directory.
func newStack(o Options) (*Stack, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start stack: must be root")
	}
	if o.BinDir == "" {
		o.BinDir = os.Getenv(BinEnv)
	}
	if o.BinDir == "" {
		return nil, fmt.Errorf("start stack: no programs: set %s, or use make, which builds them", BinEnv)
	}
	if o.Runtime == "" {
		o.Runtime = Containerd
	}
	if runtimes[o.Runtime] == nil {
		return nil, fmt.Errorf("start stack: unknown runtime %q: %s, %s or %s", o.Runtime, Containerd, Crid, Embedded)
	}
	if o.NoRegistry && o.Runtime != Embedded {
		return nil, fmt.Errorf("start stack: %s needs a registry", o.Runtime)
	}
	if o.ParentDir == "" {
		o.ParentDir = "/var/tmp"
	}
	if o.NodeName == "" {
		o.NodeName = "node"
	}
	if o.KubeletBinary == "" {
		o.KubeletBinary = os.Getenv(KubeletEnv)
	}
	if o.KubeletBinary == "" {
		root, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		o.KubeletBinary = filepath.Join(root, "bin", "kubelet")
	}
	if err := Sweep(o.ParentDir); err != nil {
		return nil, fmt.Errorf("remove dead stacks: %w", err)
	}
	bin, err := filepath.Abs(o.BinDir)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.ParentDir, namePrefix)
	if err != nil {
		return nil, fmt.Errorf("make directory of stack: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // containers of other users look into volumes
		return nil, err
	}
	s := &Stack{
		Name: filepath.Base(dir), Dir: dir, BinDir: bin, KubeletBinary: o.KubeletBinary, NodeName: o.NodeName,
		RuntimeSocket: filepath.Join(dir, "run", "cri.sock"), options: o, components: map[string]*component{},
	}
	s.runtimeArgs = []string{"--container-runtime-endpoint=unix://" + s.RuntimeSocket}
	s.print = footprint{Dir: dir, Name: s.Name, OwnerPid: os.Getpid(), OwnerStart: processStart(os.Getpid()), Keep: o.KeepDir, Kernel: kernelSettings()}
	s.cgroup = cgroupOf(s.Name)
	return s, nil
}

// prepare makes what the components need: directories, cgroup, namespace,
// certificates and clients.
func (s *Stack) prepare() error {
	if err := s.checkPrograms(); err != nil {
		return err
	}
	for _, dir := range []string{"log", "run", "pki", "images", "archives", "s", "manifests", "podlogs", "kubelet"} {
		if err := os.Mkdir(filepath.Join(s.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(s.mountRun(), s.mountKubeletDisk()); err != nil {
		return err
	}
	// Pods must not depend on how the machine resolves names.
	if err := os.WriteFile(filepath.Join(s.Dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		return err
	}
	if err := s.print.save(); err != nil {
		return err
	}
	var err error
	if s.stopJanitor, err = s.print.startJanitor(); err != nil {
		return err
	}
	if err := s.cgroup.create(); err != nil {
		return err
	}
	more := func() error { return nil }
	if s.options.OwnMachine {
		more = s.ownMachine
	}
	if s.ns, err = newNamespace(filepath.Join(s.Dir, "netns"), more); err != nil {
		return err
	}
	s.HTTP = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: s.ns.dialContext, DisableKeepAlives: true}}
	if s.CRI, err = dialCRI(s.RuntimeSocket); err != nil {
		return err
	}
	return s.prepareCredentials()
}

// checkPrograms names what is missing before anything starts.
func (s *Stack) checkPrograms() error {
	programs := []string{"runc", "bridge", "host-local", "portmap", "loopback"}
	if s.options.Runtime == Containerd {
		programs = append(programs, Containerd, "containerd-shim-runc-v2")
	}
	if !s.options.NoControlPlane {
		programs = append(programs, Etcd, APIServer, ControllerManager, "kubectl")
	}
	if s.options.Scheduler {
		programs = append(programs, Scheduler)
	}
	var missing []string
	for _, p := range programs {
		if info, err := os.Stat(s.Program(p)); err != nil || info.Mode()&0o111 == 0 {
			missing = append(missing, p)
		}
	}
	for _, p := range []string{"iptables", "mount", "go"} {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("start stack: programs missing (make deps stack): %s; looked in %s", strings.Join(missing, ", "), s.BinDir)
	}
	return nil
}

func (s *Stack) prepareCredentials() (err error) {
	if s.ca, err = newAuthority(filepath.Join(s.Dir, "pki")); err != nil {
		return err
	}
	s.AdminKubeconfig, err = s.ca.kubeconfig("admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	s.NodeKubeconfig, err = s.ca.kubeconfig("node", pkix.Name{CommonName: "system:node:" + s.NodeName, Organization: []string{"system:nodes"}})
	if err != nil {
		return err
	}
	s.kubeletServing, err = s.ca.issue("kubelet", pkix.Name{CommonName: "system:node:" + s.NodeName, Organization: []string{"system:nodes"}}, NodeIP, "127.0.0.1", s.NodeName)
	if err != nil || s.options.NoControlPlane {
		return err
	}
	if s.Config, err = clientcmd.BuildConfigFromFlags("", s.AdminKubeconfig); err != nil {
		return err
	}
	s.Config.Dial = s.ns.dialContext
	s.Config.QPS = -1
	s.Client, err = kubernetes.NewForConfig(s.Config)
	return err
}

// Close takes everything down: processes, containers, mounts, cgroups, the
// namespace, and, without KeepDir, the directory.
func (s *Stack) Close() error {
	if s.CRI != nil {
		_ = s.CRI.Close()
	}
	if s.Registry != nil {
		s.Registry.close()
	}
	err := errors.Join(s.races(), s.print.remove())
	if s.ns != nil {
		s.ns.close()
	}
	if s.stopJanitor != nil {
		s.stopJanitor()
	}
	if err != nil {
		return fmt.Errorf("take down stack %s: %w", s.Dir, err)
	}
	return nil
}

// Program is the path of one of the stack's programs.
func (s *Stack) Program(name string) string {
	if dir := os.Getenv(ControlPlaneEnv); dir != "" && (name == APIServer || name == ControllerManager) {
		return filepath.Join(dir, name)
	}
	return filepath.Join(s.BinDir, name)
}

// DialContext connects from inside the stack's network namespace.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.ns.dialContext(ctx, network, address)
}

// Listen listens inside the stack's network namespace, so that a test can serve
// what the kubelet or a pod asks for.
func (s *Stack) Listen(address string) (net.Listener, error) { return s.ns.listen(address) }

// ListenPacket is Listen for UDP.
func (s *Stack) ListenPacket(address string) (net.PacketConn, error) {
	return s.ns.listenPacket(address)
}

// NetnsPath is a file to enter the stack's network with: nsenter --net=PATH.
func (s *Stack) NetnsPath() string { return s.ns.path }

// CPUSeconds is the CPU time that the stack's programs, its kubelet and all pods have used so far.
func (s *Stack) CPUSeconds() (float64, error) { return cgroupOf(s.Name).cpuSeconds() }

// CgroupName is the stack's cgroup, and the kubelet's cgroupRoot without slash.
func (s *Stack) CgroupName() string { return s.Name }

func (s *Stack) auditLog() string { return filepath.Join(s.Dir, "log", "audit.log") }

func (s *Stack) progress(format string, args ...any) {
	if s.options.Progress != nil {
		s.options.Progress(format, args...)
	}
}

// moduleRoot is the directory of this module's go.mod.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module root: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
