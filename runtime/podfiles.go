package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const etcHosts = "/etc/hosts"

// hostsMount writes the pod's /etc/hosts and returns its mount; nil for a container that mounts its own and for a
// pod without an address. The file is written in place: other containers of the pod have this very file mounted.
func (r *Runtime) hostsMount(pod *corev1.Pod, container *corev1.Container, podIPs []string) (*runtimeapi.Mount, error) {
	if len(podIPs) == 0 && !pod.Spec.HostNetwork {
		return nil, nil
	}
	for _, mount := range container.VolumeMounts {
		if filepath.Clean(mount.MountPath) == etcHosts {
			return nil, nil
		}
	}
	var node []byte
	if pod.Spec.HostNetwork {
		var err error
		if node, err = os.ReadFile(etcHosts); err != nil {
			return nil, fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	content, err := r.opts.Node.HostsFile(pod, podIPs, node)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.podDir(pod), "etc-hosts")
	old, err := readShared(file, len(content)+1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the pod's hosts file: %w", err)
	}
	if err != nil || !bytes.Equal(old, content) {
		if err := writeShared(file, content, 0o644); err != nil {
			return nil, fmt.Errorf("write the pod's hosts file: %w", err)
		}
	}
	return &runtimeapi.Mount{HostPath: file, ContainerPath: etcHosts, SelinuxRelabel: true}, nil
}

// terminationMount makes the file the container may write its termination message to. Each instance gets one of its own.
func (r *Runtime) terminationMount(pod *corev1.Pod, container *corev1.Container, _ []string) (*runtimeapi.Mount, error) {
	if container.TerminationMessagePath == "" {
		return nil, nil
	}
	file := filepath.Join(r.podDir(pod), "containers", container.Name, fmt.Sprintf("%08x", rand.Uint32()))
	if err := writeShared(file, nil, 0o666); err != nil {
		return nil, fmt.Errorf("create termination log: %w", err)
	}
	path := container.TerminationMessagePath
	if !filepath.IsAbs(path) {
		path = "/" + path
	}
	return &runtimeapi.Mount{HostPath: file, ContainerPath: path, SelinuxRelabel: true}, nil
}

func (r *Runtime) podDir(pod *corev1.Pod) string {
	return filepath.Join(r.opts.RootDir, "pods", string(pod.UID))
}

// readShared reads at most limit bytes of a file that containers may write to. It follows no link and does not block on a pipe.
func readShared(file string, limit int) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// writeShared writes a file that containers read or write, with exactly this mode whatever the umask.
func writeShared(file string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(file, content, mode); err != nil {
		return err
	}
	return os.Chmod(file, mode)
}
