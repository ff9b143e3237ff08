package node

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"

	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
)

// hardware is what was read of the machine, once.
type hardware struct {
	cpus                                  int64
	memory, swap, storage                 int64 // bytes
	pids                                  int64 // processes there may be, 0 if unknown
	hugepages                             map[string]int64
	machineID, systemUUID, bootID, kernel string
	osImage                               string
	cgroupV2                              bool // the only hierarchy
	userNamespace                         bool // the kubelet's is not the machine's
}

// readMachine reads the machine, and the size of the disk that holds dir.
//
// Upstream: cadvisor's machine info, pkg/kubelet/nodestatus/setters.go MachineInfo.
func readMachine(from *measure.Machine, dir string) (m hardware, err error) {
	if m.cpus = int64(from.CPUs()); m.cpus == 0 {
		m.cpus = int64(runtime.NumCPU())
	}
	// Upstream's kubelet offers pods all memory of the machine, also where the node is a container that may have less.
	if m.memory, m.swap, err = from.Memory(); err != nil {
		return m, err
	}
	disk, _, err := measure.Filesystem(dir)
	if err != nil {
		return m, err
	}
	m.storage = int64(*disk.CapacityBytes)
	sizes, err := from.HugePages()
	if err != nil {
		return m, err
	}
	m.hugepages = map[string]int64{}
	for size, bytes := range sizes {
		m.hugepages[corev1.ResourceHugePagesPrefix+resource.NewQuantity(size, resource.BinarySI).String()] = bytes
	}
	if most := from.PIDs().MaxPID; most != nil {
		m.pids = *most
	}
	m.machineID = cmp.Or(from.Read("etc/machine-id"), from.Read("var/lib/dbus/machine-id"))
	m.systemUUID = cmp.Or(from.Read("sys/class/dmi/id/product_uuid"), m.machineID)
	m.bootID, m.kernel = from.Read("proc/sys/kernel/random/boot_id"), from.Read("proc/sys/kernel/osrelease")
	m.osImage = osName(from.Read("etc/os-release"))
	m.cgroupV2 = from.Unified()
	users := strings.Fields(from.Read("proc/self/uid_map"))
	m.userNamespace = len(users) > 0 && !slices.Equal(users, []string{"0", "0", "4294967295"})
	return m, nil
}

// checkReservedCPUs tells whether reservedSystemCPUs names CPUs that the machine does not have, or not online. A kernel that
// does not say which are online is taken to have them all.
//
// Upstream: cmd/kubelet/app/server.go getReservedCPUs.
func checkReservedCPUs(from *measure.Machine, reserved string) error {
	cpus, err := cpuset.Parse(reserved)
	if err != nil {
		return fmt.Errorf("reservedSystemCPUs: %w", err)
	}
	online, err := cpuset.Parse(from.Read("sys/devices/system/cpu/online"))
	if known := err == nil && !online.IsEmpty(); !known || cpus.IsSubsetOf(online) {
		return nil
	}
	return fmt.Errorf("reservedSystemCPUs: %s are not all among the CPUs that are online, %s", cpus, online)
}

// osName is the PRETTY_NAME of /etc/os-release.
func osName(release string) string {
	for line := range strings.Lines(release) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

// podLimit is how many pods may run here: maxPods, or fewer if podsPerCore says so.
func podLimit(s *settings.Settings, cpus int64) int32 {
	if s.PodsPerCore == 0 {
		return s.MaxPods
	}
	return int32(min(int64(s.MaxPods), int64(s.PodsPerCore)*cpus))
}

func (m hardware) capacity(maxPods int32) corev1.ResourceList {
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(m.cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.storage, resource.DecimalSI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for name, bytes := range m.hugepages {
		list[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// withPIDs adds the number of processes, of which the apiserver is not told.
func (m hardware) withPIDs(capacity corev1.ResourceList) corev1.ResourceList {
	list := capacity.DeepCopy()
	if m.pids > 0 {
		list[pid] = *resource.NewQuantity(m.pids, resource.DecimalSI)
	}
	return list
}

// pid is the name of the number of processes in reservations and among what all pods together are held to.
const pid corev1.ResourceName = "pid"

// reserve takes what is reserved from the capacity: what is left is what pods may use in all. They must be able to
// reach the threshold of eviction, or no pod would ever be evicted.
func reserve(capacity corev1.ResourceList, s *settings.Settings) (corev1.ResourceList, error) {
	left := capacity.DeepCopy()
	for field, reserved := range map[string]map[string]string{"kubeReserved": s.KubeReserved, "systemReserved": s.SystemReserved} {
		for name, text := range reserved {
			quantity, err := resource.ParseQuantity(text)
			if _, counted := capacity[corev1.ResourceName(name)]; err == nil && counted {
				err = take(left, corev1.ResourceName(name), quantity)
			}
			if err != nil {
				return nil, fmt.Errorf("%s[%s]: %w", field, name, err)
			}
		}
	}
	return left, nil
}

// allocatable takes what must stay free, and huge pages, from what pods may use: what is left is what they may request.
func allocatable(capacity, reserved corev1.ResourceList, s *settings.Settings) (corev1.ResourceList, error) {
	left := reserved.DeepCopy()
	for _, threshold := range s.EvictionThresholds() {
		name := map[string]corev1.ResourceName{"memory.available": corev1.ResourceMemory, "nodefs.available": corev1.ResourceEphemeralStorage}[threshold.Signal]
		total, counted := capacity[name]
		if threshold.GracePeriod > 0 || !counted {
			continue
		}
		if err := take(left, name, *resource.NewQuantity(threshold.Value.Of(total.Value()), resource.BinarySI)); err != nil {
			return nil, fmt.Errorf("evictionHard[%s]: %w", threshold.Signal, err)
		}
	}
	// Huge pages are the machine's memory too. Where they leave less than what is reserved, pods may request none.
	memory := left[corev1.ResourceMemory]
	for name, bytes := range capacity {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			memory.Sub(bytes)
		}
	}
	if memory.Sign() < 0 {
		memory.Set(0)
	}
	left[corev1.ResourceMemory] = memory
	return left, nil
}

// take lessens a resource of a list.
func take(list corev1.ResourceList, name corev1.ResourceName, amount resource.Quantity) error {
	have := list[name]
	left := have.DeepCopy()
	left.Sub(amount)
	if left.Sign() < 0 {
		return fmt.Errorf("%s is more than the %s that are left of the machine's %s", amount.String(), have.String(), name)
	}
	list[name] = left
	return nil
}

func (m hardware) labels(name string) map[string]string {
	return map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}
