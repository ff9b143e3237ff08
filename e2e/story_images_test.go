package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"minikubelet/e2e/stack"
)

// TestExplainRegistries: registries that cannot be reached, or not as the runtime wants to.
func TestExplainRegistries(t *testing.T) {
	ctx, s := node(t)
	if s.Component(stack.Containerd) == nil {
		t.Skip("this runtime reads its settings of registries at its start")
	}
	const address = "198.51.100.7" // not private: registries there are asked by https
	if out, err := s.Exec(ctx, "ip", "address", "add", address+"/32", "dev", "lo"); err != nil {
		t.Fatal(err, out)
	}
	t.Cleanup(func() {
		if out, err := s.Exec(context.WithoutCancel(ctx), "ip", "address", "delete", address+"/32", "dev", "lo"); err != nil {
			t.Error(err, out)
		}
	})
	for port, start := range map[int]func(*httptest.Server){5443: (*httptest.Server).StartTLS, 5080: (*httptest.Server).Start} {
		l, err := s.Listen(fmt.Sprintf("%s:%d", address, port))
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Listener = l
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		start(server)
		t.Cleanup(server.Close)
	}
	cases := map[string]storyCase{}
	for name, tc := range map[string]struct {
		cause, registry string
		says            []string
	}{
		"certificate": {"RegistryTLS", address + ":5443", []string{"certificate of its registry is not accepted", "known to the runtime"}},
		"plain":       {"RegistryTLS", address + ":5080", []string{"plain HTTP"}},
		"refused":     {"RegistryAway", address + ":5999", []string{"cannot be reached at " + address + ":5999"}},
	} {
		// Containerd's settings of the stack send pulls from all registries to that of the tests, but for those that have their own.
		dir := filepath.Join(s.Dir, "certs.d", tc.registry)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		write(t, filepath.Join(dir, "hosts.toml"), fmt.Sprintf("server = %q\n", "https://"+tc.registry))
		cases[name] = storyCase{tc.cause, append(tc.says, tc.registry+"/story:1"), image(tc.registry+"/story:1", corev1.PullIfNotPresent)}
	}
	explained(ctx, t, podName(t), cases)
}
