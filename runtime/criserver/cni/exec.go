package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"

	"minikubelet/runtime/criserver/bounded"
)

const (
	// maxOutput bounds what a plugin may answer.
	maxOutput = 1 << 20
	// outputDelay is how long after its end a plugin's output may come from what it started.
	outputDelay = time.Second
)

// boundedExec runs plugins as libcni does, but keeps only so much of what they print.
type boundedExec struct{ invoke.DefaultExec }

// ExecPlugin implements invoke.Exec.
func (*boundedExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	stdout, stderr := &bounded.Buffer{Limit: maxOutput}, &bounded.Buffer{Limit: maxOutput}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = environ
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A plugin that takes too long ends with its children, and a child that goes on with the output open is not waited for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, pluginError(err, stdout.Bytes(), stderr.String())
	}
	if stdout.Cut() {
		return nil, fmt.Errorf("plugin answered more than %d bytes", maxOutput)
	}
	return stdout.Bytes(), nil
}

// pluginError is the error that a plugin wrote to stdout, or what else is known.
func pluginError(err error, stdout []byte, stderr string) error {
	reported := &types.Error{}
	if json.Unmarshal(stdout, reported) == nil && (reported.Msg != "" || reported.Code != 0) {
		return reported
	}
	return errors.Join(err, errors.New(strings.TrimSpace(stderr)))
}
