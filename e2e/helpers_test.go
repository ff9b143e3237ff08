package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

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
	get(ctx, t, url[:strings.LastIndex(url, "/")+1]) // it listens by now
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

// get fetches a URL of a pod. A pod that is ready without a probe may not listen yet.
func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	var body string
	eventually(ctx, t, "an answer from "+url, func() (ok bool) {
		var err error
		body, err = shared.Get(ctx, url)
		return err == nil
	})
	return body
}

// restarts is how often the pod's first container was started again; 0 before it has a status.
func restarts(p *corev1.Pod) int32 {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

// stopComponent kills a part of the stack; it is started again when the test ends, if the test did not.
func stopComponent(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if err := shared.StopComponent(ctx, name, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		select {
		case <-shared.Component(name).Done():
			startComponent(clean, t, name)
		default:
		}
	})
}

func startComponent(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if err := shared.StartComponent(ctx, name); err != nil {
		t.Error(err)
	}
}

// end has the pod's testapp end with an exit code. It ends before it answers.
func end(ctx context.Context, t *testing.T, pod *corev1.Pod, code int) {
	t.Helper()
	get(ctx, t, "http://"+pod.Status.PodIP+":8080/")
	if err := shared.Exit(ctx, pod.Status.PodIP, code); err != nil {
		t.Fatalf("have pod %s end: %v", pod.Name, err)
	}
}

// lockedText is what a program wrote so far.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// asExit tells whether err is that of a program that ended with an exit code.
func asExit(err error, into *exec.ExitError) bool {
	found, ok := errors.AsType[*exec.ExitError](err)
	if ok {
		*into = *found
	}
	return ok
}
