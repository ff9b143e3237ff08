package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

const minimalPod = `apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {name: notes, emptyDir: {}}
  initContainers:
  - {name: first, image: "busybox:1", command: [sh, -c, "echo made >/notes/first"], volumeMounts: [{name: notes, mountPath: /notes}]}
  containers:
  - name: app
    image: busybox:1
    command: [sh, -c, "cat /notes/first; echo run >>/notes/runs; [ $(wc -l </notes/runs) -gt 1 ] && echo again && exec sleep 1000; exit 3"]
    volumeMounts: [{name: notes, mountPath: /notes}]
    readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`

// TestMinimal runs a pod with the core alone: it starts, its log is read, its container is started again after a crash, the
// pod outlives the program, and ends when its manifest goes.
func TestMinimal(t *testing.T) {
	ctx := onStack(t)
	if !shared.RuntimeIsProgram() {
		t.Skip("the runtime is in the kubelet; the core alone has none")
	}
	if kubelet != nil {
		stopKubelet(t)
	}
	dir := filepath.Join(shared.Dir, "minimal")
	program, root, manifests := filepath.Join(dir, "program"), filepath.Join(dir, "root"), filepath.Join(dir, "manifests")
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-o", program, "../examples/minimal") // as the kubelet, which fills the cache
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start := func() *stack.Process {
		t.Helper()
		p, err := shared.Spawn("minimal", program, "-manifests="+manifests, "-runtime=unix://"+shared.RuntimeSocket, "-root="+root, "-cgroup-root=/"+shared.CgroupName())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the program's last words:\n%s", p.LogTail(40))
			}
		})
		return p
	}
	stop := func(p *stack.Process) {
		t.Helper()
		if err := p.Stop(20 * time.Second); err != nil {
			t.Fatalf("stop the program: %v\n%s", err, p.LogTail(40))
		}
	}
	runs := start()
	name := podName(t)
	file := filepath.Join(manifests, "pod.yaml")
	write(t, file, fmt.Sprintf(minimalPod, name))
	full := name + "-minimal"
	eventually(ctx, t, "the container runs again after its crash", func() bool {
		c := running(ctx, t, full)
		return len(c) == 1 && c[0].GetMetadata().GetAttempt() == 1
	})
	logs, err := filepath.Glob(filepath.Join(root, "logs", "default_"+full+"_*", "app", "*.log"))
	if err != nil || len(logs) != 2 {
		t.Fatalf("logs: %v, %v", logs, err)
	}
	eventually(ctx, t, "the log of the second run", func() bool { return strings.Contains(read(t, logs[1]), "again") })
	if log := read(t, logs[0]); !strings.Contains(log, "made") || strings.Contains(log, "again") {
		t.Errorf("log of the first run: %s", log)
	}

	// The pod does not notice that the program ends and comes back.
	before := running(ctx, t, full)[0].GetId()
	stop(runs)
	runs = start()
	defer func() { stop(runs) }()
	write(t, filepath.Join(manifests, "other.yaml"), fmt.Sprintf(minimalPod, name+"-other"))
	eventually(ctx, t, "a pod of another manifest runs", func() bool { return len(running(ctx, t, name+"-other-minimal")) == 1 })
	if c := running(ctx, t, full); len(c) != 1 || c[0].GetId() != before {
		t.Errorf("after the program came back %v runs, want the container %s", c, before)
	}
	removeFile(t, file)
	removeFile(t, filepath.Join(manifests, "other.yaml"))
	eventually(ctx, t, "nothing of the pods is left", func() bool {
		for _, pod := range []string{full, name + "-other-minimal"} {
			left, err := runtimeapi.NewRuntimeServiceClient(shared.CRI).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
				Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.name": pod}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(left.GetItems()) > 0 {
				return false
			}
		}
		for _, place := range []string{"pods", "logs"} {
			if left, err := os.ReadDir(filepath.Join(root, place)); err != nil || len(left) > 0 {
				return false
			}
		}
		return true
	})
}
