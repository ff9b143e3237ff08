package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
	"minikubelet/runtime/criserver/trees"
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
	sandboxes = slices.DeleteFunc(sandboxes, func(l store.Loaded[store.SandboxConfig, store.SandboxState]) bool { return !store.ValidID(l.ID) })
	containers = slices.DeleteFunc(containers, func(l store.Loaded[store.ContainerConfig, store.ContainerState]) bool { return !store.ValidID(l.ID) })
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
		s.adoptContainer(ctx, loaded)
	}
	for _, c := range append(s.containers.All(), s.unmade.All()...) {
		keys = append(keys, c.ID)
		if !c.known() {
			continue
		}
		for i, mount := range c.Config.Config.GetMounts() {
			if mount.GetImage().GetImage() != "" {
				keys = append(keys, imageKey(c.ID, i))
			}
		}
	}
	// 3. Remove what belongs to nothing: containers of the OCI runtimes, directories, networks, snapshots. What cannot be
	// removed is no reason not to start.
	s.sweepRuntimes(ctx)
	s.sweepStates(ctx)
	s.sweepNetworks(ctx)
	if err := s.images.Adopt(keys); err != nil {
		klog.FromContext(ctx).Error(err, "Could not remove all snapshots of containers that are gone")
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
	if err != nil {
		logger.Error(errors.Join(l.ConfigError, err), "The record of a container is lost; the container is removed", "container", l.ID)
		return
	}
	err = l.Restore(config)
	logger.Info("The record of a container was lost and found again in its OCI specification", "container", l.ID, "err", err)
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
			err := l.Restore(config)
			logger.Info("The record of a sandbox was lost and found again in that of a container", "sandbox", l.ID, "err", err)
			break
		}
	}
	if l.ConfigError != nil {
		logger.Error(l.ConfigError, "The record of a sandbox is lost; the sandbox is removed", "sandbox", l.ID)
		if l.StateError != nil { // CNI plugins may hold something of it
			l.Assume(store.SandboxState{Network: true})
		}
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
		s.discardSandbox(ctx, sb)
		return
	}
	if sb.State().Pause.PID != 0 {
		s.adoptPause(ctx, sb)
	} else if exists(sb.pauseDir()) {
		// One was being started for a container, which is removed as well.
		if err := s.undoPause(ctx, sb); err != nil {
			logger.Error(err, "Could not take back a pause process", "sandbox", sb.ID)
		}
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
	sb.pause = newTask(sb.ID, sb.pauseDir(), s.runtimeOf(sb), true)
	if _, err := sb.pause.hold(sb.State().Pause); err != nil {
		klog.FromContext(ctx).Error(err, "Could not get hold of a pause process", "sandbox", sb.ID)
	}
	s.watchPause(sb)
}

// adoptContainer takes over one container, or removes it.
func (s *Server) adoptContainer(ctx context.Context, l store.Loaded[store.ContainerConfig, store.ContainerState]) {
	logger := klog.FromContext(ctx)
	handler := ""
	sb, ok, _ := s.sandboxes.Get(l.Config.SandboxID)
	if ok && s.runtimes[sb.Config.RuntimeHandler] != nil {
		handler = sb.Config.RuntimeHandler
	}
	c := &container{Record: l.Record, task: newTask(l.ID, s.state("containers", l.ID), s.runtimes[handler], l.Config.OwnPIDs)}
	if l.ConfigError != nil || l.StateError == nil && l.State().Phase == store.ContainerCreating || !ok {
		s.discardContainer(ctx, c)
		return
	}
	if phase := c.State().Phase; phase == store.ContainerCreated || l.StateError != nil {
		if err := s.askRuntime(ctx, c); err != nil {
			logger.Error(err, "Could not find out the state of a container", "container", c.ID)
		}
	}
	s.containers.Reserve(c.Config.Name, c.ID)
	s.containers.Add(c.ID, c)
	if c.State().Phase == store.ContainerExited && !c.task.runtime.Knows(c.ID) {
		c.task.setEnded()
		return
	}
	if _, err := c.task.hold(c.State().Process); err != nil {
		logger.Error(err, "Could not get hold of a container", "container", c.ID)
	}
	s.watchContainer(c)
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
			if s.takenOver(id) {
				continue
			}
			klog.FromContext(ctx).Info("Removing a container that no record tells of", "container", id)
			if err := runtime.Delete(ctx, id, true); err != nil {
				klog.FromContext(ctx).Error(err, "Could not remove it", "container", id)
			}
		}
	}
}

// sweepStates removes directories below the state directory that belong to no record, with all that is mounted there.
func (s *Server) sweepStates(ctx context.Context) {
	for _, id := range s.strays(ctx, "sandboxes") {
		record := store.Attach[store.SandboxConfig, store.SandboxState](s.path("sandboxes"), id)
		s.discardSandbox(ctx, &sandbox{Record: record, stateDir: s.state("sandboxes", id)})
	}
	for _, id := range s.strays(ctx, "containers") {
		record := store.Attach[store.ContainerConfig, store.ContainerState](s.path("containers"), id)
		s.discardContainer(ctx, &container{Record: record, task: newTask(id, s.state("containers", id), s.runtimes[""], false)})
	}
	// Execs of an earlier server have nobody to report to.
	entries, err := os.ReadDir(s.state("tmp"))
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not look for what execs have left")
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > time.Minute {
			if err := trees.Remove(s.state("tmp", entry.Name())); err != nil {
				klog.FromContext(ctx).Error(err, "Could not remove what an exec has left")
			}
		}
	}
}

// strays are the state directories of one kind that belong to nothing that was taken over.
func (s *Server) strays(ctx context.Context, kind string) []string {
	entries, err := os.ReadDir(s.state(kind))
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not look for what unknown pods have left")
	}
	var ids []string
	for _, entry := range entries {
		if store.ValidID(entry.Name()) && !s.takenOver(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids
}

// takenOver tells whether a sandbox or a container of this ID is known, be it as one that could not be taken back.
func (s *Server) takenOver(id string) bool {
	_, isContainer, _ := s.containers.Get(id)
	_, isUnmade, _ := s.unmade.Get(id)
	_, isSandbox, _ := s.sandboxes.Get(id)
	return isContainer || isUnmade || isSandbox
}

// sweepNetworks disconnects what plugins were told of and no record tells of, as when the machine lost power before the
// record was on the disk.
func (s *Server) sweepNetworks(ctx context.Context) {
	ids, err := s.cni.All()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not look for networks of unknown pods")
	}
	for _, id := range ids {
		if !store.ValidID(id) || s.takenOver(id) {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, undoTimeout)
		err := s.cni.Teardown(limited, cni.Pod{SandboxID: id})
		cancel()
		klog.FromContext(ctx).Info("Disconnected a pod that no record tells of", "sandbox", id, "err", err)
	}
}

var _ ImageStore = (*images.Store)(nil)
