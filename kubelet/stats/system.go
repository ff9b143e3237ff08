package stats

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// systemContainers tells what the kubelet, the runtime and all pods together use. The root cgroup's figures would be the
// whole machine's: of a kubelet or runtime that is in it, those of its process are told. Pods without a cgroup of their
// own are left out.
//
// Upstream: pkg/kubelet/server/stats/summary_sys_containers.go GetSystemContainersStats
func (p *Provider) systemContainers() []statsapi.ContainerStats {
	var out []statsapi.ContainerStats
	runtimePID, pods := p.runtimePID(), ""
	if p.opts.PodsCgroup != nil {
		pods = p.opts.PodsCgroup()
	}
	for _, c := range []struct {
		name, cgroup string
		pid          int
	}{
		{statsapi.SystemContainerKubelet, p.kubeletCgroup(), os.Getpid()},
		{statsapi.SystemContainerRuntime, p.runtimeCgroup(runtimePID), runtimePID},
		{statsapi.SystemContainerPods, pods, 0},
	} {
		var u usage
		switch {
		case c.cgroup != "" && c.cgroup != "/":
			u = p.machine.cgroup(c.cgroup)
		case c.pid > 0:
			u = p.machine.process(c.pid)
		}
		if u.cpu == nil && u.memory == nil {
			continue
		}
		p.rates.fill("system/"+c.name, u.cpu)
		out = append(out, statsapi.ContainerStats{Name: c.name, StartTime: p.machine.boot(), CPU: u.cpu, Memory: u.memory, Swap: u.swap, IO: u.io})
	}
	return out
}

// process reads what one process uses. Of its memory the kernel tells only what it has mapped.
func (m *machine) process(pid int) (u usage) {
	proc, err := procfs.NewFS(filepath.Join(m.root, "proc"))
	if err != nil {
		return u
	}
	of, err := proc.Proc(pid)
	if err != nil {
		return u
	}
	stat, err := of.Stat()
	if err != nil {
		return u
	}
	now := metav1.NewTime(time.Now())
	used := uint64(stat.ResidentMemory())
	u.cpu = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: new(uint64(stat.CPUTime() * 1e9))}
	u.memory = &statsapi.MemoryStats{
		Time: now, UsageBytes: &used, WorkingSetBytes: new(used), RSSBytes: new(used),
		PageFaults: new(uint64(stat.MinFlt + stat.MajFlt)), MajorPageFaults: new(uint64(stat.MajFlt)),
	}
	if status, err := of.NewStatus(); err == nil {
		u.memory.RSSBytes = new(status.RssAnon)
		u.swap = &statsapi.SwapStats{Time: now, SwapUsageBytes: new(status.VmSwap)}
	}
	return u
}

// kubeletCgroup is the one that was given, if it is there; else the one that the kubelet is in.
func (p *Provider) kubeletCgroup() string {
	if p.machine.hasCgroup(p.opts.KubeletCgroup) {
		return p.opts.KubeletCgroup
	}
	return p.machine.cgroupOf(os.Getpid())
}

// runtimePID is the process that listens on the runtime's socket, 0 if that is the kubelet, or systemd, which opened the
// socket for the runtime.
func (p *Provider) runtimePID() int {
	if pid := listener(p.opts.Endpoint); pid > 1 && pid != os.Getpid() {
		return pid
	}
	return 0
}

// runtimeCgroup is the one that was given, if it is there; else the one that the runtime's process is in.
func (p *Provider) runtimeCgroup(pid int) string {
	switch {
	case p.machine.hasCgroup(p.opts.RuntimeCgroup):
		return p.opts.RuntimeCgroup
	case pid == 0:
		return ""
	}
	return p.machine.cgroupOf(pid)
}

// listener asks the kernel which process listens on a socket, 0 for none.
func listener(endpoint string) int {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "unix" {
		return 0
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: u.Path})
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	if err := raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	}); err != nil {
		return 0
	}
	return pid
}
