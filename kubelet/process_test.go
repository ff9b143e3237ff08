package kubelet

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/kubelet/settings"
)

// TestOOMScoreAdj raises the score of the test's own process, which needs no capability.
func TestOOMScoreAdj(t *testing.T) {
	read := func() int {
		data, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			t.Fatal(err)
		}
		score, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		return score
	}
	want := min(read()+1, 1000)
	applyOOMScoreAdj(t.Context(), int32(want))
	if got := read(); got != want {
		t.Errorf("the score is %d, want %d", got, want)
	}
}

// TestIdleOnCgroupV1: settings that need cgroup v2 are named, and only those that are given.
func TestIdleOnCgroupV1(t *testing.T) {
	s := &settings.Settings{}
	s.SingleProcessOOMKill = new(true)
	if got := idleOnCgroupV1(s); len(got) > 0 {
		t.Errorf("nothing is given, and %v have no effect", got)
	}
	s.SingleProcessOOMKill, s.MemorySwap.SwapBehavior, s.MemoryThrottlingFactor = new(false), settings.LimitedSwap, new(0.9)
	s.MemoryReservationPolicy = kubeletconfig.TieredReservationMemoryReservationPolicy
	want := []string{"memoryReservationPolicy", "memorySwap.swapBehavior", "memoryThrottlingFactor", "singleProcessOOMKill"}
	if got := idleOnCgroupV1(s); !slices.Equal(got, want) {
		t.Errorf("%v have no effect, want %v", got, want)
	}
}

// TestKernelSettings: they are set, or, with protectKernelDefaults, one error names all that differ and nothing is changed.
func TestKernelSettings(t *testing.T) {
	dir := t.TempDir()
	has := func(file string) string {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, k := range kernelSettings {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, k.file)), 0o755); err != nil {
			t.Fatal(err)
		}
		value := k.value + "\n"
		if k.file == "vm/overcommit_memory" || k.file == "kernel/panic" {
			value = "7\n"
		}
		if err := os.WriteFile(filepath.Join(dir, k.file), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := applyKernelSettings(t.Context(), dir, true)
	for _, want := range []string{"protectKernelDefaults", "vm/overcommit_memory, expected value: 1, actual value: 7", "kernel/panic, expected value: 10"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if has("kernel/panic") != "7\n" {
		t.Error("protectKernelDefaults has changed a setting")
	}
	if err := applyKernelSettings(t.Context(), dir, false); err != nil || has("kernel/panic") != "10" || has("vm/overcommit_memory") != "1" {
		t.Errorf("%v, kernel/panic is %q", err, has("kernel/panic"))
	}
	if err := applyKernelSettings(t.Context(), dir, true); err != nil {
		t.Error(err)
	}
	if err := applyKernelSettings(t.Context(), dir+"/none", false); err != nil {
		t.Errorf("settings that cannot be set: %v", err)
	}
}

// TestContentType: objects are written to the apiserver as contentType says.
func TestContentType(t *testing.T) {
	for _, want := range []string{protobuf, "application/json"} {
		var contentType, accept string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			contentType, accept = r.Header.Get("Content-Type"), r.Header.Get("Accept")
			w.WriteHeader(http.StatusForbidden)
		}))
		kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
		content := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: " + server.URL + "}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n"
		if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := settings.Load([]string{"--kubeconfig=" + kubeconfig, "--kube-api-content-type=" + want, "--hostname-override=node-1"}, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		clients, err := newAPIClients(t.Context(), s, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := clients.nodes.Create(t.Context(), &corev1.Node{}, metav1.CreateOptions{}); err == nil {
			t.Error("no error from a server that forbids all")
		}
		server.Close()
		if contentType != want || !strings.Contains(accept, want) {
			t.Errorf("%s: Content-Type %q, Accept %q", want, contentType, accept)
		}
	}
}
