package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"minikubelet/e2e/stack"
	"minikubelet/kubelet/timeline/story"
)

// TestExplainNetwork: a network without addresses, with a plugin that fails, and with one that is not there. The kubelet goes on
// when the configuration is right again.
func TestExplainNetwork(t *testing.T) {
	ctx, s := node(t)
	file := filepath.Join(s.Dir, "cni", "10-stack.conflist")
	right := read(t, file)
	configure := func(old, replacement string) {
		t.Helper()
		config := strings.Replace(right, old, replacement, 1)
		if config == right && old != "" {
			t.Fatalf("%q is not in the network's configuration %s", old, right)
		}
		write(t, file+".new", config)
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	defer configure("", "")

	const last = "10.88.255.254"
	configure(`"subnet": "`+stack.PodCIDR+`"`, `"subnet": "`+stack.PodCIDR+`", "rangeStart": "`+last+`", "rangeEnd": "`+last+`"`)
	refused(ctx, t, "AddressesExhausted", last)
	configure(`"bridge": "cni0"`, `"bridge": "lo"`)
	refused(ctx, t, "NetworkPlugin", "network plugin bridge cannot connect it", `"lo" already exists but is not a bridge`)
	configure(`"type": "portmap"`, `"type": "no-such-plugin"`)
	pod := refused(ctx, t, "NetworkPlugin", "no-such-plugin", "is not on the node")
	if s.Component(stack.Containerd) == nil { // which wants the plugin to disconnect what was never connected
		remove(ctx, t, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceDefault, Name: pod}})
		pod = refused(ctx, t, "NetworkPlugin", "no-such-plugin")
	}
	configure("", "")
	told(ctx, t, pod, "")
}

// refused makes pods until the network's newest configuration, which the runtime reads in its own time, keeps one from being
// connected, and returns its name.
func refused(ctx context.Context, t *testing.T, cause string, says ...string) string {
	t.Helper()
	for {
		pod := create(ctx, t, newPod(t)).Name
		var s story.Story
		eventually(ctx, t, "the pod is connected, or not", func() bool {
			var err error
			s, err = explain(ctx, pod)
			return err == nil && (s.State == "Ready" || s.Cause == cause)
		})
		if s.State != "Ready" {
			told(ctx, t, pod, cause, says...)
			return pod
		}
	}
}
