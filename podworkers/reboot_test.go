package podworkers

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEndsAfterReboot: a pod that ends while its sandbox is not ready has the sandbox stopped, and containers whose state
// is unknown as well, before anything of it is removed. So has a predecessor of which no source knows.
func TestEndsAfterReboot(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"removed":            func(b *bench) { b.update(Update{Pod: testPod("u", nil)}); b.Removed("u") },
		"killed":             func(b *bench) { b.update(Update{Pod: testPod("u", nil), Kill: &Kill{}}) },
		"a successor starts": func(b *bench) { b.update(Update{Pod: testPod("successor", static)}) },
	} {
		for _, state := range []runtimeapi.ContainerState{runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_UNKNOWN} {
			t.Run(name+" "+state.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					first := newBench(t)
					first.update(Update{Pod: testPod("u", func(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever })})
					first.stop()
					sandbox := first.fake.SandboxIDs()[0]
					first.fake.CorruptSandbox(sandbox, func(s *runtimeapi.PodSandboxStatus) { s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY })
					first.fake.Corrupt(first.fake.ContainerID("a"), func(c *runtimeapi.ContainerStatus) { c.State = state })
					first.fake.ResetCalls()
					b := newBenchOver(t, first.fake, first.dir)
					end(b)
					b.settle()
					var calls []string
					for _, call := range b.fake.Calls() {
						switch call {
						case "StopContainer", "StopPodSandbox", "RemoveContainer":
							calls = append(calls, call)
						}
					}
					if len(calls) == 0 || calls[0] == "RemoveContainer" {
						t.Fatalf("the runtime was called so: %v", calls)
					}
					if state == runtimeapi.ContainerState_CONTAINER_UNKNOWN && calls[0] != "StopContainer" {
						t.Errorf("a container that may be running was not stopped first: %v", calls)
					}
					if got := b.fake.Count("StopPodSandbox"); name == "killed" && got != 1 {
						t.Errorf("the sandbox was stopped %d times", got)
					}
				})
			})
		}
	}
}
