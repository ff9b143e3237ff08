package criserver

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
	"minikubelet/runtime/criserver/store"
)

// container is a container of the CRI.
type container struct {
	*store.Record[store.ContainerConfig, store.ContainerState]

	ops  sync.Mutex // held by what changes the container, but not while waiting for its end
	task *task
	cpu  cpuSample
}

// containerName is the name by which there is at most one container.
func containerName(sandboxID string, m *runtimeapi.ContainerMetadata) string {
	return fmt.Sprintf("%s_%s_%d", sandboxID, m.GetName(), m.GetAttempt())
}

func (c *container) name() string {
	return containerName(c.Config.SandboxID, c.Config.Config.GetMetadata())
}

func (c *container) rootfs() string { return filepath.Join(c.task.bundle, "rootfs") }

// cgroupParent is the cgroup of the pod, which a kubelet names.
func (s *Server) cgroupParent(sb *sandbox) string {
	if parent := sb.Config.Config.GetLinux().GetCgroupParent(); parent != "" {
		return parent
	}
	return s.options.CgroupParent
}

// running returns an error for a container that does not run.
func (c *container) running() error {
	if phase := c.State().Phase; phase != store.ContainerRunning {
		return fmt.Errorf("container %s is %s, not running: %w", c.ID, strings.ToLower(string(phase)), errPrecondition)
	}
	return nil
}

// watchContainer records the container's end when it comes.
func (s *Server) watchContainer(c *container) {
	s.watch(c.task, func(exit monitor.Exit) { s.recordExit(c, exit) })
}

// recordExit writes down how a container has ended.
func (s *Server) recordExit(c *container, exit monitor.Exit) {
	// The cgroup is there until the runtime is told to delete the container.
	oom := exit.OOM || s.cgroups().OOMKills(oci.CgroupDir(c.Config.CgroupsPath)) > 0
	tryUpdate(s.stopped, c.Record, func(state *store.ContainerState) {
		if state.Phase == store.ContainerExited {
			return
		}
		state.Phase, state.ExitCode, state.FinishedAt = store.ContainerExited, exit.Code, exit.FinishedAt
		switch {
		case oom: // whatever the first process made of that
			state.Reason = "OOMKilled"
		case exit.Code == 0:
			state.Reason = "Completed"
		default:
			state.Reason = "Error"
		}
	})
	klog.FromContext(s.stopped).V(2).Info("Container ended", "container", c.ID, "exitCode", exit.Code, "reason", c.State().Reason)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.ID, c.Config.SandboxID)
}

// ContainerStatus describes a container.
func (s *Server) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	response := &runtimeapi.ContainerStatusResponse{Status: c.status()}
	if r.GetVerbose() {
		response.Info = info(map[string]any{
			"sandboxID": c.Config.SandboxID, "pid": c.State().Process.PID, "process": c.State().Process, "bundle": c.task.bundle,
			"cgroupsPath": c.Config.CgroupsPath, "runtime": c.task.runtime.Path,
		})
	}
	return response, nil
}

var containerStates = map[store.ContainerPhase]runtimeapi.ContainerState{
	store.ContainerCreating: runtimeapi.ContainerState_CONTAINER_UNKNOWN,
	store.ContainerCreated:  runtimeapi.ContainerState_CONTAINER_CREATED,
	store.ContainerRunning:  runtimeapi.ContainerState_CONTAINER_RUNNING,
	store.ContainerExited:   runtimeapi.ContainerState_CONTAINER_EXITED,
}

// status is the container in the CRI's terms.
func (c *container) status() *runtimeapi.ContainerStatus {
	config, state := c.Config.Config, c.State()
	status := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: config.GetMetadata(), State: containerStates[state.Phase], CreatedAt: c.Config.CreatedAt.UnixNano(),
		StartedAt: nanoseconds(state.StartedAt), FinishedAt: nanoseconds(state.FinishedAt), ExitCode: state.ExitCode,
		Reason: state.Reason, Message: state.Message, Image: config.GetImage(), ImageRef: c.Config.ImageRef, ImageId: c.Config.ImageID,
		Labels: config.GetLabels(), Annotations: config.GetAnnotations(), Mounts: c.mounts(), LogPath: c.Config.LogPath,
		User: state.User,
	}
	if state.Resources != nil {
		status.Resources = &runtimeapi.ContainerResources{Linux: state.Resources}
	}
	if value, ok := runtimeapi.Signal_value["SIGNAL_"+c.Config.StopSignal]; ok {
		status.StopSignal = runtimeapi.Signal(value)
	}
	return status
}

// mounts are those that were asked for, with what the images among them turned out to be.
func (c *container) mounts() []*runtimeapi.Mount {
	refs := c.State().ImageRefs
	if len(refs) == 0 {
		return c.Config.Config.GetMounts()
	}
	var mounts []*runtimeapi.Mount
	for _, mount := range c.Config.Config.GetMounts() {
		if ref, ok := refs[mount.GetContainerPath()]; ok && mount.GetImage() != nil {
			mount = proto.Clone(mount).(*runtimeapi.Mount)
			mount.Image.ImageRef = ref
		}
		mounts = append(mounts, mount)
	}
	return mounts
}

// nanoseconds are 0 for a time that never was.
func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// statusesOf are the statuses of a sandbox's containers.
func (s *Server) statusesOf(sandboxID string) []*runtimeapi.ContainerStatus {
	var statuses []*runtimeapi.ContainerStatus
	for _, c := range s.containersOf(sandboxID) {
		statuses = append(statuses, c.status())
	}
	return statuses
}

// ListContainers lists the containers that match a filter.
func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	response := &runtimeapi.ListContainersResponse{}
	for _, c := range s.matchingContainers(r.GetFilter()) {
		config := c.Config.Config
		response.Containers = append(response.Containers, &runtimeapi.Container{
			Id: c.ID, PodSandboxId: c.Config.SandboxID, Metadata: config.GetMetadata(), Image: config.GetImage(), ImageRef: c.Config.ImageRef,
			ImageId: c.Config.ImageID, State: containerStates[c.State().Phase], CreatedAt: c.Config.CreatedAt.UnixNano(), Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
		})
	}
	return response, nil
}

// StreamContainers is ListContainers for answers of any length.
func (s *Server) StreamContainers(r *runtimeapi.StreamContainersRequest, stream runtimeapi.RuntimeService_StreamContainersServer) error {
	all, _ := s.ListContainers(stream.Context(), &runtimeapi.ListContainersRequest{Filter: r.GetFilter()})
	return inPieces(all.GetContainers(), func(part []*runtimeapi.Container) error {
		return stream.Send(&runtimeapi.StreamContainersResponse{Containers: part})
	})
}

// matchingContainers are the containers that match a filter, the newest first.
func (s *Server) matchingContainers(filter *runtimeapi.ContainerFilter) []*container {
	sandboxID := filter.GetPodSandboxId()
	if sb, ok, _ := s.sandboxes.Get(sandboxID); ok {
		sandboxID = sb.ID
	}
	selector := labels.SelectorFromSet(filter.GetLabelSelector())
	found := slices.DeleteFunc(withID(s.containers, filter.GetId()), func(c *container) bool {
		return filter.GetState() != nil && filter.GetState().GetState() != containerStates[c.State().Phase] ||
			sandboxID != "" && sandboxID != c.Config.SandboxID || !selector.Matches(labels.Set(c.Config.Config.GetLabels()))
	})
	slices.SortFunc(found, func(a, b *container) int { return b.Config.CreatedAt.Compare(a.Config.CreatedAt) })
	return found
}
