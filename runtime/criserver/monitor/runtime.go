package monitor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"

	"minikubelet/runtime/criserver/bounded"
)

// Runtime is an OCI runtime and where it keeps its containers.
type Runtime struct {
	Path    string
	Root    string
	Systemd bool   // cgroups are made by systemd
	Version string // set by Check
	// Runc is set by Check for runc, which can run a command in a cgroup below the container's, and whose containers wait
	// for their start at exec.fifo in their directory.
	Runc bool
	// RecursiveReadOnly is set by ReadFeatures for a runtime that makes mounts read-only together with those below them, and
	// NoUserNamespaces for one whose containers cannot be in user namespaces: it says why not.
	RecursiveReadOnly bool
	NoUserNamespaces  error `json:"-"`
}

// Name is the runtime's name for messages.
func (r *Runtime) Name() string { return filepath.Base(r.Path) }

// arguments come before the runtime's subcommand. Without a directory for its log it writes errors to stderr.
func (r *Runtime) arguments(logDir string) []string {
	args := []string{"--root=" + r.Root}
	if logDir != "" {
		args = append(args, "--log="+filepath.Join(logDir, runtimeLog), "--log-format=json")
	}
	if r.Systemd {
		args = append(args, "--systemd-cgroup")
	}
	return args
}

// run executes a subcommand and returns its output.
func (r *Runtime) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	stdout, stderr := &bounded.Buffer{Limit: 4 << 20}, &bounded.Buffer{Limit: maxMessage}
	cmd := exec.CommandContext(ctx, r.Path, append(r.arguments(""), args...)...)
	cmd.Env = environment()
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", r.Name(), args[0], err, runtimeError(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// Delete removes what the runtime keeps of a container that has ended, and its cgroup. With
// force it kills what is left first. A container that is not there is no error.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	if !r.Knows(id) {
		return nil
	}
	args := []string{"delete", id}
	if force {
		args = append(args, "--force")
	}
	_, err := r.run(ctx, nil, args...)
	if err != nil && !r.Knows(id) {
		return nil
	}
	return err
}

// Knows tells whether the runtime has a container of that ID. runc and crun keep a directory
// for each, and looking costs no process.
func (r *Runtime) Knows(id string) bool {
	_, err := os.Stat(filepath.Join(r.Root, id))
	return err == nil
}

// State asks the runtime for a container's state.
func (r *Runtime) State(ctx context.Context, id string) (*specs.State, error) {
	out, err := r.run(ctx, nil, "state", id)
	if err != nil {
		return nil, err
	}
	state := new(specs.State)
	if err := json.Unmarshal(out, state); err != nil {
		return nil, fmt.Errorf("read state of %s from %s: %w", id, r.Name(), err)
	}
	return state, nil
}

// ReadFeatures asks the runtime what it can do. What its answer does not name it cannot do; without an answer, nothing of this.
func (r *Runtime) ReadFeatures(ctx context.Context) error {
	var said features.Features
	out, err := r.run(ctx, nil, "features")
	if err == nil {
		err = json.Unmarshal(out, &said)
	}
	r.RecursiveReadOnly = slices.Contains(said.MountOptions, "rro")
	if linux := said.Linux; linux == nil || !slices.Contains(linux.Namespaces, "user") || linux.MountExtensions == nil ||
		linux.MountExtensions.IDMap == nil || linux.MountExtensions.IDMap.Enabled == nil || !*linux.MountExtensions.IDMap.Enabled {
		r.NoUserNamespaces = fmt.Errorf("%s has no ID-mapped mounts", r.Name())
	}
	if err != nil {
		return fmt.Errorf("read features of %s: %w", r.Name(), err)
	}
	return nil
}

// Update changes the cgroup of a container.
func (r *Runtime) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	data, err := json.Marshal(resources)
	if err == nil {
		_, err = r.run(ctx, data, "update", "--resources", "-", id)
	}
	return err
}

// versionPattern reads 1.5.3, 1.4.0-rc.2, 1.20 and, of packages, 1.3.6~rc1+ds1. What follows a plus sign, or is a
// package's own count as in 1.3.6-0ubuntu1, comes after the release.
var versionPattern = regexp.MustCompile(`(?m)^(runc|crun|youki) version (\d+\.\d+)(\.\d+)?([-~.]?(?:rc|alpha|beta|pre|dev)[-.~]?\d*)?`)

// oldest are the releases without known ways out of a container, but for those that take a container which was
// checkpointed and is restored, which this server does not do:
//
//	runc CVE-2025-31133, -52565, -52881 and CVE-2026-41579; left aside: CVE-2026-119101
//	crun CVE-2025-24965 and CVE-2026-47766; left aside: CVE-2026-115520
var oldest = map[string][]string{
	"runc": {"1.3.6", "1.4.3", "1.5.0"},
	"crun": {"1.28.0"},
}

// Check asks the program for its version and refuses one that is known to be unsafe. The first
// of several safe releases count for their minor version only.
func (r *Runtime) Check(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, r.Path, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask OCI runtime %s for its version: %w", r.Path, err)
	}
	r.Version, err = checkVersion(string(out))
	r.Runc = strings.HasPrefix(r.Version, "runc ")
	return err
}

func checkVersion(out string) (string, error) {
	match := versionPattern.FindStringSubmatch(out)
	if match == nil {
		first, _, _ := strings.Cut(out, "\n")
		return strings.TrimSpace(first), nil // another runtime: its user knows
	}
	name, minor, release, candidate := match[1], match[2], match[2]+cmp.Or(match[3], ".0"), match[4]
	text := name + " " + release + candidate
	safe := oldest[name]
	if len(safe) == 0 {
		return text, nil
	}
	least := safe[len(safe)-1]
	if i := slices.IndexFunc(safe, func(s string) bool { return strings.HasPrefix(s, minor+".") }); i >= 0 {
		least = safe[i]
	}
	// A release candidate comes before the release.
	if order, err := version.MustParseGeneric(least).Compare(release); err != nil || order > 0 || order == 0 && candidate != "" {
		return text, fmt.Errorf("%s has known ways out of a container: use one of %s or newer", text, strings.Join(safe, ", "))
	}
	return text, nil
}

// Start lets the first process of a created container go. That of runc waits until its FIFO is read, which needs no
// process of runc. Other runtimes, and containers without that FIFO, are started by the runtime's program.
func (r *Runtime) Start(ctx context.Context, id string, init *Handle) error {
	if r.Runc && init != nil {
		err := readFIFO(ctx, filepath.Join(r.Root, id, "exec.fifo"), init)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err := r.run(ctx, nil, "start", id)
	return err
}

// readFIFO waits for the byte that the first process of a container writes before it executes the container's program,
// and removes the FIFO, which tells runc that the container was started.
func readFIFO(ctx context.Context, path string, init *Handle) error {
	// Without O_NONBLOCK this would wait for the process to open it, which one that has ended never does.
	fifo, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer fifo.Close()
	raw, err := fifo.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = fifo.SetReadDeadline(time.Now()) })
	defer stop()
	// The wait for the byte ends with the process, too. That is waited for by a second handle, which can be closed meanwhile.
	process, err := Open(init.PID, init.Start)
	if err == nil {
		defer process.Close()
		go func() {
			if process.Wait(context.WithoutCancel(ctx)) == nil {
				_ = fifo.SetReadDeadline(time.Now())
			}
		}()
		_ = raw.Read(readable)
	}
	var n int
	var readErr error
	if err := raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), make([]byte, 1)) }); err != nil {
		return err
	}
	if n != 1 {
		return errors.Join(fmt.Errorf("start process %d: it has ended or did not answer", init.PID), ctx.Err(), readErr)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
