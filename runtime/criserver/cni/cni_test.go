package cni

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
)

// plugin is a program that answers like a CNI plugin and notes what it was asked.
func plugin(t *testing.T, dir, answer string) (calls string) {
	t.Helper()
	calls = filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho $CNI_COMMAND $CNI_NETNS $CNI_ARGS >>" + calls + "\ncat >>" + calls + "\n" + answer + "\n"
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return calls
}

func configure(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const (
	network = `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"fake","capabilities":{"portMappings":true,"bandwidth":true,"dns":true}}]}`
	answer  = `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.1/8","interface":0},{"address":"10.0.0.2/8","interface":1},{"address":"fd00::2/64","interface":1}]}'`
)

func TestPlugins(t *testing.T) {
	conf, bin, cache := t.TempDir(), t.TempDir(), t.TempDir()
	p := &Plugins{conf, []string{bin}, cache}
	_, err := p.Setup(t.Context(), Pod{SandboxID: "abc"})
	if status := p.Status(t.Context()); status == nil || err == nil || !strings.Contains(status.Error()+err.Error(), "no CNI network configuration in "+conf) || p.Connected("abc") {
		t.Errorf("without configuration: %v, %v", status, err)
	}
	configure(t, conf, "00-broken.conflist", "{")
	configure(t, conf, "10-net.conflist", network)
	if err := p.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "install the package containernetworking-plugins") {
		t.Errorf("without the plugin: %v", err)
	}
	calls := plugin(t, bin, answer)
	if err := p.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	pod := Pod{SandboxID: "abc", NetNS: "/ns", Config: &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "u"},
		PortMappings: []*runtimeapi.PortMapping{{HostPort: 80, ContainerPort: 8080}},
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Options: []string{"ndots:5"}},
		Annotations:  map[string]string{"kubernetes.io/ingress-bandwidth": "1k"},
	}}
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
	ips, err := p.Setup(klog.NewContext(t.Context(), logger), pod)
	if said := logger.GetSink().(ktesting.Underlier).GetBuffer().String(); !strings.Contains(said, "00-broken.conflist") {
		t.Errorf("nothing is said of a broken configuration: %q", said)
	}
	if err != nil || !slices.Equal(ips, []string{"10.0.0.2", "fd00::2"}) || !slices.Equal(p.Addresses(t.Context(), "abc"), ips) {
		t.Errorf("addresses %v, %v, cached %v", ips, err, p.Addresses(t.Context(), "abc"))
	}
	asked, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ADD /ns", "K8S_POD_NAME=pod", "K8S_POD_UID=u", `"hostPort":80`, `"ingressRate":1000`, `"protocol":"tcp"`, `"dns":{"servers":["10.96.0.10"],"options":["ndots:5"]}`} {
		if !strings.Contains(string(asked), want) {
			t.Errorf("%s is missing in %s", want, asked)
		}
	}
	// What was connected is disconnected by the configuration of then.
	configure(t, conf, "10-net.conflist", strings.Replace(network, `"net"`, `"other"`, 1))
	if err := p.Teardown(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if asked, err = os.ReadFile(calls); err != nil || !strings.Contains(string(asked), "DEL /ns") || strings.Contains(string(asked), "other") {
		t.Errorf("%s, %v", asked, err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("cache: %v, %v", left, err)
	}
	if err := p.Teardown(t.Context(), pod); err != nil { // nothing is connected
		t.Error(err)
	}
}

func TestPluginFailures(t *testing.T) {
	for what, answer := range map[string]string{
		"error":     `echo '{"cniVersion":"1.0.0","code":11,"msg":"no more addresses"}'; exit 1`,
		"garbage":   "echo what",
		"nothing":   "true",
		"no IPs":    `echo '{"cniVersion":"1.0.0"}'`,
		"too much":  "head -c 3000000 /dev/zero | tr '\\0' ' '",
		"end":       "exit 3",
		"bad index": `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","interface":7}]}'`,
	} {
		conf, bin := t.TempDir(), t.TempDir()
		configure(t, conf, "10-net.conf", `{"cniVersion":"1.0.0","name":"net","type":"fake"}`)
		plugin(t, bin, answer)
		ips, err := (&Plugins{conf, []string{bin}, t.TempDir()}).Setup(t.Context(), Pod{SandboxID: "abc", NetNS: "/ns"})
		if err == nil || what == "error" && !strings.Contains(err.Error(), "no more addresses") {
			t.Errorf("%s: %v, %v", what, ips, err)
		}
	}
}

// TestHalfConnected: what plugins did before one failed is taken back by Teardown.
func TestHalfConnected(t *testing.T) {
	conf, bin, cache := t.TempDir(), t.TempDir(), t.TempDir()
	configure(t, conf, "10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"fake"},{"type":"broken"}]}`)
	calls := plugin(t, bin, answer)
	if err := os.WriteFile(filepath.Join(bin, "broken"), []byte("#!/bin/sh\n[ $CNI_COMMAND = DEL ]"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, pod := &Plugins{conf, []string{bin}, cache}, Pod{SandboxID: "abc", NetNS: "/ns"}
	if ips, err := p.Setup(t.Context(), pod); err == nil {
		t.Fatalf("connected: %v", ips)
	}
	if err := p.Teardown(t.Context(), pod); err != nil {
		t.Error(err)
	}
	asked, err := os.ReadFile(calls)
	if err != nil || !strings.Contains(string(asked), "ADD /ns") || !strings.Contains(string(asked), "DEL /ns") {
		t.Errorf("%s, %v", asked, err)
	}
}

// TestMissingPlugin: without one of its plugins a network does nothing for a pod, and so leaves nothing that only that plugin
// could take back.
func TestMissingPlugin(t *testing.T) {
	conf, bin, cache := t.TempDir(), t.TempDir(), t.TempDir()
	configure(t, conf, "10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"fake"},{"type":"missing"}]}`)
	calls := plugin(t, bin, answer)
	p, pod := &Plugins{conf, []string{bin}, cache}, Pod{SandboxID: "abc", NetNS: "/ns"}
	if _, err := p.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), `"missing"`) || p.Connected("abc") {
		t.Errorf("%v, connected: %v", err, p.Connected("abc"))
	}
	if asked, err := os.ReadFile(calls); err == nil {
		t.Errorf("the other plugin was called: %s", asked)
	}
	configure(t, conf, "10-net.conflist", network)
	if err := p.Teardown(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if _, err := p.Setup(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

func TestPortMappings(t *testing.T) {
	for _, tc := range []struct {
		asked *runtimeapi.PortMapping
		ports int
		ok    bool
	}{
		{&runtimeapi.PortMapping{HostPort: 1, ContainerPort: 1}, 1, true},
		{&runtimeapi.PortMapping{HostPort: 65535, ContainerPort: 65535, Protocol: runtimeapi.Protocol_SCTP}, 1, true},
		{&runtimeapi.PortMapping{HostPort: 1, ContainerPort: 1, Protocol: runtimeapi.Protocol_UDP, HostIp: "::1"}, 1, true},
		{&runtimeapi.PortMapping{ContainerPort: 1}, 0, true}, // of no port of the node
		{&runtimeapi.PortMapping{HostPort: 1}, 0, false},
		{&runtimeapi.PortMapping{HostPort: 65536, ContainerPort: 1}, 0, false},
		{&runtimeapi.PortMapping{HostPort: 1, ContainerPort: -1}, 0, false},
		{&runtimeapi.PortMapping{HostPort: 1, ContainerPort: 1, Protocol: 9}, 0, false},
		{&runtimeapi.PortMapping{HostPort: 1, ContainerPort: 1, HostIp: "host"}, 0, false},
	} {
		if got, err := portMappings([]*runtimeapi.PortMapping{tc.asked}); (err == nil) != tc.ok || len(got) != tc.ports {
			t.Errorf("%v: %v, %v", tc.asked, got, err)
		}
	}
}

func TestBandwidth(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "10M": 10_000_000, "1Gi": 1 << 30, "-1": -1, "x": -1, "0": -1} {
		for _, direction := range []string{"ingress", "egress"} {
			got, err := bandwidth(map[string]string{"kubernetes.io/" + direction + "-bandwidth": text})
			if (err != nil) != (want < 0) || err == nil && got[direction+"Rate"] != want {
				t.Errorf("%s %q: %v, %v", direction, text, got, err)
			}
		}
	}
}

// TestPlainNetwork: plugins that would do nothing for a pod are not started for it.
func TestPlainNetwork(t *testing.T) {
	for name, tc := range map[string]struct {
		conf string
		pod  Pod
		want []string // types of the plugins that are called
	}{
		"nothing asked for": {`{"type":"fake"},{"type":"portmap","capabilities":{"portMappings":true}},{"type":"bandwidth"}`, Pod{}, []string{"fake"}},
		"ports":             {`{"type":"fake"},{"type":"portmap","capabilities":{"portMappings":true}}`, Pod{Config: &runtimeapi.PodSandboxConfig{PortMappings: []*runtimeapi.PortMapping{{HostPort: 1, ContainerPort: 1}}}}, []string{"fake", "portmap"}},
		"bandwidth":         {`{"type":"fake"},{"type":"bandwidth","capabilities":{"bandwidth":true}}`, Pod{Config: &runtimeapi.PodSandboxConfig{Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "1"}}}, []string{"fake", "bandwidth"}},
		"limits for all":    {`{"type":"fake"},{"type":"bandwidth","ingressRate":1}`, Pod{}, []string{"fake", "bandwidth"}},
		"ports for all":     {`{"type":"fake"},{"type":"portmap","runtimeConfig":{"portMappings":[]}}`, Pod{}, []string{"fake", "portmap"}},
		"others":            {`{"type":"fake"},{"type":"tuning"}`, Pod{}, []string{"fake", "tuning"}},
		"the only one":      {`{"type":"portmap"}`, Pod{}, []string{"portmap"}},
	} {
		conf := t.TempDir()
		configure(t, conf, "10-net.conflist", `{"cniVersion":"1.0.0","name":"net","plugins":[`+tc.conf+`]}`)
		asked, err := tc.pod.RuntimeConf()
		if err != nil {
			t.Fatal(err)
		}
		list, err := (&Plugins{ConfDir: conf, CacheDir: t.TempDir()}).networkFor(t.Context(), asked)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, plugin := range list.Plugins {
			got = append(got, plugin.Network.Type)
		}
		if !slices.Equal(got, tc.want) || list.Name != "net" || list.CNIVersion != "1.0.0" {
			t.Errorf("%s: plugins %v of %s %s, want %v", name, got, list.Name, list.CNIVersion, tc.want)
		}
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"address":"10.0.0.2/8","interface":0}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","ips":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		result, err := types100.NewResult(data)
		if err != nil {
			return
		}
		if ips, err := addresses(result); err == nil && (len(ips) == 0 || len(ips) > maxAddresses) {
			t.Errorf("%d addresses", len(ips))
		}
	})
}
