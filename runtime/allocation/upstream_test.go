package allocation

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// upstreamRoot is a root directory in which Kubernetes' kubelet recorded these CPUs of the pod's container.
func upstreamRoot(t *testing.T, allocated, actuated string) string {
	t.Helper()
	root := t.TempDir()
	for name, cpu := range map[string]string{allocatedFile: allocated, actuatedFile: actuated} {
		text := `{"data":"{\"entries\":{\"u\":{\"ContainerResources\":{\"c\":{\"requests\":{\"cpu\":\"` + cpu + `\"}},\"i\":{\"requests\":{\"cpu\":\"1\"}}},` +
			`\"PodLevelResources\":null,\"EmptyDirVolumeLimits\":null}}}","checksum":2405242256}`
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
	return root
}

// written sets when a file was.
func written(t *testing.T, at time.Time, path ...string) {
	t.Helper()
	must(t, os.Chtimes(filepath.Join(path...), at, at))
}

// TestUpstreamState: a pod goes on with what Kubernetes' kubelet gave it, if that was the last to give it something.
func TestUpstreamState(t *testing.T) {
	root := upstreamRoot(t, "3", "2")
	dir := filepath.Join(root, "pods")
	s := New(dir)
	pod, err := s.Recall(podOf("1", "5"))
	if err != nil || asks(pod) != "1 3" {
		t.Errorf("the pod has %q, %v", asks(pod), err)
	}
	lagging, _ := s.Actuated("u")
	if want := (Resources{Containers: map[string]corev1.ResourceRequirements{"c": cpu("2")}}); !cmp.Equal(lagging, want) {
		t.Errorf("lagging %v, want %v", lagging, want)
	}
	other := podOf("1", "5")
	other.UID = "v"
	if pod, err := s.Recall(other); err != nil || asks(pod) != "1 5" {
		t.Errorf("a pod that it does not name has %q, %v", asks(pod), err)
	}

	// What this kubelet gave it later counts, until the other one is back in its place.
	must(t, s.Allocate(podOf("1", "4")))
	must(t, s.Save(t.Context(), "u"))
	own := time.Now()
	written(t, own, dir, "u", file)
	for _, tt := range []struct {
		later time.Duration
		want  string
	}{{-time.Minute, "1 4"}, {time.Minute, "1 3"}} {
		written(t, own.Add(tt.later), root, allocatedFile)
		if pod, err := New(dir).Recall(podOf("1", "5")); err != nil || asks(pod) != tt.want {
			t.Errorf("its record is %v later: the pod has %q, %v", tt.later, asks(pod), err)
		}
	}
}

// TestUpstreamStateBroken: a record that cannot be read is told of once, and what this kubelet gave the pod counts.
func TestUpstreamStateBroken(t *testing.T) {
	root := upstreamRoot(t, "3", "3")
	dir := filepath.Join(root, "pods")
	must(t, os.WriteFile(filepath.Join(root, allocatedFile), []byte(`{"data":"{\"entr`), 0o600))
	s := New(dir)
	if pod, err := s.Recall(podOf("1", "5")); err == nil || asks(pod) != "1 5" {
		t.Errorf("the pod has %q, %v", asks(pod), err)
	}
	must(t, s.Allocate(podOf("1", "4")))
	must(t, s.Save(t.Context(), "u"))
	if pod, err := s.Recall(podOf("1", "5")); err != nil || asks(pod) != "1 4" {
		t.Errorf("the pod has %q, %v", asks(pod), err)
	}
	if pod, err := New(dir).Recall(podOf("1", "5")); err == nil || asks(pod) != "1 4" {
		t.Errorf("after a restart the pod has %q, %v", asks(pod), err)
	}
}

// TestWriteUpstream: Kubernetes' kubelet finds what pods were given and have. This kubelet's own records, which have more,
// count when it comes back before that one ran.
func TestWriteUpstream(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "pods")
	s := New(dir)
	must(t, s.Allocate(podOf("1", "2")))
	must(t, s.SetDevices("u", []byte(`"a device"`)))
	must(t, s.Allocate(podOf("1", "3")))
	must(t, s.Save(t.Context(), "u"))
	must(t, s.WriteUpstream())
	for name, want := range map[string]string{allocatedFile: "3", actuatedFile: "2"} {
		entries, _, err := readState(filepath.Join(root, name))
		if c := entries["u"].ContainerResources["c"]; err != nil || c.Requests.Cpu().String() != want {
			t.Errorf("%s has %v, %v", name, entries, err)
		}
	}
	written(t, time.Now().Add(time.Minute), root, allocatedFile)
	if devices := New(dir).Devices(); string(devices["u"]) != `"a device"` {
		t.Errorf("the devices are %s", devices)
	}
}
