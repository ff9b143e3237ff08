package stats

import (
	"net"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// systemContainers tells what the kubelet, the runtime and all pods together use. One that has no cgroup of its own is
// left out: the root's figures would be the whole machine's.
//
// Upstream: pkg/kubelet/server/stats/summary_sys_containers.go GetSystemContainersStats
func (p *Provider) systemContainers() []statsapi.ContainerStats {
	var out []statsapi.ContainerStats
	for _, c := range []struct{ name, cgroup string }{
		{statsapi.SystemContainerKubelet, p.kubeletCgroup()},
		{statsapi.SystemContainerRuntime, p.runtimeCgroup()},
		{statsapi.SystemContainerPods, p.opts.PodsCgroup},
	} {
		if c.cgroup == "" || c.cgroup == "/" {
			continue
		}
		u := p.machine.cgroup(c.cgroup)
		if u.cpu == nil && u.memory == nil {
			continue
		}
		p.rates.fill("system/"+c.name, u.cpu)
		out = append(out, statsapi.ContainerStats{Name: c.name, StartTime: p.machine.boot(), CPU: u.cpu, Memory: u.memory, Swap: u.swap, IO: u.io})
	}
	return out
}

func (p *Provider) kubeletCgroup() string {
	if p.opts.KubeletCgroup != "" {
		return p.opts.KubeletCgroup
	}
	return p.machine.cgroupOf(os.Getpid())
}

// runtimeCgroup is the cgroup of whoever listens on the runtime's socket. That is not the runtime where systemd opened
// the socket for it.
func (p *Provider) runtimeCgroup() string {
	if p.opts.RuntimeCgroup != "" {
		return p.opts.RuntimeCgroup
	}
	pid := listener(p.opts.Endpoint)
	if pid <= 1 || pid == os.Getpid() {
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
