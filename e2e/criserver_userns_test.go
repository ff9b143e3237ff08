package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shifted is the user namespace that the tests ask for.
func shifted() *runtimeapi.UserNamespace {
	ids := []*runtimeapi.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// hasUserNamespaces tells what the runtime says of itself.
func (c *criServer) hasUserNamespaces(t *testing.T) bool {
	t.Helper()
	status, err := c.Status(limited(t), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, handler := range status.GetRuntimeHandlers() {
		if handler.GetName() == "" {
			return handler.GetFeatures().GetUserNamespaces()
		}
	}
	return false
}

// TestCRIUserNamespace: root in a pod is nobody on the machine, and neither its image nor its volumes show it.
func TestCRIUserNamespace(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		config := c.sandboxConfig(t)
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		if !c.hasUserNamespaces(t) {
			_, err := c.RunPodSandbox(limited(t), &runtimeapi.RunPodSandboxRequest{Config: config})
			if err == nil {
				t.Error("the runtime says it has no user namespaces, and makes a pod in one")
			}
			t.Skipf("no user namespaces here: %v", err)
		}
		p := c.run(t, config)
		dir := t.TempDir()
		app := script("app", forever)
		app.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		ids := shifted().GetUids()
		app.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: dir, UidMappings: ids, GidMappings: ids}}
		id := p.start(t, app)
		for what, want := range map[string]string{
			"id -u": "0", "awk '{print $2}' /proc/self/uid_map": "200000", "awk '{print $2}' /proc/self/gid_map": "200000",
			"stat -c %u:%g / /bin /bin/busybox /data":        "0:0\n0:0\n0:0\n0:0",
			"touch /x /bin/y /data/z /dev/shm/s && echo yes": "yes", "touch /own && chown 7:7 /own && stat -c %u /own": "7",
			"cat /etc/hostname; hostname": "a-host\na-host", "ls /sys/class/net | tr '\\n' ' '": "eth0 lo", "cat /proc/sys/kernel/hostname": "a-host",
		} {
			if got := c.sh(t, id, what); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		if got := owner(t, filepath.Join(dir, "z")); got != 0 {
			t.Errorf("a file in a volume with mapped IDs belongs to %d on the machine", got)
		}
		other := script("other", forever)
		other.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		namespace := "readlink /proc/self/ns/user"
		own, err := os.Readlink("/proc/self/ns/user")
		if a, b := c.sh(t, id, namespace), c.sh(t, p.start(t, other), namespace); err != nil || a != b || a == own {
			t.Errorf("user namespaces: %s and %s, the machine's is %s, %v", a, b, own, err)
		}

		together := c.sandboxConfig(t)
		together.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		together.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		p = c.run(t, together)
		member := script("member", forever)
		member.Linux.SecurityContext.NamespaceOptions = together.Linux.SecurityContext.NamespaceOptions
		if got := c.sh(t, p.start(t, member), "awk '{print $2}' /proc/1/uid_map"); got != "200000" {
			t.Errorf("the pause process has the machine's IDs from %s on", got)
		}
	})
}

// TestCridUserNamespaceRefused: what would make a pod's root the machine's, or cannot be.
func TestCridUserNamespaceRefused(t *testing.T) {
	c := crid(t)
	before := c.resources(t)
	for what, change := range map[string]func(*runtimeapi.NamespaceOption){
		"the machine's network":   func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE },
		"the machine's IPC":       func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE },
		"the machine's processes": func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE },
		"no user IDs":             func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids = nil },
		"no group IDs":            func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids = nil },
		"the machine's root":      func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids = []*runtimeapi.IDMapping{{Length: 10}} },
		"no root":                 func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids[0].ContainerId = 1 },
		"an empty range":          func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids[0].Length = 0 },
		"IDs past the last":       func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids[0].HostId = 1<<32 - 5 },
		"a mode of containers":    func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_CONTAINER },
	} {
		config := c.sandboxConfig(t)
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		change(config.Linux.SecurityContext.NamespaceOptions)
		made, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
		wantCode(t, what, err, codes.InvalidArgument, codes.Unimplemented)
		if err == nil {
			(&criPod{criServer: c, id: made.GetPodSandboxId()}).remove(t)
		}
	}
	p := c.run(t, c.sandboxConfig(t))
	for what, change := range map[string]func(*runtimeapi.ContainerConfig){
		"a user namespace of a container": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = shifted()
		},
		"mapped IDs without a user namespace": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/var/tmp", UidMappings: shifted().Uids, GidMappings: shifted().Gids}}
		},
	} {
		config := script("fails", "true")
		change(config)
		_, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
		if err == nil || !strings.Contains(err.Error(), "user namespace") {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.remove(t)
	c.nothingLeft(t, before)
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}
