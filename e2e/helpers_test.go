package e2e

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"minikubelet/e2e/stack"
)

type testContext = context.Context

// eventually waits for what no watch announces.
func eventually(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("never came true: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func post(ctx context.Context, t *testing.T, s *stack.Stack, url string) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

func v1Config() v1.Config { return v1.Config{Entrypoint: []string{"/none"}} }

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
