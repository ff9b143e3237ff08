package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// adopt takes over what an earlier server left: what runs goes on, what was made half is
// removed, and what ended meanwhile is noted with the exit code that conmon wrote.
func (s *Server) adopt(ctx context.Context) error {
	// 1. Read the records. What cannot be read is set aside, and found again elsewhere if possible.
	sandboxes, err := store.Load[store.SandboxConfig, store.SandboxState](s.path("sandboxes"))
	if err != nil {
		return fmt.Errorf("read records of sandboxes: %w", err)
	}
	containers, err := store.Load[store.ContainerConfig, store.ContainerState](s.path("containers"))
	if err != nil {
		return fmt.Errorf("read records of containers: %w", err)
	}
	for i := range containers {
		s.recoverContainer(ctx, &containers[i])
	}
	for i := range sandboxes {
		s.recoverSandbox(ctx, &sandboxes[i], containers)
	}
	// 2. Take over sandboxes, then their containers.
	for _, loaded := range sandboxes {
		s.adoptSandbox(ctx, loaded)
	}
	var keys []string
	for _, loaded := range containers {
		c := s.adoptContainer(ctx, loaded)
		if c == nil {
			continue
		}
		keys = append(keys, c.ID)
		for i, mount := range c.Config.Config.GetMounts() {
			if mount.GetImage().GetImage() != "" {
				keys = append(keys, imageKey(c.ID, i))
			}
		}
	}
	// 3. Remove what belongs to nobody: containers of the OCI runtimes, directories, snapshots.
	s.sweepRuntimes(ctx)
	s.sweepStates(ctx)
	if err := s.images.Adopt(keys); err != nil {
		return fmt.Errorf("take over snapshots: %w", err)
	}
	return nil
}

// recoverContainer finds a lost record in the annotations of the container's OCI specification.
func (s *Server) recoverContainer(ctx context.Context, l *store.Loaded[store.ContainerConfig, store.ContainerState]) {
	logger := klog.FromContext(ctx)
	if l.StateError != nil && !errors.Is(l.StateError, fs.ErrNotExist) {
		logger.Error(l.StateError, "The state of a container is lost; it is found out from the OCI runtime", "container", l.ID)
	}
	if l.ConfigError == nil {
		return
	}
	config, err := recordIn(s.state("containers", l.ID))
	if err == nil {
		err = l.Restore(config)
	}
	if err != nil {
		logger.Error(errors.Join(l.ConfigError, err), "The record of a container is lost; the container is removed", "container", l.ID)
		return
	}
	logger.Info("The record of a container was lost and found again in its OCI specification", "container", l.ID)
}

// maxSpec bounds the specification of a container that is read back.
const maxSpec = 64 << 20

func recordIn(bundle string) (store.ContainerConfig, error) {
	var config store.ContainerConfig
	path := filepath.Join(bundle, "config.json")
	info, err := os.Stat(path)
	if err != nil {
		return config, fmt.Errorf("read OCI specification: %w", err)
	}
	if info.Size() > maxSpec {
		return config, fmt.Errorf("read OCI specification: %d bytes", info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return config, fmt.Errorf("read OCI specification: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return config, fmt.Errorf("read OCI specification: %w", err)
	}
	err = json.Unmarshal([]byte(spec.Annotations[oci.AnnotationRecord]), &config)
	if err == nil && (config.SandboxID == "" || config.Config == nil) {
		err = errors.New("it is no record")
	}
	if err != nil {
		return config, fmt.Errorf("read record in OCI specification: %w", err)
	}
	return config, nil
}

// recoverSandbox finds a lost record in those of its containers.
func (s *Server) recoverSandbox(ctx context.Context, l *store.Loaded[store.SandboxConfig, store.SandboxState], containers []store.Loaded[store.ContainerConfig, store.ContainerState]) {
	logger := klog.FromContext(ctx)
	if l.ConfigError != nil {
		for _, c := range containers {
			if c.ConfigError != nil || c.Config.SandboxID != l.ID || c.Config.SandboxConfig == nil {
				continue
			}
			config := store.SandboxConfig{
				Name: sandboxName(c.Config.SandboxConfig.GetMetadata()), Config: c.Config.SandboxConfig,
				CreatedAt: c.Config.CreatedAt,
			}
			if err := l.Restore(config); err == nil {
				logger.Info("The record of a sandbox was lost and found again in that of a container", "sandbox", l.ID)
			}
			break
		}
	}
	if l.ConfigError != nil {
		logger.Error(l.ConfigError, "The record of a sandbox is lost; the sandbox is removed", "sandbox", l.ID)
		return
	}
	if l.StateError == nil {
		return
	}
	logger.Error(l.StateError, "The state of a sandbox is lost; it is found out from its namespaces", "sandbox", l.ID)
	sb := &sandbox{Record: l.Record, stateDir: s.state("sandboxes", l.ID)}
	err := l.Update(func(state *store.SandboxState) {
		state.Phase, state.Network = store.SandboxStopped, !sb.hostNetwork()
		if sb.pinned() {
			state.Phase = store.SandboxReady
		}
		state.IPs = s.cni.Addresses(l.ID)
	})
	if err != nil {
		logger.Error(err, "Could not write down the state of a sandbox", "sandbox", l.ID)
	}
}

// adoptSandbox takes over one sandbox, or removes it.
func (s *Server) adoptSandbox(ctx context.Context, l store.Loaded[store.SandboxConfig, store.SandboxState]) {
	logger := klog.FromContext(ctx)
	sb := &sandbox{Record: l.Record, stateDir: s.state("sandboxes", l.ID)}
	if l.ConfigError != nil || l.State().Phase == store.SandboxCreating {
		s.discardSandbox(ctx, sb, l.ConfigError == nil)
		return
	}
	if sb.State().Pause.PID != 0 {
		s.adoptPause(ctx, sb)
	}
	lost := sb.ready() && (!sb.pinned() || sb.pause != nil && sb.pause.conmon == nil)
	if lost {
		logger.Info("A sandbox has lost its namespaces, as after a reboot", "sandbox", sb.ID)
		if err := sb.Update(func(state *store.SandboxState) { state.Phase = store.SandboxStopped }); err != nil {
			logger.Error(err, "Could not write down that a sandbox stopped", "sandbox", sb.ID)
		}
	}
	s.sandboxes.Reserve(sb.Config.Name, sb.ID)
	s.sandboxes.Add(sb.ID, sb)
}

// adoptPause gets hold of the sandbox's pause process again, if it is still there.
func (s *Server) adoptPause(ctx context.Context, sb *sandbox) {
	runtime := s.runtimes[sb.Config.RuntimeHandler]
	if runtime == nil {
		runtime = s.runtimes[""]
	}
	sb.pause = newTask(sb.ID, sb.pauseDir(), runtime, true)
	if _, err := sb.pause.hold(sb.State().Pause); err != nil {
		klog.FromContext(ctx).Error(err, "Could not get hold of a pause process", "sandbox", sb.ID)
	}
	s.watchPause(sb)
}

// discardSandbox removes what was made half. Without a configuration only its directories are known.
func (s *Server) discardSandbox(ctx context.Context, sb *sandbox, known bool) {
	klog.FromContext(ctx).Info("Removing a sandbox that was made half or is unknown", "sandbox", sb.ID)
	var failed []error
	if known {
		failed = append(failed, s.disconnect(ctx, sb))
	}
	for _, runtime := range s.runtimes {
		failed = append(failed, runtime.Delete(ctx, sb.ID, true))
	}
	failed = append(failed, namespaces.Unpin(sb.namespaceDir()), sb.removeFiles(), sb.Remove())
	if err := errors.Join(failed...); err != nil {
		klog.FromContext(ctx).Error(err, "Could not remove all of a sandbox", "sandbox", sb.ID)
	}
}

// adoptContainer takes over one container; nil for one that is removed instead.
func (s *Server) adoptContainer(ctx context.Context, l store.Loaded[store.ContainerConfig, store.ContainerState]) *container {
	logger := klog.FromContext(ctx)
	handler := ""
	sb, ok, _ := s.sandboxes.Get(l.Config.SandboxID)
	if ok && s.runtimes[sb.Config.RuntimeHandler] != nil {
		handler = sb.Config.RuntimeHandler
	}
	c := &container{Record: l.Record, task: newTask(l.ID, s.state("containers", l.ID), s.runtimes[handler], l.Config.OwnPIDs)}
	if l.ConfigError != nil || l.StateError == nil && l.State().Phase == store.ContainerCreating || !ok {
		s.discardContainer(ctx, c, l.ConfigError == nil)
		return nil
	}
	if phase := c.State().Phase; phase == store.ContainerCreated || l.StateError != nil {
		if err := s.askRuntime(ctx, c); err != nil {
			logger.Error(err, "Could not find out the state of a container", "container", c.ID)
		}
	}
	s.containers.Reserve(c.Config.Name, c.ID)
	s.containers.Add(c.ID, c)
	if c.State().Phase == store.ContainerExited && !c.task.runtime.Knows(c.ID) {
		close(c.task.exited)
		close(c.task.cleaned)
		return c
	}
	if _, err := c.task.hold(c.State().Process); err != nil {
		logger.Error(err, "Could not get hold of a container", "container", c.ID)
	}
	s.watchContainer(c)
	return c
}

// askRuntime finds out from the OCI runtime and from conmon's files how far a container has
// come, when its record may be behind.
func (s *Server) askRuntime(ctx context.Context, c *container) error {
	process, err := monitor.FindProcess(c.task.bundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	phase := store.ContainerExited
	if c.task.runtime.Knows(c.ID) {
		state, err := c.task.runtime.State(ctx, c.ID)
		if err != nil {
			return err
		}
		switch state.Status {
		case specs.StateCreated:
			phase = store.ContainerCreated
		case specs.StateRunning:
			phase = store.ContainerRunning
		}
	}
	return c.Update(func(state *store.ContainerState) {
		if state.Process.PID == 0 {
			state.Process = store.Process{PID: process.PID, Conmon: process.Conmon}
		}
		if phase == store.ContainerExited {
			phase = store.ContainerRunning // the watch finds out how it ended
		}
		state.Phase = phase
		if phase == store.ContainerRunning && state.StartedAt.IsZero() {
			state.StartedAt = c.Config.CreatedAt
			if info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(process.PID))); err == nil {
				state.StartedAt = info.ModTime()
			}
		}
	})
}

// discardContainer removes what was made half.
func (s *Server) discardContainer(ctx context.Context, c *container, known bool) {
	klog.FromContext(ctx).Info("Removing a container that was made half or is unknown", "container", c.ID)
	failed := []error{c.task.destroy(ctx)}
	if known {
		failed = append(failed, s.unmountAll(c))
	} else {
		failed = append(failed, s.images.Unmount(c.ID, c.rootfs()))
	}
	failed = append(failed, os.RemoveAll(c.task.bundle), c.Remove())
	if err := errors.Join(failed...); err != nil {
		klog.FromContext(ctx).Error(err, "Could not remove all of a container", "container", c.ID)
	}
}

// sweepRuntimes removes containers of the OCI runtimes that no record tells of.
func (s *Server) sweepRuntimes(ctx context.Context) {
	for handler, runtime := range s.runtimes {
		if handler == "" {
			continue // the default has a name as well
		}
		ids, err := runtime.List()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Could not look for unknown containers")
			continue
		}
		for _, id := range ids {
			_, isContainer, _ := s.containers.Get(id)
			_, isSandbox, _ := s.sandboxes.Get(id)
			if isContainer || isSandbox {
				continue
			}
			klog.FromContext(ctx).Info("Removing a container that no record tells of", "container", id)
			if err := runtime.Delete(ctx, id, true); err != nil {
				klog.FromContext(ctx).Error(err, "Could not remove it", "container", id)
			}
		}
	}
}

// sweepStates removes directories below the state directory that belong to no record.
func (s *Server) sweepStates(ctx context.Context) {
	for _, kind := range []string{"sandboxes", "containers"} {
		entries, err := os.ReadDir(s.state(kind))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			id := entry.Name()
			_, isContainer, _ := s.containers.Get(id)
			_, isSandbox, _ := s.sandboxes.Get(id)
			if isContainer || isSandbox {
				continue
			}
			sb := &sandbox{Record: &store.Record[store.SandboxConfig, store.SandboxState]{ID: id}, stateDir: s.state(kind, id)}
			err := errors.Join(s.images.Unmount(id, filepath.Join(sb.stateDir, "rootfs")), namespaces.Unpin(sb.namespaceDir()), sb.removeFiles())
			klog.FromContext(ctx).Info("Removed the remains of an unknown container or sandbox", "id", id, "err", err)
		}
	}
	// Execs of an earlier server have nobody to report to.
	if entries, err := os.ReadDir(s.state("tmp")); err == nil {
		for _, entry := range entries {
			if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > time.Minute {
				_ = os.RemoveAll(s.state("tmp", entry.Name()))
			}
		}
	}
}

var _ ImageStore = (*images.Store)(nil)
