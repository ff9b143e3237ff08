package stack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Teardown does not depend on what the stack's owner remembers: everything a
// stack leaves on the machine is found from its directory and its cgroup. So
// the same code runs from Close, from the janitor after the owner was killed,
// and from Sweep for what even the janitor could not do.

const (
	cgroupMount = "/sys/fs/cgroup"
	stateFile   = "stack.json"
	janitorEnv  = "MINIKUBELET_STACK_JANITOR"
)

// footprint is what remains to be known of a stack when its owner is gone.
type footprint struct {
	Dir        string
	Name       string // also the cgroup's and the CNI network's name
	OwnerPid   int
	OwnerStart string // start time from /proc/PID/stat, since pids are reused
	Keep       bool   // leave the directory with the logs
	// Kernel are the kernel settings that kubelets change, by their path, as they were before.
	Kernel map[string]string
}

// cgroupTree is a stack's cgroup: one directory in each v1 hierarchy, or one in v2.
type cgroupTree struct{ dirs []string }

func cgroupOf(name string) cgroupTree {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return cgroupTree{dirs: []string{filepath.Join(cgroupMount, name)}}
	}
	hierarchies, _ := filepath.Glob(filepath.Join(cgroupMount, "*", "cgroup.procs"))
	var t cgroupTree
	for _, h := range hierarchies {
		dir := filepath.Join(filepath.Dir(h), name)
		if target, err := filepath.EvalSymlinks(filepath.Dir(h)); err == nil && target == filepath.Dir(h) {
			t.dirs = append(t.dirs, dir)
		}
	}
	return t
}

// create makes the tree; the child "stack" holds the stack's own processes,
// because v2 allows processes in leaves only.
func (t cgroupTree) create() error {
	if len(t.dirs) == 0 {
		return fmt.Errorf("no cgroup hierarchy under %s", cgroupMount)
	}
	for _, dir := range t.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return os.MkdirAll(filepath.Dir(t.procs()), 0o755)
}

// procs is the file that takes the stack's own processes. Any one hierarchy is
// enough to find them again; the one that counts CPU time needs no setting up,
// unlike cpuset.
func (t cgroupTree) procs() string { return filepath.Join(t.counting(), "stack", "cgroup.procs") }

// counting is the tree's directory that counts CPU time.
func (t cgroupTree) counting() string {
	for _, d := range t.dirs {
		if strings.Contains(filepath.Base(filepath.Dir(d)), "cpuacct") {
			return d
		}
	}
	return t.dirs[0]
}

// cpuSeconds is the CPU time that everything in the tree has used so far.
func (t cgroupTree) cpuSeconds() (float64, error) {
	if data, err := os.ReadFile(filepath.Join(t.counting(), "cpuacct.usage")); err == nil {
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
		return ns / 1e9, err
	}
	data, err := os.ReadFile(filepath.Join(t.counting(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	var us float64
	if _, err := fmt.Sscanf(string(data), "usage_usec %f", &us); err != nil {
		return 0, fmt.Errorf("read cpu.stat %q: %w", data, err)
	}
	return us / 1e6, nil
}

// walk lists the tree's directories, children first.
func (t cgroupTree) walk() []string {
	var all []string
	for _, root := range t.dirs {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil // vanished meanwhile
		})
	}
	slices.SortFunc(all, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return all
}

// pids lists the processes in the tree.
func (t cgroupTree) pids() []int {
	seen := map[int]bool{}
	for _, dir := range t.walk() {
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for line := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(line); err == nil && pid != os.Getpid() {
				seen[pid] = true
			}
		}
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// remove kills what runs in the tree and removes it.
func (t cgroupTree) remove() error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		pids := t.pids()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		var errs []error
		if len(pids) == 0 {
			for _, dir := range t.walk() {
				if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
			}
			if len(errs) == 0 {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroups, processes left %v: %w", pids, errors.Join(errs...))
		}
		// The kernel announces neither the end of foreign processes in v1 nor
		// when a dying cgroup may be removed.
		time.Sleep(20 * time.Millisecond)
	}
}

// mountsUnder lists the mount points below dir, innermost last.
func mountsUnder(dir string) []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var mounts []string
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4])
		if strings.HasPrefix(point, dir+"/") {
			mounts = append(mounts, point)
		}
	}
	return mounts
}

// strayFiles lists files outside the stack's directory that runtimes and
// kubelets make: links to container logs, and libcni's result cache.
func (f footprint) strayFiles() []string {
	var stray []string
	links, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, f.Dir+"/") {
			stray = append(stray, link)
		}
	}
	results, _ := filepath.Glob("/var/lib/cni/results/" + f.Name + "-*-eth0")
	for _, result := range results {
		stray = append(stray, result)
		// The loopback network's name is the same everywhere; the sandbox's is not.
		sandbox := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(result), f.Name+"-"), "-eth0")
		if loopback := "/var/lib/cni/results/cni-loopback-" + sandbox + "-lo"; exists(loopback) {
			stray = append(stray, loopback)
		}
	}
	return stray
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// remove takes down everything of the stack. It may be called again.
func (f footprint) remove() error {
	errs := []error{cgroupOf(f.Name).remove()}
	mounts := mountsUnder(f.Dir)
	for _, point := range slices.Backward(mounts) {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	for _, path := range f.strayFiles() {
		errs = append(errs, os.Remove(path))
	}
	for path, value := range f.Kernel {
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !f.Keep {
		return os.RemoveAll(f.Dir)
	}
	if err := os.Remove(filepath.Join(f.Dir, stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// What is bulky and tells nothing; logs, configuration and keys stay.
	for _, sub := range []string{"etcd", "containerd", "crid", "run", "images", "sockets", "kubelet"} {
		if err := os.RemoveAll(filepath.Join(f.Dir, sub)); err != nil {
			return err
		}
	}
	return nil
}

// kernelSettings reads the kernel settings that a kubelet changes unless it protects them, so that remove can put them back. One that cannot be
// written here is left out.
func kernelSettings() map[string]string {
	settings := map[string]string{}
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		path := filepath.Join("/proc/sys", name)
		if data, err := os.ReadFile(path); err == nil && unix.Access(path, unix.W_OK) == nil {
			settings[path] = string(data)
		}
	}
	return settings
}

// save records the footprint, before there is anything to clean up.
func (f footprint) save() error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(f.Dir, stateFile), data, 0o600)
}

// Sweep takes down the stacks below parent whose owner is gone.
func Sweep(parent string) error {
	states, _ := filepath.Glob(filepath.Join(parent, namePrefix+"*", stateFile))
	var errs []error
	for _, state := range states {
		data, err := os.ReadFile(state)
		if err != nil {
			continue // its owner was faster
		}
		var f footprint
		if err := json.Unmarshal(data, &f); err != nil || f.Dir != filepath.Dir(state) || !strings.HasPrefix(f.Name, namePrefix) {
			continue // not ours to delete
		}
		if start := processStart(f.OwnerPid); start != "" && start == f.OwnerStart {
			continue
		}
		errs = append(errs, f.remove())
	}
	return errors.Join(errs...)
}

// processStart is the start time of a process in clock ticks since boot, empty
// when there is no such process.
func processStart(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The command name may contain spaces and brackets; fields count from its end.
	_, rest, _ := bytes.Cut(data[bytes.LastIndexByte(data, ')'):], []byte(" "))
	fields := strings.Fields(string(rest))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// startJanitor starts a copy of this program that waits for the end of its
// standard input, that is, of this process, and then removes the stack.
// PDEATHSIG alone is not enough: containers and shims are nobody's children.
func (f footprint) startJanitor() (stop func(), err error) {
	data, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), janitorEnv+"="+string(data))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start janitor: %w", err)
	}
	return func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}, nil
}

// init turns the process into a janitor when startJanitor started it.
func init() {
	state := os.Getenv(janitorEnv)
	if state == "" {
		return
	}
	var f footprint
	if err := json.Unmarshal([]byte(state), &f); err != nil {
		fmt.Fprintln(os.Stderr, "stack janitor:", err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := f.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "stack janitor:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
