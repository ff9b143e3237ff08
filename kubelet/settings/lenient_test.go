package settings

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSoftened: what upstream takes though it cannot be meant so is taken, and one warning says what holds instead.
func TestSoftened(t *testing.T) {
	for _, tt := range []struct {
		lines, warning string
		holds          func(*Settings) bool
	}{
		{"maxPodz: 3", `unknown field "maxPodz", which has no effect; did you mean maxPods?`, func(s *Settings) bool { return s.MaxPods == 110 }},
		{"CPUManagerPolicy: static", `unknown field "CPUManagerPolicy", which has no effect; did you mean cpuManagerPolicy?`, nil},
		{"authorization: {webhook: {cacheTTL: 1s}}", `unknown field "authorization.webhook.cacheTTL", which has no effect; did you mean authentication.webhook.cacheTTL?`, nil},
		{"registerWithTaints: [{key: a, effect: NoSchedule, since: now}]", `unknown field "registerWithTaints[0].since", which has no effect`, nil},
		{"maxPods: 3\nmaxPods: 4", `the last of several values counts: yaml: unmarshal errors: line 4: key "maxPods" already set in map`, func(s *Settings) bool { return s.MaxPods == 4 }},
		{"maxPods: 3\n---\nmaxPods: 4", "only the first document counts", func(s *Settings) bool { return s.MaxPods == 3 }},
		{"clusterDNS: [None, 010.0.0.10]", `clusterDNS[0]: "None" is no IP address and is left out`, func(s *Settings) bool { return slices.Equal(s.ClusterDNS, []string{"10.0.0.10"}) }},
		{"tlsMinVersion: VersionTLS10", "tlsMinVersion: VersionTLS10 has no effect: VersionTLS12 is the oldest that is spoken", nil},
		{"topologyManagerPolicy: best-effort", "topologyManagerPolicy has no effect", nil},
		{"topologyManagerScope: pod", "topologyManagerScope has no effect", nil},
		{"configMapAndSecretChangeDetectionStrategy: Cache", "configMapAndSecretChangeDetectionStrategy has no effect", nil},
		{"enableControllerAttachDetach: false", "enableControllerAttachDetach has no effect", nil},
		{"showHiddenMetricsForVersion: \"1.36\"", "showHiddenMetricsForVersion has no effect", nil},
		{"reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]", "reservedMemory has no effect", nil},
		{"memoryThrottlingFactor: 0.9\nfeatureGates: {MemoryQoS: false}", "memoryThrottlingFactor has no effect", nil},
		{"featureGates: {AllBeta: false}", "featureGates[AllBeta]=false: no effect but on MemoryQoS", nil},
		{"memoryThrottlingFactor: 0.9\nfeatureGates: {AllBeta: false, MemoryQoS: true}", "no effect but on MemoryQoS", func(s *Settings) bool { return s.FeatureGates[memoryQoS] }},
	} {
		s, err := load(t, tt.lines)
		if err != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], tt.warning) {
			t.Errorf("%q: %v; the warnings are %q, want %q", tt.lines, err, warnings(s), tt.warning)
		} else if tt.holds != nil && !tt.holds(s) {
			t.Errorf("%q: %+v", tt.lines, s.KubeletConfiguration)
		}
	}
}

func warnings(s *Settings) []string {
	if s == nil {
		return nil
	}
	return s.Warnings
}

// TestSoftenedFlags: the same for flags.
func TestSoftenedFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"--node-ip=here,10.0.0.1": `--node-ip: "here" is not an IP address and is left out`, "--node-ip=127.0.0.1": "--node-ip: 127.0.0.1 is left out",
		"--node-ip=fe80::1": "--node-ip: fe80::1 is left out", "--cloud-provider=gce": "--cloud-provider=gce has no effect",
		"--node-labels=a=b,node-role.kubernetes.io/worker": "--node-labels: node-role.kubernetes.io/worker is set only if the apiserver lets a node set its roles",
		"--bootstrap-kubeconfig=/b":                        "--bootstrap-kubeconfig has no effect without --kubeconfig", "--reserved-memory=0:memory=1Gi": "--reserved-memory has no effect",
	} {
		s, err := Load([]string{arg}, &bytes.Buffer{})
		if err != nil || len(s.Warnings) != 1 || !strings.HasPrefix(s.Warnings[0], want) {
			t.Errorf("%s: %v; the warnings are %q, want %q", arg, err, warnings(s), want)
		}
	}
}

// TestForms: what can be written in several ways means the same.
func TestForms(t *testing.T) {
	for _, tt := range []struct {
		lines, args string
		holds       func(*Settings) bool
	}{
		{"containerRuntimeEndpoint: /run/x.sock", "", func(s *Settings) bool { return s.RuntimeSocket() == "unix:///run/x.sock" }},
		{"containerRuntimeEndpoint: unix:/run/x.sock", "", func(s *Settings) bool { return s.RuntimeSocket() == "unix:///run/x.sock" }},
		{"containerRuntimeEndpoint: unix://var/run/x.sock", "", func(s *Settings) bool { return s.RuntimeSocket() == "unix:///run/x.sock" }},
		{"cgroupRoot: kubelet/", "", func(s *Settings) bool { return s.CgroupRoot == "/kubelet" }},
		{"podPidsLimit: 0", "", func(s *Settings) bool { return *s.PodPidsLimit == -1 }},
		{"healthzBindAddress: localhost", "", func(s *Settings) bool { return s.HealthzBindAddress == "localhost" }},
		{"podsPerCore: 10", "", func(s *Settings) bool { return s.PodsPerCore == 10 && len(s.Warnings) == 0 }},
		{"reservedSystemCPUs: 0-1,4\nkubeReserved: {cpu: \"1\", memory: 1Gi}", "", func(s *Settings) bool {
			return s.SystemReserved["cpu"] == "3" && s.KubeReserved["cpu"] == "" && s.KubeReserved["memory"] == "1Gi"
		}},
		{"memoryReservationPolicy: TieredReservation", "", func(s *Settings) bool { return s.FeatureGates[memoryQoS] }},
		{"memoryThrottlingFactor: 0.9\nfeatureGates: {AllBeta: false}", "", func(s *Settings) bool { return !s.FeatureGates[memoryQoS] }},
		{"featureGates: {MemoryQoS: true, ImageVolume: true}", "--feature-gates=ImageVolume=false", func(s *Settings) bool {
			return s.FeatureGates[memoryQoS] && !s.FeatureGates["ImageVolume"]
		}},
		{"maxPods: 5", "--max-pods=0x10 --node-ip= --root-dir=/var/lib/kubelet/", func(s *Settings) bool { return s.MaxPods == 16 && s.RootDir == "/var/lib/kubelet" }},
		{"", "--register-with-taints=a:NoSchedule --register-with-taints=b:NoSchedule", func(s *Settings) bool { return len(s.RegisterWithTaints) == 1 }},
	} {
		s, err := load(t, tt.lines, strings.Fields(tt.args)...)
		if err != nil || !tt.holds(s) {
			t.Errorf("%q %s: %v, %+v", tt.lines, tt.args, err, s)
		}
	}
}

// TestRelativePaths: a relative path in the file of --config is one below that file's directory, in a drop-in it is as it is.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/kubelet.yaml", head+"staticPodPath: manifests\nauthentication: {x509: {clientCAFile: ../ca.crt}}\npodLogsDir: logs\nresolvConf: \"\"\n")
	write(t, dir+"/d/1.conf", head+"volumePluginDir: plugins\n")
	s, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/d"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(s.StaticPodPath, s.Authentication.X509.ClientCAFile, s.PodLogsDir, *s.ResolverConfig, s.VolumePluginDir)
	if want := fmt.Sprintln(dir+"/manifests", dir[:strings.LastIndex(dir, "/")]+"/ca.crt", dir+"/logs", "", "plugins"); got != want {
		t.Errorf("the paths are %s, want %s", got, want)
	}
}

// TestDropInsOverDefaults: drop-ins are laid over a file that has its defaults.
func TestDropInsOverDefaults(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/kubelet.yaml", head)
	write(t, dir+"/d/1.conf", head+"evictionHard: {pid.available: 10%, imagefs.available: null}\nnodeStatusUpdateFrequency: 30s\n")
	s, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/d"}, &bytes.Buffer{})
	if err != nil || len(s.EvictionHard) != 5 || s.EvictionHard["pid.available"] != "10%" || s.NodeStatusReportFrequency.Duration != 5*time.Minute {
		t.Errorf("%v, %+v", err, s)
	}
	if s, err = Load([]string{"--config-dir=" + dir + "/d"}, &bytes.Buffer{}); err != nil || len(s.EvictionHard) != 1 {
		t.Errorf("without a file: %v, %+v", err, s)
	}
	write(t, file, head+"evictionHard: {memory.available: 5%}\nnodeStatusUpdateFrequency: 20s\n")
	s, err = Load([]string{"--config=" + file, "--config-dir=" + dir + "/d"}, &bytes.Buffer{})
	if err != nil || len(s.EvictionHard) != 2 || s.NodeStatusReportFrequency.Duration != 20*time.Second {
		t.Errorf("over a file's own: %v, %+v", err, s)
	}
}
