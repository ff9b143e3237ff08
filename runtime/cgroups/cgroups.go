// Package cgroups keeps the kubelet's part of the cgroup tree: kubepods, its two tiers and one cgroup per pod,
// on cgroup v1, hybrid and v2.
//
//	kubepods                    all pods: allocatable memory, CPU shares, processes
//	  pod<uid>                  a guaranteed pod
//	  burstable/pod<uid>        shares of the tier = sum of its pods' requests
//	  besteffort/pod<uid>       shares 2
//
// The containers' own cgroups below a pod's belong to the runtime. A pod's cgroup is made right before its sandbox,
// on the path every pod waits for, so the mount table is read once, at New, and only the controllers the kubelet
// sets are made on v1; the runtime makes the others.
package cgroups

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	libcgroups "github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// The two drivers.
const (
	DriverCgroupfs = "cgroupfs"
	DriverSystemd  = "systemd"
)

// DriverLater is a value of Options.Driver: SetDriver will tell. Until then no cgroup has a path, and none is made.
const DriverLater = "later"

// errDriver says that SetDriver was not called yet.
var errDriver = errors.New("the cgroup driver is not known yet")

const unifiedRoot = "/sys/fs/cgroup"

// Options says how the tree looks. The zero value of Driver is cgroupfs, of Root is "/".
type Options struct {
	Driver            string                // cgroupDriver: cgroupfs or systemd; DriverLater if it is not known yet
	Root              string                // cgroupRoot: the existing cgroup kubepods is made in
	PerQOS            bool                  // cgroupsPerQOS: false makes no cgroups at all; pods then run in Root
	Capacity          corev1.ResourceList   // the machine; "pid" is its process limit
	Allocatable       corev1.ResourceList   // what is not reserved of it
	LimitPods         bool                  // enforceNodeAllocatable has "pods": all pods get no more than Allocatable
	Reservations      []Reservation         // what enforceNodeAllocatable has besides
	PodPidsLimit      int64                 // podPidsLimit: processes per pod; 0 or less for none
	CPUCFSQuota       bool                  // cpuCFSQuota: enforce CPU limits
	CPUCFSQuotaPeriod time.Duration         // cpuCFSQuotaPeriod, 100 ms by default
	ReserveMemory     bool                  // memoryReservationPolicy TieredReservation; cgroup v2 only
	Registerer        prometheus.Registerer // may be nil
}

// Manager makes and removes the kubelet's cgroups. Its methods may be called at the same time.
//
// Upstream: pkg/kubelet/cm/pod_container_manager_linux.go podContainerManagerImpl
type Manager struct {
	options Options
	took    *prometheus.HistogramVec // by operation, under upstream's name
	root    name
	unknown atomic.Bool // the driver is
	systemd atomic.Bool // is the driver
	unified bool
	mounts  map[string]string // controller -> mount point; "" on v2
	hugetlb bool              // the controller is optional

	mu      sync.Mutex
	ensured map[types.UID]Size

	qos       sync.Mutex // held while the tiers are written to, for which systemd is waited for; pods do not take it
	burstable uint64     // shares last written
	reserved  [2]int64   // bytes last written: of all pods, of the burstable ones
}

// New reads the cgroup mounts once and checks the options; it makes nothing. It fails for a missing cpu or memory
// controller, and as SetDriver does.
func New(options Options) (*Manager, error) {
	options.CPUCFSQuotaPeriod = cmp.Or(options.CPUCFSQuotaPeriod, 100*time.Millisecond)
	m := &Manager{
		options: options,
		took: promauto.With(options.Registerer).NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_cgroup_manager_duration_seconds", Help: "Seconds that making, changing or removing a cgroup took.", Buckets: prometheus.DefBuckets,
		}, []string{"operation_type"}),
		root:    parseName(options.Root),
		unified: libcgroups.IsCgroup2UnifiedMode(),
		ensured: map[types.UID]Size{},
	}
	for _, part := range m.root {
		if part == ".." || strings.ContainsAny(part, "_") {
			return nil, fmt.Errorf("cgroupRoot: %q has a part that cannot name a cgroup: %q", options.Root, part)
		}
	}
	var err error
	if m.mounts, err = readMounts(m.unified); err != nil {
		return nil, err
	}
	m.hugetlb = m.mounts["hugetlb"] != ""
	if m.unified {
		all, err := os.ReadFile(filepath.Join(unifiedRoot, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("read the cgroup controllers: %w", err)
		}
		m.hugetlb = slices.Contains(strings.Fields(string(all)), "hugetlb")
	}
	if options.PerQOS {
		m.root = m.root.child(kubepods)
	}
	if options.Driver == DriverLater {
		m.unknown.Store(true)
		return m, nil
	}
	if err := m.SetDriver(options.Driver); err != nil {
		return nil, err
	}
	return m, nil
}

// SetDriver says which driver counts: it is the runtime's, which may not be known when the kubelet starts. It comes before
// Setup. It fails for an unknown driver, and for systemd where systemd does not run.
func (m *Manager) SetDriver(driver string) error {
	switch driver {
	case "", DriverCgroupfs:
		m.systemd.Store(false)
	case DriverSystemd:
		// The library's error, where systemd does not run, comes here.
		if _, err := manager.New(systemdConfig(m.root.child(burstable), &libcgroups.Resources{})); err != nil {
			return fmt.Errorf("cgroupDriver systemd: %w", err)
		}
		m.systemd.Store(true)
	default:
		return fmt.Errorf("cgroupDriver: %q is neither %s nor %s", driver, DriverCgroupfs, DriverSystemd)
	}
	m.unknown.Store(false)
	return nil
}

// readMounts maps each controller to its mount point. Where one is mounted several times the shortest path is the
// machine's own.
func readMounts(unified bool) (map[string]string, error) {
	if unified {
		return map[string]string{"": unifiedRoot}, nil
	}
	mounts, err := libcgroups.GetCgroupMounts(true)
	if err != nil {
		return nil, fmt.Errorf("read the cgroup mounts: %w", err)
	}
	out := map[string]string{}
	for _, mount := range mounts {
		for _, subsystem := range mount.Subsystems {
			if old, ok := out[subsystem]; !ok || len(mount.Mountpoint) < len(old) {
				out[subsystem] = mount.Mountpoint
			}
		}
	}
	for _, needed := range []string{"cpu", "memory"} {
		if out[needed] == "" {
			return nil, fmt.Errorf("cgroup controller %q is not mounted", needed)
		}
	}
	return out, nil
}

// ErrLimitPods is part of Setup's error where all is made, but the pods could not be limited.
var ErrLimitPods = errors.New("limit all pods together")

// Setup limits the cgroups of reservations and makes or updates kubepods and its two tiers. It fails when one of the former, or
// cgroupRoot, does not exist.
func (m *Manager) Setup() error {
	if m.unknown.Load() {
		return errDriver
	}
	for _, r := range m.options.Reservations {
		if err := m.enforce(r); err != nil {
			return err
		}
	}
	if !m.options.PerQOS {
		return nil
	}
	parent := m.root[:len(m.root)-1]
	for _, controller := range m.controllers() {
		dir := filepath.Join(m.mounts[controller], m.path(parent))
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("cgroupRoot %s: controller %q: %w", m.options.Root, controller, err)
		}
	}
	unlimited := m.LimitPods()
	if unlimited != nil { // pods that run may use more already, and others need the cgroup all the same
		if err := m.apply(m.root, limits{}); err != nil {
			return err
		}
	}
	unbounded := hugepages(nil)
	for size := range unbounded {
		unbounded[size] = unboundedHugepages
	}
	if err := m.apply(m.root.child(burstable), limits{huge: unbounded}); err != nil {
		return err
	}
	if err := m.apply(m.root.child(bestEffort), limits{huge: unbounded, Size: Size{Shares: new(uint64(minShares))}}); err != nil || unlimited == nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLimitPods, unlimited)
}

// LimitPods limits all pods together. On cgroup v1 it fails as long as they use more memory than that.
func (m *Manager) LimitPods() error { return m.apply(m.root, m.options.nodeLimits()) }

// PodParent is the value of LinuxPodSandboxConfig.CgroupParent: the pod's cgroup in the driver's notation, or Root
// when there are no cgroups per QoS class.
func (m *Manager) PodParent(pod *corev1.Pod) string {
	if !m.options.PerQOS {
		return m.path(m.root)
	}
	return m.path(m.podName(pod))
}

// EnsurePod makes the pod's cgroup with its limits; it costs nothing when this process has already made it
// and the limits have not changed since.
func (m *Manager) EnsurePod(pod *corev1.Pod) error {
	if !m.options.PerQOS {
		return nil
	}
	if err := checkUID(pod.UID); err != nil {
		return fmt.Errorf("make cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	wanted := m.options.podLimits(pod)
	m.mu.Lock()
	has, done := m.ensured[pod.UID]
	m.mu.Unlock()
	if done && has.equal(wanted.Size) {
		return nil
	}
	defer m.time("create", time.Now())
	if err := m.apply(m.podName(pod), wanted); err != nil {
		return fmt.Errorf("make cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.mu.Lock()
	m.ensured[pod.UID] = wanted.Size
	m.mu.Unlock()
	return nil
}

// UpdateQOS sets the burstable tier's CPU shares to what the given pods ask for together, and reserves memory for them if
// that is asked for; all other pods of the node must be ended. It writes only what has changed.
func (m *Manager) UpdateQOS(pods []*corev1.Pod) error {
	if !m.options.PerQOS {
		return nil
	}
	shares := burstableShares(pods)
	m.qos.Lock()
	defer m.qos.Unlock()
	if err := m.reserve(pods); err != nil {
		return err
	}
	if m.burstable == shares {
		return nil
	}
	defer m.time("update", time.Now())
	if err := m.apply(m.root.child(burstable), limits{Size: Size{Shares: &shares}}); err != nil {
		return err
	}
	m.burstable = shares
	return nil
}

// reserve gives the tiers the memory that those of their pods need: a cgroup protects no more than its parent does.
func (m *Manager) reserve(pods []*corev1.Pod) error {
	if !m.unified || !m.options.ReserveMemory {
		return nil
	}
	low := memoryRequests(pods, corev1.PodQOSBurstable)
	reserved := [2]int64{memoryRequests(pods, corev1.PodQOSGuaranteed) + low, low}
	if m.reserved == reserved {
		return nil
	}
	if err := m.apply(m.root, limits{unified: MemoryReservation(corev1.PodQOSGuaranteed, reserved[0])}); err != nil {
		return err
	}
	if err := m.apply(m.root.child(burstable), limits{unified: MemoryReservation(corev1.PodQOSBurstable, reserved[1])}); err != nil {
		return err
	}
	m.reserved = reserved
	return nil
}

// time is deferred by what is timed.
func (m *Manager) time(operation string, start time.Time) {
	m.took.WithLabelValues(operation).Observe(time.Since(start).Seconds())
}

// controllers are the hierarchies the kubelet itself sets, of those this machine has.
func (m *Manager) controllers() []string {
	if m.unified {
		return []string{""}
	}
	var out []string
	for _, controller := range []string{"cpu", "memory", "pids", "hugetlb"} {
		if m.mounts[controller] != "" {
			out = append(out, controller)
		}
	}
	return out
}

func (m *Manager) apply(n name, l limits) error {
	if m.unknown.Load() {
		return errDriver
	}
	config := m.config(n, l)
	var paths map[string]string
	if !m.systemd.Load() {
		paths = map[string]string{}
		for _, controller := range m.controllers() {
			paths[controller] = filepath.Join(m.mounts[controller], m.path(n))
		}
	}
	handle, err := manager.NewWithPaths(config, paths)
	if err == nil {
		// -1 is the library's way to make the directories and move no process.
		if err = handle.Apply(-1); err == nil {
			err = handle.Set(config.Resources)
		}
	}
	if err != nil {
		return fmt.Errorf("set cgroup %s: %w", m.path(n), err)
	}
	return nil
}

func (m *Manager) config(n name, l limits) *libcgroups.Cgroup {
	r := &libcgroups.Resources{SkipDevices: true, SkipFreezeOnSet: true, PidsLimit: l.pids}
	if m.unified {
		r.Unified = l.unified
	}
	if l.Shares != nil && m.unified {
		r.CpuWeight = sharesToWeight(*l.Shares)
	} else if l.Shares != nil {
		r.CpuShares = *l.Shares
	}
	if l.Quota != nil {
		r.CpuQuota, r.CpuPeriod = *l.Quota, uint64(m.options.CPUCFSQuotaPeriod.Microseconds())
	}
	r.Memory = ptr.Deref(l.Memory, 0)
	if m.hugetlb {
		for size, bytes := range l.huge {
			r.HugetlbLimit = append(r.HugetlbLimit, &libcgroups.HugepageLimit{Pagesize: size, Limit: uint64(bytes)})
		}
	}
	if !m.systemd.Load() {
		return &libcgroups.Cgroup{Path: n.cgroupfs(), Resources: r}
	}
	return systemdConfig(n, r)
}

func systemdConfig(n name, r *libcgroups.Resources) *libcgroups.Cgroup {
	dir, base := path.Split(n.systemd())
	parent := path.Base(dir)
	if parent == "/" {
		parent = "-" + sliceSuffix
	}
	return &libcgroups.Cgroup{Systemd: true, Parent: parent, Name: base, Resources: r}
}
