package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

// linkLog makes the link that log collectors follow. A runtime that logs to no file gets none. A link that cannot be made does not
// fail the container.
func (r *Runtime) linkLog(ctx context.Context, pod *corev1.Pod, container *corev1.Container, id, log string) {
	if _, err := os.Stat(log); err != nil {
		return
	}
	link := spec.LogLink(r.opts.ContainerLogsDir, pod.Namespace, pod.Name, container.Name, id)
	err := os.Symlink(log, link)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(r.opts.ContainerLogsDir, 0o755); err == nil {
			err = os.Symlink(log, link)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		klog.FromContext(ctx).Error(err, "Link container log", "pod", klog.KObj(pod), "podUID", pod.UID, "link", link)
	}
}

// nextLogAttempt is one more than the highest attempt that left a log, plain or rotated, in the directory.
func nextLogAttempt(dir string) uint32 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0 // none yet; anything worse shows when the log is opened
	}
	var next uint32
	for _, entry := range entries {
		number, _, ok := strings.Cut(entry.Name(), ".log")
		if n, err := strconv.ParseUint(number, 10, 31); ok && err == nil && !entry.IsDir() {
			next = max(next, uint32(n)+1)
		}
	}
	return next
}

// removeContainerLog removes the logs, plain and rotated, of one dead container of a pod that goes on.
func (r *Runtime) removeContainerLog(container *runtimeapi.Container) error {
	labels, metadata := container.GetLabels(), container.GetMetadata()
	dir := spec.PodLogsDirectory(r.opts.Node.PodLogsDir, labels[kubelettypes.KubernetesPodNamespaceLabel], labels[kubelettypes.KubernetesPodNameLabel], podUID(labels))
	file := filepath.Join(dir, spec.LogPath(metadata.GetName(), metadata.GetAttempt()))
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove container log: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() != filepath.Base(file) && !strings.HasPrefix(entry.Name(), filepath.Base(file)+".") {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(file), entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove container log: %w", err)
		}
	}
	return nil
}

// removeLogs removes the log directories of the pods picked.
func (r *Runtime) removeLogs(pick func(types.UID) bool) error {
	entries, err := os.ReadDir(r.opts.Node.PodLogsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read pod logs: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		if i := strings.LastIndex(name, "_"); i >= 0 && entry.IsDir() && pick(types.UID(name[i+1:])) {
			errs = append(errs, os.RemoveAll(filepath.Join(r.opts.Node.PodLogsDir, name)))
		}
	}
	return errors.Join(errs...)
}

// removeDeadLinks removes links to logs that are gone. A running container's log is gone for a moment each time it
// is rotated, so its link stays.
func (r *Runtime) removeDeadLinks(ctx context.Context) error {
	links, err := filepath.Glob(filepath.Join(r.opts.ContainerLogsDir, "*.log"))
	if err != nil {
		return fmt.Errorf("list log links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if _, err := os.Stat(link); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(link), ".log")
		id := name[strings.LastIndex(name, "-")+1:]
		if id == name {
			continue // not a container's
		}
		got, err := r.opts.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil && !cri.IsNotFound(err) {
			klog.FromContext(ctx).V(2).Info("Keeping the link of a container that cannot be read", "link", link, "err", err)
			continue
		}
		if err == nil && got.GetStatus().GetState() != cri.Exited {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
