package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// TestCridOptions: a pause process for every pod, whose end ends the pod, and a second OCI runtime by name.
func TestCridOptions(t *testing.T) {
	ctx := onStack(t)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{
		Runtime: stack.Crid, NoControlPlane: true,
		CridArgs: []string{"--pause=always", "--oci-runtime=second=" + filepath.Join(os.Getenv(stack.BinEnv), "runc")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := newCRIServer(t, s, stack.Crid)
	made, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c.sandboxConfig(t), RuntimeHandler: "second"})
	if err != nil {
		t.Fatal(err)
	}
	p := &criPod{c, c.sandboxConfig(t), made.GetPodSandboxId()}
	status, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil || status.GetStatus().GetRuntimeHandler() != "second" {
		t.Fatalf("%v, %v", status, err)
	}
	var info struct {
		State struct {
			Pause struct {
				PID int `json:"pid"`
			} `json:"pause"`
		} `json:"state"`
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil || info.State.Pause.PID == 0 {
		t.Fatalf("no pause process in %s, %v", status.GetInfo(), err)
	}
	if exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(s.Dir, "run", "crid", "runtimes", name, p.id))
		return err == nil
	}; !exists("second") || exists("runc") {
		t.Error("the pause process is not the second runtime's")
	}
	if err := syscall.Kill(info.State.Pause.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(limited(t), t, "the sandbox is not ready", func() bool {
		status, err := c.PodSandboxStatus(limited(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		return err == nil && status.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	_, err = c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: script("late", "true"), SandboxConfig: p.config})
	wantCode(t, "a container in a pod that has ended", err, codes.FailedPrecondition)
	p.remove(t)
}
