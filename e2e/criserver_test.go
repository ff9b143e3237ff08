package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/e2e/stack"
)

// TestCRILifecycle: what a kubelet does with every pod, in order.
func TestCRILifecycle(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		ctx := limited(t)
		sandbox, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil {
			t.Fatal(err)
		}
		if got := sandbox.GetStatus(); got.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || got.GetNetwork().GetIp() == "" || got.GetAnnotations()["note"] != "kept" {
			t.Errorf("status of the sandbox: %v", got)
		}
		config := script("app", "echo out; echo err >&2; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done")
		id := p.create(t, config)
		if got := c.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED || got.GetStartedAt() != 0 {
			t.Errorf("created: %v", got)
		}
		if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if got := c.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || got.GetStartedAt() < got.GetCreatedAt() || got.GetLogPath() != p.logPath(config) {
			t.Errorf("started: %v", got)
		}
		eventually(ctx, t, "output", func() bool { return strings.Contains(p.logText(t, config), "err\n") })
		for what, filter := range map[string]*runtimeapi.ContainerFilter{
			"id": {Id: id}, "sandbox": {PodSandboxId: p.id}, "label": {LabelSelector: map[string]string{"container": "app"}, PodSandboxId: p.id},
			"state": {State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}, PodSandboxId: p.id},
		} {
			list, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
			if err != nil || len(list.GetContainers()) != 1 || list.GetContainers()[0].GetId() != id {
				t.Errorf("list by %s: %v, %v", what, list, err)
			}
		}
		c.stop(t, id, 10)
		if got := c.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || got.GetExitCode() != 7 || got.GetReason() != "Error" || got.GetFinishedAt() < got.GetStartedAt() {
			t.Errorf("stopped: %v", got)
		}
		if text := p.logText(t, config); text != "out\nerr\nbye\n" && text != "err\nout\nbye\n" {
			t.Errorf("log: %q", text)
		}
		for range 2 { // each may be asked for again
			c.stop(t, id, 1)
			if _, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
				t.Error(err)
			}
			p.remove(t)
		}
		_, err = c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		wantCode(t, "status of what is gone", err, codes.NotFound)
		_, err = c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		wantCode(t, "status of what is gone", err, codes.NotFound)
	})
}

// TestCRIEnds: exit codes and reasons, as they end up in a pod's status.
func TestCRIEnds(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		for _, tc := range []struct {
			name, script, reason string
			code                 int32
		}{
			{"well", "exit 0", "Completed", 0}, {"badly", "exit 3", "Error", 3}, {"killed", "kill -9 $$; sleep 5", "Error", 137},
		} {
			if tc.name == "killed" {
				continue // the first process of a namespace cannot kill itself
			}
			got := c.ended(t, p.start(t, script(tc.name, tc.script)))
			if got.GetExitCode() != tc.code || got.GetReason() != tc.reason || got.GetFinishedAt() == 0 {
				t.Errorf("%s: %v", tc.name, got)
			}
		}
		hungry := script("hungry", "x=a; while :; do x=$x$x; done")
		hungry.Linux.Resources.MemoryLimitInBytes = 16 << 20
		if got := c.ended(t, p.start(t, hungry)); got.GetReason() != "OOMKilled" || got.GetExitCode() != 137 {
			t.Errorf("out of memory: %v", got)
		}
		deaf := p.start(t, script("deaf", "trap '' TERM; while :; do sleep 0.1; done"))
		c.sh(t, deaf, "true") // it runs by now
		c.stop(t, deaf, 1)
		if got := c.status(t, deaf); got.GetExitCode() != 137 {
			t.Errorf("killed after its grace period: %v", got)
		}
		missing := script("missing", "")
		missing.Command = []string{"/not/there"}
		made, err := c.CreateContainer(limited(t), &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: missing, SandboxConfig: p.config})
		if err == nil { // containerd says so on start
			_, err = c.StartContainer(limited(t), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()})
		}
		if err == nil || !strings.Contains(err.Error(), "/not/there") {
			t.Errorf("a program that is not there: %v", err)
		}
	})
}

// TestCRIExecSync: output, exit code, and the end of all that a command has started.
func TestCRIExecSync(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		id := p.start(t, script("app", forever))
		r, err := c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 5"}})
		if err != nil || string(r.GetStdout()) != "out\n" || string(r.GetStderr()) != "err\n" || r.GetExitCode() != 5 {
			t.Errorf("%v, %v", r, err)
		}
		long := "exec sleep 4321"
		if c.name == stack.Crid { // containerd kills the first process only, and waits for ever for the output of others
			long = "(setsid sleep 4321 &); sleep 4321 & sleep 4321"
		}
		_, err = c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", long}, Timeout: 1})
		wantCode(t, "a command that takes too long", err, codes.DeadlineExceeded)
		if left := c.sh(t, id, "ps | grep -c '[s]leep 4321' || true"); left != "0" {
			t.Errorf("%s processes of the command are left", left)
		}
		_, err = c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/not/there"}})
		if err == nil {
			t.Error("a program that is not there: no error")
		}
		c.stop(t, id, 5)
		if _, err = c.ExecSync(limited(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}}); err == nil {
			t.Error("exec in a container that has ended: no error")
		}
	})
}

// TestCRINamespaces: what containers of a pod share with each other and with the node.
func TestCRINamespaces(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		config := c.sandboxConfig(t)
		config.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "2000 3000", "kernel.shm_rmid_forced": "1"}
		p := c.run(t, config)
		first, second := p.start(t, script("first", forever)), p.start(t, script("second", forever))
		for what, want := range map[string]string{
			"hostname": "a-host", "cat /etc/hostname": "a-host",
			"cat /etc/resolv.conf": "search a.example b.example\nnameserver 10.96.0.10\noptions ndots:5",
			"cat /proc/sys/net/ipv4/ip_local_port_range | tr '\\t' ' '": "2000 3000", "cat /proc/sys/kernel/shm_rmid_forced": "1",
			"df -m /dev/shm | awk 'END {print $2}'": "64", "grep -c . /proc/1/cgroup >/dev/null && echo yes": "yes",
		} {
			if got := c.sh(t, first, what); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		for _, kind := range []string{"net", "ipc", "uts"} {
			if a, b := c.sh(t, first, "readlink /proc/self/ns/"+kind), c.sh(t, second, "readlink /proc/self/ns/"+kind); a != b {
				t.Errorf("%s namespace: %s and %s", kind, a, b)
			}
		}
		if c.sh(t, first, "echo hello >/dev/shm/x; readlink /proc/self/ns/pid") == c.sh(t, second, "readlink /proc/self/ns/pid") {
			t.Error("PID namespaces are shared")
		}
		if got := c.sh(t, second, "cat /dev/shm/x"); got != "hello" {
			t.Errorf("/dev/shm of the other container: %q", got)
		}

		together := c.sandboxConfig(t)
		together.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		p = c.run(t, together)
		a, b := script("a", "exec sleep 1111"), script("b", forever)
		a.Linux.SecurityContext.NamespaceOptions.Pid, b.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_POD
		p.start(t, a)
		if got := c.sh(t, p.start(t, b), "ps | grep -c '[s]leep 1111'"); got != "1" {
			t.Errorf("the pod's containers see %s processes of each other", got)
		}

		host := c.sandboxConfig(t)
		host.Hostname = ""
		host.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
		p = c.run(t, host)
		on := script("on", forever)
		on.Linux.SecurityContext.NamespaceOptions = host.Linux.SecurityContext.NamespaceOptions
		id := p.start(t, on)
		pid, err := os.Readlink("/proc/self/ns/pid")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.sh(t, id, "readlink /proc/self/ns/pid"); got != pid {
			t.Errorf("PID namespace %s, want the node's, %s", got, pid)
		}
		c.stop(t, id, 0) // with all its processes, although no namespace ends with the first
	})
}

// TestCRISecurity: who a container's process is and what it may do.
func TestCRISecurity(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		status := func(field string) string { return "grep -w " + field + ": /proc/self/status | awk '{print $2}'" }
		for _, tc := range []struct {
			name, script, want string
			change             func(*runtimeapi.LinuxContainerSecurityContext)
		}{
			{"defaults", status("CapEff") + "; " + status("Seccomp") + "; " + status("NoNewPrivs"), "00000000a80425fb\n0\n0", nil},
			{"seccomp", status("Seccomp"), "2", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			}},
			{"no-new-privileges", status("NoNewPrivs"), "1", func(s *runtimeapi.LinuxContainerSecurityContext) { s.NoNewPrivs = true }},
			{"no-capabilities", status("CapEff") + "; " + status("CapBnd"), "0000000000000400\n0000000000000400", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
			}},
			{"user", "id -u; id -g; id -G", "1000\n2000\n2000 3000", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}
				s.SupplementalGroups = []int64{3000}
			}},
			{"user-name", "id -u; id -un", "1000\nuser", func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "user" }},
			{"read-only-root", "touch /x 2>/dev/null || echo no; touch /dev/shm/x && echo yes", "no\nyes", func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }},
			{"masked", "cat /proc/version; ls /tmp; touch /proc/sys/kernel/x 2>/dev/null || echo no", "no", func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.MaskedPaths, s.ReadonlyPaths = []string{"/proc/version", "/tmp"}, []string{"/proc/sys"}
			}},
			{"system-read-only", "(echo 1 >/sys/kernel/mm/ksm/run) 2>/dev/null || echo no; mount -t tmpfs x /tmp 2>/dev/null || echo no", "no\nno", nil},
		} {
			config := script(tc.name, tc.script)
			if tc.change != nil {
				tc.change(config.Linux.SecurityContext)
			}
			if got := p.output(t, config); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
		}
		privileged := c.sandboxConfig(t)
		privileged.Linux.SecurityContext.Privileged = true
		p = c.run(t, privileged)
		config := script("privileged", "mkdir /tmp/m && mount -t tmpfs x /tmp/m && ls /dev | wc -l")
		config.Linux.SecurityContext.Privileged = true
		if got := p.output(t, config); len(got) < 2 { // the machine's devices, not the dozen of a container
			t.Errorf("privileged: %q", got)
		}
	})
}

// TestCRIFiles: mounts, images' files, logs that are rotated.
func TestCRIFiles(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		dir := t.TempDir()
		write(t, dir+"/file", "content")
		config := script("mounts", "cat /data/file; touch /data/x 2>/dev/null || echo no; touch /rw/x && echo yes; cat /etc/hosts")
		config.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/data", HostPath: dir, Readonly: true}, {ContainerPath: "/rw", HostPath: dir + "/made"},
			{ContainerPath: "/etc/hosts", HostPath: dir + "/file"},
		}
		if got := p.output(t, config); got != "contentno\nyes\ncontent" {
			t.Errorf("mounts: %q", got)
		}
		over := script("over", "cat /etc/hostname; head -n 1 /etc/resolv.conf")
		over.Mounts = []*runtimeapi.Mount{{ContainerPath: "/etc", HostPath: dir + "/etc"}}
		if got := p.output(t, over); got != "a-host\nsearch a.example b.example" {
			t.Errorf("the pod's files in a volume over their directory: %q", got)
		}
		talk := script("talk", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done")
		id := p.start(t, talk)
		eventually(limited(t), t, "a line", func() bool { return strings.Contains(p.logText(t, talk), "line 1\n") })
		old := p.logPath(talk) + ".old"
		if err := os.Rename(p.logPath(talk), old); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReopenContainerLog(limited(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		eventually(limited(t), t, "a line in the new log", func() bool { return strings.Contains(p.logText(t, talk), "line ") })
		c.stop(t, id, 0)
		_, err := c.ReopenContainerLog(limited(t), &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
		if err == nil {
			t.Error("reopened the log of a container that has ended")
		}
		long := script("long", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
		if got := p.output(t, long); len(got) != 100000+4 || !strings.HasSuffix(got, "x\nend") {
			t.Errorf("a long line: %d bytes", len(got))
		}
	})
}

// TestCRIResources: limits reach the cgroup, also when they change, and usage is told.
func TestCRIResources(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		config := script("app", forever)
		config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900}
		id := p.start(t, config)
		if got := c.sh(t, id, "cat /proc/1/oom_score_adj"); got != "900" {
			t.Errorf("oom_score_adj %s", got)
		}
		limit := func() string {
			return c.sh(t, id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
		}
		if got := limit(); got != fmt.Sprint(64<<20) {
			t.Errorf("memory limit %s", got)
		}
		_, err := c.UpdateContainerResources(limited(t), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		if got := limit(); got != fmt.Sprint(128<<20) {
			t.Errorf("memory limit %s after the update", got)
		}
		if got := c.status(t, id).GetResources().GetLinux(); got.GetMemoryLimitInBytes() != 128<<20 || got.GetCpuShares() != 512 {
			t.Errorf("resources in the status: %v", got)
		}
		r, err := c.ContainerStats(limited(t), &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil || r.GetStats().GetMemory().GetWorkingSetBytes().GetValue() == 0 || r.GetStats().GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("stats of the container: %v, %v", r, err)
		}
		s, err := c.PodSandboxStats(limited(t), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
		if err != nil || s.GetStats().GetLinux().GetNetwork().GetDefaultInterface().GetName() != "eth0" || len(s.GetStats().GetLinux().GetContainers()) != 1 {
			t.Errorf("stats of the pod: %v, %v", s, err)
		}
	})
}

// TestCRIEvents: a kubelet need not ask what it is told.
func TestCRIEvents(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		ctx, cancel := context.WithTimeout(limited(t), time.Minute)
		defer cancel()
		stream, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		// Nothing says when the stream has begun: pods are made until one is told of.
		events := make(chan *runtimeapi.ContainerEventResponse, 1000)
		go func() {
			defer close(events)
			for {
				event, err := stream.Recv()
				if err != nil {
					return
				}
				events <- event
			}
		}()
		eventually(ctx, t, "the first event", func() bool {
			c.run(t, c.sandboxConfig(t)).remove(t)
			return len(events) > 0
		})
		p := c.run(t, c.sandboxConfig(t))
		id := p.start(t, script("app", "exit 4"))
		c.ended(t, id)
		if _, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		var got []runtimeapi.ContainerEventType
		for event := range events {
			if event.GetContainerId() != id {
				continue
			}
			kind := event.GetContainerEventType()
			got = append(got, kind)
			if kind == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT && (len(event.GetContainersStatuses()) != 1 || event.GetContainersStatuses()[0].GetExitCode() != 4) {
				t.Errorf("what the end is told with: %v", event.GetContainersStatuses())
			}
			if kind == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
				break
			}
		}
		slices.Sort(got) // a container may end before its start is told
		if fmt.Sprint(got) != "[CONTAINER_CREATED_EVENT CONTAINER_STARTED_EVENT CONTAINER_STOPPED_EVENT CONTAINER_DELETED_EVENT]" {
			t.Errorf("events: %v", got)
		}
	})
}

// TestCRIStreaming: exec with a terminal and without, and attach.
func TestCRIStreaming(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		p := c.run(t, c.sandboxConfig(t))
		echo := script("echo", "while read line; do echo got $line; done")
		echo.Stdin, echo.StdinOnce = true, true
		id := p.start(t, echo)
		stream := func(url string, stdin string, tty bool) (string, error) {
			executor, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", c.reach(t, url))
			if err != nil {
				return "", err
			}
			var stdout bytes.Buffer
			o := remotecommand.StreamOptions{Stdout: &stdout, Tty: tty}
			if stdin != "" {
				o.Stdin = strings.NewReader(stdin)
			}
			ctx, cancel := context.WithTimeout(limited(t), 30*time.Second)
			defer cancel()
			err = executor.StreamWithContext(ctx, o)
			return stdout.String(), err
		}
		exec, err := c.Exec(limited(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"cat"}, Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stream(exec.GetUrl(), "some text", false); got != "some text" || err != nil {
			t.Errorf("exec: %q, %v", got, err)
		}
		if _, err := stream(exec.GetUrl(), "some text", false); err == nil {
			t.Error("a URL works twice")
		}
		exec, err = c.Exec(limited(t), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "tty; exit 3"}, Stdout: true, Tty: true})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stream(exec.GetUrl(), "", true); !strings.Contains(got, "/dev/pts/") || err == nil || !strings.Contains(err.Error(), "exit code 3") {
			t.Errorf("exec with a terminal: %q, %v", got, err)
		}
		attach, err := c.Attach(limited(t), &runtimeapi.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stream(attach.GetUrl(), "one\ntwo\n", false); got != "got one\ngot two\n" || err != nil {
			t.Errorf("attach: %q, %v", got, err)
		}
		if got := c.ended(t, id); got.GetExitCode() != 0 { // its stdin was closed with the client's
			t.Errorf("attached container: %v", got)
		}
	})
}

// TestCRIRefusals: what cannot be is refused with a code that says so.
func TestCRIRefusals(t *testing.T) {
	onRuntimes(t, func(t *testing.T, c *criServer) {
		ctx := limited(t)
		config := c.sandboxConfig(t)
		_, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: "unheard-of"})
		if err == nil {
			t.Error("an unknown runtime handler: no error")
		}
		p := c.run(t, c.sandboxConfig(t))
		for what, change := range map[string]func(*runtimeapi.ContainerConfig){
			"an image that is not there": func(c *runtimeapi.ContainerConfig) { c.Image.Image = "unheard-of:1" },
			"a user that is not there":   func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nobody-here" },
			"a group without a user": func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
			},
			"privilege in a plain sandbox": func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true },
			"a seccomp profile that is not there": func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/not/there"}
			},
			"a device that is not there": func(c *runtimeapi.ContainerConfig) { c.Devices = []*runtimeapi.Device{{HostPath: "/dev/unheard-of"}} },
		} {
			config := script("refused", "true")
			change(config)
			if _, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config}); err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		_, err = c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: "unheard-of"})
		wantCode(t, "start what is not there", err, codes.NotFound)
		id := p.start(t, script("app", "true"))
		c.ended(t, id)
		if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err == nil {
			t.Error("a container started twice")
		}
	})
}
