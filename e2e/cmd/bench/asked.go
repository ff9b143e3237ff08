package main

import (
	"maps"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What both kubelets hide in procfs and sysfs, or let nobody write: each path is a mount, so that leaving them out
// would put the floor below what any kubelet asks for.
var (
	hidden = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	unwritable = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// prepare makes what a kubelet mounts into a container: a token's directory, /etc/hosts and the termination log. It is
// not measured.
func (p *floorPod) prepare(dir string) error {
	token := filepath.Join(dir, "token")
	if err := os.MkdirAll(token, 0o755); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(token, "token"), filepath.Join(dir, "hosts"), filepath.Join(dir, "log")} {
		if err := os.WriteFile(path, []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
			return err
		}
	}
	p.mounts = []*runtimeapi.Mount{
		{HostPath: token, ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", Readonly: true},
		{HostPath: filepath.Join(dir, "hosts"), ContainerPath: "/etc/hosts"},
		{HostPath: filepath.Join(dir, "log"), ContainerPath: "/dev/termination-log"},
	}
	return nil
}

// asKubelet adds to a container what kubelets ask of the runtime for every one.
func asKubelet(config *runtimeapi.ContainerConfig, pod *floorPod) {
	config.Mounts = pod.mounts
	config.Labels = map[string]string{"io.kubernetes.container.name": config.Metadata.Name}
	maps.Copy(config.Labels, pod.config.Labels)
	config.Annotations = map[string]string{
		"io.kubernetes.container.hash": "deadbeef", "io.kubernetes.container.restartCount": "0", "io.kubernetes.pod.terminationGracePeriod": "30",
		"io.kubernetes.container.terminationMessagePath": "/dev/termination-log", "io.kubernetes.container.terminationMessagePolicy": "File",
	}
	for name, value := range map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
	} {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	security := config.Linux.SecurityContext
	security.MaskedPaths, security.ReadonlyPaths = hidden, unwritable
	security.RunAsUser = &runtimeapi.Int64Value{}
}
