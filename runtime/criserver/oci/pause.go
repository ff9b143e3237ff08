package oci

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths of procfs and sysfs that show or change the node, as kubelets list them for containers.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// pauseUser is a user that no container is by default, and the last of those that a user namespace of a kubelet has.
const pauseUser = 65535

// Pause describes the pause process of a sandbox, the program /pause, which may do nothing but wait. Containers that share
// its PID namespace see its root directory at /proc/1/root, so that shows and allows no more than theirs. The caller adds
// what differs from sandbox to sandbox: root file system, namespaces and cgroup.
func Pause(sandbox *runtimeapi.PodSandboxConfig, m Machine) Container {
	runtimeDefault := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	security := &runtimeapi.LinuxContainerSecurityContext{
		ReadonlyRootfs: true, NoNewPrivs: true, SelinuxOptions: sandbox.GetLinux().GetSecurityContext().GetSelinuxOptions(),
		Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
		MaskedPaths:  maskedPaths, ReadonlyPaths: readonlyPaths,
	}
	if m.Seccomp {
		security.Seccomp = runtimeDefault
	}
	namespaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	if m.CgroupV2 {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return Container{
		Config: &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: -998}, SecurityContext: security,
		}},
		Image: v1.Config{Entrypoint: []string{"/pause"}}, Sandbox: sandbox,
		User: User{UID: pauseUser, GID: pauseUser, Groups: []uint32{pauseUser}}, Namespaces: namespaces,
	}
}
