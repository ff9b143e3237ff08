package criserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// RunPodSandbox makes a pod's sandbox and starts it. A caller that asks again for the same pod and
// attempt, since it did not get the answer, gets the first sandbox: its making goes on without the caller.
func (s *Server) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := s.validateSandbox(r); err != nil {
		return nil, err
	}
	name := sandboxName(r.GetConfig().GetMetadata())
	id, err := s.once(ctx, "sandbox "+name, func(ctx context.Context) (string, error) {
		return s.runPodSandbox(ctx, name, r)
	})
	if err != nil {
		return nil, err
	}
	if sb, err := s.findSandbox(id); err == nil && !proto.Equal(sb.Config.Config, r.GetConfig()) {
		return nil, fmt.Errorf("pod sandbox %s: %w with another configuration as %s", name, errAlreadyExists, id)
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// once does work for a name once at a time: all who ask meanwhile get the result, and it goes on when they stop waiting.
func (s *Server) once(ctx context.Context, name string, work func(context.Context) (string, error)) (string, error) {
	result := s.work.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workTimeout)
		defer cancel()
		return work(ctx)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// validateSandbox refuses what cannot work before anything is done.
func (s *Server) validateSandbox(r *runtimeapi.RunPodSandboxRequest) error {
	config := r.GetConfig()
	if m := config.GetMetadata(); m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "" {
		return fmt.Errorf("%w: a pod sandbox needs name, namespace and UID", oci.ErrInvalid)
	}
	if s.runtimes[r.GetRuntimeHandler()] == nil {
		return fmt.Errorf("%w: no runtime handler %q is configured", oci.ErrInvalid, r.GetRuntimeHandler())
	}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if err := s.validateUserNamespace(r.GetRuntimeHandler(), options); err != nil {
		return err
	}
	if len(config.GetHostname()) > 64 {
		return fmt.Errorf("%w: hostname %q is longer than 64 bytes", oci.ErrInvalid, config.GetHostname())
	}
	for name := range config.GetLinux().GetSysctls() {
		if kind := namespaces.Namespaced(name); kind == "" || !slices.Contains(namespaceKinds(options), kind) {
			return fmt.Errorf("%w: sysctl %q would change the node, not the pod", oci.ErrInvalid, name)
		}
	}
	if _, err := (cni.Pod{Config: config}).RuntimeConf(); err != nil {
		return fmt.Errorf("%w: %w", oci.ErrInvalid, err)
	}
	return nil
}

// runPodSandbox makes the sandbox step by step; when one fails all is taken back.
func (s *Server) runPodSandbox(ctx context.Context, name string, r *runtimeapi.RunPodSandboxRequest) (_ string, err error) {
	// 1. A finished sandbox of that name is what the caller wants. None is made meanwhile.
	s.step(ctx, "RunPodSandbox 1")
	if id, err := s.existingSandbox(ctx, name); id != "" || err != nil {
		return id, err
	}

	// 2. Write down what is to be made: a server that is killed meanwhile takes it down at its next start.
	s.step(ctx, "RunPodSandbox 2")
	sb, err := s.newSandbox(r)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undoSandbox(ctx, sb))
		}
	}()
	if err := os.Mkdir(sb.stateDir, 0o700); err != nil {
		return "", fmt.Errorf("make directory of sandbox: %w", err)
	}
	if err := sb.letPodPass(sb.stateDir); err != nil {
		return "", err
	}

	// 3. Make the namespaces, with hostname and sysctls.
	s.step(ctx, "RunPodSandbox 3")
	config := sb.Config.Config
	if err := namespaces.Pin(namespaces.Options{Dir: sb.namespaceDir(), Kinds: namespaceKinds(sb.options()), Hostname: sb.hostname(), Sysctls: config.GetLinux().GetSysctls(), Users: sb.ids()}); err != nil {
		return "", err
	}

	// 4. Connect the network, and meanwhile do 5 to 7.
	group, groupCtx := errgroup.WithContext(ctx)
	var ips []string
	if !sb.hostNetwork() {
		group.Go(func() error {
			ctx := branch(groupCtx)
			s.step(ctx, "RunPodSandbox 4")
			var err error
			ips, err = s.cni.Setup(ctx, cni.Pod{SandboxID: sb.ID, NetNS: sb.netns(), Config: config})
			s.step(ctx, "RunPodSandbox 4 end")
			return err
		})
	}
	group.Go(func() error { return s.furnish(groupCtx, sb) })
	if err := group.Wait(); err != nil {
		return "", err
	}

	// 8. Write down that it runs.
	s.step(ctx, "RunPodSandbox 8")
	if err := sb.Update(func(state *store.SandboxState) { state.Phase, state.IPs = store.SandboxReady, ips }); err != nil {
		return "", err
	}
	s.step(ctx, "RunPodSandbox end")
	s.sandboxes.Add(sb.ID, sb)
	if sb.pause != nil {
		s.watchPause(sb)
	}
	klog.FromContext(ctx).V(2).Info("Started pod sandbox", "sandbox", sb.ID, "pod", klog.KRef(config.GetMetadata().GetNamespace(), config.GetMetadata().GetName()), "ips", ips)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, sb.ID, sb.ID)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, sb.ID, sb.ID)
	return sb.ID, nil
}

// furnish gives the sandbox what it has besides namespaces and network.
func (s *Server) furnish(ctx context.Context, sb *sandbox) error {
	// 5. Make resolv.conf, hostname and the directory of the logs.
	s.step(ctx, "RunPodSandbox 5")
	if err := sb.writeFiles(); err != nil {
		return err
	}
	if dir := sb.Config.Config.GetLogDirectory(); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make log directory: %w", err)
		}
	}
	// 6. Make /dev/shm. It is unmounted with the sandbox's files.
	s.step(ctx, "RunPodSandbox 6")
	if err := sb.mountShm(); err != nil {
		return err
	}
	// 7. Start a process to hold a PID namespace, if there is to be one.
	s.step(ctx, "RunPodSandbox 7")
	// One PID namespace for the pod is the CRI's zero value. Kubelets ask for it where a pod does.
	if s.options.Pause != PauseAlways && sb.options().GetPid() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	err := s.startPause(ctx, sb)
	s.step(ctx, "RunPodSandbox 7 end")
	return err
}

// existingSandbox is the sandbox that has a name already: one that runs is the answer, and one that could not be
// made and not be taken back is taken back now.
func (s *Server) existingSandbox(ctx context.Context, name string) (id string, err error) {
	for _, sb := range s.sandboxes.All() {
		switch {
		case sandboxName(sb.Config.Config.GetMetadata()) != name:
		case sb.ready():
			return sb.ID, nil
		case sb.State().Phase == store.SandboxCreating:
			err = s.undoSandbox(ctx, sb)
		default:
			err = fmt.Errorf("pod sandbox %s: %w as %s, which does not run: remove it first", name, errAlreadyExists, sb.ID)
		}
	}
	return "", err
}

// newSandbox writes the record of a sandbox.
func (s *Server) newSandbox(r *runtimeapi.RunPodSandboxRequest) (*sandbox, error) {
	id := store.NewID()
	config := store.SandboxConfig{Config: r.GetConfig(), RuntimeHandler: r.GetRuntimeHandler(), CreatedAt: time.Now()}
	state := store.SandboxState{Phase: store.SandboxCreating, Resources: r.GetConfig().GetLinux().GetResources()}
	record, err := store.Create(s.path("sandboxes"), id, config, state)
	if err != nil {
		return nil, err
	}
	return &sandbox{Record: record, stateDir: s.state("sandboxes", id)}, nil
}
