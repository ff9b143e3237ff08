package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"minikubelet/kubelet/settings"
)

// machine is what was read of the machine, once.
type machine struct {
	cpus                                  int64
	memory, swap, storage                 int64 // bytes
	hugepages                             map[string]int64
	machineID, systemUUID, bootID, kernel string
	osImage                               string
}

// readMachine reads the machine below root, and the size of the disk that holds dir.
//
// Upstream: cadvisor's machine info, pkg/kubelet/nodestatus/setters.go MachineInfo.
func readMachine(root, dir string) (machine, error) {
	m := machine{cpus: int64(runtime.NumCPU()), hugepages: map[string]int64{}}
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	mem, err := readMeminfo(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return m, fmt.Errorf("read the machine's memory: %w", err)
	}
	m.memory, m.swap = mem["MemTotal"], mem["SwapTotal"]
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
	m.machineID = read("etc/machine-id")
	m.bootID = read("proc/sys/kernel/random/boot_id")
	m.kernel = read("proc/sys/kernel/osrelease")
	if m.systemUUID = read("sys/class/dmi/id/product_uuid"); m.systemUUID == "" {
		m.systemUUID = m.machineID
	}
	m.osImage = osName(read("etc/os-release"))
	return m, nil
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

// allocatable takes what is reserved, and what must stay free, from the capacity.
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go GetNodeAllocatableReservation.
func allocatable(capacity corev1.ResourceList, s *settings.Settings) (corev1.ResourceList, error) {
	left := capacity.DeepCopy()
	for field, reserved := range map[string]map[string]string{"kubeReserved": s.KubeReserved, "systemReserved": s.SystemReserved} {
		for name, text := range reserved {
			if name == "pid" {
				continue
			}
			if err := take(left, corev1.ResourceName(name), text); err != nil {
				return nil, fmt.Errorf("%s[%s]: %w", field, name, err)
			}
		}
	}
	if text := s.EvictionHard["memory.available"]; text != "" && !strings.HasSuffix(text, "%") {
		if err := take(left, corev1.ResourceMemory, text); err != nil {
			return nil, fmt.Errorf("evictionHard[memory.available]: %w", err)
		}
	}
	// Huge pages are the machine's memory too.
	for name, bytes := range left {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			memory := left[corev1.ResourceMemory]
			memory.Sub(bytes)
			left[corev1.ResourceMemory] = memory
		}
	}
	return left, nil
}

func take(list corev1.ResourceList, name corev1.ResourceName, text string) error {
	reserved, err := resource.ParseQuantity(text)
	if err != nil {
		return err
	}
	left := list[name]
	left.Sub(reserved)
	if left.Sign() < 0 {
		have := list[name]
		return fmt.Errorf("%s is more than the machine's %s", text, have.String())
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

// defaultAddress is the address of the interface that the default route leaves by.
//
// Upstream: apimachinery/pkg/util/net/interface.go ChooseHostInterface.
func defaultAddress() (net.IP, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	for _, route := range routes {
		if route.Dst != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := netlink.LinkByIndex(route.LinkIndex)
		if err != nil {
			continue
		}
		addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if a.IP.IsGlobalUnicast() {
				return a.IP, nil
			}
		}
	}
	return nil, errors.New("no interface with a default route has a global address")
}
