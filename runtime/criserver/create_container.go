package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// CreateContainer makes a container in a sandbox, ready to be started. A caller that asks again for
// the same attempt, since it did not get the answer, gets the first container.
func (s *Server) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if r.GetConfig().GetMetadata().GetName() == "" {
		return nil, fmt.Errorf("%w: a container needs a name", oci.ErrInvalid)
	}
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	name := containerName(sb.ID, r.GetConfig().GetMetadata())
	id, err := s.once(ctx, "container "+name, func(ctx context.Context) (string, error) {
		return s.createContainer(ctx, sb, name, r.GetConfig())
	})
	if err != nil {
		return nil, err
	}
	if c, err := s.findContainer(id); err == nil && !proto.Equal(c.Config.Config, r.GetConfig()) {
		return nil, fmt.Errorf("container %s: %w with another configuration as %s", name, errAlreadyExists, id)
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// createContainer makes the container step by step; when one fails all is taken back.
func (s *Server) createContainer(ctx context.Context, sb *sandbox, name string, config *runtimeapi.ContainerConfig) (_ string, err error) {
	// 1. A finished container of that name that was not started is what the caller wants. None is made meanwhile.
	s.step(ctx, "CreateContainer 1")
	if id, err := s.existingContainer(ctx, name); id != "" || err != nil {
		return id, err
	}

	// 2. Find what it needs: sandbox, image, PID namespace, log. Then write down what is to be made: a server that is
	// killed meanwhile removes it at its next start.
	s.step(ctx, "CreateContainer 2")
	c, image, err := s.newContainer(sb, config)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undoContainer(ctx, c))
		}
	}()

	// 3. Make its bundle.
	s.step(ctx, "CreateContainer 3")
	if err := os.MkdirAll(c.rootfs(), 0o700); err != nil {
		return "", fmt.Errorf("make bundle: %w", err)
	}
	if err := sb.letPodPass(c.task.bundle); err != nil {
		return "", err
	}

	// 4. Mount its root file system and its image volumes.
	s.step(ctx, "CreateContainer 4")
	if err := s.images.Mount(ctx, c.ID, image.ID, c.rootfs(), sb.owner()); err != nil {
		return "", fmt.Errorf("mount image %s: %w", image.ID, err)
	}

	// 5. Generate its OCI specification.
	s.step(ctx, "CreateContainer 5")
	user, err := s.specify(ctx, sb, c, image)
	if err != nil {
		return "", err
	}

	// 6. Start conmon, which lets the OCI runtime create it.
	s.step(ctx, "CreateContainer 6")
	process, err := c.task.create(ctx, s.conmon, monitor.Container{
		LogPath: c.Config.LogPath, Stdin: config.GetStdin(), StdinOnce: config.GetStdinOnce(), TTY: config.GetTty(),
	})
	if err != nil {
		return "", err
	}

	// 7. Write down that it is there. The sandbox may have been stopped meanwhile.
	s.step(ctx, "CreateContainer 7")
	err = c.Update(func(state *store.ContainerState) {
		state.Phase, state.Process, state.User, state.ImageRefs = store.ContainerCreated, process, user.Status(), s.imageRefs(config)
	})
	if err != nil {
		return "", err
	}
	s.step(ctx, "CreateContainer end")
	if err := s.publish(sb, c); err != nil {
		return "", err
	}
	klog.FromContext(ctx).V(2).Info("Created container", "container", c.ID, "sandbox", sb.ID, "name", config.GetMetadata().GetName())
	s.emit(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, c.ID, sb.ID)
	return c.ID, nil
}

// existingContainer is the container that has a name already: one that waits to be started is the answer, and
// one that could not be made and not be taken back is taken back now.
func (s *Server) existingContainer(ctx context.Context, name string) (id string, err error) {
	for _, c := range s.containers.All() {
		switch {
		case c.name() != name:
		case c.State().Phase == store.ContainerCreated:
			return c.ID, nil
		default:
			return "", fmt.Errorf("container %s: %w as %s: remove it first", name, errAlreadyExists, c.ID)
		}
	}
	for _, c := range s.unmade.All() {
		if c.name() == name {
			return "", s.undoContainer(ctx, c)
		}
	}
	return "", nil
}

// publish makes the container visible, unless its sandbox is being stopped: the stop has listed the containers that it ends,
// and this one is not among them.
func (s *Server) publish(sb *sandbox, c *container) error {
	sb.ops.Lock()
	defer sb.ops.Unlock()
	if !sb.ready() {
		return fmt.Errorf("pod sandbox %s was stopped: %w", sb.ID, errPrecondition)
	}
	s.containers.Add(c.ID, c)
	s.watchContainer(c)
	return nil
}

// newContainer writes the record of a container, unless something that it needs is missing.
func (s *Server) newContainer(sb *sandbox, config *runtimeapi.ContainerConfig) (*container, *images.Image, error) {
	image, ok := s.images.Image(config.GetImage().GetImage())
	if !ok {
		return nil, nil, fmt.Errorf("image %q: %w", config.GetImage().GetImage(), errNotFound)
	}
	if !sb.ready() {
		return nil, nil, fmt.Errorf("pod sandbox %s is not ready: %w", sb.ID, errPrecondition)
	}
	id := store.NewID()
	full := store.ContainerConfig{
		SandboxID: sb.ID, Config: config, SandboxConfig: sb.Config.Config, CreatedAt: time.Now(),
		ImageID: image.ID, ImageRef: image.ID, StopSignal: stopSignal(config, image),
	}
	if len(image.Digests) > 0 {
		full.ImageRef = image.Digests[0] // the image can be pulled again by it
	}
	var err error
	runtime := s.runtimes[sb.Config.RuntimeHandler]
	if full.CgroupsPath, err = oci.CgroupsPath(s.cgroupParent(sb), id, runtime.Systemd); err != nil {
		return nil, nil, err
	}
	if dir, path := sb.Config.Config.GetLogDirectory(), config.GetLogPath(); dir != "" && path != "" {
		if !filepath.IsLocal(path) {
			return nil, nil, fmt.Errorf("%w: log path %q leads out of the pod's log directory", oci.ErrInvalid, path)
		}
		full.LogPath = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full.LogPath), 0o755); err != nil {
			return nil, nil, fmt.Errorf("make log directory: %w", err)
		}
	}
	state := store.ContainerState{Phase: store.ContainerCreating, Resources: config.GetLinux().GetResources()}
	record, err := store.Create(s.path("containers"), id, full, state)
	if err != nil {
		return nil, nil, err
	}
	return &container{Record: record, task: newTask(id, s.state("containers", id), runtime, hasPIDNamespace(config))}, image, nil
}
