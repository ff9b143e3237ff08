package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

// TestEveryProblemAtOnce: one error has all that is wrong with flags and files.
func TestEveryProblemAtOnce(t *testing.T) {
	file := write(t, t.TempDir()+"/c.yaml", head+"cpuManagerPolicy: static\nport: 70000\nfeatureGates: {Sidecar: true}\n")
	_, err := Load([]string{
		"--config=" + file, "--container-runtime", "docker", "--chaos-chance=1", "--max_pods=many", "--regster-node", "--no-such-thing=1", "--node-ip=10.0.0.1,10.0.0.2", "-max-pods=3", "extra",
	}, &bytes.Buffer{})
	for _, want := range []string{
		"--container-runtime: docker is not built here (last in Kubernetes 1.26)", "--chaos-chance: removed upstream: last in Kubernetes 1.21",
		"--max-pods: \"many\"", "--node-ip: \"10.0.0.1,10.0.0.2\"", "-max-pods=3: unknown flag; did you mean --max-pods?",
		"--regster-node: unknown flag; did you mean register-node?", "--no-such-thing: unknown flag", "cpuManagerPolicy: static is not supported", "port: Invalid value",
		"featureGates[Sidecar]: unknown feature gate", `unknown command "extra"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// TestIdleFlags: flags that change nothing are taken in every form, each with one warning.
func TestIdleFlags(t *testing.T) {
	s, err := Load([]string{
		"--pod_infra_container_image=pause:3.9", "--containerd", "/run/x.sock", "--container-runtime=remote", "--network-plugin", "cni", "--docker-tls", "--hairpin-mode", "",
		"--logtostderr", "--log_file=x", "--register-schedulable=false", "--max-pods", "20", "--feature-gates=ImageVolume=true,MemoryQoS=true,ExecProbeTimeout=false",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"--pod-infra-container-image has no effect (last in Kubernetes 1.34): ", "--containerd has", "--logtostderr has", "--log-file has",
		"--register-schedulable has", "featureGates[ExecProbeTimeout]=false: no effect", "--container-runtime has", "--network-plugin has", "--docker-tls has",
	} {
		if n := len(slices.DeleteFunc(slices.Clone(s.Warnings), func(w string) bool { return !strings.HasPrefix(w, want) })); n != 1 {
			t.Errorf("%d warnings begin with %q: %q", n, want, s.Warnings)
		}
	}
	if len(s.Warnings) != 9 || s.MaxPods != 20 || !s.FeatureGates["MemoryQoS"] {
		t.Errorf("maxPods %d, warnings %q", s.MaxPods, s.Warnings)
	}
}

// TestIdleFlagsAreNoOthers: a flag that changes nothing does not stand in the place of one that does.
func TestIdleFlagsAreNoOthers(t *testing.T) {
	f := newFlags(&bytes.Buffer{})
	for name := range f.idle {
		if f.embedded.Lookup(name) != nil || slices.ContainsFunc(table, func(field Field) bool { return field.Flag == name }) || f.set.Lookup(name).Value.Type() != "ignored" {
			t.Errorf("--%s is two flags", name)
		}
	}
}

// TestFlagsOverDefaults: flags are read over a configuration that has its defaults. So a flag's 0 is a value, where a file's means the
// default, and what the file's fields decide of others is decided without the flags.
func TestFlagsOverDefaults(t *testing.T) {
	zero := func(d time.Duration) bool { return d == 0 }
	for _, tt := range []struct {
		lines, flag string
		holds       func(*Settings) bool // nil if the flag is refused
	}{
		{"maxPods: 0", "", func(s *Settings) bool { return s.MaxPods == 110 }},
		{"maxPods: 5", "--max-pods=0", func(s *Settings) bool { return s.MaxPods == 0 }},
		{"", "--authentication-token-webhook-cache-ttl=0", func(s *Settings) bool { return zero(s.Authentication.Webhook.CacheTTL.Duration) }},
		{"", "--authorization-webhook-cache-authorized-ttl=0s", func(s *Settings) bool { return zero(s.Authorization.Webhook.CacheAuthorizedTTL.Duration) }},
		{"", "--streaming-connection-idle-timeout=0", func(s *Settings) bool { return zero(s.StreamingConnectionIdleTimeout.Duration) }},
		{"", "--minimum-image-ttl-duration=0s", func(s *Settings) bool { return zero(s.ImageMinimumGCAge.Duration) }},
		{"", "--eviction-pressure-transition-period=0s", func(s *Settings) bool { return zero(s.EvictionPressureTransitionPeriod.Duration) }},
		{"", "--event-burst=0", func(s *Settings) bool { return s.EventBurst == 100 }},
		{"", "--max-open-files=0", func(s *Settings) bool { return s.MaxOpenFiles == 1000000 }},
		{"", "--cgroup-driver=", func(s *Settings) bool { return s.CgroupDriver == "cgroupfs" }},
		{"", "--node-status-update-frequency=1m", func(s *Settings) bool { return s.NodeStatusReportFrequency.Duration == 5*time.Minute }},
		{"nodeStatusUpdateFrequency: 20s", "--node-status-update-frequency=1m", func(s *Settings) bool {
			return s.NodeStatusUpdateFrequency.Duration == time.Minute && s.NodeStatusReportFrequency.Duration == 20*time.Second
		}},
		{"", "--port=0", nil},
		{"", "--file-check-frequency=0", nil},
		{"", "--node-status-update-frequency=0", nil},
		{"", "--runtime-request-timeout=0", nil},
	} {
		s, err := load(t, tt.lines, strings.Fields(tt.flag)...)
		name, _, _ := strings.Cut(tt.flag, "=")
		switch {
		case tt.holds == nil && (err == nil || !strings.Contains(err.Error(), name)):
			t.Errorf("%q %s: the error is %v", tt.lines, tt.flag, err)
		case tt.holds != nil && (err != nil || !tt.holds(s)):
			t.Errorf("%q %s: %v, %+v", tt.lines, tt.flag, err, s)
		}
	}
}

// TestHelpShowsWhatFlagsTake: a default that --help shows means the same when it is typed.
func TestHelpShowsWhatFlagsTake(t *testing.T) {
	for _, f := range fieldsWithFlag() {
		if f.Default == nil {
			continue
		}
		value, err := f.convert(flagForm(f.Default))
		if err != nil || !reflect.DeepEqual(typed(f.Path, value), typed(f.Path, f.Default)) {
			t.Errorf("--%s=%s: %v, %v", f.Flag, flagForm(f.Default), value, err)
		}
	}
}

// TestNodeLabels: as upstream reads them, a key alone is a label and what is empty is none.
func TestNodeLabels(t *testing.T) {
	for given, want := range map[string]map[string]string{
		"": {}, ",": {}, "a=b,": {"a": "b"}, "foo,bar=baz": {"foo": "", "bar": "baz"}, " a = b , c=": {"a": "b", "c": ""}, "a=b=c": nil,
	} {
		s, err := Load([]string{"--node-labels=" + given}, &bytes.Buffer{})
		switch {
		case want == nil && err == nil:
			t.Errorf("%q is taken", given)
		case want != nil && (err != nil || len(s.NodeLabels) != len(want)):
			t.Errorf("%q: %v, %v", given, s, err)
		}
		for key, value := range want {
			if got, ok := s.NodeLabels[key]; !ok || got != value {
				t.Errorf("%q: label %s is %q", given, key, got)
			}
		}
	}
}

// TestVersion: the version is Kubernetes' with this project's as metadata, and another one is reported only if it differs in that.
func TestVersion(t *testing.T) {
	modules, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if library := strings.Replace(KubernetesVersion, "v1.", "k8s.io/api v0.", 1); !strings.Contains(string(modules), library+"\n") {
		t.Errorf("go.mod does not have %s", library)
	}
	for given, want := range map[string]string{
		"--version": "Kubernetes " + Version + "\n", "--version=true": "Kubernetes " + Version + "\n", "--version=raw": `GitVersion:"` + Version + `"`,
	} {
		var out bytes.Buffer
		if _, err := Load([]string{given}, &out); !errors.Is(err, ErrVersion) || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %q", given, err, out.String())
		}
	}
	for given, want := range map[string]string{"false": Version, KubernetesVersion + "-vendor.1": KubernetesVersion + "-vendor.1", "v1.30.5-gke.1": Version} {
		s, err := Load([]string{"--version=" + given}, &bytes.Buffer{})
		if err != nil || s.Version != want || (given == "v1.30.5-gke.1") != (len(s.Warnings) == 1) {
			t.Errorf("--version=%s: %v, %v", given, s, err)
		}
	}
	if _, err := Load([]string{"--version=latest"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "--version") {
		t.Errorf("--version=latest: %v", err)
	}
}

// TestCloudProvider: the only cloud provider is one outside of the kubelet.
func TestCloudProvider(t *testing.T) {
	for given, warnings := range map[string]int{"": 0, "external": 0, "aws": 1} {
		if s, err := Load([]string{"--cloud-provider=" + given}, &bytes.Buffer{}); err != nil || s.ExternalCloud != (given == "external") || len(s.Warnings) != warnings {
			t.Errorf("%q: %v, %v", given, s, err)
		}
	}
}

// TestJSONLogs: with logging.format json each line is an object with upstream's keys.
func TestJSONLogs(t *testing.T) {
	s, err := load(t, "logging: {format: json, verbosity: 2}")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		klog.ClearLogger()
		_, _ = Load(nil, &bytes.Buffer{})
	})
	var out bytes.Buffer
	if err := applyLogging(&s.KubeletConfiguration, &out); err != nil {
		t.Fatal(err)
	}
	klog.Background().V(2).Info("SyncLoop ADD", "source", "api")
	klog.Background().V(3).Info("not this")
	klog.Background().Error(errors.New("broken"), "Failed")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("the log is %q", out.String())
	}
	for i, want := range []map[string]any{{"msg": "SyncLoop ADD", "source": "api", "v": 2.0}, {"msg": "Failed", "err": "broken"}} {
		got := map[string]any{}
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s is %v in %s", key, got[key], lines[i])
			}
		}
		if ts, _ := got["ts"].(float64); ts < 1e12 || !strings.HasPrefix(got["caller"].(string), "flags_test.go:") {
			t.Errorf("ts or caller: %s", lines[i])
		}
	}
}
