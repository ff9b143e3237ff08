package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"minikubelet/runtime/cri"
)

// RemovePod removes all that is left of an ended pod: its containers and sandboxes, logs and their links, cgroup.
// It may be called again, and for a pod that was never started. The pod's containers must have ended: what still runs
// is killed without a grace period.
func (r *Runtime) RemovePod(ctx context.Context, uid types.UID) error {
	selector := map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)}
	sandboxes, err := r.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	containers, err := r.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	var errs []error
	for _, container := range containers.GetContainers() {
		errs = append(errs, r.removeDead(ctx, container))
	}
	for _, sandbox := range sandboxes.GetItems() {
		errs = append(errs, r.removeSandbox(ctx, sandbox))
	}
	if err := errors.Join(errs...); err != nil {
		r.uncertain.Store(uid, true)
		r.Cache.Acted(uid)
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return r.forget(uid)
}

// forget removes what is not the runtime's.
func (r *Runtime) forget(uid types.UID) error {
	r.crash.forget(uid)
	r.uncertain.Delete(uid)
	if err := r.removeLogs(func(of types.UID) bool { return of == uid }); err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	if err := r.removeCgroup(uid); err != nil {
		return err
	}
	if err := r.removeDirectory(uid); err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return nil
}

// removeDirectory removes what this package keeps in the pod's directory, gives back its user and group IDs, and
// removes the directory itself unless somebody else has something in it.
func (r *Runtime) removeDirectory(uid types.UID) error {
	if uid == "" || !filepath.IsLocal(string(uid)) {
		return nil // such a pod never had one
	}
	root, err := os.OpenRoot(filepath.Join(r.RootDir, "pods", string(uid)))
	if errors.Is(err, fs.ErrNotExist) {
		return r.ReleaseIDs(uid)
	}
	if err != nil {
		return err
	}
	defer root.Close()
	real, err := filepath.EvalSymlinks(root.Name()) // mountinfo has real paths
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil || len(mounts) > 0 {
		return err // what is mounted there is not the pod's; all of this goes with the pod's volumes
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
func (r *Runtime) ReleaseIDs(uid types.UID) error {
	if r.UserNamespaces == nil {
		return nil
	}
	return r.UserNamespaces.Release(uid)
}

// RemoveCgroup removes an ended pod's cgroup alone: a pod that has succeeded or failed keeps its logs, and so its
// containers, until it is deleted.
func (r *Runtime) RemoveCgroup(_ context.Context, uid types.UID) error { return r.removeCgroup(uid) }

func (r *Runtime) removeCgroup(uid types.UID) error {
	if err := r.Cgroups.RemovePod(uid); err != nil {
		return fmt.Errorf("remove pod %s: %w", uid, err)
	}
	return nil
}

func (r *Runtime) removeDead(ctx context.Context, container *runtimeapi.Container) error {
	labels := container.GetLabels()
	if err := r.removeContainer(ctx, container.GetId()); err != nil {
		return fmt.Errorf("remove container %s: %w", container.GetMetadata().GetName(), err)
	}
	r.hooksRun.Delete(container.GetId())
	link := logLink(r.ContainerLogsDir, labels[kubelettypes.KubernetesPodNamespaceLabel], labels[kubelettypes.KubernetesPodNameLabel],
		container.GetMetadata().GetName(), container.GetId())
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove log link: %w", err)
	}
	return nil
}

// removeSandbox stops a sandbox first, also one that ended by itself: only that gives its network back.
func (r *Runtime) removeSandbox(ctx context.Context, sandbox *runtimeapi.PodSandbox) error {
	if err := r.stopSandbox(ctx, sandbox.GetId()); err != nil {
		return fmt.Errorf("stop sandbox before removing it: %w", err)
	}
	leave, err := r.ends.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = r.CRI.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.GetId()})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	r.stopped.Delete(sandbox.GetId())
	return nil
}

// GarbageCollect removes what nobody will ask for again: of a known pod the dead containers but the newest of each
// name, with their logs, and the ended sandboxes but the newest; of an unknown one all that has ended, and its log
// directory and cgroup. Call it only when every source has told its pods. Pods that run and are unknown are ended by their
// worker, not here.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_gc.go GarbageCollect
func (r *Runtime) GarbageCollect(ctx context.Context, known func(types.UID) bool) (err error) {
	ctx, end := cri.Step(ctx, "Containers/GarbageCollect", nil)
	defer func() { end(err) }()
	containers, sandboxes, err := r.listAll(ctx)
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	left, err := r.removeGarbage(ctx, containers, sandboxes, known)
	errs := []error{err}
	inUse := map[types.UID]bool{}
	for _, container := range left {
		inUse[podUID(container.GetLabels())] = true
	}
	errs = append(errs, r.removeLogs(func(uid types.UID) bool { return !known(uid) && !inUse[uid] }), r.removeDeadLinks(ctx))
	for _, sandbox := range sandboxes {
		inUse[podUID(sandbox.GetLabels())] = true // also one just removed: the next time will do
	}
	errs = append(errs, r.removeCgroups(func(uid types.UID) bool { return !known(uid) && !inUse[uid] }))
	if r.UserNamespaces != nil {
		errs = append(errs, r.UserNamespaces.Retain(func(uid types.UID) bool { return known(uid) || inUse[uid] }))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return nil
}

// DeleteUnusedContainers removes what GarbageCollect would, and of ended pods that still have their API object all
// containers, with their logs, and all sandboxes. It is for a node that runs out of disk.
//
// Upstream: pkg/kubelet/container/container_gc.go DeleteAllUnusedContainers
func (r *Runtime) DeleteUnusedContainers(ctx context.Context, ended func(types.UID) bool) error {
	containers, sandboxes, err := r.listAll(ctx)
	if err == nil {
		_, err = r.removeGarbage(ctx, containers, sandboxes, func(uid types.UID) bool { return !ended(uid) })
	}
	if err != nil {
		return fmt.Errorf("delete unused containers: %w", err)
	}
	return nil
}

// listAll lists everything in the runtime.
func (r *Runtime) listAll(ctx context.Context) ([]*runtimeapi.Container, []*runtimeapi.PodSandbox, error) {
	containers, err := r.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, nil, err
	}
	sandboxes, err := r.CRI.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, nil, err
	}
	return containers.GetContainers(), sandboxes.GetItems(), nil
}

// stopUnknown stops a container that may be running, with the grace period that it was made with.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_gc.go removeOldestN
func (r *Runtime) stopUnknown(ctx context.Context, container *runtimeapi.Container) error {
	grace, err := strconv.ParseInt(container.GetAnnotations()[cri.AnnotationPodTerminationGrace], 10, 64)
	least := int64(minGracePeriod / time.Second)
	if err != nil || grace < least {
		grace = least
	}
	_, err = r.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: container.GetId(), Timeout: grace})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop container %s, which is in an unknown state: %w", container.GetMetadata().GetName(), err)
	}
	return nil
}

// removeGarbage removes dead containers and sandboxes, and returns the containers that are left.
func (r *Runtime) removeGarbage(ctx context.Context, containers []*runtimeapi.Container, sandboxes []*runtimeapi.PodSandbox, known func(types.UID) bool) ([]*runtimeapi.Container, error) {
	var errs []error
	gone := map[string]bool{}
	for _, container := range garbageContainers(containers, known) {
		var err error
		if container.GetState() == unknown {
			err = r.stopUnknown(ctx, container)
		}
		if err == nil {
			err = r.removeDead(ctx, container)
		}
		gone[container.GetId()] = err == nil
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, r.removeContainerLog(container))
		}
	}
	left := slices.DeleteFunc(containers, func(c *runtimeapi.Container) bool { return gone[c.GetId()] })
	for _, sandbox := range garbageSandboxes(sandboxes, left, known) {
		errs = append(errs, r.removeSandbox(ctx, sandbox))
	}
	return left, errors.Join(errs...)
}

// removeCgroups removes the cgroups of the pods picked. Each is asked for after it was seen, so that one made
// meanwhile belongs to a pod that is known by then.
//
// Upstream: pkg/kubelet/kubelet_pods.go cleanupOrphanedPodCgroups
func (r *Runtime) removeCgroups(pick func(types.UID) bool) error {
	uids, err := r.Cgroups.Pods()
	if err != nil {
		return err
	}
	var errs []error
	for _, uid := range uids {
		if pick(uid) {
			errs = append(errs, r.Cgroups.RemovePod(uid))
		}
	}
	return errors.Join(errs...)
}

func podUID(labels map[string]string) types.UID {
	return types.UID(labels[kubelettypes.KubernetesPodUIDLabel])
}

// garbageContainers picks the dead containers to remove. One without a pod is not ours.
func garbageContainers(all []*runtimeapi.Container, known func(types.UID) bool) []*runtimeapi.Container {
	newestFirst := slices.Clone(all)
	slices.SortStableFunc(newestFirst, func(a, b *runtimeapi.Container) int {
		return cri.Newer(a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt(), a.GetCreatedAt(), b.GetCreatedAt())
	})
	kept := map[[2]string]bool{}
	var out []*runtimeapi.Container
	for _, container := range newestFirst {
		uid := podUID(container.GetLabels())
		if uid == "" || container.GetState() == running {
			continue
		}
		key := [2]string{string(uid), container.GetMetadata().GetName()}
		if known(uid) && !kept[key] {
			kept[key] = true
			continue
		}
		if known(uid) && container.GetState() != exited {
			continue // created or unknown: its pod's worker decides
		}
		out = append(out, container)
	}
	return out
}

// garbageSandboxes picks the ended, empty sandboxes to remove.
func garbageSandboxes(all []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, known func(types.UID) bool) []*runtimeapi.PodSandbox {
	used := map[string]bool{}
	for _, container := range containers {
		used[container.GetPodSandboxId()] = true
	}
	newest := map[types.UID]uint32{}
	for _, sandbox := range all {
		uid := types.UID(sandbox.GetMetadata().GetUid())
		newest[uid] = max(newest[uid], sandbox.GetMetadata().GetAttempt())
	}
	var out []*runtimeapi.PodSandbox
	for _, sandbox := range all {
		uid := types.UID(sandbox.GetMetadata().GetUid())
		if podUID(sandbox.GetLabels()) != uid || used[sandbox.GetId()] || sandbox.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		if known(uid) && sandbox.GetMetadata().GetAttempt() == newest[uid] {
			continue
		}
		out = append(out, sandbox)
	}
	return out
}

// removeContainerLog removes the logs, plain and rotated, of one dead container of a pod that goes on.
func (r *Runtime) removeContainerLog(container *runtimeapi.Container) error {
	labels, metadata := container.GetLabels(), container.GetMetadata()
	dir := PodLogsDirectory(r.PodLogsDir, labels[kubelettypes.KubernetesPodNamespaceLabel], labels[kubelettypes.KubernetesPodNameLabel], podUID(labels))
	file := filepath.Join(dir, logPath(metadata.GetName(), metadata.GetAttempt()))
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
	entries, err := os.ReadDir(r.PodLogsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read pod logs: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		uid, ok := afterLast(entry.Name(), "_")
		if ok && entry.IsDir() && pick(types.UID(uid)) {
			errs = append(errs, os.RemoveAll(filepath.Join(r.PodLogsDir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

func afterLast(s, sep string) (string, bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", false
	}
	return s[i+len(sep):], true
}

// removeDeadLinks removes links to logs that are gone. A running container's log is gone for a moment each time it
// is rotated, so its link stays.
func (r *Runtime) removeDeadLinks(ctx context.Context) error {
	links, err := filepath.Glob(filepath.Join(r.ContainerLogsDir, "*.log"))
	if err != nil {
		return fmt.Errorf("list log links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if _, err := os.Stat(link); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		id, ok := afterLast(strings.TrimSuffix(filepath.Base(link), ".log"), "-")
		if !ok {
			continue
		}
		got, err := r.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil && !cri.IsNotFound(err) {
			klog.FromContext(ctx).V(2).Info("Keeping the link of a container that cannot be read", "link", link, "err", err)
			continue
		}
		if err == nil && got.GetStatus().GetState() != exited {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
