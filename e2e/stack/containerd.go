package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const containerdMetricsAddress = "127.0.0.1:1338"

// ContainerdMetrics is the URL of containerd's metrics inside the namespace.
const ContainerdMetrics = "http://" + containerdMetricsAddress + "/v1/metrics"

// containerdConfig differs from containerd's defaults where the machine may be a
// container or a small VM itself (no CAP_SYS_RESOURCE, no AppArmor), and keeps
// every path inside the stack's directory.
const containerdConfig = `version = 4
root = "%[1]s/containerd"
state = "%[1]s/run/containerd"
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.server.v1.grpc"]
  address = "%[2]s"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "%[2]s.ttrpc"
[plugins."io.containerd.server.v1.metrics"]
  address = "%[3]s"
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "%[1]s/s"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/run/opt"

[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "%[4]s"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "%[1]s/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = ["%[1]s/cdi", "/var/run/cdi"]
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "%[5]s/runc"
        Root = "%[1]s/run/runc"
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["%[5]s"]
    conf_dir = "%[1]s/cni"

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`

// suiteHandler is a second name of runc, which suites' runtime classes ask for.
const suiteHandler = "test-handler"

// suiteHandlerConfig is added to containerdConfig for suites.
const suiteHandlerConfig = `
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.` + suiteHandler + `]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.` + suiteHandler + `.options]
    BinaryName = "%[2]s/runc"
    Root = "%[1]s/run/runc"
`

// cniConfig gives pods addresses behind a bridge. Traffic is not masqueraded:
// nothing leaves the namespace.
const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "%[2]s",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "%[1]s/ipam", "ranges": [[{"subnet": "` + PodCIDR + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// hostsConfig sends the pulls from any registry to the stack's own.
const hostsConfig = `server = "http://%[1]s"
[host."http://%[1]s"]
  capabilities = ["pull", "resolve"]
`

// startContainerd configures and starts containerd and waits until it can run
// pods.
func (s *Stack) startContainerd(ctx context.Context) error {
	config := filepath.Join(s.Dir, "containerd.toml")
	settings := fmt.Sprintf(containerdConfig, s.Dir, s.RuntimeSocket, containerdMetricsAddress, PauseImage, s.BinDir)
	if s.options.OwnMachine {
		settings += fmt.Sprintf(suiteHandlerConfig, s.Dir, s.BinDir)
	}
	for path, text := range map[string]string{
		config: settings,
		filepath.Join(s.Dir, "cni", "10-stack.conflist"):       fmt.Sprintf(cniConfig, s.Dir, s.Name),
		filepath.Join(s.Dir, "certs.d", "_default/hosts.toml"): fmt.Sprintf(hostsConfig, registryAddress),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	s.addComponent(Containerd, s.runtimeReady, s.Program(Containerd), "--config="+config)
	return s.StartComponent(ctx, Containerd)
}

// runtimeReady succeeds when the runtime and its network are ready.
func (s *Stack) runtimeReady(ctx context.Context) error {
	s.CRI.ResetConnectBackoff() // a runtime that was just started is not to be waited for as one that is away
	status, err := runtimeapi.NewRuntimeServiceClient(s.CRI).Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range status.GetStatus().GetConditions() {
		// Others only warn, for instance of cgroup v1.
		required := condition.Type == runtimeapi.RuntimeReady || condition.Type == runtimeapi.NetworkReady
		if required && !condition.Status {
			return fmt.Errorf("%s is false: %s: %s", condition.Type, condition.Reason, condition.Message)
		}
	}
	return nil
}

// dialCRI connects to the runtime's socket, lazily.
func dialCRI(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}
