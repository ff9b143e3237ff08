package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

const etcHosts = "/etc/hosts"

// hostsMount writes the pod's /etc/hosts and returns its mount; nil for a container that mounts its own and for a
// pod without an address. The file is written in place: other containers of the pod have this very file mounted.
func (r *Runtime) hostsMount(job startJob) (*runtimeapi.Mount, error) {
	pod, podIPs := job.pod, job.observed.IPs
	if len(podIPs) == 0 && !pod.Spec.HostNetwork {
		return nil, nil
	}
	for _, mount := range job.Container.VolumeMounts {
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

// terminationMount makes the file the container may write its termination message to. Each instance gets one of its own, whose
// name follows from the instance: when the answer of CreateContainer was lost, the next request is the same one. Files of
// instances that are gone go too, since a pod can crash for a year.
func (r *Runtime) terminationMount(job startJob) (*runtimeapi.Mount, error) {
	path := job.Container.TerminationMessagePath
	if path == "" {
		return nil, nil
	}
	instance := fnv.New32a()
	fmt.Fprintf(instance, "%s/%d", job.actions.SandboxID, job.Attempt)
	file := filepath.Join(r.podDir(job.pod), "containers", job.Container.Name, fmt.Sprintf("%08x", instance.Sum32()))
	if err := writeShared(file, nil, 0o666); err != nil {
		return nil, fmt.Errorf("create termination log: %w", err)
	}
	if err := keepLogs(filepath.Dir(file), filepath.Base(file), job.observed); err != nil {
		return nil, fmt.Errorf("remove old termination logs: %w", err)
	}
	if !filepath.IsAbs(path) {
		path = "/" + path
	}
	return &runtimeapi.Mount{HostPath: file, ContainerPath: path, SelinuxRelabel: true}, nil
}

// keepLogs removes what is in a directory of termination logs, but for one that is new and those of containers that are there.
func keepLogs(dir, fresh string, observed *cri.PodStatus) error {
	keep := map[string]bool{fresh: true}
	for _, c := range observed.Containers {
		for _, mount := range c.Mounts {
			keep[filepath.Base(mount.GetHostPath())] = true
		}
	}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if !keep[entry.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
		}
	}
	return err
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
