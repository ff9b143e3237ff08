package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// TestCridPauseShields: a container that shares its pod's processes gets nowhere through the root directory of the
// first of them. A user without rights does not get in; one who may trace processes finds the node's settings read-only
// and its secrets hidden there, as in a container.
func TestCridPauseShields(t *testing.T) {
	c := crid(t)
	config := c.sandboxConfig(t)
	config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	p := c.run(t, config)
	const first = "/proc/1/root"
	for _, tc := range []struct {
		name, script, want string
		change             func(*runtimeapi.LinuxContainerSecurityContext)
	}{
		{"same-user", "cat /proc/1/comm; ls " + first + "/ >/dev/null 2>&1 || echo refused", "pause\nrefused", func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 65535}, &runtimeapi.Int64Value{Value: 65535}
		}},
		// Opening the file for writing changes nothing as long as nothing is written.
		{"tracer", "for f in kernel/core_pattern kernel/modprobe vm/swappiness; do (: >>" + first + "/proc/sys/$f) 2>/dev/null || echo no; done; " +
			"(: >>" + first + "/proc/sysrq-trigger) 2>/dev/null || echo no; head -c 1 " + first + "/proc/keys | wc -c; ls " + first + "/sys/firmware | wc -l",
			"no\nno\nno\nno\n0\n0", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
			}},
	} {
		container := script(tc.name, tc.script)
		security := container.Linux.SecurityContext
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		security.MaskedPaths, security.ReadonlyPaths = []string{"/proc/keys"}, []string{"/proc/sys"}
		tc.change(security)
		if got := p.output(t, container); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// sharing is a pod whose containers see each other's processes.
const sharing = `
apiVersion: v1
kind: Pod
metadata: {name: together}
spec:
  shareProcessNamespace: true
  containers:
  - {name: app, image: %s, imagePullPolicy: Never, command: [sh, -c, "exec sleep 3600"]}
`

// TestEmbeddedSharesProcesses: a pod that shares its processes needs no other image than those of its containers.
func TestEmbeddedSharesProcesses(t *testing.T) {
	ctx := onStack(t)
	s, err := stack.Start(ctx, stack.Options{Runtime: stack.Embedded, NoControlPlane: true, NoRegistry: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(s.ManifestDir(), "together.yaml")
	write(t, file, fmt.Sprintf(sharing, stack.BusyboxImage))
	k := embeddedKubelet(t, s)
	pod := standalone(ctx, t, s, "the pod is ready", isReady)
	client := &criServer{RuntimeServiceClient: runtimeapi.NewRuntimeServiceClient(s.CRI), s: s}
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	if got := client.sh(t, id, "cat /proc/1/comm"); got != "pause" {
		t.Errorf("the first process is %q", got)
	}
	// Whoever lost its parent is the first process's child, which must take note of its end.
	orphan := client.sh(t, id, "(true & echo $!)")
	eventually(ctx, t, "the orphan is gone", func() bool { return client.sh(t, id, "test -e /proc/"+orphan+" || echo gone") == "gone" })
	removeFile(t, file)
	eventually(ctx, t, "the pod is gone", func() bool { return criNames(ctx, t, s) == "crid" })
	if err := k.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
}
