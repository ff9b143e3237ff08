package criserver

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/store"
)

// container is a container of the CRI.
type container struct {
	*store.Record[store.ContainerConfig, store.ContainerState]

	ops       sync.Mutex // held by what changes the container, but not while waiting for its end
	destroyed bool       // guarded by ops: nothing of it is left
	task      *task
	cpu       cpuSample
}

// containerName is the name by which a container is reserved.
func containerName(sandboxID string, m *runtimeapi.ContainerMetadata) string {
	return strings.Join([]string{sandboxID, m.GetName(), fmt.Sprint(m.GetAttempt())}, "_")
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

func (s *Server) recordExit(c *container, exit monitor.Exit) {
	// The cgroup is there until the runtime is told to delete the container.
	oom := exit.OOM || s.oomKilled(c)
	err := c.Update(func(state *store.ContainerState) {
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
	if err != nil {
		klog.FromContext(s.stopped).Error(err, "Could not write down the end of a container", "container", c.ID)
	}
	klog.FromContext(s.stopped).V(2).Info("Container ended", "container", c.ID, "exitCode", exit.Code, "reason", c.State().Reason)
	s.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.ID, c.Config.SandboxID)
}

func contains(list []string, one string) bool { return slices.Contains(list, one) }
