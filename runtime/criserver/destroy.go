package criserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/stats"
	"minikubelet/runtime/criserver/store"
	"minikubelet/runtime/criserver/trees"
)

// There is one function for each kind of object that undoes its making: destroySandbox, destroyContainer and destroyPause.
// Removals call it, failed makings do (through undoSandbox and undoContainer), and so does a start for all that an earlier
// server has left. It may be called at any time and again, and also without a record, by the ID alone. The record
// goes last, and only when all else is undone, so that the next request for the same name, the next removal or the next
// start goes on with what could not be undone.

// destroySandbox removes a sandbox that has no containers any more.
func (s *Server) destroySandbox(ctx context.Context, sb *sandbox) error {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if err := s.takeDown(ctx, sb); err != nil {
		return err
	}
	s.step(ctx, "destroy sandbox: files")
	if err := trees.RemoveMounted(sb.stateDir); err != nil {
		return fmt.Errorf("remove files of sandbox: %w", err)
	}
	s.step(ctx, "destroy sandbox: record")
	if err := sb.Remove(); err != nil {
		return err
	}
	if _, visible, _ := s.sandboxes.Get(sb.ID); visible {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, sb.ID, sb.ID)
	}
	s.sandboxes.Delete(sb.ID)
	return nil
}

// takeDown is the part of destroySandbox that StopPodSandbox does: network, pause process and namespaces. The caller holds
// sb.ops.
func (s *Server) takeDown(ctx context.Context, sb *sandbox) error {
	// Plugins look into the network namespace: it goes only after they were called, and stays for the next try when one fails.
	disconnected := s.disconnect(ctx, sb)
	failed := []error{disconnected, s.destroyPause(ctx, sb)}
	if disconnected == nil {
		failed = append(failed, namespaces.Unpin(sb.namespaceDir()))
	}
	return errors.Join(failed...)
}

// destroyPause ends the pause process, however far it was made, so that another can be started. The caller holds sb.ops.
func (s *Server) destroyPause(ctx context.Context, sb *sandbox) error {
	if sb.pause == nil {
		if _, err := os.Lstat(sb.pauseDir()); err != nil {
			return nil //nolint:nilerr // none was ever begun
		}
		sb.pause = newTask(sb.ID, sb.pauseDir(), s.runtimeOf(sb), true)
	}
	if err := s.end(ctx, sb.pause); err != nil {
		return fmt.Errorf("end pause process: %w", err)
	}
	if err := trees.RemoveMounted(sb.pauseDir()); err != nil {
		return fmt.Errorf("remove files of pause process: %w", err)
	}
	sb.pause = nil
	if sb.State().Pause == (store.Process{}) {
		return nil
	}
	tryUpdate(ctx, sb.Record, func(state *store.SandboxState) { state.Pause = store.Process{} })
	return nil
}

// destroyContainer kills and removes a container.
func (s *Server) destroyContainer(ctx context.Context, c *container) error {
	// Without the lock, which StartContainer holds while it waits for the container.
	if err := s.end(ctx, c.task); err != nil {
		return err
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	s.step(ctx, "destroy container: mounts")
	if err := s.unmountAll(c); err != nil {
		return err
	}
	s.step(ctx, "destroy container: bundle")
	if err := trees.RemoveMounted(c.task.bundle); err != nil {
		return err
	}
	s.step(ctx, "destroy container: record")
	// The log stays: the kubelet reads it until it removes the pod's directory.
	if err := c.Remove(); err != nil {
		return err
	}
	_, visible, _ := s.containers.Get(c.ID)
	s.containers.Delete(c.ID)
	s.unmade.Delete(c.ID)
	if visible {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.ID, c.Config.SandboxID)
	}
	return nil
}

// unmountAll removes the container's snapshots, those of its root and of its image volumes, with what is mounted of them.
func (s *Server) unmountAll(c *container) error {
	var failed []error
	for _, key := range s.images.Snapshots(c.ID) {
		dir := c.rootfs()
		if volume, ok := strings.CutPrefix(key, c.ID+"-"); ok {
			dir = filepath.Join(c.task.bundle, volume)
		}
		failed = append(failed, s.images.Unmount(key, dir))
	}
	return errors.Join(failed...)
}

// undoSandbox destroys a sandbox that could not be made. The caller may have given up by then, so this has a time of its own.
// A sandbox that cannot be destroyed is shown as one that is not ready, so that the kubelet removes it.
func (s *Server) undoSandbox(ctx context.Context, sb *sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := s.destroySandbox(ctx, sb)
	if err == nil {
		return nil
	}
	if sb.known() {
		s.sandboxes.Add(sb.ID, sb)
		s.emit(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, sb.ID, sb.ID)
	}
	return fmt.Errorf("take back sandbox %s, which is tried again when it is removed and at the next start: %w", sb.ID, err)
}

// undoContainer is undoSandbox for a container. One that cannot be destroyed is not shown, since no caller was ever told its
// ID; it goes with its sandbox, if not earlier.
func (s *Server) undoContainer(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := s.destroyContainer(ctx, c)
	if err == nil {
		return nil
	}
	s.unmade.Add(c.ID, c)
	return fmt.Errorf("take back container %s, which is tried again with its sandbox: %w", c.ID, err)
}

// tryUpdate writes down what became of a sandbox or container. A full disk is logged and holds nothing up: the
// record then names things that are gone, and they can be undone once more.
func tryUpdate[C, S any](ctx context.Context, record *store.Record[C, S], change func(*S)) {
	if err := record.Update(change); err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down what became of a sandbox or container")
	}
}

// end kills a task, if it has not ended, and waits until the OCI runtime has forgotten it. It may have been made half.
func (s *Server) end(ctx context.Context, t *task) error {
	if t.watched.Load() {
		if err := t.kill(ctx); err != nil {
			return err
		}
		return t.delete(ctx)
	}
	if t.hasEnded() {
		return nil
	}
	// No watch records its end. All that is still making it must go first.
	if err := killMakers(ctx, t.id); err != nil {
		return err
	}
	// Without its record the container may be any runtime's.
	for _, runtime := range s.runtimes {
		if err := runtime.Delete(ctx, t.id, true); err != nil {
			return err
		}
	}
	for _, dir := range cgroupsOf(t.id) {
		if err := monitor.RemoveCgroup(ctx, dir); err != nil {
			return err
		}
	}
	t.setEnded()
	t.release()
	return nil
}

// killMakers kills the programs that are making a sandbox or container and waits for their end: conmon and the OCI
// runtime, which have its ID as an argument, and CNI plugins, which have it in their environment. They live on when the
// server is killed, and no later call would undo what they do after this one.
func killMakers(ctx context.Context, id string) error {
	for found := true; found; {
		found = false
		processes, err := procfs.AllProcs()
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		for _, process := range processes {
			maker, err := monitor.Open(process.PID, 0)
			if err != nil {
				continue // it has ended
			}
			// Looked at after opening, since the PID of one that has ended is given to another.
			if makes(process, id) {
				found = true
				if err = maker.Signal(syscall.SIGKILL); err == nil {
					err = maker.Wait(ctx)
				}
			}
			maker.Close()
			if err != nil && !errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("end process %d, which makes %s: %w", process.PID, id, err)
			}
		}
	}
	return nil
}

func makes(process procfs.Proc, id string) bool {
	arguments, err := process.CmdLine()
	if err != nil || len(arguments) == 0 {
		return false // a kernel thread, or one that has ended
	}
	environment, _ := process.Environ()
	return slices.Contains(arguments, id) || slices.Contains(environment, "CNI_CONTAINERID="+id)
}

// cgroupsOf finds the cgroups that are named after a container, by the directory itself or as a systemd scope: an OCI
// runtime may have made some and not come to write it down.
func cgroupsOf(id string) []string {
	var found []string
	_ = filepath.WalkDir(stats.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // cgroups go at any time
		}
		if name := strings.TrimSuffix(entry.Name(), ".scope"); entry.IsDir() && (name == id || strings.HasSuffix(name, "-"+id)) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
