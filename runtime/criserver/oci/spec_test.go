package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/oci"
)

var update = flag.Bool("update", false, "write the golden files anew")

// example is a container as a kubelet asks for it.
func example() oci.Container {
	return oci.Container{
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: "busybox:1"},
			Envs: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "FROM_IMAGE", Value: []byte("changed")}},
			Mounts: []*runtimeapi.Mount{
				{ContainerPath: "/etc/hosts", HostPath: "/var/lib/kubelet/pods/u/etc-hosts"},
				{ContainerPath: "/data/deep", HostPath: "/b", Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/data", HostPath: "/a", Readonly: true, RecursiveReadOnly: true},
			},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &runtimeapi.LinuxContainerResources{
					CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20, OomScoreAdj: 900,
					HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}}, Unified: map[string]string{"memory.high": "1"},
				},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
					MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}, NoNewPrivs: true,
				},
			},
		},
		Image:       v1.Config{Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "sleep 1"}, Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}, WorkingDir: "/home"},
		Sandbox:     &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}}},
		RootFS:      "/run/containers/c0ffee/rootfs",
		User:        oci.User{UID: 1000, GID: 1000, Groups: []uint32{1000, 3000}},
		Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/ns/net"}},
		CgroupsPath: "/kubepods/pod1/c0ffee", Hostname: "a-pod", HostnameFile: "/s/hostname", ResolvConf: "/s/resolv.conf", ShmDir: "/s/shm",
		Annotations: map[string]string{oci.AnnotationType: "container"},
	}
}

var machine = oci.Machine{MinOOMScoreAdj: -1000, Seccomp: true, Capabilities: []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}}

// examplePause is the pause process of a sandbox.
func examplePause(m oci.Machine) oci.Container {
	m.Seccomp = false // its filter is what TestGenerateSeccomp looks at, and too long for a golden file
	c := oci.Pause(&runtimeapi.PodSandboxConfig{}, m)
	c.RootFS, c.CgroupsPath, c.Hostname = "/run/sandboxes/decade/pause/rootfs", "/kubepods/pod1/decade", "a-pod"
	c.Namespaces = append(c.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/ns/net"})
	c.Annotations = map[string]string{oci.AnnotationType: "sandbox", oci.AnnotationSandboxID: "decade"}
	return c
}

// TestPauseSeccomp: the pause process has the default filter where the kernel has filters.
func TestPauseSeccomp(t *testing.T) {
	for _, m := range []oci.Machine{{}, {Seccomp: true}} {
		spec, err := oci.Generate(oci.Pause(&runtimeapi.PodSandboxConfig{}, m), m)
		if err != nil || (spec.Linux.Seccomp != nil) != m.Seccomp {
			t.Errorf("%+v: %v, %v", m, spec, err)
		}
	}
}

// TestVolumeOverDirectory: what the pod's containers have in common is there in a volume over the directory that it is in, too,
// unless the container has something else mounted at its place.
func TestVolumeOverDirectory(t *testing.T) {
	c := example()
	c.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/etc/hostname", HostPath: "/h"}, {ContainerPath: "/etc", HostPath: "/a"}, {ContainerPath: "/dev/", HostPath: "/dev"}}
	spec, err := oci.Generate(c, machine)
	if err != nil {
		t.Fatal(err)
	}
	at := func(source string) int {
		return slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Source == source })
	}
	for _, inside := range [][2]string{{c.ResolvConf, "/a"}, {"/h", "/a"}, {c.ShmDir, "/dev"}} {
		if file, volume := at(inside[0]), at(inside[1]); volume < 0 || file < volume {
			t.Errorf("%s is mount %d, the volume over it %d of %v", inside[0], file, volume, spec.Mounts)
		}
	}
	if at(c.HostnameFile) >= 0 {
		t.Errorf("the pod's hostname is mounted as well: %v", spec.Mounts)
	}
}

// TestGenerate compares whole specifications with those of testdata; go test -update writes them.
func TestGenerate(t *testing.T) {
	for _, tc := range []struct {
		name    string
		change  func(*oci.Container)
		machine func(*oci.Machine)
	}{
		{name: "plain"},
		{name: "v2", machine: func(m *oci.Machine) { m.CgroupV2, m.Hugetlb, m.Swap = true, true, true }},
		{name: "terminal", change: func(c *oci.Container) {
			c.Config.Tty, c.Config.Command, c.Config.WorkingDir = true, []string{"top"}, "../work"
		}},
		{name: "privileged", change: func(c *oci.Container) {
			c.Config.Linux.SecurityContext.Privileged, c.Sandbox.Linux.SecurityContext.Privileged = true, true
			c.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
		}},
		{name: "restricted", change: func(c *oci.Container) {
			c.Config.Linux.SecurityContext.ReadonlyRootfs, c.AppArmorProfile = true, "strict"
			c.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"net_bind_service"}}
			c.Devices, c.DeviceAccess = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}, []string{"rw"}
		}},
		{name: "no-oom-privilege", machine: func(m *oci.Machine) { m.MinOOMScoreAdj = 0 }, change: func(c *oci.Container) { c.Config.Linux.Resources.OomScoreAdj = -998 }},
		{name: "user-namespace", change: func(c *oci.Container) {
			c.Namespaces = append(c.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/run/ns/user"})
			c.UIDMappings, c.GIDMappings = []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}, []specs.LinuxIDMapping{{HostID: 65536, Size: 3}}
			ids := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
			c.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/a", UidMappings: ids, GidMappings: ids}}
		}},
		{name: "pause", change: func(c *oci.Container) { *c = examplePause(machine) }},
		{name: "pause-v2", machine: func(m *oci.Machine) { m.CgroupV2 = true }, change: func(c *oci.Container) {
			*c = examplePause(oci.Machine{CgroupV2: true})
			c.Namespaces = append(c.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/run/ns/user"})
		}},
		{name: "volume-over-default", change: func(c *oci.Container) {
			c.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/shm/", HostPath: "/memory", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, m := example(), machine
			if tc.change != nil {
				tc.change(&c)
			}
			if tc.machine != nil {
				tc.machine(&m)
			}
			spec, err := oci.Generate(c, m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tc.name+".json")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(bytes.TrimSpace(want)), string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestCommand: what runs, of what the container and its image say.
func TestCommand(t *testing.T) {
	for _, tc := range []struct{ entrypoint, cmd, command, args, want []string }{
		{[]string{"/e", "x"}, []string{"c"}, nil, nil, []string{"/e", "x", "c"}},
		{[]string{"/e", "x"}, []string{"c"}, nil, []string{"a"}, []string{"/e", "x", "a"}},
		{[]string{"/e", "x"}, []string{"c"}, []string{"/k"}, nil, []string{"/k"}},
		{[]string{"/e", "x"}, []string{"c"}, []string{"/k"}, []string{"a"}, []string{"/k", "a"}},
		{nil, []string{"/c"}, nil, []string{"/a"}, []string{"/a"}},
		{[]string{""}, []string{"/c"}, nil, nil, []string{"/c"}}, // of a Dockerfile that takes the entrypoint of its base away
		{[]string{""}, []string{"/c"}, nil, []string{"/a"}, []string{"/a"}},
		{[]string{"", "/e"}, nil, nil, nil, nil},
		{[]string{"/e"}, nil, []string{""}, nil, nil},
		{[]string{""}, nil, nil, nil, nil},
	} {
		c := example()
		c.Image.Entrypoint, c.Image.Cmd, c.Config.Command, c.Config.Args = tc.entrypoint, tc.cmd, tc.command, tc.args
		spec, err := oci.Generate(c, machine)
		if tc.want == nil && !errors.Is(err, oci.ErrInvalid) || tc.want != nil && (err != nil || !slices.Equal(spec.Process.Args, tc.want)) {
			t.Errorf("%q: %v, %v", tc, spec, err)
		}
	}
}

// TestCapabilities: of all that is added and all that is dropped the latter counts, and names count over both. Privileged
// containers have all.
func TestCapabilities(t *testing.T) {
	m := machine
	m.Capabilities = []string{"CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN"}
	for _, tc := range []struct{ add, drop, want string }{
		{"ALL", "NET_RAW", "CAP_CHOWN CAP_SYS_ADMIN"}, {"chown", "ALL", "CAP_CHOWN"}, {"ALL", "ALL", ""}, {"all CAP_CHOWN", "All", "CAP_CHOWN"}, {"ALL CHOWN", "ALL CHOWN", ""},
	} {
		c := example()
		c.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: strings.Fields(tc.add), DropCapabilities: strings.Fields(tc.drop)}
		spec, err := oci.Generate(c, m)
		if err != nil {
			t.Fatal(err)
		}
		got := slices.DeleteFunc(slices.Clone(spec.Process.Capabilities.Bounding), func(name string) bool {
			return tc.add == "ALL" && tc.drop == "NET_RAW" && !slices.Contains(m.Capabilities, name) // the defaults
		})
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
		c.Config.Linux.SecurityContext.Privileged, c.Sandbox.Linux.SecurityContext.Privileged = true, true
		if spec, err = oci.Generate(c, m); err != nil || !slices.Equal(spec.Process.Capabilities.Bounding, m.Capabilities) {
			t.Errorf("%+v, privileged: %q, %v", tc, spec.Process.Capabilities.Bounding, err)
		}
	}
}

// TestResources: a container that may not have more memory may not swap instead, unless it is said how much.
func TestResources(t *testing.T) {
	for _, tc := range []struct{ limit, asked, want int64 }{{0, 0, 0}, {64, 0, 64}, {64, 100, 100}, {64, -1, -1}, {-1, 0, -1}} {
		memory := oci.Resources(&runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: tc.limit, MemorySwapLimitInBytes: tc.asked}, oci.Machine{Swap: true}).Memory
		switch {
		case tc.want == 0 && memory != nil:
			t.Errorf("%+v: %v", tc, memory)
		case tc.want != 0 && (memory == nil || memory.Swap == nil || *memory.Swap != tc.want):
			t.Errorf("%+v: %+v", tc, memory)
		}
	}
}

// TestGenerateSeccomp: the default profile allows what every program does, on the machine's own
// architecture and what else runs there.
func TestGenerateSeccomp(t *testing.T) {
	c := example()
	c.Config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	spec, err := oci.Generate(c, machine)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, rule := range spec.Linux.Seccomp.Syscalls {
		if rule.Action == specs.ActAllow && len(rule.Args) == 0 {
			for _, name := range rule.Names {
				allowed[name] = true
			}
		}
	}
	if !allowed["read"] || !allowed["execve"] || allowed["mount"] || allowed["bpf"] || spec.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Errorf("seccomp: %+v", spec.Linux.Seccomp)
	}
	c.Config.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p"}
	c.SeccompProfile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sync"],"action":"SCMP_ACT_ERRNO"}]}`
	if spec, err = oci.Generate(c, machine); err != nil || len(spec.Linux.Seccomp.Syscalls) != 1 {
		t.Errorf("local profile: %v, %v", spec, err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	security := func(change func(*runtimeapi.LinuxContainerSecurityContext)) func(*oci.Container) {
		return func(c *oci.Container) { change(c.Config.Linux.SecurityContext) }
	}
	mount := func(m *runtimeapi.Mount) func(*oci.Container) {
		return func(c *oci.Container) { c.Config.Mounts = []*runtimeapi.Mount{m} }
	}
	for what, change := range map[string]func(*oci.Container){
		"nothing to run":        func(c *oci.Container) { c.Image = v1.Config{} },
		"null in an argument":   func(c *oci.Container) { c.Config.Args = []string{"a\x00b"} },
		"variable without name": func(c *oci.Container) { c.Config.Envs = []*runtimeapi.KeyValue{{Value: []byte("x")}} },
		"null in a variable":    func(c *oci.Container) { c.Config.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("x\x00")}} },
		"privilege":             security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }),
		"unknown capability": security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		}),
		"broken profile": security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/p"}
		}),
		"mount without target": mount(&runtimeapi.Mount{HostPath: "/a"}),
		"mount options":        mount(&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/b", MountOptions: []string{"x"}}),
		"mapped mount":         mount(&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/b", UidMappings: []*runtimeapi.IDMapping{{}}}),
		"half mapped mount": func(c *oci.Container) {
			c.UIDMappings = []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
			c.Config.Mounts = []*runtimeapi.Mount{{HostPath: "/a", ContainerPath: "/b", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}}}
		},
		"recursive but not read-only":     mount(&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/b", RecursiveReadOnly: true}),
		"recursive read-only and shared":  mount(&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: 1}),
		"propagation that does not exist": mount(&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/b", Propagation: 7}),
	} {
		c := example()
		change(&c)
		if _, err := oci.Generate(c, machine); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCgroupsPath(t *testing.T) {
	for _, tc := range []struct {
		parent  string
		systemd bool
		path    string
		dir     string
	}{
		{"/kubepods/pod1", false, "/kubepods/pod1/id", "/kubepods/pod1/id"},
		{"kubepods", false, "/kubepods/id", "/kubepods/id"},
		{"/a/../../b", false, "", ""},
		{"/kubepods.slice/kubepods-pod1.slice", true, "kubepods-pod1.slice:cri:id", "/kubepods.slice/kubepods-pod1.slice/cri-id.scope"},
		{"/kubepods", true, "", ""},
		{"a:b.slice", true, "", ""},
	} {
		got, err := oci.CgroupsPath(tc.parent, "id", tc.systemd)
		if tc.path == "" {
			if !errors.Is(err, oci.ErrInvalid) {
				t.Errorf("%+v: %q, %v", tc, got, err)
			}
			continue
		}
		if err != nil || got != tc.path || oci.CgroupDir(got) != tc.dir {
			t.Errorf("%+v: %q, %v, %q", tc, got, err, oci.CgroupDir(got))
		}
	}
}

func TestResolveUser(t *testing.T) {
	files := oci.UserFiles{Passwd: []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:100::/:/bin/sh\n"), Group: []byte("root:x:0:\nusers:x:100:\nextra:x:500:user\n")}
	number := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for _, tc := range []struct {
		name     string
		security *runtimeapi.LinuxContainerSecurityContext
		image    string
		want     oci.User
		invalid  bool
	}{
		{name: "nobody says", want: oci.User{Groups: []uint32{0}}},
		{name: "image's name", image: "user", want: oci.User{UID: 1000, GID: 100, Groups: []uint32{100, 500}}},
		{name: "image's numbers", image: "7:8", want: oci.User{UID: 7, GID: 8, Groups: []uint32{8}}},
		{name: "number of the file", image: "root", security: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: number(1000)}, want: oci.User{UID: 1000, GID: 100, Groups: []uint32{100, 500}}},
		{name: "group", security: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: number(1000), RunAsGroup: number(9)}, want: oci.User{UID: 1000, GID: 9, Groups: []uint32{9, 500}}},
		{name: "strict", security: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: number(1000), SupplementalGroups: []int64{3}, SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict},
			want: oci.User{UID: 1000, GID: 100, Groups: []uint32{100, 3}}},
		{name: "merged", security: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "user", SupplementalGroups: []int64{3, 500}}, want: oci.User{UID: 1000, GID: 100, Groups: []uint32{100, 500, 3}}},
		{name: "unknown", image: "who", invalid: true},
		{name: "group of the image's user", image: "user", security: &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: number(9)}, invalid: true},
		{name: "unknown policy", security: &runtimeapi.LinuxContainerSecurityContext{SupplementalGroupsPolicy: 7}, invalid: true},
		{name: "group alone", security: &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: number(9)}, invalid: true},
		{name: "negative group", security: &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: []int64{-1}}, invalid: true},
	} {
		got, err := oci.ResolveUser(tc.security, tc.image, files)
		if tc.invalid != errors.Is(err, oci.ErrInvalid) || !tc.invalid && cmp.Diff(tc.want, got) != "" {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

// TestReadUserFiles: links in an image stay in the image, and what is no file is not read.
func TestReadUserFiles(t *testing.T) {
	root := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{os.MkdirAll(root+"/etc", 0o755), os.WriteFile(secret, []byte("s"), 0o644), os.Symlink(secret, root+"/etc/passwd"),
		os.Symlink("../../../../../"+secret, root+"/etc/group")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if files, err := oci.ReadUserFiles(root); err != nil || len(files.Passwd)+len(files.Group) > 0 {
		t.Errorf("read %q, %v", files, err)
	}
	for _, err := range []error{os.Remove(root + "/etc/group"), os.Mkdir(root+"/etc/group", 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := oci.ReadUserFiles(root); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("a directory as file: %v", err)
	}
}

func FuzzGenerate(f *testing.F) {
	f.Add("sh", "A=1", "/data", "CHOWN", "user:x:1000:100::/:/bin/sh", "user")
	f.Add("", "=", "../..", "ALL", "::::", "0:0")
	f.Fuzz(func(t *testing.T, command, env, path, capability, passwd, who string) {
		c := example()
		c.Image.Entrypoint, c.Image.Env, c.Image.WorkingDir = []string{command}, []string{env}, path
		c.Config.Mounts = append(c.Config.Mounts, &runtimeapi.Mount{ContainerPath: path, HostPath: "/x"})
		c.Config.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{capability}}
		var err error
		if c.User, err = oci.ResolveUser(nil, who, oci.UserFiles{Passwd: []byte(passwd), Group: []byte(passwd)}); err != nil {
			c.User = oci.User{}
		}
		spec, err := oci.Generate(c, machine)
		if err != nil {
			if !errors.Is(err, oci.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		if !filepath.IsAbs(spec.Process.Cwd) || strings.Contains(spec.Process.Cwd+"/", "/../") {
			t.Errorf("working directory %q", spec.Process.Cwd)
		}
		for _, mount := range spec.Mounts {
			if !filepath.IsAbs(mount.Destination) || strings.Contains(mount.Destination+"/", "/../") {
				t.Errorf("mount at %q", mount.Destination)
			}
		}
		for _, entry := range append(spec.Process.Env, spec.Process.Args...) {
			if strings.ContainsRune(entry, 0) {
				t.Errorf("null byte in %q", entry)
			}
		}
	})
}

// TestPrivilegedDevices: a privileged container has the machine's devices, and in the place of one of these what it asks for.
func TestPrivilegedDevices(t *testing.T) {
	devices, access, err := oci.Devices([]*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/full", Permissions: "r"}}, true)
	if err != nil || len(access) > 0 {
		t.Fatalf("access %v, %v", access, err)
	}
	minors := map[string][]int64{}
	for _, d := range devices {
		minors[d.Path] = append(minors[d.Path], d.Minor)
	}
	if !slices.Equal(minors["/dev/full"], []int64{3}) || !slices.Equal(minors["/dev/zero"], []int64{5}) {
		t.Errorf("devices: %v", minors)
	}
}
