package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"minikubelet/kubelet/nodecgroup"
	"minikubelet/kubelet/settings"
)

// machine is what was read of the machine, once.
type machine struct {
	cpus                                  int64
	memory, swap, storage                 int64 // bytes
	pids                                  int64 // processes there may be, 0 if unknown
	hugepages                             map[string]int64
	machineID, systemUUID, bootID, kernel string
	osImage                               string
	cgroupV2                              bool // the only hierarchy
}

// readMachine reads the machine below root, and the size of the disk that holds dir.
//
// Upstream: cadvisor's machine info, pkg/kubelet/nodestatus/setters.go MachineInfo.
func readMachine(root, dir string) (machine, error) {
	m := machine{hugepages: map[string]int64{}}
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	if m.cpus = countCPUs(read("proc/cpuinfo")); m.cpus == 0 {
		m.cpus = int64(runtime.NumCPU()) // architectures that list them otherwise
	}
	mem, err := readMeminfo(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return m, fmt.Errorf("read the machine's memory: %w", err)
	}
	m.memory, m.swap = mem["MemTotal"], mem["SwapTotal"]
	container, err := nodecgroup.Memory(root)
	if err != nil {
		return m, err
	}
	if container != nil { // upstream's kubelet offers pods all memory of the machine, whatever the container may have of it
		m.memory = min(m.memory, container.Limit)
	}
	if m.memory == 0 {
		return m, errors.New("read the machine's memory: /proc/meminfo has no MemTotal")
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return m, fmt.Errorf("read the size of the disk of %s: %w", dir, err)
	}
	m.storage = int64(disk.Blocks) * disk.Bsize
	if err := m.readHugepages(filepath.Join(root, "sys/kernel/mm/hugepages")); err != nil {
		return m, err
	}
	for _, file := range []string{"proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"} {
		if n, err := strconv.ParseInt(read(file), 10, 64); err == nil && (m.pids == 0 || n < m.pids) {
			m.pids = n
		}
	}
	if m.machineID = read("etc/machine-id"); m.machineID == "" {
		m.machineID = read("var/lib/dbus/machine-id")
	}
	m.bootID = read("proc/sys/kernel/random/boot_id")
	m.kernel = read("proc/sys/kernel/osrelease")
	if m.systemUUID = read("sys/class/dmi/id/product_uuid"); m.systemUUID == "" {
		m.systemUUID = m.machineID
	}
	m.osImage = osName(read("etc/os-release"))
	m.cgroupV2 = read("sys/fs/cgroup/cgroup.controllers") != ""
	return m, nil
}

// countCPUs counts the online processors of /proc/cpuinfo. What this process may use of them is no matter: pods are
// not held to it.
func countCPUs(cpuinfo string) (n int64) {
	for line := range strings.Lines(cpuinfo) {
		if name, _, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "processor" {
			n++
		}
	}
	return n
}

// readMeminfo reads /proc/meminfo into bytes.
func readMeminfo(path string) (map[string]int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values := map[string]int64{}
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) == 3 && fields[2] == "kB" {
			n <<= 10
		}
		values[strings.TrimSuffix(fields[0], ":")] = n
	}
	return values, scanner.Err()
}

// readHugepages adds up each size's pages: a directory hugepages-2048kB holds nr_hugepages.
func (m *machine) readHugepages(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read huge pages: %w", err)
	}
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name(), "nr_hugepages"))
		if err != nil {
			return fmt.Errorf("read huge pages: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return fmt.Errorf("read huge pages: %w", err)
		}
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		m.hugepages[corev1.ResourceHugePagesPrefix+size.String()] = n * kb << 10
	}
	return nil
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

func (m machine) capacity(maxPods int32) corev1.ResourceList {
	list := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(m.cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.storage, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for name, bytes := range m.hugepages {
		list[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// withPIDs adds the number of processes, of which the apiserver is not told.
//
// Upstream: pkg/kubelet/cm/container_manager_linux.go NewContainerManager's internalCapacity.
func (m machine) withPIDs(capacity corev1.ResourceList) corev1.ResourceList {
	list := capacity.DeepCopy()
	if m.pids > 0 {
		list[pid] = *resource.NewQuantity(m.pids, resource.DecimalSI)
	}
	return list
}

// pid is the name of the number of processes in reservations and among what all pods together are held to.
const pid corev1.ResourceName = "pid"

// reserve takes what is reserved from the capacity: what is left is what pods may use in all. They must be able to
// reach the threshold of eviction, or nobody would ever be evicted.
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go getNodeAllocatableAbsoluteImpl.
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
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go GetNodeAllocatableReservation.
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
	// Huge pages are the machine's memory too.
	for name, bytes := range capacity {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			if err := take(left, corev1.ResourceMemory, bytes); err != nil {
				return nil, fmt.Errorf("huge pages: %w", err)
			}
		}
	}
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

func (m machine) labels(name string) map[string]string {
	return map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}
