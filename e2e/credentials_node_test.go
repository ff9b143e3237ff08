package e2e

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"minikubelet/e2e/stack"
)

// TestNodeCredentials: the password of a registry is in config.json below the kubelet's root directory, and a pod without a pull secret runs its image.
func TestNodeCredentials(t *testing.T) {
	host, _, _ := strings.Cut(stack.PauseImage, "/")
	onStack(t)
	if kubelet != nil {
		stopKubelet(t) // it may have looked for the file already, and would look again only in five minutes
	}
	path := filepath.Join(shared.RootDir(), "config.json")
	if err := os.MkdirAll(shared.RootDir(), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"auths":{"`+host+`":{"username":"node","password":"open"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopKubelet(t) // it would remember the file
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	ctx, s := node(t)
	pullsAs(ctx, t, s, "node")
}

// pullsAs runs a pod whose image the registry gives to that user alone.
func pullsAs(ctx context.Context, t *testing.T, s *stack.Stack, user string) {
	t.Helper()
	image, err := stack.BuildImage(nil, v1Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Registry.Push(ctx, user+"/app:1", image); err != nil {
		t.Fatal(err)
	}
	s.Registry.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if name, password, ok := r.BasicAuth(); !strings.Contains(r.URL.Path, "/"+user+"/") || ok && name == user && password == "open" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="`+user+`"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	defer s.Registry.Intercept(nil)
	pod := newPod(t)
	host, _, _ := strings.Cut(stack.PauseImage, "/")
	pod.Spec.Containers[0].Image = host + "/" + user + "/app:1"
	create(ctx, t, pod)
	event(ctx, t, pod.Name, "Pulled")
}
