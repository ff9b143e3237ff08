package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestOOMWatch: the kernel's log becomes events. What a container's limit costs is an event of its pod, what the machine's
// memory costs is one of the node.
func TestOOMWatch(t *testing.T) {
	ctx, _ := node(t)
	hungry := shell("app", "tail /dev/zero")
	hungry.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
	pod := newPod(t)
	pod.Spec.Containers[0] = hungry
	create(ctx, t, pod)
	if message := event(ctx, t, pod.Name, "OOMKilling"); !strings.HasPrefix(message, "Out of memory: process tail, pid: ") || !strings.HasSuffix(message, ", of container app was killed") {
		t.Errorf("the pod's event: %q", message)
	}

	pid := os.Getpid() // tells this record from those of other tests on this machine
	record := fmt.Sprintf("<4>oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/elsewhere,task=nobody,pid=%d,uid=0", pid)
	if err := os.WriteFile("/dev/kmsg", []byte(record), 0); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("System OOM encountered, victim process: nobody, pid: %d", pid)
	if message := event(ctx, t, shared.NodeName, "SystemOOM"); message != want {
		t.Errorf("the node's event: %q, not %q", message, want)
	}
}
