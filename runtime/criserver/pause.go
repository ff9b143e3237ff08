package criserver

import (
	"context"
	"errors"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// startPause starts the process that is the first in the pod's own PID namespace.
func (s *Server) startPause(ctx context.Context, sb *sandbox) error {
	s.step(ctx, "startPause: mount")
	if err := makePauseRoot(sb.pauseRoot()); err != nil {
		return err
	}
	if err := sb.letPodPass(sb.pauseDir()); err != nil {
		return err
	}
	runtime := s.runtimes[sb.Config.RuntimeHandler]
	container := oci.Pause(sb.Config.Config, s.machine)
	container.ID, container.RootFS, container.Hostname = sb.ID, sb.pauseRoot(), sb.hostname()
	container.Namespaces = append(container.Namespaces, sb.joined()...)
	container.Annotations = map[string]string{oci.AnnotationType: "sandbox", oci.AnnotationSandboxID: sb.ID}
	var err error
	if container.AppArmorProfile, err = s.appArmor.Profile(ctx, nil, false); err != nil {
		return err
	}
	if container.CgroupsPath, err = oci.CgroupsPath(s.cgroupParent(sb), sb.ID, runtime.Systemd); err != nil {
		return err
	}
	if ids := sb.ids(); ids != nil {
		container.UIDMappings, container.GIDMappings = mappingsOf(ids.UIDs), mappingsOf(ids.GIDs)
	}
	spec, err := oci.Generate(container, s.machine)
	if err != nil {
		return err
	}
	if err := writeSpec(sb.pauseDir(), spec); err != nil {
		return err
	}
	s.step(ctx, "startPause: create")
	sb.pause = newTask(sb.ID, sb.pauseDir(), runtime, true)
	process, err := sb.pause.create(ctx, s.conmon, monitor.Container{})
	if err != nil {
		return err
	}
	s.step(ctx, "startPause: start")
	if err := runtime.Start(ctx, sb.ID, sb.pause.init); err != nil {
		return err
	}
	// Last, so that a start takes back one that was not started.
	s.step(ctx, "startPause: record")
	return sb.Update(func(state *store.SandboxState) { state.Pause = process })
}

// watchPause makes the sandbox not ready when its pause process ends.
func (s *Server) watchPause(sb *sandbox) {
	s.watch(sb.pause, func(monitor.Exit) {
		if !sb.ready() {
			return
		}
		klog.FromContext(s.stopped).Info("The pause process of a sandbox ended", "sandbox", sb.ID)
		sb.note(s.stopped, func(state *store.SandboxState) { state.Phase = store.SandboxStopped })
		s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.ID, sb.ID)
	})
}

// ensurePause gives a sandbox that was made without one a pause process, for the first container
// that is to share a PID namespace.
func (s *Server) ensurePause(ctx context.Context, sb *sandbox) (err error) {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if sb.pause != nil && sb.pause.watched.Load() {
		return nil
	}
	if err := s.destroyPause(ctx, sb); err != nil { // what an earlier try could not undo
		return err
	}
	if err := s.startPause(ctx, sb); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, s.destroyPause(ctx, sb))
	}
	s.watchPause(sb)
	return nil
}
