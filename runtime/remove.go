package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/mounts"
	"minikubelet/runtime/spec"
)

// RemovePod removes all that is left of an ended pod: its containers and sandboxes, logs and their links, cgroup.
// It may be called again, and for a pod that was never started. The pod's containers must have ended: what still runs
// is killed without a grace period.
func (r *Runtime) RemovePod(ctx context.Context, uid types.UID) error {
	containers, sandboxes, err := r.list(ctx, map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)})
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	var errs []error
	for _, container := range containers {
		errs = append(errs, r.removeDead(ctx, container))
	}
	for _, sandbox := range sandboxes {
		errs = append(errs, r.removeSandbox(ctx, sandbox))
	}
	if err := errors.Join(errs...); err != nil {
		r.opts.Cache.Acted(uid)
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return r.forget(uid)
}

// forget removes what is not the runtime's.
func (r *Runtime) forget(uid types.UID) error {
	r.crash.forget(uid)
	err := r.removeLogs(func(other types.UID) bool { return other == uid })
	if err == nil {
		err = r.opts.Cgroups.RemovePod(uid)
	}
	if err == nil {
		err = r.removeDirectory(uid)
	}
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return nil
}

// removeDirectory removes what this package keeps in the pod's directory, gives back its user and group IDs, and
// removes the directory itself if it is empty then.
func (r *Runtime) removeDirectory(uid types.UID) error {
	if podinfo.CheckUID(uid) != nil {
		return nil // such a pod never had one
	}
	root, err := os.OpenRoot(filepath.Join(r.opts.RootDir, "pods", string(uid)))
	if errors.Is(err, fs.ErrNotExist) {
		return r.ReleaseIDs(uid)
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if mounted, err := mounts.Below(root.Name()); err != nil || len(mounted) > 0 {
		return err // volumes are still mounted; the directory is removed after them
	}
	for _, name := range []string{"etc-hosts", "containers", "plugins", "resources.json"} {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := r.ReleaseIDs(uid); err != nil {
		return err
	}
	if err := os.Remove(root.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// ReleaseIDs takes back the user and group IDs of an ended pod whose volumes are gone.
func (r *Runtime) ReleaseIDs(uid types.UID) error { return r.opts.UserNamespaces.Release(uid) }

// RemoveCgroup removes an ended pod's cgroup alone: a pod that has succeeded or failed keeps its logs, and so its
// containers, until it is deleted.
func (r *Runtime) RemoveCgroup(uid types.UID) error {
	if err := r.opts.Cgroups.RemovePod(uid); err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return nil
}

func (r *Runtime) removeDead(ctx context.Context, container *runtimeapi.Container) error {
	labels := container.GetLabels()
	if err := r.removeContainer(ctx, container.GetId()); err != nil {
		return fmt.Errorf("remove container %s: %w", container.GetMetadata().GetName(), err)
	}
	link := spec.LogLink(r.opts.ContainerLogsDir, labels[kubelettypes.KubernetesPodNamespaceLabel], labels[kubelettypes.KubernetesPodNameLabel],
		container.GetMetadata().GetName(), container.GetId())
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove log link: %w", err)
	}
	return nil
}

// removeSandbox stops a sandbox first, also one that ended by itself: only that gives its network back.
func (r *Runtime) removeSandbox(ctx context.Context, sandbox *runtimeapi.PodSandbox) error {
	if err := r.stopSandbox(ctx, sandbox.GetId(), sandbox.GetState()); err != nil {
		return fmt.Errorf("stop sandbox before removing it: %w", err)
	}
	leave, err := r.ends.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = r.opts.CRI.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.GetId()})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	r.stopped.Delete(sandbox.GetId())
	return nil
}
