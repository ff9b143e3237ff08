package settings

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/kubelet.yaml", head+"maxPods: 20\nclusterDomain: file\nkubeReserved: {cpu: 100m, memory: 1Gi}\nclusterDNS: [10.0.0.1]\n")
	write(t, dir+"/d/20-late.conf", head+"clusterDomain: late\nkubeReserved: {memory: null}\n")
	write(t, dir+"/d/10-early.conf", head+"clusterDomain: early\nmaxPods: 30\nclusterDNS: [10.0.0.2, 10.0.0.3]\n")
	write(t, dir+"/d/ignored.yaml", "not a drop-in")
	if err := os.Symlink(dir+"/d", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	s, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/link", "--max-pods=40", "--hostname-override=Node-1"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxPods != 40 {
		t.Errorf("maxPods is %d, want the flag's 40", s.MaxPods)
	}
	if s.ClusterDomain != "late" {
		t.Errorf("clusterDomain is %q, want the later drop-in's", s.ClusterDomain)
	}
	if len(s.ClusterDNS) != 2 {
		t.Errorf("clusterDNS is %v, want the drop-in's list in place of the file's", s.ClusterDNS)
	}
	if len(s.KubeReserved) != 1 || s.KubeReserved["cpu"] != "100m" {
		t.Errorf("kubeReserved is %v, want the file's without memory", s.KubeReserved)
	}
	if s.FileCheckFrequency.Seconds() != 20 {
		t.Errorf("fileCheckFrequency is %v, want the default", s.FileCheckFrequency)
	}
	if s.NodeName != "node-1" {
		t.Errorf("the node's name is %q", s.NodeName)
	}
}

func TestSecurityDefaults(t *testing.T) {
	for _, args := range [][]string{nil, {"--config=" + write(t, t.TempDir()+"/c.yaml", head)}} {
		s, err := Load(args, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if *s.Authentication.Anonymous.Enabled || !*s.Authentication.Webhook.Enabled || s.Authorization.Mode != "Webhook" || s.ReadOnlyPort != 0 {
			t.Errorf("%v: authentication %+v, authorization %+v, readOnlyPort %d", args, s.Authentication, s.Authorization, s.ReadOnlyPort)
		}
		if !*s.SeccompDefault || *s.PodPidsLimit <= 0 || *s.EnableProfilingHandler || s.StreamingConnectionIdleTimeout.Minutes() != 5 {
			t.Errorf("%v: seccompDefault %v, podPidsLimit %d, profiling %v, idle timeout %v", args,
				*s.SeccompDefault, *s.PodPidsLimit, *s.EnableProfilingHandler, s.StreamingConnectionIdleTimeout)
		}
	}
}

// TestClusterToolConfiguration: what cluster tools write for their nodes is taken as it is.
func TestClusterToolConfiguration(t *testing.T) {
	file := write(t, t.TempDir()+"/config.yaml", head+`
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: systemd
cgroupRoot: /kubelet
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
evictionHard: {imagefs.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%}
evictionPressureTransitionPeriod: 0s
failSwapOn: false
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageGCHighThresholdPercent: 100
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`)
	s, err := Load([]string{"--config=" + file}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if s.NodeStatusUpdateFrequency.Seconds() != 10 || s.RuntimeRequestTimeout.Minutes() != 2 {
		t.Errorf("a period of 0 does not mean the default: %v, %v", s.NodeStatusUpdateFrequency, s.RuntimeRequestTimeout)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct{ name, content, want string }{
		{"wrong type", head + "maxPods: many\n", "maxPods"},
		{"wrong kind", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Pod\n", "KubeletConfiguration"},
		{"not built", head + "cpuManagerPolicy: static\n", "cpuManagerPolicy: static is not supported"},
		{"swap", head + "memorySwap: {swapBehavior: UnlimitedSwap}\n", "memorySwap.swapBehavior: Invalid value"},
		{"feature gates", head + "featureGates: {Some: true}\n", "featureGates[Some]: unknown feature gate"},
		{"feature gate misspelt", head + "featureGates: {MemoryQos: true}\n", "did you mean MemoryQoS?"},
		{"throttling", head + "memoryThrottlingFactor: 1.5\n", "memoryThrottlingFactor"},
		{"reservation without its gate", head + "featureGates: {MemoryQoS: false}\nmemoryReservationPolicy: TieredReservation\n", "must be None while the feature gate MemoryQoS is false"},
		{"reserved CPUs", head + "reservedSystemCPUs: 0-x\n", "reservedSystemCPUs: Invalid value"},
		{"reserved CPUs and a cgroup", head + "reservedSystemCPUs: 0-1\nkubeReservedCgroup: /kube\n", "must not be given together with kubeReservedCgroup"},
		{"reservation of no kind", head + "memoryReservationPolicy: Some\n", "must be None or TieredReservation"},
		{"IDs of a pod", head + "userNamespaces: {idsPerPod: 1000}\n", "userNamespaces.idsPerPod"},
		{"eviction", head + "evictionHard: {nodefs.free: 3%}\n", "evictionHard[nodefs.free]"},
		{"image collection", head + "imageGCHighThresholdPercent: 70\n", "imageGCHighThresholdPercent"},
		{"graceful shutdown", head + "shutdownGracePeriod: 30ms\n", "shutdownGracePeriod: Invalid value"},
		{"read-only port", head + "readOnlyPort: 99999\n", "readOnlyPort"},
		{"negative", head + "maxPods: -1\n", "maxPods: Invalid value"},
		{"pod CIDR", head + "podCIDR: 10.0.0.0/24,10.0.0.1\n", "podCIDR"},
		{"driver", head + "cgroupDriver: other\n", "cgroupDriver"},
		{"reservation", head + "kubeReserved: {gold: 1}\n", "kubeReserved"},
		{"quantity", head + "systemReserved: {memory: lots}\n", "systemReserved[memory]"},
		{"parallel pulls", head + "maxParallelImagePulls: 3\nserializeImagePulls: true\n", "serializeImagePulls"},
		{"endpoint", head + "containerRuntimeEndpoint: tcp://127.0.0.1:1\n", "containerRuntimeEndpoint"},
		{"log format", head + "logging: {format: xml}\n", "logging.format: Invalid value"},
		{"tracing, rate", head + "tracing: {samplingRatePerMillion: 1000001}\n", "tracing.samplingRatePerMillion: Invalid value"},
		{"tracing, endpoint", head + "tracing: {endpoint: \"http://localhost:4317\"}\n", "tracing.endpoint: Invalid value"},
		{"eviction, bad", head + "evictionHard: {memory.available: lots}\n", "evictionHard[memory.available]: Invalid value"},
		{"eviction, more than all", head + "evictionHard: {memory.available: 200%}\n", "evictionHard[memory.available]: Invalid value"},
		{"eviction, soft", head + "evictionSoft: {memory.available: 1Gi}\n", "evictionSoft[memory.available]"},
		{"port", head + "port: 70000\n", "port: Invalid value"},
		{"duration", head + "fileCheckFrequency: -1s\n", "fileCheckFrequency: Invalid value"},
		{"quota period", head + "cpuCFSQuotaPeriod: 2s\n", "cpuCFSQuotaPeriod: Invalid value"},
		{"URL", head + "staticPodURL: ftp://x/\n", "staticPodURL: Invalid value"},
		{"taint key", head + "registerWithTaints: [{key: a b, effect: NoSchedule}]\n", "registerWithTaints[0].key"},
		{"taint effect", head + "registerWithTaints: [{key: a}]\n", "registerWithTaints[0].effect"},
		{"taint twice", head + "registerWithTaints: [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoSchedule}]\n", "registerWithTaints[1]"},
		{"enforcement", head + "enforceNodeAllocatable: [pods, system-reserved]\n", "enforceNodeAllocatable[1]"},
		{"enforcement without cgroups", head + "cgroupsPerQOS: false\n", "needs cgroupsPerQOS"},
		{"sysctl", head + "allowedUnsafeSysctls: ['*']\n", "allowedUnsafeSysctls[0]"},
		{"TLS version", head + "tlsMinVersion: TLS12\n", "tlsMinVersion"},
		{"TLS cipher", head + "tlsCipherSuites: [TLS_NULL]\n", "tlsCipherSuites[0]"},
		{"TLS key alone", head + "tlsPrivateKeyFile: /k\n", "tlsPrivateKeyFile"},
		{"authorization", head + "authorization: {mode: Never}\n", "authorization.mode"},
		{"OOM score", head + "oomScoreAdj: -1001\n", "oomScoreAdj: Invalid value"},
		{"content type", head + "contentType: text/plain\n", "contentType: Invalid value"},
		{"image age", head + "imageMinimumGCAge: 1h\nimageMaximumGCAge: 1h\n", "imageMaximumGCAge"},
		{"restart period", head + "crashLoopBackOff: {maxContainerRestartPeriod: 10m}\n", "crashLoopBackOff.maxContainerRestartPeriod"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, t.TempDir()+"/kubelet.yaml", tt.content)
			_, err := Load([]string{"--config=" + file}, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.name != "enforcement without cgroups" && !strings.Contains(err.Error(), file) {
				t.Errorf("the error is %v, want one that names the file and %q", err, tt.want)
			}
		})
	}
}

// TestTaken: values that ask for nothing that is missing are taken, as are upstream's defaults, however they are written.
func TestTaken(t *testing.T) {
	for _, content := range []string{
		"contentType: application/vnd.kubernetes.protobuf", "imageMinimumGCAge: 120s", "enableProfilingHandler: true", "memoryThrottlingFactor: 0.9",
		"evictionHard: {memory.available: 5%, nodefs.available: 0%, imagefs.inodesFree: 5%}", "evictionHard: {}", "featureGates: {}", "featureGates: {MemoryQoS: true}\nmemoryReservationPolicy: TieredReservation", "userNamespaces: {idsPerPod: 131072}", "logging: {format: text, flushFrequency: 5s}",
		"memorySwap: {swapBehavior: NoSwap}", "enableSystemLogQuery: false", "oomScoreAdj: 0", "contentType: application/json", "evictionPressureTransitionPeriod: 300s",
		"volumePluginDir: /usr/libexec/kubernetes/kubelet-plugins/volume/exec/", "shutdownGracePeriod: 0s", "tracing: null", "failCgroupV1: true",
	} {
		if _, err := Load([]string{"--config=" + write(t, t.TempDir()+"/c.yaml", head+content+"\n")}, &bytes.Buffer{}); err != nil {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// TestDefaulting: what a zero means depends on the field, and some defaults on others.
func TestDefaulting(t *testing.T) {
	tests := []struct {
		content string
		want    func(*Settings) bool
	}{
		{"maxPods: 0", func(s *Settings) bool { return s.MaxPods == 110 }},
		{"eventBurst: 0", func(s *Settings) bool { return s.EventBurst == 100 }},
		{"eventRecordQPS: 0", func(s *Settings) bool { return *s.EventRecordQPS == 0 }},
		{"healthzPort: 0", func(s *Settings) bool { return *s.HealthzPort == 0 }},
		{"resolvConf: ''", func(s *Settings) bool { return *s.ResolverConfig == "" }},
		{"rotateCertificates: false", func(s *Settings) bool { return !s.RotateCertificates }},
		{"seccompDefault: false", func(s *Settings) bool { return !*s.SeccompDefault }},
		{"seccompDefault: null", func(s *Settings) bool { return *s.SeccompDefault }},
		{"enforceNodeAllocatable: []", func(s *Settings) bool { return len(s.EnforceNodeAllocatable) == 0 }},
		{"evictionHard: {memory.available: 1Gi}", func(s *Settings) bool { return len(s.EvictionHard) == 1 }},
		{"syncFrequency: 0s", func(s *Settings) bool {
			return len(s.EvictionHard) == 5 && s.EvictionHard["memory.available"] == "100Mi"
		}},
		{"oomScoreAdj: 0", func(s *Settings) bool { return *s.OOMScoreAdj == 0 }},
		{"oomScoreAdj: null", func(s *Settings) bool { return *s.OOMScoreAdj == -999 }},
		{"podPidsLimit: -7", func(s *Settings) bool { return *s.PodPidsLimit == -1 }},
		{"nodeStatusUpdateFrequency: 30s", func(s *Settings) bool { return s.NodeStatusReportFrequency.Seconds() == 30 }},
		{"maxParallelImagePulls: 3", func(s *Settings) bool { return !*s.SerializeImagePulls }},
		{"maxParallelImagePulls: 1", func(s *Settings) bool { return *s.SerializeImagePulls }},
		{"crashLoopBackOff: {}", func(s *Settings) bool { return s.CrashLoopBackOff.MaxContainerRestartPeriod.Minutes() == 5 }},
		{"logging: {verbosity: 3}", func(s *Settings) bool { return s.Logging.Verbosity == 3 && s.Logging.Format == "text" }},
	}
	for _, tt := range tests {
		s, err := Load([]string{"--config=" + write(t, t.TempDir()+"/c.yaml", head+tt.content+"\n")}, &bytes.Buffer{})
		if err != nil {
			t.Errorf("%s: %v", tt.content, err)
		} else if !tt.want(s) {
			t.Errorf("%s: %+v", tt.content, s.KubeletConfiguration)
		}
	}
}

// TestErrorsNameTheirSource: a problem is the file's, drop-in's or flag's that the value came from.
func TestErrorsNameTheirSource(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/kubelet.yaml", head+"maxPods: -1\nport: -1\nauthentication: {webhook: {cacheTTL: -1s}}\n")
	dropIn := write(t, dir+"/d/10.conf", head+"allowedUnsafeSysctls: [\"*\"]\nmaxPods: -2\nregistryBurst: -1\n")
	_, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/d", "--registry-burst=-3", "--cpu-manager-policy=static"}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "cpu-manager-policy") {
		t.Errorf("a flag that is not supported: %v", err)
	}
	_, err = Load([]string{"--config=" + file, "--config-dir=" + dir + "/d", "--registry-burst=-3"}, &bytes.Buffer{})
	for _, want := range []string{
		file + ": authentication.webhook.cacheTTL: ", file + ": port: ", dropIn + ": allowedUnsafeSysctls[0]: ", dropIn + ": maxPods: ", "--registry-burst: registryBurst: ",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is\n%v\nwant %q in it", err, want)
		}
	}
	for _, args := range [][]string{{"--config=/none"}, {"--config-dir=/none"}} {
		if _, err := Load(args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(args[0], "=/none")+": open") && !strings.Contains(err.Error(), ": lstat") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestFlags(t *testing.T) {
	good, err := Load([]string{
		"--node-labels=a=b,topology.kubernetes.io/zone=z", "--register-with-taints=k=v:NoSchedule,x:NoExecute", "--node-ip=10.0.0.1,fd00::1",
		"--manifest-url=http://127.0.0.1/pods", "--manifest-url-header=A:1,A:2,B:3", "--v=2", "--cluster-dns=10.0.0.1,10.0.0.2", "--runonce",
		"--kube-reserved=cpu=100m,memory=1Gi", "--enforce-node-allocatable=", "--register-node=false", "--seccomp-default", "--node-status-update-frequency=20s",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if len(good.NodeLabels) != 2 || len(good.RegisterWithTaints) != 2 || len(good.NodeIPs) != 2 || len(good.ClusterDNS) != 2 || !good.RunOnce {
		t.Errorf("settings: %+v", good)
	}
	if good.KubeReserved["memory"] != "1Gi" || len(good.EnforceNodeAllocatable) != 0 || *good.RegisterNode || !*good.SeccompDefault || good.NodeStatusReportFrequency.Minutes() != 5 {
		t.Errorf("settings: %+v", good)
	}
	if len(good.StaticPodURLHeader["A"]) != 2 || good.Logging.Verbosity != 2 {
		t.Errorf("headers %v, verbosity %d", good.StaticPodURLHeader, good.Logging.Verbosity)
	}
	for _, tt := range []struct{ arg, want string }{
		{"--node-labels=kubernetes.io/role=x", "--node-labels"},
		{"--register-with-taints=k=v:Never", "--register-with-taints"},
		{"--register-with-taints=k", "--register-with-taints"},
		{"--node-ip=10.0.0.1,10.0.0.2", "--node-ip"},
		{"--hostname-override=-", "--hostname-override"},
		{"--manifest-url-header=A", "--manifest-url-header"},
		{"--max-pods=many", "--max-pods"},
		{"--register-node=perhaps", "--register-node"},
		{"--register-node=", "--register-node"},
		{"--node-ip=0.0.0.0,fd00::1", "--node-ip"},
		{"--node-labels=a b=c", "--node-labels"},
		{"--node-labels=a=b c", "--node-labels"},
		{"--node-labels=node-role.kubernetes.io/=x", "--node-labels"},
		{"--eviction-hard=memory.available=1Gi", "--eviction-hard"},
		{"--eviction-hard=nodefs.free<3%", "--eviction-hard: evictionHard[nodefs.free]"},
		{"--cpu-manager-policy=static", "--cpu-manager-policy: cpuManagerPolicy: static is not supported"},
		{"--feature-gates=Some=true", "--feature-gates"},
		{"--feature-gates=Some=perhaps", "--feature-gates"},
		{"--oom-score-adj=1001", "--oom-score-adj"},
		{"--root-dir=here", "--root-dir"},
		{"--kube-reserved=cpu", "--kube-reserved"},
		{"--kube-reserved=cpu=x", "--kube-reserved"},
		{"--read-only-port=70000", "--read-only-port"},
		{"--runtime-request-timeout=soon", "--runtime-request-timeout"},
		{"--max-pods=99999999999", "--max-pods"},
		{"--v=-1", "--v"},
		{"--vmodule=x", "--vmodule"},
		{"--no-such-flag", "no-such-flag"},
		{"--network-plugin=kubenet", "--network-plugin: kubenet is not built here (last in Kubernetes 1.23)"},
		{"--exit-on-lock-contention", "--exit-on-lock-contention: needs --lock-file"},
		{"-max-pods=3", "-max-pods=3: unknown flag; did you mean --max-pods?"},
		{"-x", "-x: unknown flag"},
		{"run", `"run"`},
	} {
		if _, err := Load([]string{tt.arg}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: the error is %v, want one that names %s", tt.arg, err, tt.want)
		}
	}
	if _, err := Load([]string{"--runonce", "--kubeconfig=x"}, &bytes.Buffer{}); err == nil {
		t.Error("--runonce with --kubeconfig is accepted")
	}
}

func TestHelpAndVersion(t *testing.T) {
	var out bytes.Buffer
	if _, err := Load([]string{"--help"}, &out); !errors.Is(err, pflag.ErrHelp) || !strings.Contains(out.String(), "--kubeconfig") {
		t.Errorf("--help: %v, %q", err, out.String())
	}
	for _, want := range []string{
		"\nEviction:\n", "--max-pods int\n        how many pods may run here [maxPods] (default 110)\n", "--seccomp-default bool\n", "(default /var/lib/kubelet)",
		"  --containerd (last in Kubernetes 1.36), --container-runtime (last in Kubernetes 1.26)", "--runtime-request-timeout duration\n", "\nUsage: kubelet", "  -h, --help\n", "--cni-bin-dir list\n        directories of CNI plugins (default", "--node-labels pairs\n", "  -v int\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help lacks %q", want)
		}
	}
	newFlags(io.Discard).set.VisitAll(func(f *pflag.Flag) {
		once := regexp.MustCompile(`(?m)(^  (.*, )?--?)` + f.Name + `( [a-z]+$|,| \(last in|$)`)
		if n := len(once.FindAllString(out.String(), -1)); n != 1 {
			t.Errorf("--help has --%s %d times", f.Name, n)
		}
	})
	out.Reset()
	if _, err := Load([]string{"--version"}, &out); !errors.Is(err, ErrVersion) || out.String() != "Kubernetes "+Version+"\n" {
		t.Errorf("--version: %v, %q", err, out.String())
	}
}

// TestRepeatedFlags: a flag of many values may be given many times, as upstream's; of another the last counts.
func TestRepeatedFlags(t *testing.T) {
	s, err := Load([]string{
		"--cluster-dns=10.0.0.1", "--cluster-dns=10.0.0.2,10.0.0.3", "--kube-reserved=cpu=1", "--kube-reserved=memory=1Gi", "--max-pods=1", "--max-pods=2",
		"--manifest-url-header=a:1", "--manifest-url-header=a:2", "--register-node", "--eviction-hard=memory.available<5%,nodefs.available<10%",
		"--node-ip=::", "--kube-api-content-type=application/json", "--node-labels=a=b", "--node-labels=node.kubernetes.io/c=d", "--feature-gates=",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.ClusterDNS) != 3 || len(s.KubeReserved) != 2 || s.MaxPods != 2 || len(s.StaticPodURLHeader["a"]) != 2 || !*s.RegisterNode || len(s.NodeLabels) != 2 {
		t.Errorf("settings: %+v", s)
	}
	if s.EvictionHard["memory.available"] != "5%" || len(s.EvictionHard) != 2 || !s.NodeIPs[0].IsUnspecified() || s.ContentType != "application/json" {
		t.Errorf("settings: %+v", s)
	}
}

// TestFlagsOfUpstream: every flag of upstream's that sets a field sets it here, or is refused like the field.
func TestFlagsOfUpstream(t *testing.T) {
	f := newFlags(&bytes.Buffer{})
	for name := range strings.FieldsSeq(upstreamFlags) {
		if f.set.Lookup(name) == nil {
			t.Errorf("--%s is missing", name)
		}
	}
}

// upstreamFlags are those of cmd/kubelet/app/options/options.go, but for --reserved-memory.
const upstreamFlags = `fail-swap-on pod-manifest-path sync-frequency file-check-frequency http-check-frequency manifest-url
manifest-url-header fail-cgroupv1 container-runtime-endpoint image-service-endpoint registry-qps registry-burst event-qps event-burst
healthz-port healthz-bind-address oom-score-adj cluster-domain volume-plugin-dir cluster-dns node-status-update-frequency
minimum-image-ttl-duration image-gc-high-threshold image-gc-low-threshold volume-stats-agg-period feature-gates kubelet-cgroups
system-cgroups provider-id cgroups-per-qos cgroup-driver cgroup-root cpu-manager-policy cpu-manager-policy-options
cpu-manager-reconcile-period qos-reserved topology-manager-policy runtime-request-timeout hairpin-mode max-pods pod-cidr pod-max-pids
resolv-conf runonce cpu-cfs-quota cpu-cfs-quota-period enable-controller-attach-detach make-iptables-util-chains
container-log-max-size container-log-max-files allowed-unsafe-sysctls node-status-max-images kernel-memcg-notification
local-storage-capacity-isolation max-open-files kube-api-content-type kube-api-qps kube-api-burst serialize-image-pulls eviction-hard
eviction-soft eviction-soft-grace-period eviction-pressure-transition-period eviction-max-pod-grace-period eviction-minimum-reclaim
pods-per-core protect-kernel-defaults reserved-cpus topology-manager-scope topology-manager-policy-options system-reserved kube-reserved
enforce-node-allocatable system-reserved-cgroup kube-reserved-cgroup memory-manager-policy register-node register-with-taints
config config-dir kubeconfig hostname-override node-ip root-dir seccomp-default node-labels enable-server address port read-only-port anonymous-auth
authentication-token-webhook authentication-token-webhook-cache-ttl client-ca-file authorization-mode authorization-webhook-cache-authorized-ttl
authorization-webhook-cache-unauthorized-ttl tls-cert-file tls-private-key-file tls-min-version tls-cipher-suites enable-debugging-handlers
contention-profiling streaming-connection-idle-timeout`

// FuzzParse: whatever the bytes are, they are refused or make a whole and valid configuration.
func FuzzParse(f *testing.F) {
	for _, content := range []string{"", "maxPods: 3\n", "evictionHard: {nodefs.available: 0%}\n", "logging: {options: {json: {infoBufferSize: 1}}}\n", "authentication: null\n", "---\n# end\n"} {
		f.Add([]byte(head + content))
	}
	f.Add([]byte(`{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","evictionHard":{"a":"b"}}`))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		document, _, err := parse(data)
		if err != nil {
			return
		}
		g := newGiven()
		g.document = mergePatch(g.document, document)
		g.remember("fuzz", "", document)
		c, err := g.decode()
		if err != nil {
			return
		}
		if problems := validate(c); len(problems) > 0 {
			t.Errorf("an invalid configuration is accepted: %s: %v", data, problems)
		}
	})
}
