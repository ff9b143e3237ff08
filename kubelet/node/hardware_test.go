package node

import (
	"cmp"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
)

// usual is a machine with 4 CPUs, 8 GiB, 1 GiB of swap and 32 huge pages of 2 MiB, on cgroup v2.
var usual = map[string]string{
	"proc/stat":                      "cpu  1 0 0 0 0 0 0 0 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\ncpu3 0 0 0 0 0 0 0 0 0 0\n",
	"proc/self/mountinfo":            "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
	"proc/meminfo":                   "MemTotal:        8388608 kB\nMemFree:  1 kB\nSwapTotal:       1048576 kB\nHugePages_Total:      32\n",
	"proc/sys/kernel/osrelease":      "6.1.0-test\n",
	"proc/sys/kernel/random/boot_id": "boot-1\n",
	"sys/devices/system/cpu/online":  "0-3\n",
	"etc/machine-id":                 "machine-1\n",
	"etc/os-release":                 "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
	"sys/class/dmi/id/product_uuid":  "uuid-1\n",
	"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":    "32\n",
	"sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
}

// legacy changes it to cgroup v1.
var legacy = map[string]string{"proc/self/mountinfo": "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n", "sys/fs/cgroup/memory/release_agent": "\n"}

// The cgroups of these tests are files in a directory, which the library refuses to read otherwise.
func init() { cgroups.TestMode = true }

// open reads a machine's files.
func open(t *testing.T, dir string) *measure.Machine {
	t.Helper()
	m, err := measure.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// root writes a machine's files, changed by what is given; "-" leaves one out.
func root(t *testing.T, changes map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files := maps.Clone(usual)
	maps.Copy(files, changes)
	for name, content := range files {
		if content == "-" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// container is what a container's cgroup, with a limit of memory, adds to a machine.
func container(limit string) map[string]string {
	return map[string]string{
		"sys/fs/cgroup/memory.stat": "inactive_file 1\n", "sys/fs/cgroup/memory.current": "2\n", "sys/fs/cgroup/memory.max": limit + "\n",
	}
}

func TestReadMachine(t *testing.T) {
	dir := root(t, nil)
	m, err := readMachine(open(t, dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.storage <= 0 {
		t.Errorf("the disk has %d bytes", m.storage)
	}
	m.storage = 0
	want := hardware{
		cpus: 4, memory: 8 << 30, swap: 1 << 30, hugepages: map[string]int64{"hugepages-2Mi": 64 << 20, "hugepages-1Gi": 0},
		machineID: "machine-1", systemUUID: "uuid-1", bootID: "boot-1", kernel: "6.1.0-test", osImage: "Debian GNU/Linux 12 (bookworm)", cgroupV2: true,
	}
	if diff := gocmp.Diff(want, m, gocmp.AllowUnexported(hardware{})); diff != "" {
		t.Error(diff)
	}
}

func TestReadOtherMachines(t *testing.T) {
	tests := []struct {
		name    string
		changes map[string]string
		want    func(hardware) bool
	}{
		{"CPUs that are not listed", map[string]string{"proc/stat": "-"}, func(m hardware) bool { return m.cpus > 0 }},
		{"no huge pages", map[string]string{
			"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "-", "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "-",
		}, func(m hardware) bool { return len(m.hugepages) == 0 }},
		{"no firmware", map[string]string{"sys/class/dmi/id/product_uuid": "-"}, func(m hardware) bool { return m.systemUUID == "machine-1" }},
		{"machine-id of dbus", map[string]string{"etc/machine-id": "-", "var/lib/dbus/machine-id": "dbus-1\n"}, func(m hardware) bool { return m.machineID == "dbus-1" }},
		{"no os-release", map[string]string{"etc/os-release": "-"}, func(m hardware) bool { return m.osImage == "Linux" }},
		{"a container with a limit", container("1073741824"), func(m hardware) bool { return m.memory == 1<<30 }},
		{"a container without a limit", container("max"), func(m hardware) bool { return m.memory == 8<<30 }},
		{"a container with more than there is", container("1099511627776"), func(m hardware) bool { return m.memory == 8<<30 }},
		{"cgroup v1", legacy, func(m hardware) bool { return !m.cgroupV2 }},
		{"all users", map[string]string{"proc/self/uid_map": "         0          0 4294967295\n"}, func(m hardware) bool { return !m.userNamespace }},
		{"a user namespace", map[string]string{"proc/self/uid_map": "0 1000 1\n1 100000 65536\n"}, func(m hardware) bool { return m.userNamespace }},
		{"one of as many users", map[string]string{"proc/self/uid_map": "0 100000 4294967295\n"}, func(m hardware) bool { return m.userNamespace }},
	}
	for _, tt := range tests {
		dir := root(t, tt.changes)
		if m, err := readMachine(open(t, dir), dir); err != nil || !tt.want(m) {
			t.Errorf("%s: %+v, %v", tt.name, m, err)
		}
	}
	for name, changes := range map[string]map[string]string{
		"memory": {"proc/meminfo": "-"}, "MemTotal": {"proc/meminfo": "MemFree: 1 kB\n"}, "huge pages": {"sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "many"},
	} {
		dir := root(t, changes)
		if _, err := readMachine(open(t, dir), dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("the error is %v, want one that names %s", err, name)
		}
	}
}

func TestAllocatable(t *testing.T) {
	capacity := hardware{cpus: 4, memory: 8 << 30, storage: 100 << 30, hugepages: map[string]int64{"hugepages-2Mi": 1 << 30}}.capacity(110)
	tests := []struct {
		name     string
		settings kubeletconfig.KubeletConfiguration
		want     map[corev1.ResourceName]string
		err      string
	}{
		{name: "nothing reserved", want: map[corev1.ResourceName]string{"cpu": "4", "memory": "7Gi", "ephemeral-storage": "100Gi", "pods": "110", "hugepages-2Mi": "1Gi"}},
		{
			name: "reserved twice, with thresholds",
			settings: kubeletconfig.KubeletConfiguration{
				KubeReserved:   map[string]string{"cpu": "500m", "memory": "1Gi", "pid": "1000"},
				SystemReserved: map[string]string{"cpu": "1", "ephemeral-storage": "10Gi"},
				EvictionHard:   map[string]string{"memory.available": "1Gi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%"},
			},
			want: map[corev1.ResourceName]string{"cpu": "2500m", "memory": "5Gi", "ephemeral-storage": "85899345760", "pods": "110", "hugepages-2Mi": "1Gi"}, // 10% as exact as upstream's
		},
		{
			name:     "a share of the memory",
			settings: kubeletconfig.KubeletConfiguration{EvictionHard: map[string]string{"memory.available": "25%"}},
			want:     map[corev1.ResourceName]string{"cpu": "4", "memory": "5Gi", "ephemeral-storage": "100Gi", "pods": "110", "hugepages-2Mi": "1Gi"},
		},
		{
			name:     "huge pages of what is reserved",
			settings: kubeletconfig.KubeletConfiguration{KubeReserved: map[string]string{"memory": "7680Mi"}},
			want:     map[corev1.ResourceName]string{"cpu": "4", "memory": "0", "ephemeral-storage": "100Gi", "pods": "110", "hugepages-2Mi": "1Gi"},
		},
		{name: "more than there is", settings: kubeletconfig.KubeletConfiguration{KubeReserved: map[string]string{"memory": "9Gi"}}, err: "kubeReserved[memory]"},
		{name: "together more than there is", settings: kubeletconfig.KubeletConfiguration{
			KubeReserved: map[string]string{"cpu": "3"}, SystemReserved: map[string]string{"cpu": "3"},
		}, err: "Reserved[cpu]"},
	}
	for _, tt := range tests {
		given := &settings.Settings{KubeletConfiguration: tt.settings}
		got, err := reserve(capacity, given)
		if err == nil {
			got, err = allocatable(capacity, got, given)
		}
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: the error is %v, want one that names %s", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || len(got) != len(tt.want) {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
		for name, want := range tt.want {
			if have := got[name]; have.Cmp(resource.MustParse(want)) != 0 {
				t.Errorf("%s: %s of %s, want %s", tt.name, have.String(), name, want)
			}
		}
	}
	if memory := capacity[corev1.ResourceMemory]; memory.Value() != 8<<30 {
		t.Errorf("the capacity changed: %v", memory.String())
	}
}

// TestEnforceable: eviction comes before what all pods together are held to, and processes count too.
func TestEnforceable(t *testing.T) {
	m := hardware{cpus: 4, memory: 8 << 30, pids: 32768, hugepages: map[string]int64{"hugepages-2Mi": 1 << 30}}
	got, err := reserve(m.withPIDs(m.capacity(110)), &settings.Settings{KubeletConfiguration: kubeletconfig.KubeletConfiguration{
		KubeReserved: map[string]string{"memory": "1Gi", "pid": "1000"}, SystemReserved: map[string]string{"cpu": "1", "pid": "768"},
		EvictionHard: map[string]string{"memory.available": "1Gi"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[corev1.ResourceName]string{"cpu": "3", "memory": "7Gi", "pid": "31000", "hugepages-2Mi": "1Gi"} {
		if have := got[name]; have.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("%s of %s, want %s", have.String(), name, want)
		}
	}
	if _, told := m.capacity(110)["pid"]; told {
		t.Error("the apiserver is told of processes")
	}
}

func TestAddresses(t *testing.T) {
	const v4, v6, other = "192.0.2.1", "2001:db8::1", "198.51.100.7"
	tests := []struct {
		name                 string
		given, lookup, local []string
		node, route          string
		want                 []string
	}{
		{name: "given", given: []string{v4, v6}, want: []string{v4, v6}},
		{name: "given, not the machine's", given: []string{other}, local: []string{v4}, want: []string{other}},
		{name: "the name is one", node: v4, want: []string{v4}},
		{name: "the name service's", lookup: []string{v4}, local: []string{v4, v6}, route: other, want: []string{v4}},
		{name: "IPv4 is preferred", lookup: []string{v6, v4}, local: []string{v4, v6}, want: []string{v4}},
		{name: "IPv6 is asked for", given: []string{"::"}, lookup: []string{v4, v6}, local: []string{v4, v6}, want: []string{v6}},
		{name: "only IPv6", lookup: []string{v6}, local: []string{v6}, want: []string{v6}},
		{name: "IPv4 is asked for and not there", given: []string{"0.0.0.0"}, lookup: []string{v6}, local: []string{v6}, want: []string{v6}},
		{name: "the name service's is loopback", lookup: []string{"127.0.1.1", "::1"}, local: []string{"127.0.1.1", "::1", v4}, route: v4, want: []string{v4}},
		{name: "the name service's is elsewhere", lookup: []string{other}, local: []string{v4}, route: v6, want: []string{v6}},
		{name: "IPv6 by the route", route: v6, want: []string{v6}},
		{name: "neither name nor route", local: []string{"127.0.0.1", "fe80::1", v6}, want: []string{v6}},
		{name: "neither name nor route, IPv4 is preferred", local: []string{v6, v4}, want: []string{v4}},
		{name: "none", local: []string{"127.0.0.1", "::1", "fe80::1"}},
	}
	parse := func(texts []string) (ips []net.IP) {
		for _, text := range texts {
			ips = append(ips, net.ParseIP(text))
		}
		return ips
	}
	for _, tt := range tests {
		m := Network{
			Lookup: func(string) []net.IP { return parse(tt.lookup) },
			Local:  func() []net.IP { return parse(tt.local) },
			Route: func(preferred net.IP) (net.IP, error) {
				if tt.route == "" {
					return nil, errors.New("no default route")
				}
				return net.ParseIP(tt.route), nil
			},
		}
		got, named, err := addresses(parse(tt.given), cmp.Or(tt.node, "node-1"), m)
		if diff := gocmp.Diff(parse(tt.want), got); diff != "" || (err == nil) != (tt.want != nil) {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
		if want := len(got) > 0 && tt.node == "" && slices.Contains(tt.lookup, got[0].String()); named != want {
			t.Errorf("%s: that the name service has it is %v", tt.name, named)
		}
		if err != nil && !strings.Contains(err.Error(), "--node-ip") {
			t.Errorf("%s: the error does not name --node-ip: %v", tt.name, err)
		}
	}
}

// TestPodLimit: podsPerCore lessens maxPods, never raises it.
func TestPodLimit(t *testing.T) {
	for _, tt := range []struct{ max, perCore, want int32 }{{110, 0, 110}, {110, 10, 40}, {30, 10, 30}} {
		s := &settings.Settings{}
		s.MaxPods, s.PodsPerCore = tt.max, tt.perCore
		if got := podLimit(s, 4); got != tt.want {
			t.Errorf("maxPods %d, podsPerCore %d on 4 CPUs: %d, want %d", tt.max, tt.perCore, got, tt.want)
		}
	}
}
