package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"minikubelet/e2e/stack"
)

// metricNames runs a kubelet with pods that do well and pods that do not, and returns "PATH NAME" of all that it shows.
func metricNames(ctx context.Context, t *testing.T, upstream bool) map[string]bool {
	t.Helper()
	if kubelet != nil {
		stopKubelet(t)
	}
	file := filepath.Join(shared.ManifestDir(), "measured.yaml")
	write(t, file, fmt.Sprintf(manifest, "measured", "red"))
	defer removeFile(t, file)
	startKubelet(ctx, t, stack.KubeletOptions{Upstream: upstream})
	defer func() {
		if t.Failed() {
			t.Logf("the kubelet's log:\n%s", kubelet.LogTail(60))
		}
		stopKubelet(t)
	}()
	pod := newPod(t)
	app := &pod.Spec.Containers[0]
	app.ImagePullPolicy = corev1.PullAlways
	app.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
	app.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/none"}}}, PeriodSeconds: 100, InitialDelaySeconds: 100}
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	app.VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	ready(ctx, t, pod)
	failing := newPod(t)
	failing.Spec.Containers = []corev1.Container{shell("app", "exit 1")}
	waitingFor(ctx, t, create(ctx, t, failing), "CrashLoopBackOff")
	missing := newPod(t)
	missing.Spec.Containers[0].Image, missing.Spec.Containers[0].ImagePullPolicy = stack.TestappImage+"-none", corev1.PullAlways
	waitingFor(ctx, t, create(ctx, t, missing), "ErrImagePull")
	static := newPod(t)
	static.Name = "measured-" + shared.NodeName
	if _, err := shared.WaitPodReady(ctx, static.Namespace, static.Name); err != nil {
		t.Fatal(err)
	}
	remove(ctx, t, failing)
	remove(ctx, t, missing)
	admin := kubeletClient(t, "admin", "system:masters")
	names := map[string]bool{}
	for _, path := range []string{"/healthz", "/stats/summary", "/metrics", "/metrics/resource", "/metrics/probes", "/metrics/cadvisor", "/metrics/slis", "/metrics"} {
		code, body := askKubelet(ctx, t, admin, "", "GET "+path)
		if code != http.StatusOK {
			t.Errorf("%s: %d %.200s", path, code, body)
		}
		for line := range strings.Lines(body) {
			if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
				name, _, _ := strings.Cut(rest, " ")
				names[path+" "+name] = true
			}
		}
	}
	return names
}

// TestMetricNames compares, by name, what there is to measure with upstream's kubelet: in one run, on the same stack,
// with the same pods. testdata/metrics.txt says what is missing and why; it must be neither more nor less.
func TestMetricNames(t *testing.T) {
	ctx := onStack(t)
	if os.Getenv(stack.UpstreamEnv) == "" {
		t.Skip("make compare, a part of make verify, runs the tests against upstream's kubelet")
	}
	if !shared.RuntimeIsProgram() {
		t.Skip("upstream's kubelet cannot run on the runtime in this one: E2E_RUNTIME=containerd runs this test")
	}
	theirs, ours := metricNames(ctx, t, true), metricNames(ctx, t, false)
	reasons := missingMetrics(t)
	both := 0
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		_, listed := reasons[name]
		switch {
		case ours[name]:
			both++
			if listed {
				t.Errorf("%s is there, and listed as missing", name)
			}
		case !listed:
			t.Errorf("%s is missing, and not listed", name)
		}
	}
	for name, reason := range reasons {
		if !theirs[name] && !strings.HasPrefix(reason, sometimes) {
			t.Errorf("%s is listed as missing, but upstream has none", name)
		}
	}
	more := 0
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if !theirs[name] {
			more++
			t.Logf("only here: %s", name)
		}
	}
	t.Logf("upstream shows %d, %d of them are here, %d are listed as missing; %d are only here", len(theirs), both, len(reasons), more)
}

// sometimes begins the reason of a group that upstream shows in some runs and not in others.
const sometimes = "sometimes upstream: "

// missingMetrics reads lines of PATH NAME, each group below its reason: a line of ##.
func missingMetrics(t *testing.T) map[string]string {
	t.Helper()
	reasons := map[string]string{}
	reason := ""
	for line := range strings.Lines(read(t, "testdata/metrics.txt")) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "## "); ok {
			reason = rest
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if reason == "" || reasons[line] != "" {
			t.Errorf("testdata/metrics.txt: %s has no reason, or is listed twice", line)
		}
		reasons[line] = reason
	}
	return reasons
}
