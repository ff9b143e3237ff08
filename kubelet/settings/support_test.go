package settings

import (
	"bytes"
	"strings"
	"testing"

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
	g.document = withDefaults(g.document, &kubeletconfig.KubeletConfiguration{})
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
		{"imageGCHighThresholdPercent: 85", ""},
		{"evictionHard: {memory.available: 500Mi, nodefs.available: 10%}", ""},

		{"cpuManagerPolicyOptions: {full-pcpus-only: \"true\"}", "cpuManagerPolicyOptions"},
		{"memoryManagerPolicy: Static", "memoryManagerPolicy"},
		{"topologyManagerPolicy: best-effort", "topologyManagerPolicy"},
		{"reservedSystemCPUs: 0-1", "reservedSystemCPUs"},
		{"podsPerCore: 10", "podsPerCore"},
		{"podCIDR: 10.0.0.0/24", "podCIDR"},
		{"protectKernelDefaults: true", "protectKernelDefaults"},
		{"containerLogMaxSize: 20Mi", "containerLogMaxSize"},
		{"evictionSoft: {memory.available: 1Gi}", "evictionSoft"},
		{"shutdownGracePeriodCriticalPods: 10s", "shutdownGracePeriodCriticalPods"},
		{"imageMaximumGCAge: 24h", "imageMaximumGCAge"},
		{"configMapAndSecretChangeDetectionStrategy: Get", "configMapAndSecretChangeDetectionStrategy"},
		{"tracing: {endpoint: \"localhost:4317\"}", "tracing"},
		{"localStorageCapacityIsolation: false", "localStorageCapacityIsolation"},
		{"enableControllerAttachDetach: false", "enableControllerAttachDetach"},
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
		{head + "authorization: {webhook: {cacheTTL: 1s}}\n", `d/50-x.conf: unknown field "authorization.webhook.cacheTTL"`},
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
		"fileCheckFrequency":        func(c *kubeletconfig.KubeletConfiguration) { c.FileCheckFrequency.Duration = -1 },
		"runtimeRequestTimeout":     func(c *kubeletconfig.KubeletConfiguration) { c.RuntimeRequestTimeout.Duration = -1 },
		"registryPullQPS":           func(c *kubeletconfig.KubeletConfiguration) { c.RegistryPullQPS = &negative },
		"registryBurst":             func(c *kubeletconfig.KubeletConfiguration) { c.RegistryBurst = -1 },
		"eventRecordQPS":            func(c *kubeletconfig.KubeletConfiguration) { c.EventRecordQPS = &negative },
		"kubeAPIQPS":                func(c *kubeletconfig.KubeletConfiguration) { c.KubeAPIQPS = &negative },
		"nodeLeaseDurationSeconds":  func(c *kubeletconfig.KubeletConfiguration) { c.NodeLeaseDurationSeconds = -1 },
		"port":                      func(c *kubeletconfig.KubeletConfiguration) { c.Port = 70000 },
		"healthzPort":               func(c *kubeletconfig.KubeletConfiguration) { c.HealthzPort = &negative },
		"healthzBindAddress":        func(c *kubeletconfig.KubeletConfiguration) { c.HealthzBindAddress = "here" },
		"maxParallelImagePulls":     func(c *kubeletconfig.KubeletConfiguration) { c.MaxParallelImagePulls = &negative },
		"cpuCFSQuotaPeriod":         func(c *kubeletconfig.KubeletConfiguration) { c.CPUCFSQuotaPeriod.Duration = 2e9 },
		"podPidsLimit":              func(c *kubeletconfig.KubeletConfiguration) { *c.PodPidsLimit = 0 },
		"cgroupRoot":                func(c *kubeletconfig.KubeletConfiguration) { c.CgroupRoot = "kubelet" },
		"podLogsDir":                func(c *kubeletconfig.KubeletConfiguration) { c.PodLogsDir = "logs" },
		"staticPodURL":              func(c *kubeletconfig.KubeletConfiguration) { c.StaticPodURL = "ftp://host" },
		"imageServiceEndpoint":      func(c *kubeletconfig.KubeletConfiguration) { c.ImageServiceEndpoint = "x" },
		"kubeReserved[memory]":      func(c *kubeletconfig.KubeletConfiguration) { c.KubeReserved = map[string]string{"memory": "-1"} },
		"enforceNodeAllocatable[0]": func(c *kubeletconfig.KubeletConfiguration) { c.EnforceNodeAllocatable = []string{"kube-reserved"} },
		"nodeStatusMaxImages":       func(c *kubeletconfig.KubeletConfiguration) { *c.NodeStatusMaxImages = -2 },
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
