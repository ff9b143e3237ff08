package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// startPause starts the process that is the first in the pod's own PID namespace.
func (s *Server) startPause(ctx context.Context, sb *sandbox) error {
	if sb.Config.PauseImage == "" {
		return errors.New("the pod needs a pause process, and there is no pause image (--pause-image)")
	}
	image, ok := s.images.Image(sb.Config.PauseImage)
	if !ok {
		id, err := s.images.Pull(ctx, sb.Config.PauseImage, nil)
		if err != nil {
			return fmt.Errorf("pull pause image %q: %w", sb.Config.PauseImage, err)
		}
		if image, ok = s.images.Image(id); !ok {
			return fmt.Errorf("pause image %q was removed", sb.Config.PauseImage)
		}
	}
	rootfs := filepath.Join(sb.pauseDir(), "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return fmt.Errorf("make directory of pause process: %w", err)
	}
	if err := sb.letPodPass(sb.pauseDir()); err != nil {
		return err
	}
	if err := s.images.Mount(ctx, sb.rootfsKey(), image.ID, rootfs, sb.owner()); err != nil {
		return fmt.Errorf("mount pause image: %w", err)
	}
	files, err := oci.ReadUserFiles(rootfs)
	if err != nil {
		return err
	}
	runtime := s.runtimes[sb.Config.RuntimeHandler]
	config, user, err := pauseConfig(sb, image.Config.Config.User, files)
	if err != nil {
		return err
	}
	cgroups, err := oci.CgroupsPath(s.cgroupParent(sb), sb.ID, runtime.Systemd)
	if err != nil {
		return err
	}
	container := oci.Container{
		ID: sb.ID, Config: config, Image: image.Config.Config, Sandbox: sb.Config.Config, RootFS: rootfs, User: user,
		Namespaces: append(sb.joined(), specs.LinuxNamespace{Type: specs.PIDNamespace}), CgroupsPath: cgroups,
		HostnameFile: sb.hostnameFile(), ResolvConf: sb.resolvConf(), ShmDir: sb.shm(), Hostname: sb.hostname(),
		Annotations: map[string]string{oci.AnnotationType: "sandbox", oci.AnnotationSandboxID: sb.ID},
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
	sb.pause = newTask(sb.ID, sb.pauseDir(), runtime, true)
	process, err := sb.pause.create(ctx, s.conmon, monitor.Container{})
	if err != nil {
		return err
	}
	if err := sb.Update(func(state *store.SandboxState) { state.Pause = process }); err != nil {
		return err
	}
	return runtime.Start(ctx, sb.ID)
}

// pauseConfig is the pause process in the CRI's terms: it may do nothing but wait.
func pauseConfig(sb *sandbox, imageUser string, files oci.UserFiles) (*runtimeapi.ContainerConfig, oci.User, error) {
	security := sb.Config.Config.GetLinux().GetSecurityContext()
	config := &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{
		Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: -998},
		SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			ReadonlyRootfs: true, NoNewPrivs: true, RunAsUser: security.GetRunAsUser(), RunAsGroup: security.GetRunAsGroup(),
			SupplementalGroups: security.GetSupplementalGroups(), SelinuxOptions: security.GetSelinuxOptions(),
			Capabilities: &runtimeapi.Capability{DropCapabilities: []string{"ALL"}},
			Seccomp:      &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			MaskedPaths:  []string{"/proc/kcore", "/proc/keys", "/proc/sched_debug", "/sys/firmware"},
		},
	}}
	if security.GetRunAsGroup() != nil && security.GetRunAsUser() == nil {
		config.Linux.SecurityContext.RunAsGroup = nil
	}
	user, err := oci.ResolveUser(config.GetLinux().GetSecurityContext(), imageUser, files)
	return config, user, err
}

// watchPause makes the sandbox not ready when its pause process ends.
func (s *Server) watchPause(sb *sandbox) {
	s.watch(sb.pause, func(monitor.Exit) {
		if !sb.ready() {
			return
		}
		klog.FromContext(s.stopped).Info("The pause process of a sandbox ended", "sandbox", sb.ID)
		if err := sb.Update(func(state *store.SandboxState) { state.Phase = store.SandboxStopped }); err != nil {
			klog.FromContext(s.stopped).Error(err, "Could not write down that a sandbox stopped", "sandbox", sb.ID)
		}
		s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.ID, sb.ID)
	})
}

// ensurePause gives a sandbox that was made without one a pause process, for the first container
// that is to share a PID namespace.
func (s *Server) ensurePause(ctx context.Context, sb *sandbox) (err error) {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if sb.pause != nil {
		return nil
	}
	if err := s.startPause(ctx, sb); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, s.stopPause(undo, sb))
	}
	s.watchPause(sb)
	return nil
}

// stopPause takes back startPause, whatever it has got to, before anybody watches the process.
func (s *Server) stopPause(ctx context.Context, sb *sandbox) error {
	var err error
	if sb.pause != nil {
		err = sb.pause.destroy(ctx)
		sb.pause = nil
	}
	return errors.Join(err, s.images.Unmount(sb.rootfsKey(), filepath.Join(sb.pauseDir(), "rootfs")), os.RemoveAll(sb.pauseDir()))
}
