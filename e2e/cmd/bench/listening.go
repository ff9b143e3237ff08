package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// listens waits until the container's process has a handler for SIGTERM: the first process of a PID namespace does
// not get a signal that it has none for, and a removal would measure its grace period.
func (p *floorPod) listens(ctx context.Context, s *stack.Stack) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the pod's process does not listen to SIGTERM"))
	defer cancel()
	status, err := runtimeapi.NewRuntimeServiceClient(s.CRI).ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: p.container, Verbose: true})
	if err != nil {
		return err
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil || info.PID == 0 {
		return fmt.Errorf("read the container's PID from its status: %w: %q", err, status.GetInfo()["info"])
	}
	for {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", info.PID))
		if err != nil {
			return fmt.Errorf("look at the container's process: %w", err)
		}
		if catches(string(data), syscall.SIGTERM) {
			return nil
		}
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// catches tells from /proc/PID/status whether a container's process has a handler for a signal. As long as it is still
// runc's, it has one for every signal, and loses them all when it becomes the container's.
func catches(status string, signal syscall.Signal) bool {
	if strings.HasPrefix(status, "Name:\trunc") {
		return false
	}
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && mask&(1<<(signal-1)) != 0
		}
	}
	return false
}
