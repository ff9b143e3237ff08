package live

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/settings"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// TestReload: files that are replaced through a link, and drop-ins, are read; what can change changes, the rest is named,
// and a fault leaves everything as it was.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	config, drops := filepath.Join(dir, "at", "config"), filepath.Join(dir, "drops")
	for _, d := range []string{filepath.Dir(config), drops, filepath.Join(dir, "1"), filepath.Join(dir, "2")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, lines string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(head+lines+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	link := func(to string) {
		t.Helper()
		if err := os.Symlink(to, config+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(config+".new", config); err != nil {
			t.Fatal(err)
		}
	}
	link(write("1/kubelet.yaml", "imageGCHighThresholdPercent: 90"))
	s, err := settings.Load([]string{"--config=" + config, "--config-dir=" + drops, "--hostname-override=node"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	applied := make(chan *settings.Settings, 10)
	recorder := record.NewFakeRecorder(10)
	r := New(Options{Settings: s, Events: recorder, Node: func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "node"} }, Apply: func(s *settings.Settings) error {
		applied <- s
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	event := func(parts ...string) {
		t.Helper()
		select {
		case got := <-recorder.Events:
			for _, part := range parts {
				if !strings.Contains(got, part) {
					t.Errorf("event %q, want %q in it", got, part)
				}
			}
		case <-time.After(time.Minute):
			t.Fatalf("no event with %q", parts)
		}
	}
	link(write("2/kubelet.yaml", "imageGCHighThresholdPercent: 91"))
	event("Normal", eventApplied, "imageGCHighThresholdPercent")
	if got := *(<-applied).ImageGCHighThresholdPercent; got != 91 {
		t.Errorf("applied %d, want 91", got)
	}

	write("2/kubelet.yaml", "imageGCHighThresholdPercent: 191")
	event("Warning", eventInvalid, config, "imageGCHighThresholdPercent")
	if now, _ := r.Current(); *now.ImageGCHighThresholdPercent != 91 || len(applied) != 0 {
		t.Errorf("in force after a fault: %d; applied %d times", *now.ImageGCHighThresholdPercent, len(applied))
	}

	write("2/kubelet.yaml", "imageGCHighThresholdPercent: 91\nmaxPods: 7")
	event("Warning", eventRestart, "maxPods")
	if now, restart := r.Current(); now.MaxPods != 110 || len(restart) != 1 || restart[0] != "maxPods" {
		t.Errorf("in force: maxPods %d; to be restarted for: %v", now.MaxPods, restart)
	}

	write("2/kubelet.yaml", "imageGCHighThresholdPercent: 91\nmaxPods: 7\nmaxPodz: 8")
	event("Warning", eventWarning, config, `unknown field "maxPodz"`)

	write("drops/10.conf", "evictionHard: {memory.available: 1Mi}\nmaxPods: 110")
	event("Normal", eventApplied, "evictionHard")
	if now, restart := r.Current(); now.EvictionHard["memory.available"] != "1Mi" || len(restart) != 0 {
		t.Errorf("in force: %v; to be restarted for: %v", now.EvictionHard, restart)
	}

	// The directory of drop-ins is replaced as a whole.
	if err := os.Rename(drops, drops+".old"); err != nil {
		t.Fatal(err)
	}
	event("Warning", eventInvalid, drops)
	if err := os.Mkdir(drops, 0o755); err != nil {
		t.Fatal(err)
	}
	write("drops/10.conf", "evictionHard: {memory.available: 2Mi}\nmaxPods: 110")
	event("Normal", eventApplied, "evictionHard")
}
