package settings

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
	s, err := Load([]string{"--config=" + file, "--config-dir=" + dir + "/d", "--max-pods=40", "--hostname-override=Node-1"}, &bytes.Buffer{})
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
		{"unknown field", head + "maxPodz: 3\n", `unknown field "maxPodz"`},
		{"unknown nested field", head + "authentication: {x509: {file: a}}\n", `unknown field "authentication.x509.file"`},
		{"field given twice", head + "maxPods: 3\nmaxPods: 4\n", "maxPods"},
		{"wrong type", head + "maxPods: many\n", "maxPods"},
		{"wrong kind", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Pod\n", "KubeletConfiguration"},
		{"not built", head + "cpuManagerPolicy: static\n", "cpuManagerPolicy: not supported"},
		{"not built, nested", head + "memorySwap: {swapBehavior: LimitedSwap}\n", "memorySwap: not supported"},
		{"feature gates", head + "featureGates: {Some: true}\n", "featureGates: not supported"},
		{"eviction", head + "evictionHard: {nodefs.available: 3%}\n", "evictionHard[nodefs.available]"},
		{"image collection", head + "imageGCHighThresholdPercent: 70\n", "imageGCHighThresholdPercent"},
		{"graceful shutdown", head + "shutdownGracePeriod: 30s\n", "shutdownGracePeriod: not supported"},
		{"read-only port", head + "readOnlyPort: 99999\n", "readOnlyPort"},
		{"negative", head + "maxPods: -1\n", "maxPods: Invalid value"},
		{"address", head + "clusterDNS: [10.0.0.1, here]\n", "clusterDNS[1]"},
		{"driver", head + "cgroupDriver: other\n", "cgroupDriver"},
		{"reservation", head + "kubeReserved: {gold: 1}\n", "kubeReserved"},
		{"quantity", head + "systemReserved: {memory: lots}\n", "systemReserved[memory]"},
		{"parallel pulls", head + "maxParallelImagePulls: 3\n", "serializeImagePulls"},
		{"endpoint", head + "containerRuntimeEndpoint: tcp://127.0.0.1:1\n", "containerRuntimeEndpoint"},
		{"restart period", head + "crashLoopBackOff: {maxContainerRestartPeriod: 10m}\n", "crashLoopBackOff.maxContainerRestartPeriod"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, t.TempDir()+"/kubelet.yaml", tt.content)
			_, err := Load([]string{"--config=" + file}, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("the error is %v, want one that names the file and %q", err, tt.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	good, err := Load([]string{
		"--node-labels=a=b,topology.kubernetes.io/zone=z", "--register-with-taints=k=v:NoSchedule,x:NoExecute", "--node-ip=10.0.0.1,fd00::1",
		"--manifest-url=http://127.0.0.1/pods", "--manifest-url-header=A:1,A:2,B:3", "--v=2", "--cluster-dns=10.0.0.1,10.0.0.2", "--runonce",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if len(good.NodeLabels) != 2 || len(good.RegisterWithTaints) != 2 || len(good.NodeIPs) != 2 || len(good.ClusterDNS) != 2 || !good.RunOnce {
		t.Errorf("settings: %+v", good)
	}
	if len(good.StaticPodURLHeader["A"]) != 2 || good.Logging.Verbosity != 2 {
		t.Errorf("headers %v, verbosity %d", good.StaticPodURLHeader, good.Logging.Verbosity)
	}
	for _, tt := range []struct{ arg, want string }{
		{"--node-labels=kubernetes.io/role=x", "--node-labels"},
		{"--register-with-taints=k=v:Never", "--register-with-taints"},
		{"--register-with-taints=k", "--register-with-taints"},
		{"--node-ip=here", "--node-ip"},
		{"--node-ip=10.0.0.1,10.0.0.2", "--node-ip"},
		{"--hostname-override=-", "--hostname-override"},
		{"--manifest-url-header=A", "--manifest-url-header"},
		{"--max-pods=many", "--max-pods"},
		{"--register-node=perhaps", "--register-node"},
		{"--no-such-flag", "no-such-flag"},
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
	out.Reset()
	if _, err := Load([]string{"--version"}, &out); !errors.Is(err, ErrVersion) || out.String() != "Kubernetes "+Version+"\n" {
		t.Errorf("--version: %v, %q", err, out.String())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "maxPods: 3\n"))
	f.Add([]byte(`{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","evictionHard":{"a":"b"}}`))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		document, err := parse(data)
		if err != nil {
			return
		}
		if c, err := decode(document, "fuzz"); err == nil && c.MaxPods < 0 {
			t.Errorf("an invalid configuration is accepted: %s", data)
		}
	})
}
