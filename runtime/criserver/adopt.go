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
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
	"minikubelet/runtime/criserver/trees"
)

type (
	sandboxRecord   = store.Record[store.SandboxConfig, store.SandboxState]
	containerRecord = store.Record[store.ContainerConfig, store.ContainerState]
)

// adopt takes over what an earlier server left: what runs goes on, what was made half or is unknown is removed, and what
// ended meanwhile is recorded with the exit code that conmon wrote. The server also starts when something cannot be removed.
func (s *Server) adopt(ctx context.Context) error {
	// 1. Read the records. What cannot be read is set aside, and found again elsewhere if possible.
	sandboxes, err := store.Load[store.SandboxConfig, store.SandboxState](s.path("sandboxes"))
	if err != nil {
		return err
	}
	containers, err := store.Load[store.ContainerConfig, store.ContainerState](s.path("containers"))
	if err != nil {
		return err
	}
	for _, r := range containers {
		s.recoverContainer(ctx, r)
	}
	for _, r := range sandboxes {
		s.recoverSandbox(ctx, r, containers)
	}
	// 2. Take over sandboxes. Those that no record tells of have a state directory, or CNI plugins know them.
	for _, r := range withUnrecorded(sandboxes, s.path("sandboxes"), slices.Concat(names(ctx, s.state("sandboxes")), names(ctx, s.path("cni")))) {
		s.adoptSandbox(ctx, r)
	}
	// 3. Take over containers. Others have a state directory, or OCI runtimes, which know pause processes too, or the image
	// store know them.
	ids := names(ctx, s.state("containers"))
	for _, runtime := range s.runtimes {
		ids = append(ids, names(ctx, runtime.Root)...)
	}
	for _, key := range s.images.Snapshots("") {
		id, _, _ := strings.Cut(key, "-")
		ids = append(ids, id)
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { _, isSandbox, _ := s.sandboxes.Get(id); return isSandbox })
	for _, r := range withUnrecorded(containers, s.path("containers"), ids) {
		s.adoptContainer(ctx, r)
	}
	// 4. Remove the console sockets of conmons that were killed before they had removed them.
	for _, name := range names(ctx, s.state("tmp")) {
		path := s.state("tmp", name)
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
			if err := trees.Remove(path); err != nil {
				klog.FromContext(ctx).Error(err, "Could not remove what an earlier server has left")
			}
		}
	}
	return nil
}

// withUnrecorded adds to records lost ones for the IDs among names that have none, as when the machine lost power before a
// record was on the disk.
func withUnrecorded[C, S any](records []*store.Record[C, S], parent string, names []string) []*store.Record[C, S] {
	for _, name := range names {
		if store.ValidID(name) && !slices.ContainsFunc(records, func(r *store.Record[C, S]) bool { return r.ID == name }) {
			records = append(records, store.Open[C, S](parent, name))
		}
	}
	return records
}

// names lists a directory, which need not be there.
func names(ctx context.Context, dir string) (all []string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Could not look for what unknown pods have left")
	}
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

// recoverContainer finds a lost record in the annotations of the container's OCI specification.
func (s *Server) recoverContainer(ctx context.Context, r *containerRecord) {
	logger := klog.FromContext(ctx)
	if r.StateError != nil && !errors.Is(r.StateError, fs.ErrNotExist) {
		logger.Error(r.StateError, "The state of a container is lost; it is found out from the OCI runtime", "container", r.ID)
	}
	if r.ConfigError == nil {
		return
	}
	config, err := recordIn(s.state("containers", r.ID))
	if err != nil {
		logger.Error(errors.Join(r.ConfigError, err), "The record of a container is lost; the container is removed", "container", r.ID)
		return
	}
	err = r.Restore(config)
	logger.Info("The record of a container was lost and found again in its OCI specification", "container", r.ID, "err", err)
}

// maxSpec bounds the specification of a container that is read back.
const maxSpec = 64 << 20

func recordIn(bundle string) (config store.ContainerConfig, err error) {
	var spec specs.Spec
	err = bounded.ReadJSON(filepath.Join(bundle, "config.json"), maxSpec, &spec)
	if err == nil {
		err = json.Unmarshal([]byte(spec.Annotations[oci.AnnotationRecord]), &config)
	}
	if err == nil && (config.SandboxID == "" || config.Config == nil) {
		err = errors.New("it is no record")
	}
	if err != nil {
		return config, fmt.Errorf("read record in OCI specification: %w", err)
	}
	return config, nil
}

// recoverSandbox finds a lost record in those of its containers.
func (s *Server) recoverSandbox(ctx context.Context, r *sandboxRecord, containers []*containerRecord) {
	logger := klog.FromContext(ctx)
	if r.ConfigError != nil {
		has := func(c *containerRecord) bool {
			return c.ConfigError == nil && c.Config.SandboxID == r.ID && c.Config.SandboxConfig != nil
		}
		if i := slices.IndexFunc(containers, has); i >= 0 {
			err := r.Restore(store.SandboxConfig{Config: containers[i].Config.SandboxConfig, CreatedAt: containers[i].Config.CreatedAt})
			logger.Info("The record of a sandbox was lost and found again in that of a container", "sandbox", r.ID, "err", err)
		}
	}
	if r.ConfigError != nil {
		logger.Error(r.ConfigError, "The record of a sandbox is lost; the sandbox is removed", "sandbox", r.ID)
		return
	}
	if r.StateError == nil {
		return
	}
	logger.Error(r.StateError, "The state of a sandbox is lost; it is found out from its namespaces", "sandbox", r.ID)
	sb := &sandbox{Record: r, stateDir: s.state("sandboxes", r.ID)}
	tryUpdate(ctx, sb.Record, func(state *store.SandboxState) {
		state.Phase = store.SandboxStopped
		if sb.pinned() {
			state.Phase = store.SandboxReady
		}
		state.IPs = s.cni.Addresses(ctx, r.ID)
	})
}

// adoptSandbox takes over one sandbox, or removes it.
func (s *Server) adoptSandbox(ctx context.Context, r *sandboxRecord) {
	logger := klog.FromContext(ctx)
	sb := &sandbox{Record: r, stateDir: s.state("sandboxes", r.ID)}
	if r.ConfigError != nil || r.State().Phase == store.SandboxCreating {
		discard(ctx, sb.ID, s.undoSandbox(ctx, sb))
		return
	}
	if process := sb.State().Pause; process.PID != 0 {
		sb.pause = newTask(sb.ID, sb.pauseDir(), s.runtimeOf(sb), true)
		if _, err := sb.pause.hold(process); err != nil {
			logger.Error(err, "Could not get hold of a pause process", "sandbox", sb.ID)
		}
		s.watchPause(sb)
	} else if err := s.destroyPause(ctx, sb); err != nil { // that was being started for a container, which is removed as well
		logger.Error(err, "Could not take back a pause process", "sandbox", sb.ID)
	}
	if sb.ready() && (!sb.pinned() || sb.pause != nil && sb.pause.conmon == nil) {
		logger.Info("A sandbox has lost its namespaces, as after a reboot", "sandbox", sb.ID)
		tryUpdate(ctx, sb.Record, func(state *store.SandboxState) { state.Phase = store.SandboxStopped })
	}
	s.sandboxes.Add(sb.ID, sb)
}

// adoptContainer takes over one container, or removes it.
func (s *Server) adoptContainer(ctx context.Context, r *containerRecord) {
	logger := klog.FromContext(ctx)
	runtime := s.runtimes[""]
	sb, ok, _ := s.sandboxes.Get(r.Config.SandboxID)
	if ok {
		runtime = s.runtimeOf(sb)
	}
	c := &container{Record: r, task: newTask(r.ID, s.state("containers", r.ID), runtime, hasPIDNamespace(r.Config.Config))}
	if r.ConfigError != nil || r.StateError == nil && r.State().Phase == store.ContainerCreating || !ok {
		discard(ctx, c.ID, s.undoContainer(ctx, c))
		return
	}
	if phase := c.State().Phase; phase == store.ContainerCreated || r.StateError != nil {
		if err := s.askRuntime(ctx, c); err != nil {
			logger.Error(err, "Could not find out the state of a container", "container", c.ID)
		}
	}
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
// come, when its record may be behind. The watch finds out if it has ended.
func (s *Server) askRuntime(ctx context.Context, c *container) error {
	pid, conmon, err := monitor.FindProcess(c.task.bundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	phase := store.ContainerRunning
	if c.task.runtime.Knows(c.ID) {
		state, err := c.task.runtime.State(ctx, c.ID)
		if err != nil {
			return err
		}
		if state.Status == specs.StateCreated {
			phase = store.ContainerCreated
		}
	}
	return c.Update(func(state *store.ContainerState) {
		state.Phase = phase
		if state.Process.PID == 0 {
			state.Process = store.Process{PID: pid, Conmon: conmon}
		}
		if phase == store.ContainerRunning && state.StartedAt.IsZero() {
			state.StartedAt = c.Config.CreatedAt
		}
	})
}

// discard logs that a start has undone what it found half made or without a record, or why it could not.
func discard(ctx context.Context, id string, err error) {
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not remove all of a sandbox or container that was made half or is unknown", "id", id)
		return
	}
	klog.FromContext(ctx).Info("Removed a sandbox or container that was made half or is unknown", "id", id)
}
