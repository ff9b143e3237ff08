package settings

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// load reads a configuration of these lines.
func load(t *testing.T, lines string, args ...string) (*Settings, error) {
	t.Helper()
	file := write(t, t.TempDir()+"/kubelet.yaml", head+lines+"\n")
	return Load(append([]string{"--config=" + file}, args...), &bytes.Buffer{})
}

// TestDefaultsAreAccepted: a file that spells out the defaults, as tools write them, says nothing new.
func TestDefaultsAreAccepted(t *testing.T) {
	g := newGiven()
	g.document = g.withDefaults(&kubeletconfig.KubeletConfiguration{})
	if _, err := g.decode(); err != nil {
		t.Error(err)
	}
}

func TestSupport(t *testing.T) {
	for _, tt := range []struct{ lines, refused string }{
		{"registryPullQPS: 0", ""},
		{"syncFrequency: 10s", ""},
		{"authentication: {x509: {clientCAFile: /ca.crt}, anonymous: {enabled: true}}", ""},
		{"authorization: {mode: AlwaysAllow}", ""},
		{"tlsCertFile: /a.crt\ntlsPrivateKeyFile: /a.key\ntlsMinVersion: VersionTLS13\ntlsCurvePreferences: [29]\nreadOnlyPort: 10255", ""},
		{"failSwapOn: true", ""},
		{"logging: {verbosity: 4}", ""},
		{"cpuManagerPolicy: none", ""},
		{"memoryManagerPolicy: None", ""},
		{"topologyManagerPolicy: none\ntopologyManagerScope: container", ""},
		{"podCIDR: \"\"\nreservedSystemCPUs: \"\"\nqosReserved: {}", ""},
		{"protectKernelDefaults: false\nserverTLSBootstrap: false\nenableProfilingHandler: true\nenableDebugFlagsHandler: true\nenableContentionProfiling: true", ""},
		{"containerLogMaxSize: 10Mi\ncontainerLogMaxFiles: 5", ""},
		{"memorySwap: {swapBehavior: \"\"}", ""},
		{"imageGCHighThresholdPercent: 90\nimageGCLowThresholdPercent: 70\nimageMinimumGCAge: 1m\nimageMaximumGCAge: 24h", ""},
		{"containerLogMaxSize: \"-1\"\ncontainerLogMaxFiles: 2\ncontainerLogMaxWorkers: 3\ncontainerLogMonitorInterval: 3s", ""},
		{"evictionSoft: {memory.available: 1Gi}\nevictionSoftGracePeriod: {memory.available: 1m}\nevictionMaxPodGracePeriod: 60", ""},
		{"evictionMinimumReclaim: {nodefs.available: 1Gi}\nevictionPressureTransitionPeriod: 30s\nkernelMemcgNotification: true", ""},
		{"localStorageCapacityIsolation: false", ""},
		{"shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s", ""},
		{"shutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 10}, {priority: 100, shutdownGracePeriodSeconds: 5}]", ""},
		{"evictionHard: {memory.available: 500Mi, nodefs.available: 10%}", ""},

		{"featureGates: {RotateKubeletServerCertificate: true}", ""},
		{"cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}", "cpuManagerPolicyOptions"},
		{"memoryManagerPolicy: Static", "memoryManagerPolicy"},
		{"topologyManagerPolicy: restricted", "topologyManagerPolicy"},
		{"configMapAndSecretChangeDetectionStrategy: Ask", "configMapAndSecretChangeDetectionStrategy"},
		{"tracing: {endpoint: \"localhost:4317\", samplingRatePerMillion: 100}", ""},
		{"defaultPodSysctls: {net.ipv4.tcp_tw_reuse: \"1\"}", "defaultPodSysctls"},
	} {
		_, err := load(t, tt.lines)
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%q: %v", tt.lines, err)
		case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), ": "+tt.refused+": ") || !strings.Contains(err.Error(), "not supported")):
			t.Errorf("%q: the error is %v, want that %s is not supported", tt.lines, err, tt.refused)
		}
	}
}

// TestDropInErrors: an error names the drop-in it is in; what only the merged document shows names where it came from.
func TestDropInErrors(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/kubelet.yaml", head+"serializeImagePulls: true\n")
	dropIn := write(t, dir+"/d/50-x.conf", head+"authorization: {webhook: {cacheTTL: 1s}}\n")
	for _, tt := range []struct{ content, want string }{
		{head + "authorization: {webhook: {cacheUnauthorizedTTL: soon}}\n", `d/50-x.conf: time: invalid duration "soon"`},
		{"maxPods: 3\n", "d/50-x.conf: want apiVersion"},
		{head + "maxParallelImagePulls: 3\n", "d/50-x.conf: maxParallelImagePulls"},
	} {
		write(t, dropIn, tt.content)
		_, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/d"}, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the error is %v, want %q in it", err, tt.want)
		}
	}
	for _, args := range [][]string{{"--config=" + dir + "/missing"}, {"--config-dir=" + dir + "/missing"}} {
		if _, err := Load(args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), dir+"/missing") {
			t.Errorf("%v: the error is %v, want one that names it", args, err)
		}
	}
	big := write(t, dir+"/big.yaml", head+strings.Repeat("#", maxFile))
	if _, err := Load([]string{"--config=" + big}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file of more than %d bytes: %v", maxFile, err)
	}
}

// TestMergePatch: RFC 7386, appendix A, as far as documents are objects.
func TestMergePatch(t *testing.T) {
	for _, tt := range []struct{ base, patch, want string }{
		{"a: b", "a: c", "a: c"},
		{"a: b", "b: c", "{a: b, b: c}"},
		{"a: b", "a: null", "{}"},
		{"{a: b, b: c}", "a: null", "b: c"},
		{"a: [b]", "a: c", "a: c"},
		{"a: c", "a: [b]", "a: [b]"},
		{"a: {b: c}", "a: {b: d, c: null}", "a: {b: d}"},
		{"a: [{b: c}]", "a: [1]", "a: [1]"},
		{"a: {b: c}", "a: 1", "a: 1"},
		{"a: {b: {c: 1, d: 2}}", "a: {b: {c: null}}", "a: {b: {d: 2}}"},
	} {
		got := mergePatch(object(t, tt.base), object(t, tt.patch))
		if cmp.Diff(got, object(t, tt.want)) != "" {
			t.Errorf("%s with %s is %v, want %s", tt.base, tt.patch, got, tt.want)
		}
	}
}

func TestVerbosity(t *testing.T) {
	t.Cleanup(func() { _, _ = Load([]string{"--v=0"}, &bytes.Buffer{}) })
	for _, args := range [][]string{{"--v=2"}, {"--v", "2"}} {
		if _, err := Load([]string{"--v=0"}, &bytes.Buffer{}); err != nil || klog.V(1).Enabled() {
			t.Fatalf("--v=0: %v, V(1) enabled: %v", err, klog.V(1).Enabled())
		}
		if _, err := Load(args, &bytes.Buffer{}); err != nil || !klog.V(2).Enabled() || klog.V(3).Enabled() {
			t.Errorf("%v: %v, V(2) enabled: %v, V(3): %v", args, err, klog.V(2).Enabled(), klog.V(3).Enabled())
		}
	}
	s, err := load(t, "logging: {verbosity: 3}")
	if err != nil || s.Logging.Verbosity != 3 || !klog.V(3).Enabled() {
		t.Errorf("from the file: %v", err)
	}
	if s, err = load(t, "logging: {verbosity: 3}", "--v=0"); err != nil || s.Logging.Verbosity != 0 {
		t.Errorf("--v=0 over the file's 3: %v, %v", s, err)
	}
	for _, arg := range []string{"--v=many", "--vmodule=a"} {
		name, _, _ := strings.Cut(arg, "=")
		if _, err := Load([]string{arg}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the error is %v, want one that names the flag", arg, err)
		}
	}
}

func TestValidate(t *testing.T) {
	negative := int32(-1)
	for path, change := range map[string]func(*kubeletconfig.KubeletConfiguration){
		"fileCheckFrequency":          func(c *kubeletconfig.KubeletConfiguration) { c.FileCheckFrequency.Duration = -1 },
		"runtimeRequestTimeout":       func(c *kubeletconfig.KubeletConfiguration) { c.RuntimeRequestTimeout.Duration = -1 },
		"registryPullQPS":             func(c *kubeletconfig.KubeletConfiguration) { c.RegistryPullQPS = &negative },
		"registryBurst":               func(c *kubeletconfig.KubeletConfiguration) { c.RegistryBurst = -1 },
		"eventRecordQPS":              func(c *kubeletconfig.KubeletConfiguration) { c.EventRecordQPS = &negative },
		"kubeAPIQPS":                  func(c *kubeletconfig.KubeletConfiguration) { c.KubeAPIQPS = &negative },
		"nodeLeaseDurationSeconds":    func(c *kubeletconfig.KubeletConfiguration) { c.NodeLeaseDurationSeconds = -1 },
		"port":                        func(c *kubeletconfig.KubeletConfiguration) { c.Port = 70000 },
		"healthzPort":                 func(c *kubeletconfig.KubeletConfiguration) { c.HealthzPort = &negative },
		"healthzBindAddress":          func(c *kubeletconfig.KubeletConfiguration) { c.HealthzBindAddress = "not here" },
		"maxParallelImagePulls":       func(c *kubeletconfig.KubeletConfiguration) { c.MaxParallelImagePulls = &negative },
		"cpuCFSQuotaPeriod":           func(c *kubeletconfig.KubeletConfiguration) { c.CPUCFSQuotaPeriod.Duration = 2e9 },
		"podsPerCore":                 func(c *kubeletconfig.KubeletConfiguration) { c.PodsPerCore = -1 },
		"podLogsDir":                  func(c *kubeletconfig.KubeletConfiguration) { c.PodLogsDir = "logs" },
		"staticPodURL":                func(c *kubeletconfig.KubeletConfiguration) { c.StaticPodURL = "ftp://host" },
		"imageServiceEndpoint":        func(c *kubeletconfig.KubeletConfiguration) { c.ImageServiceEndpoint = "x" },
		"kubeReserved[memory]":        func(c *kubeletconfig.KubeletConfiguration) { c.KubeReserved = map[string]string{"memory": "-1"} },
		"enforceNodeAllocatable[0]":   func(c *kubeletconfig.KubeletConfiguration) { c.EnforceNodeAllocatable = []string{"kube-reserved"} },
		"imageGCHighThresholdPercent": func(c *kubeletconfig.KubeletConfiguration) { *c.ImageGCHighThresholdPercent = 101 },
		"imageGCLowThresholdPercent":  func(c *kubeletconfig.KubeletConfiguration) { *c.ImageGCLowThresholdPercent = 85 },
		"imageMinimumGCAge":           func(c *kubeletconfig.KubeletConfiguration) { c.ImageMinimumGCAge.Duration = -1 },
		"imageMaximumGCAge":           func(c *kubeletconfig.KubeletConfiguration) { c.ImageMaximumGCAge.Duration = 1e9 },
		"containerLogMaxSize":         func(c *kubeletconfig.KubeletConfiguration) { c.ContainerLogMaxSize = "big" },
		"containerLogMaxFiles":        func(c *kubeletconfig.KubeletConfiguration) { *c.ContainerLogMaxFiles = 1 },
		"containerLogMaxWorkers":      func(c *kubeletconfig.KubeletConfiguration) { *c.ContainerLogMaxWorkers = 0 },
		"containerLogMonitorInterval": func(c *kubeletconfig.KubeletConfiguration) { c.ContainerLogMonitorInterval.Duration = 1e9 },
		"evictionHard[disk]":          func(c *kubeletconfig.KubeletConfiguration) { c.EvictionHard = map[string]string{"disk": "10%"} },
		"evictionHard[pid.available]": func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionHard = map[string]string{"pid.available": "101%"}
		},
		"evictionHard[nodefs.available]": func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionHard = map[string]string{"nodefs.available": "0"}
		},
		"evictionSoft[memory.available]": func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionSoft = map[string]string{"memory.available": "1Gi"}
		},
		"evictionSoftGracePeriod[memory.available]": func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionSoftGracePeriod = map[string]string{"memory.available": "-1s"}
		},
		"evictionMinimumReclaim[memory.available]": func(c *kubeletconfig.KubeletConfiguration) {
			c.EvictionMinimumReclaim = map[string]string{"memory.available": "-1Gi"}
		},
		"shutdownGracePeriod":             func(c *kubeletconfig.KubeletConfiguration) { c.ShutdownGracePeriod.Duration = 1e6 },
		"shutdownGracePeriodCriticalPods": func(c *kubeletconfig.KubeletConfiguration) { c.ShutdownGracePeriodCriticalPods.Duration = 1e9 },
		"shutdownGracePeriodByPodPriority[1].priority": func(c *kubeletconfig.KubeletConfiguration) {
			c.ShutdownGracePeriodByPodPriority = []kubeletconfig.ShutdownGracePeriodByPodPriority{{Priority: 1}, {Priority: 1}}
		},
		"shutdownGracePeriodByPodPriority": func(c *kubeletconfig.KubeletConfiguration) {
			c.ShutdownGracePeriod.Duration = 1e9
			c.ShutdownGracePeriodByPodPriority = []kubeletconfig.ShutdownGracePeriodByPodPriority{{Priority: 1}}
		},
		"evictionPressureTransitionPeriod": func(c *kubeletconfig.KubeletConfiguration) { c.EvictionPressureTransitionPeriod.Duration = -1 },
		"nodeStatusMaxImages":              func(c *kubeletconfig.KubeletConfiguration) { *c.NodeStatusMaxImages = -2 },
	} {
		c, err := newGiven().decode()
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		if errs := validate(c); len(errs) != 1 || !strings.HasPrefix(errs[0].err.Error(), path+": ") {
			t.Errorf("%s: the errors are %v", path, errs)
		}
	}
}

// object reads YAML that is no configuration.
func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEvictionThresholds(t *testing.T) {
	for _, tt := range []struct {
		lines string
		want  []EvictionThreshold
	}{
		{"evictionHard: {}", nil},
		{"evictionHard: {pid.available: 10%, memory.available: 1Gi, imagefs.available: 0%, nodefs.inodesFree: 100%}", []EvictionThreshold{
			{Signal: "memory.available", Value: Amount{Quantity: 1 << 30}}, {Signal: "pid.available", Value: Amount{Percent: 10}},
		}},
		{"evictionHard: {memory.available: 5%}\nevictionSoft: {memory.available: 10%}\nevictionSoftGracePeriod: {memory.available: 1m30s}\n" +
			"evictionMinimumReclaim: {memory.available: 1Ki}", []EvictionThreshold{
			{Signal: "memory.available", Value: Amount{Percent: 5}, MinReclaim: Amount{Quantity: 1 << 10}},
			{Signal: "memory.available", Value: Amount{Percent: 10}, MinReclaim: Amount{Quantity: 1 << 10}, GracePeriod: 90 * time.Second},
		}},
		{"mergeDefaultEvictionSettings: true\nevictionHard: {memory.available: 0%, nodefs.available: 1Ki}", []EvictionThreshold{
			{Signal: "nodefs.available", Value: Amount{Quantity: 1 << 10}}, {Signal: "nodefs.inodesFree", Value: Amount{Percent: 5}},
			{Signal: "imagefs.available", Value: Amount{Percent: 15}}, {Signal: "imagefs.inodesFree", Value: Amount{Percent: 5}},
		}},
	} {
		s, err := load(t, tt.lines)
		if err != nil {
			t.Errorf("%q: %v", tt.lines, err)
			continue
		}
		if diff := cmp.Diff(tt.want, s.EvictionThresholds()); diff != "" {
			t.Errorf("%q: %s", tt.lines, diff)
		}
	}
	if got := (Amount{Percent: 10}).Of(50) + (Amount{Quantity: 7}).Of(50); got != 12 {
		t.Errorf("10%% of 50 and 7 are %d", got)
	}
	// What upstream's kubelet made of 24684092Ki of memory.
	if got := (Amount{Percent: 5}).Of(24684092 << 10); got != 1263825529 {
		t.Errorf("5%% of much memory are %d", got)
	}
}
