package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/store"
	"minikubelet/runtime/criserver/trees"
)

// Everything that a sandbox or a container holds is taken back here, and nowhere else: when one could not be made, when
// it is removed, and when a start finds one that an earlier server was still making. Each function may be called at any
// time and again. It undoes what it can; the record and the name go last, and only when all else is undone. So what could
// not be undone is tried again by the next request for the same name, by the next removal, or at the next start.

// takeDown lets go of all that a sandbox holds but its files and its record: the opposite of RunPodSandbox.
func (s *Server) takeDown(ctx context.Context, sb *sandbox) error {
	// The network first, while its namespace is there for plugins to look into; after an error it stays for the next try.
	disconnected := s.disconnect(ctx, sb)
	failed := []error{disconnected, s.endPause(ctx, sb)}
	if disconnected == nil {
		failed = append(failed, namespaces.Unpin(sb.namespaceDir()))
	}
	return errors.Join(failed...)
}

// destroySandbox removes a sandbox that has no containers any more.
func (s *Server) destroySandbox(ctx context.Context, sb *sandbox) error {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if sb.destroyed {
		return nil
	}
	if err := s.takeDown(ctx, sb); err != nil {
		return err
	}
	s.step(ctx, "destroy sandbox: files")
	if err := sb.removeFiles(); err != nil {
		return err
	}
	s.step(ctx, "destroy sandbox: record")
	if err := sb.Remove(); err != nil {
		return err
	}
	sb.destroyed = true
	if _, visible, _ := s.sandboxes.Get(sb.ID); visible {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, sb.ID, sb.ID)
	}
	s.sandboxes.Delete(sb.ID)
	s.sandboxes.Release(sb.Config.Name, sb.ID)
	return nil
}

// destroyContainer kills and removes a container.
func (s *Server) destroyContainer(ctx context.Context, c *container) error {
	// Without the lock, which what starts the container holds.
	if err := s.end(ctx, c.task); err != nil {
		return err
	}
	c.ops.Lock()
	defer c.ops.Unlock()
	if c.destroyed {
		return nil
	}
	s.step(ctx, "destroy container: mounts")
	if c.known() { // else they go with the bundle, and their snapshots at the end of adopt
		if err := s.unmountAll(c); err != nil {
			return err
		}
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
	c.destroyed = true
	_, visible, _ := s.containers.Get(c.ID)
	s.containers.Delete(c.ID)
	s.unmade.Delete(c.ID)
	s.containers.Release(c.Config.Name, c.ID)
	if visible {
		s.emit(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.ID, c.Config.SandboxID)
	}
	return nil
}

// undoSandbox takes a sandbox back that could not be made, whatever became of the caller. What cannot be taken back is
// shown as a sandbox that is not ready, so that somebody removes it.
func (s *Server) undoSandbox(ctx context.Context, sb *sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := s.destroySandbox(ctx, sb)
	if err == nil {
		return nil
	}
	s.sandboxes.Add(sb.ID, sb)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, sb.ID, sb.ID)
	return fmt.Errorf("take back sandbox %s, which is tried again when it is removed: %w", sb.ID, err)
}

// undoContainer takes a container back that could not be made. One that cannot be taken back is not shown, since it never
// was a container to anybody; it goes with its sandbox, if not earlier.
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

// discardSandbox is undoSandbox at start, for what an earlier server was making and for what has lost its record. Without
// a configuration there is nothing to show: the directory of the record stays for the next start.
func (s *Server) discardSandbox(ctx context.Context, sb *sandbox) {
	logger := klog.FromContext(ctx)
	logger.Info("Removing a sandbox that was made half or is unknown", "sandbox", sb.ID)
	if sb.known() {
		s.sandboxes.Reserve(sb.Config.Name, sb.ID)
		if err := s.undoSandbox(ctx, sb); err != nil {
			logger.Error(err, "Could not remove all of a sandbox", "sandbox", sb.ID)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	if err := s.destroySandbox(ctx, sb); err != nil {
		logger.Error(err, "Could not remove all of an unknown sandbox; tried again at the next start", "sandbox", sb.ID)
	}
}

// discardContainer is undoContainer at start.
func (s *Server) discardContainer(ctx context.Context, c *container) {
	klog.FromContext(ctx).Info("Removing a container that was made half or is unknown", "container", c.ID)
	if c.known() {
		s.containers.Reserve(c.Config.Name, c.ID)
	}
	if err := s.undoContainer(ctx, c); err != nil {
		klog.FromContext(ctx).Error(err, "Could not remove all of a container", "container", c.ID)
	}
}

// known tells whether the sandbox's configuration is there: at start it may be lost.
func (sb *sandbox) known() bool { return sb.Config.Config != nil }

func (c *container) known() bool { return c.Config.Config != nil }

// endPause ends the pause process, however far it was made. The caller holds sb.ops.
func (s *Server) endPause(ctx context.Context, sb *sandbox) error {
	if sb.pause == nil {
		if !exists(sb.pauseDir()) {
			return nil // none was ever begun
		}
		sb.pause = newTask(sb.ID, sb.pauseDir(), s.runtimeOf(sb), true)
	}
	if err := s.end(ctx, sb.pause); err != nil {
		return err
	}
	return unmount(sb.pauseRoot())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// undoPause takes startPause back, so that it can be done again. The caller holds sb.ops.
func (s *Server) undoPause(ctx context.Context, sb *sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := s.endPause(ctx, sb); err != nil {
		return fmt.Errorf("take back pause process: %w", err)
	}
	if err := trees.RemoveMounted(sb.pauseDir()); err != nil {
		return fmt.Errorf("take back pause process: %w", err)
	}
	sb.pause = nil
	return sb.Update(func(state *store.SandboxState) { state.Pause = store.Process{} })
}
