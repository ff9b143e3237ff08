package spec

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/config/pod/podtest"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/memoryqos"
)

func testNode() *Node {
	return &Node{
		PodLogsDir: "/logs", SeccompDir: "/root/seccomp", ClusterDomain: "cluster.local", ClusterDNS: []string{"10.96.0.10"},
		CPUCFSQuota: true, CPUCFSQuotaPeriod: 100 * time.Millisecond, SeccompDefault: true, Kernel: Kernel{Memory: 16 << 30},
	}
}

func TestDNS(t *testing.T) {
	manyPaths := make([]string, 40)
	for i := range manyPaths {
		manyPaths[i] = strings.Repeat("x", 1+i) + ".example"
	}
	const none = "servers [] searches [] options []"
	for name, tc := range map[string]struct {
		policy     corev1.DNSPolicy
		host       bool
		config     *corev1.PodDNSConfig
		change     func(*Node)
		noHost     bool
		want       string
		wantEvents string
	}{
		"ClusterFirst": {policy: corev1.DNSClusterFirst,
			want: "servers [10.96.0.10] searches [ns.svc.cluster.local svc.cluster.local cluster.local example.com] options [ndots:5]"},
		"ClusterFirst on the host's network":  {policy: corev1.DNSClusterFirst, host: true, want: "servers [192.0.2.1] searches [example.com] options []"},
		"ClusterFirstWithHostNet":             {policy: corev1.DNSClusterFirstWithHostNet, host: true, want: "servers [10.96.0.10] searches [ns.svc.cluster.local svc.cluster.local cluster.local example.com] options [ndots:5]"},
		"Default":                             {policy: corev1.DNSDefault, want: "servers [192.0.2.1] searches [example.com] options []"},
		"None":                                {policy: corev1.DNSNone, want: none},
		"ClusterFirst without cluster domain": {policy: corev1.DNSClusterFirst, change: func(n *Node) { n.ClusterDomain = "" }, want: "servers [10.96.0.10] searches [example.com] options [ndots:5]"},
		"ClusterFirst without cluster DNS falls back": {policy: corev1.DNSClusterFirst, change: func(n *Node) { n.ClusterDNS = nil }, want: "servers [192.0.2.1] searches [example.com] options []", wantEvents: "MissingClusterDNS"},
		"Default without resolv.conf":                 {policy: corev1.DNSDefault, noHost: true, want: "servers [127.0.0.1] searches [.] options []"},
		"dnsConfig is added and overrides by name": {policy: corev1.DNSClusterFirst, config: &corev1.PodDNSConfig{
			Nameservers: []string{"10.96.0.10", "192.0.2.9"}, Searches: []string{"example.com", "more"},
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "edns0"}},
		}, want: "servers [10.96.0.10 192.0.2.9] searches [ns.svc.cluster.local svc.cluster.local cluster.local example.com more] options [ndots:2 edns0]"},
		"four nameservers": {policy: corev1.DNSNone, config: &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"}},
			want: "servers [1.1.1.1 1.1.1.2 1.1.1.3] searches [] options []", wantEvents: "Nameserver limits were exceeded"},
		"forty search paths": {policy: corev1.DNSNone, config: &corev1.PodDNSConfig{Searches: manyPaths},
			want: "servers [] searches [" + strings.Join(manyPaths[:32], " ") + "] options []", wantEvents: "Search Line limits were exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNode()
			if tc.change != nil {
				tc.change(n)
			}
			host := &runtimeapi.DNSConfig{Servers: []string{"192.0.2.1"}, Searches: []string{"example.com"}}
			if tc.noHost {
				host = nil
			}
			pod := podtest.Pod("c:a", "")
			pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = tc.policy, tc.host, tc.config
			got, warnings := n.DNS(pod, host)
			line := "servers [" + strings.Join(got.Servers, " ") + "] searches [" + strings.Join(got.Searches, " ") + "] options [" + strings.Join(got.Options, " ") + "]"
			if line != tc.want {
				t.Errorf("%s\nwant %s", line, tc.want)
			}
			if (tc.wantEvents == "") != (len(warnings) == 0) || !strings.Contains(fmt.Sprint(warnings), tc.wantEvents) {
				t.Errorf("warnings %q, want %q", warnings, tc.wantEvents)
			}
		})
	}
}

func TestParseResolvConf(t *testing.T) {
	got, err := ParseResolvConf(strings.NewReader("# comment\n; another\nnameserver 1.1.1.1\nnameserver  fe80::1%eth0 \nnameserver bogus\n" +
		"search a. b . c\nsearch d.\noptions ndots:1 rotate\noptions ndots:3\nsortlist x\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"1.1.1.1", "fe80::1%eth0"}, {"d"}, {"ndots:3", "rotate"}}
	if diff := cmp.Diff(want, [][]string{got.Servers, got.Searches, got.Options}); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{"empty nameserver": "nameserver\n", "endless": strings.Repeat("x", maxResolvConf+1)} {
		if _, err := ParseResolvConf(strings.NewReader(text)); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62)
	for name, tc := range map[string]struct {
		change     func(*corev1.Pod)
		want, fqdn string
		err        string
	}{
		"pod name":            {want: "pod"},
		"hostname":            {change: func(p *corev1.Pod) { p.Spec.Hostname = "h" }, want: "h"},
		"bad hostname":        {change: func(p *corev1.Pod) { p.Spec.Hostname = "h.x" }, err: "not a valid DNS label"},
		"long name":           {change: func(p *corev1.Pod) { p.Name = long + ".b" }, want: long},
		"subdomain":           {change: func(p *corev1.Pod) { p.Spec.Subdomain = "s" }, want: "pod", fqdn: "pod.s.ns.svc.cluster.local"},
		"bad subdomain":       {change: func(p *corev1.Pod) { p.Spec.Subdomain = "S" }, err: "not a valid DNS label"},
		"fqdn too long":       {change: func(p *corev1.Pod) { p.Name, p.Spec.Subdomain = long, "s" }, want: long, err: "is too long (64 characters is the max"},
		"hostname override":   {change: func(p *corev1.Pod) { p.Spec.HostnameOverride = new("x.y") }, want: "x.y"},
		"bad override":        {change: func(p *corev1.Pod) { p.Spec.HostnameOverride = new("X") }, err: "not a valid DNS subdomain"},
		"nothing left of it":  {change: func(p *corev1.Pod) { p.Name = strings.Repeat("-", 64) }, err: "invalid"},
		"override, subdomain": {change: func(p *corev1.Pod) { p.Spec.HostnameOverride, p.Spec.Subdomain = new("x"), "s" }, want: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podtest.Pod("c:a", "")
			if tc.change != nil {
				tc.change(pod)
			}
			host, domain, err := hostname(pod, "cluster.local")
			kernel := ""
			if err == nil {
				kernel, err = kernelHostname(host, domain, new(true))
			}
			if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			if err == nil && (host != tc.want || (tc.fqdn != "" && kernel != tc.fqdn) || (tc.fqdn == "" && kernel != tc.want)) {
				t.Errorf("host %q kernel %q, want %q %q", host, kernel, tc.want, tc.fqdn)
			}
			if plain, _ := kernelHostname("h", "d", nil); plain != "h" {
				t.Errorf("without setHostnameAsFQDN: %q", plain)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	n := testNode()
	hosts := func(pod *corev1.Pod, ips []string, node []byte) string {
		got, err := n.HostsFile(pod, ips, node)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	pod := podtest.Pod("c:a", "")
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"one", "two"}}}
	aliases := "\n# Entries added by HostAliases.\n192.0.2.7\tone\ttwo\n"
	got := hosts(pod, []string{"10.0.0.1", "fd00::1"}, nil)
	if want := hostsHeader + hostsFixed + "10.0.0.1\tpod\nfd00::1\tpod\n" + aliases; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	pod.Spec.Hostname, pod.Spec.Subdomain = "h", "d"
	got = hosts(pod, []string{"10.0.0.1"}, nil)
	if want := "10.0.0.1\th.d.ns.svc.cluster.local\th\n"; !strings.Contains(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	pod.Spec.HostNetwork = true
	if got := hosts(pod, nil, []byte("node's\n")); got != hostsHeaderHost+"node's\n"+aliases {
		t.Errorf("host network: %s", got)
	}
}

func TestSandboxConfig(t *testing.T) {
	n := testNode()
	n.AllowedUnsafeSysctls = []string{"net.core.*", "kernel.sem"}
	in := Sandbox{Attempt: 3, CgroupParent: "/pods", Users: &runtimeapi.UserNamespace{}}
	pod := podtest.Pod("c:a c:b", "")
	pod.Labels, pod.Annotations = map[string]string{"app": "x"}, map[string]string{"note": "y"}
	pod.Spec.DNSPolicy = corev1.DNSDefault
	pod.Spec.Subdomain, pod.Spec.SetHostnameAsFQDN = "sub", new(true)
	pod.Spec.ShareProcessNamespace = new(true)
	pod.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("8Mi")}
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsUser: new(int64(1000)), RunAsGroup: new(int64(1001)), FSGroup: new(int64(2000)), SupplementalGroups: []int64{3000},
		SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicyStrict),
		SELinuxOptions:           &corev1.SELinuxOptions{Level: "s0:c1"},
		Sysctls:                  []corev1.Sysctl{{Name: "net/core/somaxconn", Value: "9"}, {Name: "net.ipv4.tcp_syncookies", Value: "1"}},
	}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{
		{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}, {ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP},
		{ContainerPort: 53, Protocol: corev1.ProtocolUDP, HostIP: "127.0.0.1"},
	}
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("250m")}, Limits: corev1.ResourceList{"cpu": resource.MustParse("500m")},
	}
	got, _, err := n.SandboxConfig(pod, in)
	if err != nil {
		t.Fatal(err)
	}
	linux := got.Linux
	checks := map[string][2]any{
		"metadata":    {got.Metadata.String(), (&runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "uid-1", Attempt: 3}).String()},
		"hostname":    {got.Hostname, "pod.sub.ns.svc.cluster.local"},
		"log dir":     {got.LogDirectory, filepath.Join(n.PodLogsDir, "ns_pod_uid-1")},
		"ports":       {len(got.PortMappings), 2},
		"udp":         {got.PortMappings[1].Protocol, runtimeapi.Protocol_UDP},
		"parent":      {linux.CgroupParent, "/pods"},
		"shares":      {linux.Resources.CpuShares, int64(256)},
		"quota":       {linux.Resources.CpuQuota, int64(50000)},
		"overhead":    {linux.Overhead.MemoryLimitInBytes, int64(8 << 20)},
		"pid":         {linux.SecurityContext.NamespaceOptions.Pid, runtimeapi.NamespaceMode_POD},
		"net":         {linux.SecurityContext.NamespaceOptions.Network, runtimeapi.NamespaceMode_POD},
		"user":        {linux.SecurityContext.RunAsUser.Value, int64(1000)},
		"group":       {linux.SecurityContext.RunAsGroup.Value, int64(1001)},
		"policy":      {linux.SecurityContext.SupplementalGroupsPolicy, runtimeapi.SupplementalGroupsPolicy_Strict},
		"selinux":     {linux.SecurityContext.SelinuxOptions.Level, "s0:c1"},
		"seccomp":     {linux.SecurityContext.Seccomp.ProfileType, runtimeapi.SecurityProfile_RuntimeDefault},
		"annotations": {got.Annotations["note"], "y"},
		"sysctl":      {linux.Sysctls["net.core.somaxconn"], "9"},
	}
	for what, pair := range checks {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
	if diff := cmp.Diff([]int64{2000, 3000}, linux.SecurityContext.SupplementalGroups); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"app": "x", "io.kubernetes.pod.name": "pod", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "uid-1"}, got.Labels); diff != "" {
		t.Error(diff)
	}
	again, _, err := n.SandboxConfig(pod, in)
	if err != nil || again.String() != got.String() {
		t.Errorf("the second time it differs: %v", err)
	}

	pod.Spec.HostNetwork, pod.Spec.HostPID, pod.Spec.HostIPC, pod.Spec.SecurityContext.Sysctls = true, true, true, nil
	pod.Spec.Containers[1].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	if got, _, err = n.SandboxConfig(pod, in); err != nil {
		t.Fatal(err)
	}
	ns := got.Linux.SecurityContext.NamespaceOptions
	if node := runtimeapi.NamespaceMode_NODE; ns.Network != node || ns.Pid != node || ns.Ipc != node || got.Hostname != "" || !got.Linux.SecurityContext.Privileged {
		t.Errorf("host namespaces: %v hostname %q", ns, got.Hostname)
	}
}

func TestSysctls(t *testing.T) {
	for _, tc := range []struct {
		name             string
		hostNet, hostIPC bool
		want             string
	}{
		{"net.ipv4.tcp_syncookies", false, false, ""},
		{"net/ipv4/tcp_syncookies", false, false, ""},
		{"net.ipv4.tcp_syncookies", true, false, "host net"},
		{"kernel.shm_rmid_forced", false, true, "host ipc"},
		{"kernel.shm_rmid_forced", true, false, ""},
		{"net.core.somaxconn", false, false, ""},
		{"net.core.x", true, false, "host net"},
		{"kernel.sem", false, false, ""},
		{"kernel.semx", false, false, `forbidden sysctl: "kernel.semx" not allowlisted`},
		{"vm.swappiness", false, false, "not allowlisted"},
	} {
		pod := podtest.Pod("c:a", "")
		pod.Spec.HostNetwork, pod.Spec.HostIPC = tc.hostNet, tc.hostIPC
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: tc.name}}}
		err := CheckSysctls(pod, []string{"net.core.*", "kernel.sem"})
		if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

func TestContainerSecurity(t *testing.T) {
	n := testNode()
	root, thousand := ImageUser{UID: new(int64(0))}, ImageUser{UID: new(int64(1000))}
	for name, tc := range map[string]struct {
		pod  *corev1.PodSecurityContext
		own  *corev1.SecurityContext
		user ImageUser
		want func(*runtimeapi.LinuxContainerSecurityContext) bool
		err  string
	}{
		"nothing asked for": {user: thousand, want: func(c *runtimeapi.LinuxContainerSecurityContext) bool {
			return c.RunAsUser.Value == 1000 && len(c.MaskedPaths) > 0 && len(c.ReadonlyPaths) == 5 && !c.NoNewPrivs &&
				c.Seccomp.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault && c.Apparmor == nil
		}},
		"user by name": {user: ImageUser{Name: "www"}, want: func(c *runtimeapi.LinuxContainerSecurityContext) bool {
			return c.RunAsUser == nil && c.RunAsUsername == "www"
		}},
		"container over pod": {pod: &corev1.PodSecurityContext{RunAsUser: new(int64(1)), RunAsGroup: new(int64(2)), FSGroup: new(int64(3))},
			own: &corev1.SecurityContext{RunAsUser: new(int64(9))}, user: root,
			want: func(c *runtimeapi.LinuxContainerSecurityContext) bool {
				return c.RunAsUser.Value == 9 && c.RunAsGroup.Value == 2 && len(c.SupplementalGroups) == 1
			}},
		"everything": {own: &corev1.SecurityContext{
			Privileged: new(true), ReadOnlyRootFilesystem: new(true), AllowPrivilegeEscalation: new(false),
			ProcMount:       new(corev1.UnmaskedProcMount),
			Capabilities:    &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("my/p.json")},
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: new("mine")},
			SELinuxOptions:  &corev1.SELinuxOptions{Type: "spc_t"},
		}, user: root, want: func(c *runtimeapi.LinuxContainerSecurityContext) bool {
			return c.Privileged && c.ReadonlyRootfs && c.NoNewPrivs && len(c.MaskedPaths)+len(c.ReadonlyPaths) == 0 &&
				c.Capabilities.AddCapabilities[0] == "NET_ADMIN" && c.Capabilities.DropCapabilities[0] == "ALL" &&
				c.Seccomp.LocalhostRef == filepath.Join(n.SeccompDir, "my/p.json") && c.Apparmor.LocalhostRef == "mine" && c.SelinuxOptions.Type == "spc_t"
		}},
		"unconfined": {pod: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}, user: root,
			want: func(c *runtimeapi.LinuxContainerSecurityContext) bool {
				return c.Seccomp.ProfileType == runtimeapi.SecurityProfile_Unconfined
			}},
		"localhost without a name": {own: &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost}}, err: "localhostProfile must be set"},
		"localhost that leads out": {own: &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("../p")}}, err: "leads out"},
		"unknown apparmor":         {own: &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: "x"}}, err: "unknown apparmor"},
		"unknown groups policy":    {pod: &corev1.PodSecurityContext{SupplementalGroupsPolicy: new(corev1.SupplementalGroupsPolicy("x"))}, err: "unsupported supplementalGroupsPolicy"},
		"non-root, image is root":  {pod: &corev1.PodSecurityContext{RunAsNonRoot: new(true)}, user: root, err: "image will run as root"},
		"non-root, runAsUser 0":    {own: &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(0))}, user: thousand, err: "breaks non-root policy"},
		"non-root, user by name":   {own: &corev1.SecurityContext{RunAsNonRoot: new(true)}, user: ImageUser{Name: "www"}, err: "non-numeric user (www)"},
		"non-root, huge user":      {own: &corev1.SecurityContext{RunAsNonRoot: new(true)}, user: ImageUser{UID: new(int64(1 << 40))}, err: "invalid user id"},
		"non-root, fine":           {own: &corev1.SecurityContext{RunAsNonRoot: new(true)}, user: thousand, want: func(*runtimeapi.LinuxContainerSecurityContext) bool { return true }},
		"non-root, root overruled": {own: &corev1.SecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(5))}, user: root,
			want: func(c *runtimeapi.LinuxContainerSecurityContext) bool { return c.RunAsUser.Value == 5 }},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podtest.Pod("c:a", "")
			pod.Spec.SecurityContext, pod.Spec.Containers[0].SecurityContext = tc.pod, tc.own
			got, err := n.containerSecurity(pod, &pod.Spec.Containers[0], tc.user, nil)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || !tc.want(got) {
				t.Errorf("%v: %v", err, got)
			}
		})
	}
	for value, want := range map[string]corev1.AppArmorProfileType{
		"localhost/x": corev1.AppArmorProfileTypeLocalhost, "runtime/default": corev1.AppArmorProfileTypeRuntimeDefault,
		"unconfined": corev1.AppArmorProfileTypeUnconfined, "": "",
	} {
		got := apparmorAnnotation(value)
		if (got == nil) != (want == "") || (got != nil && got.Type != want) {
			t.Errorf("annotation %q: %v", value, got)
		}
	}
}

func TestContainerResources(t *testing.T) {
	n := testNode()
	n.SingleProcessOOMKill, n.Kernel.SwapLimit = new(false), true
	pod := podtest.Pod("s:s c:a", "")
	a, s := &pod.Spec.Containers[0], &pod.Spec.InitContainers[0]
	a.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"memory": resource.MustParse("4Gi")},
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("8Gi")},
	}
	got := n.ContainerResources(pod, a)
	if got.CpuShares != 2048 || got.CpuQuota != 200000 || got.CpuPeriod != 100000 || got.MemoryLimitInBytes != 8<<30 ||
		got.MemorySwapLimitInBytes != 8<<30 || got.OomScoreAdj != 750 || got.Unified != nil {
		t.Errorf("%v", got)
	}
	if got := n.ContainerResources(pod, s); got.OomScoreAdj != 750 {
		t.Errorf("a sidecar dies before what it serves: %v", got)
	}
	n.Kernel.Unified = true
	if got := n.ContainerResources(pod, a); got.Unified["memory.swap.max"] != "0" || got.Unified["memory.oom.group"] != "1" || got.MemorySwapLimitInBytes != 0 {
		t.Errorf("v2: %v", got)
	}
	pod.Spec.PriorityClassName = "system-node-critical"
	if got := n.ContainerResources(pod, a); got.OomScoreAdj != oomGuaranteed {
		t.Errorf("node critical: %v", got)
	}
	if got := n.ContainerResources(podtest.Pod("c:a", ""), &corev1.Container{}); got.OomScoreAdj != oomBestEffort || got.CpuShares != 2 || got.CpuQuota != 0 {
		t.Errorf("best effort: %v", got)
	}
	level := podtest.Pod("c:a", "")
	level.Spec.Resources = &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"memory": resource.MustParse("8Gi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("9Gi")},
	}
	if got := n.ContainerResources(level, &level.Spec.Containers[0]); got.MemoryLimitInBytes != 9<<30 || got.OomScoreAdj != 500 {
		t.Errorf("pod level: %v", got)
	}
}

func TestLabelsLogsAndOrphan(t *testing.T) {
	pod := podtest.Pod("c:a", "")
	pod.DeletionGracePeriodSeconds, pod.Spec.TerminationGracePeriodSeconds = new(int64(5)), new(int64(30))
	container := &pod.Spec.Containers[0]
	container.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 80}}
	container.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}}}
	annotations, err := containerAnnotations(pod, container, 4)
	if err != nil {
		t.Fatal(err)
	}
	if annotations[cri.AnnotationHash] != Hash(container) || annotations[cri.AnnotationRestartCount] != "4" {
		t.Errorf("%v", annotations)
	}
	orphan := OrphanPod(&cri.PodStatus{UID: "uid-1", Namespace: "ns", Name: "pod", Containers: []*cri.ContainerStatus{
		{Name: "a", Annotations: annotations}, {Name: "a", Annotations: map[string]string{}}, {Name: "bare"},
	}})
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "uid-1", Namespace: "ns", Name: "pod", DeletionGracePeriodSeconds: new(int64(5))},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(30)), Containers: []corev1.Container{
			{Name: "a", Ports: container.Ports, Lifecycle: container.Lifecycle}, {Name: "bare"},
		}},
	}
	if diff := cmp.Diff(want, orphan); diff != "" {
		t.Error(diff)
	}
	// The numbers upstream computes for these.
	if got := Hash(&corev1.Container{Name: "foo", Image: "bar"}); got != "11a6d6d6" {
		t.Errorf("hash %s", got)
	}
	if got, want := LogLink("/l", "ns", "pod", "a", "id"), "/l/pod_ns_a-id.log"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := filepath.Base(LogLink("/l", "ns", strings.Repeat("p", 300), "a", "id")); len(got) != 255 || !strings.HasSuffix(got, ".log") {
		t.Errorf("long link %d %s", len(got), got)
	}
}

// TestMemoryQoSOnV2Alone: where there is no cgroup v2 the settings would be errors.
func TestMemoryQoSOnV2Alone(t *testing.T) {
	n := testNode()
	n.MemoryQoS = &memoryqos.Settings{Factor: 0.9, Allocatable: 1 << 30}
	pod := podtest.Pod("c:a", "")
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"memory": resource.MustParse("10Mi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("20Mi")},
	}
	for unified, want := range map[bool]string{false: "", true: fmt.Sprint(19 << 20)} {
		n.Kernel.Unified = unified
		if got := n.ContainerResources(pod, &pod.Spec.Containers[0]).Unified["memory.high"]; got != want {
			t.Errorf("cgroup v2 %v: memory.high %q, want %q", unified, got, want)
		}
	}
}
