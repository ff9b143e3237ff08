package stats

import (
	"net"
	"net/url"
	"os"
	"path"

	"golang.org/x/sys/unix"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"minikubelet/kubelet/measure"
)

// systemContainers tells what the kubelet, the runtime and all pods together use, and the cgroups where that was read, "" for
// none. The root cgroup's figures would be the whole machine's: of a kubelet or runtime that is in it, those of its process
// are told, and so is what its cgroup does not count. Pods without a cgroup of their own are left out.
//
// Upstream: pkg/kubelet/server/stats/summary_sys_containers.go GetSystemContainersStats
func (p *Provider) systemContainers() (out []statsapi.ContainerStats, cgroups []string) {
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
		var u measure.Usage
		cgroup := path.Join("/", c.cgroup)
		if cgroup == "/" {
			cgroup = ""
		} else {
			u = p.machine.Cgroup(cgroup)
		}
		if c.pid > 0 && (u.CPU == nil || u.Memory == nil) {
			process := p.machine.Process(c.pid)
			u.CPU, u.Memory, u.Swap = either(u.CPU, process.CPU), either(u.Memory, process.Memory), either(u.Swap, process.Swap)
		}
		if u.CPU == nil && u.Memory == nil {
			continue
		}
		p.rates.fill("system/"+c.name, u.CPU)
		out = append(out, statsapi.ContainerStats{Name: c.name, StartTime: p.machine.Boot(), CPU: u.CPU, Memory: u.Memory, Swap: u.Swap, IO: u.IO})
		cgroups = append(cgroups, cgroup)
	}
	return out, cgroups
}

// kubeletCgroup is the one that was given, if it is there; else the one that the kubelet is in.
func (p *Provider) kubeletCgroup() string {
	if p.machine.HasCgroup(p.opts.KubeletCgroup) {
		return p.opts.KubeletCgroup
	}
	return p.machine.CgroupOf(os.Getpid())
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
	case p.machine.HasCgroup(p.opts.RuntimeCgroup):
		return p.opts.RuntimeCgroup
	case pid == 0:
		return ""
	}
	return p.machine.CgroupOf(pid)
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
