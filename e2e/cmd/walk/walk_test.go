package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"minikubelet/e2e/debugger"
	"minikubelet/e2e/stack"
)

const (
	module   = "../../.."
	lastStop = "takedown"
)

var breakLine = regexp.MustCompile(`(?m)^break (\w+) `)

// TestWalk: a static pod in the embedded runtime comes by every stop of docs/walk.dlv, in the order of the walk.
func TestWalk(t *testing.T) {
	dlv := os.Getenv(debugger.Env)
	if os.Getenv(stack.BinEnv) == "" || dlv == "" {
		t.Skipf("end-to-end: %s and %s are not set; make e2e sets them", stack.BinEnv, debugger.Env)
	}
	script := filepath.Join(module, "docs", "walk.dlv")
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, match := range breakLine.FindAllStringSubmatch(string(text), -1) {
		want = append(want, match[1])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // cold, most of it goes into building the kubelet
	defer cancel()
	w, err := start(ctx, options{dlv: dlv, module: module, progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the kubelet's log ends:\n%s", w.kubelet.LogTail(30))
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	end := filepath.Join(t.TempDir(), "end")
	if err := w.deploy(walker(t, filepath.Dir(end))); err != nil {
		t.Fatal(err)
	}
	stops, printed, err := debugger.Follow(w.client(ctx, script), func(stop string) string {
		t.Log(stop)
		if stop == "status" { // it has been seen running: now it may end
			if err := os.WriteFile(end, nil, 0o644); err != nil {
				t.Error(err)
			}
		}
		if stop == lastStop {
			return "quit\n"
		}
		return "continue\n"
	})
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(stops, want) {
		t.Errorf("stops:\n%s\nwant:\n%s", strings.Join(stops, " "), strings.Join(want, " "))
	}
	for _, what := range []string{
		`pods[0].ObjectMeta.Name: "walk-` + w.NodeName + `"`, `job.Start.Reason: "no pod sandbox exists"`,
		`method: "/runtime.v1.RuntimeService/RunPodSandbox"`, `exit.Code: 3`, `s.Phase: "Failed"`, "w.phase: Terminating",
	} {
		if !strings.Contains(printed, what) {
			t.Errorf("no stop printed %s", what)
		}
	}
	if t.Failed() {
		t.Logf("dlv said:\n%s", printed)
	}
}

// walker is the pod of docs/walk.yaml, which does not end after a while but when a file called end is in a directory:
// a debugger on a busy machine may take any time.
func walker(t *testing.T, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(module, "docs", "walk.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(data, &pod); err != nil {
		t.Fatal(err)
	}
	c := &pod.Spec.Containers[0]
	command := strings.Replace(c.Command[2], "sleep 20", "until [ -e /walk/end ]; do sleep 0.1; done", 1)
	if command == c.Command[2] {
		t.Fatalf("docs/walk.yaml runs %q", command)
	}
	c.Command[2] = command
	c.VolumeMounts = []corev1.VolumeMount{{Name: "walk", MountPath: "/walk"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "walk", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
	out, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
