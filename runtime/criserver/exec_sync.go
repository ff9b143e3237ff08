package criserver

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/oci"
)

// maxExecOutput bounds what ExecSync returns of each stream, so that both fit into a message.
const maxExecOutput = (maxMessage - 1<<20) / 2

// ExecSync runs a command in a container and returns its output. When it takes longer than
// asked for, every process of it is killed.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	c, err := s.findRunning(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("%w: no command", oci.ErrInvalid)
	}
	if seconds := r.GetTimeout(); seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, inSeconds(seconds))
		defer cancel()
	}
	stdout, stderr := &bounded.Buffer{Limit: maxExecOutput}, &bounded.Buffer{Limit: maxExecOutput}
	command := s.execIn(c, r.GetCmd())
	command.Stdout, command.Stderr = stdout, stderr
	code, err := c.task.runtime.Exec(ctx, command)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: code}, nil
}

// execIn describes a command in a container.
func (s *Server) execIn(c *container, command []string) monitor.Exec {
	e := monitor.Exec{ID: c.ID, Command: command, TempDir: s.state("tmp")}
	if c.task.runtime.SubCgroups {
		e.Cgroup, e.Controller = s.cgroups().ForProcesses(oci.CgroupDir(c.Config.CgroupsPath))
	}
	return e
}
