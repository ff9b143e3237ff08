package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/prometheus/procfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Process returns what one process uses. Of its memory the kernel tells only what it has mapped.
func (m *Machine) Process(pid int) (u Usage) {
	p, err := m.proc.Proc(pid)
	if err != nil {
		return u
	}
	stat, err := p.Stat()
	if err != nil {
		return u
	}
	now := metav1.NewTime(time.Now())
	used := uint64(stat.ResidentMemory())
	u.CPU = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: new(uint64(stat.CPUTime() * 1e9))}
	u.Memory = &statsapi.MemoryStats{
		Time: now, UsageBytes: &used, WorkingSetBytes: new(used), RSSBytes: new(used),
		PageFaults: new(uint64(stat.MinFlt + stat.MajFlt)), MajorPageFaults: new(uint64(stat.MajFlt)),
	}
	if status, err := p.NewStatus(); err == nil {
		u.Memory.RSSBytes = new(status.RssAnon)
		u.Swap = &statsapi.SwapStats{Time: now, SwapUsageBytes: new(status.VmSwap)}
	}
	return u
}

// CgroupOf returns the cgroup that a process is in, "" for the root or one that cannot be seen from here.
func (m *Machine) CgroupOf(pid int) string {
	p, err := m.proc.Proc(pid)
	if err != nil {
		return ""
	}
	list, err := p.Cgroups()
	if err != nil {
		return ""
	}
	for _, c := range list {
		if m.unified && c.HierarchyID == 0 || !m.unified && slices.Contains(c.Controllers, "memory") {
			if c.Path != "/" && !strings.HasPrefix(c.Path, "/..") {
				return c.Path
			}
		}
	}
	return ""
}

// Processes lists the processes of a cgroup, without those below it.
func (m *Machine) Processes(cgroup string) (pids []procfs.Proc, err error) {
	text, err := cgroups.ReadFile(m.anyDir(cgroup), "cgroup.procs")
	if err != nil {
		return nil, err
	}
	for field := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("read cgroup.procs: %w", err)
		}
		if p, err := m.proc.Proc(pid); err == nil {
			pids = append(pids, p)
		}
	}
	return pids, nil
}

// Network returns the traffic of the namespace that the kubelet is in, and all that the kernel counts of the interfaces there.
func (m *Machine) Network() (*statsapi.NetworkStats, procfs.NetDev) { return m.network("self") }

// PodNetwork is Network for the pod whose cgroup is given; nil if the pod is on the node's network.
func (m *Machine) PodNetwork(pod string) (*statsapi.NetworkStats, procfs.NetDev) {
	return m.network(m.podProcess(pod))
}

// network returns the traffic of the namespace of a process; "" is none. The interface of the default route, or else eth0,
// stands for all. The loopback interface and the host's ends of pods' interfaces are left out: their traffic is counted at
// the pods.
//
// Upstream: vendor/github.com/google/cadvisor/container/libcontainer/handler.go scanInterfaceStats
func (m *Machine) network(process string) (*statsapi.NetworkStats, procfs.NetDev) {
	proc, err := procfs.NewFS(filepath.Join(m.root, "proc", process))
	if process == "" || err != nil {
		return nil, nil
	}
	devices, err := proc.NetDev()
	if err != nil {
		return nil, nil
	}
	main := "eth0"
	routes, _ := proc.NetRoute() // a namespace need not have any
	for _, r := range routes {
		if r.Destination == 0 && r.Mask == 0 {
			main = r.Iface
			break
		}
	}
	out := &statsapi.NetworkStats{Time: metav1.Now()}
	for name, d := range devices {
		if name == "lo" || strings.HasPrefix(name, "veth") {
			continue
		}
		i := statsapi.InterfaceStats{Name: name, RxBytes: new(d.RxBytes), RxErrors: new(d.RxErrors), TxBytes: new(d.TxBytes), TxErrors: new(d.TxErrors)}
		out.Interfaces = append(out.Interfaces, i)
		if name == main {
			out.InterfaceStats = i
		}
	}
	slices.SortFunc(out.Interfaces, func(a, b statsapi.InterfaceStats) int { return strings.Compare(a.Name, b.Name) })
	return out, devices
}

// podProcess finds a process of the pod whose cgroup is given, the first in one of its containers; "" if there is none, or if
// the pod is on the node's network.
func (m *Machine) podProcess(pod string) string {
	entries, err := os.ReadDir(m.anyDir(pod))
	if pod == "" || err != nil {
		return ""
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		text, err := cgroups.ReadFile(m.anyDir(filepath.Join(pod, entry.Name())), "cgroup.procs")
		first, _, _ := strings.Cut(text, "\n")
		if err != nil || first == "" {
			continue
		}
		node, err := os.Readlink(filepath.Join(m.root, "proc/self/ns/net"))
		if err != nil {
			return ""
		}
		if namespace, err := os.Readlink(filepath.Join(m.root, "proc", first, "ns/net")); err != nil || namespace == node {
			return ""
		}
		return first
	}
	return ""
}
