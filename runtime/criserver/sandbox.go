package criserver

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/labels"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/cni"
	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/store"
)

// sandbox is a pod's sandbox: namespaces, a few files and perhaps a pause process.
type sandbox struct {
	*store.Record[store.SandboxConfig, store.SandboxState]

	ops   sync.Mutex // held by what changes the sandbox
	pause *task      // guarded by ops; nil without a pause process
	// stateDir holds what does not survive a reboot.
	stateDir string
	cpu      cpuSample
}

// sandboxName is the name by which there is at most one sandbox.
func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

// known tells whether the sandbox's configuration is there: at start it may be lost.
func (sb *sandbox) known() bool { return sb.Config.Config != nil }

func (sb *sandbox) ready() bool { return sb.State().Phase == store.SandboxReady }

// options are the namespaces that the pod asks for.
func (sb *sandbox) options() *runtimeapi.NamespaceOption {
	return sb.Config.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (sb *sandbox) hostNetwork() bool {
	return sb.options().GetNetwork() == runtimeapi.NamespaceMode_NODE
}
func (sb *sandbox) hostIPC() bool { return sb.options().GetIpc() == runtimeapi.NamespaceMode_NODE }

// namespaceKinds are those of which a pod does not use the host's. As in other runtimes, a pod in the host's network has the
// host's name too.
func namespaceKinds(options *runtimeapi.NamespaceOption) (kinds []string) {
	if options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		kinds = append(kinds, namespaces.Network, namespaces.UTS)
	}
	if options.GetIpc() != runtimeapi.NamespaceMode_NODE {
		kinds = append(kinds, namespaces.IPC)
	}
	if inUserNamespace(options) {
		kinds = append(kinds, namespaces.User)
	}
	return kinds
}

func (sb *sandbox) namespaceDir() string { return filepath.Join(sb.stateDir, "ns") }
func (sb *sandbox) shmDir() string       { return filepath.Join(sb.stateDir, "shm") }
func (sb *sandbox) pauseDir() string     { return filepath.Join(sb.stateDir, "pause") }
func (sb *sandbox) pauseRoot() string    { return filepath.Join(sb.pauseDir(), "rootfs") }

// netns is the pod's network namespace, or "" for the host's.
func (sb *sandbox) netns() string {
	if sb.hostNetwork() {
		return ""
	}
	return namespaces.Path(sb.namespaceDir(), namespaces.Network)
}

// hostname is the pod's name in its UTS namespace.
func (sb *sandbox) hostname() string {
	if name := sb.Config.Config.GetHostname(); name != "" {
		return name
	}
	if sb.hostNetwork() {
		name, _ := os.Hostname()
		return name
	}
	return sb.ID[:12]
}

// specKinds are the kinds of namespaces in an OCI specification.
var specKinds = map[string]specs.LinuxNamespaceType{
	namespaces.Network: specs.NetworkNamespace, namespaces.IPC: specs.IPCNamespace, namespaces.UTS: specs.UTSNamespace, namespaces.User: specs.UserNamespace,
}

// joined are the pinned namespaces in an OCI specification.
func (sb *sandbox) joined() []specs.LinuxNamespace {
	joined := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, kind := range namespaceKinds(sb.options()) {
		joined = append(joined, specs.LinuxNamespace{Type: specKinds[kind], Path: namespaces.Path(sb.namespaceDir(), kind)})
	}
	return joined
}

// containersOf are the containers of a sandbox, the oldest first.
func (s *Server) containersOf(sandboxID string) []*container {
	found := slices.DeleteFunc(s.containers.All(), func(c *container) bool { return c.Config.SandboxID != sandboxID })
	slices.SortFunc(found, func(a, b *container) int { return a.Config.CreatedAt.Compare(b.Config.CreatedAt) })
	return found
}

// disconnect lets CNI plugins take the pod from its network, if any was ever called for it.
func (s *Server) disconnect(ctx context.Context, sb *sandbox) error {
	if !s.cni.Connected(sb.ID) {
		return nil
	}
	s.step(ctx, "destroy sandbox: network")
	if sb.known() && sb.State().Phase == store.SandboxCreating {
		// Plugins that an earlier server started may still be connecting it.
		if err := killMakers(ctx, sb.ID); err != nil {
			return err
		}
	}
	pod := cni.Pod{SandboxID: sb.ID, Config: sb.Config.Config}
	if namespaces.Pinned(sb.namespaceDir(), namespaces.Network) { // not after a reboot
		pod.NetNS = sb.netns()
	}
	return s.cni.Teardown(ctx, pod)
}

// PodSandboxStatus describes a sandbox and its containers.
func (s *Server) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.findSandbox(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	// Taken before the statuses are read: a kubelet looks again for what has changed since.
	now := time.Now().UnixNano()
	response := &runtimeapi.PodSandboxStatusResponse{Status: sb.status(), ContainersStatuses: s.statusesOf(sb.ID), Timestamp: now}
	if r.GetVerbose() {
		response.Info = info(map[string]any{"state": sb.State(), "netns": sb.netns(), "directory": sb.stateDir, "namespaces": namespaceKinds(sb.options())})
	}
	return response, nil
}

// info is what verbose answers carry: JSON in one string.
func info(value any) map[string]string {
	text, _ := json.Marshal(value)
	return map[string]string{"info": string(text)}
}

func (sb *sandbox) state() runtimeapi.PodSandboxState {
	if sb.ready() {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// status is the sandbox in the CRI's terms.
func (sb *sandbox) status() *runtimeapi.PodSandboxStatus {
	config := sb.Config.Config
	status := &runtimeapi.PodSandboxStatus{
		Id: sb.ID, Metadata: config.GetMetadata(), State: sb.state(), CreatedAt: sb.Config.CreatedAt.UnixNano(),
		Network: &runtimeapi.PodSandboxNetworkStatus{}, Labels: config.GetLabels(), Annotations: config.GetAnnotations(),
		RuntimeHandler: sb.Config.RuntimeHandler,
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: sb.options()}},
	}
	for i, ip := range sb.State().IPs {
		if i == 0 {
			status.Network.Ip = ip
			continue
		}
		status.Network.AdditionalIps = append(status.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return status
}

// ListPodSandbox lists the sandboxes that match a filter.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	response := &runtimeapi.ListPodSandboxResponse{}
	for _, sb := range s.matchingSandboxes(r.GetFilter()) {
		config := sb.Config.Config
		response.Items = append(response.Items, &runtimeapi.PodSandbox{
			Id: sb.ID, Metadata: config.GetMetadata(), State: sb.state(), CreatedAt: sb.Config.CreatedAt.UnixNano(),
			Labels: config.GetLabels(), Annotations: config.GetAnnotations(), RuntimeHandler: sb.Config.RuntimeHandler,
		})
	}
	return response, nil
}

// StreamPodSandboxes is ListPodSandbox for answers of any length.
func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream runtimeapi.RuntimeService_StreamPodSandboxesServer) error {
	all, _ := s.ListPodSandbox(stream.Context(), &runtimeapi.ListPodSandboxRequest{Filter: r.GetFilter()})
	return inPieces(all.GetItems(), func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// itemsPerMessage is how many items a message of a stream has.
const itemsPerMessage = 100

// inPieces sends a list, which is made without errors, in messages of bounded length.
func inPieces[T any](items []T, send func([]T) error) error {
	for part := range slices.Chunk(items, itemsPerMessage) {
		if err := send(part); err != nil {
			return err
		}
	}
	return nil
}

// matchingSandboxes are the sandboxes that match a filter, the newest first.
func (s *Server) matchingSandboxes(filter *runtimeapi.PodSandboxFilter) []*sandbox {
	selector := labels.SelectorFromSet(filter.GetLabelSelector())
	found := slices.DeleteFunc(withID(s.sandboxes, filter.GetId()), func(sb *sandbox) bool {
		return filter.GetState() != nil && filter.GetState().GetState() != sb.state() || !selector.Matches(labels.Set(sb.Config.Config.GetLabels()))
	})
	slices.SortFunc(found, func(a, b *sandbox) int { return b.Config.CreatedAt.Compare(a.Config.CreatedAt) })
	return found
}

// withID is the object of that ID, or of which that is a beginning; all for none.
func withID[T any](index *store.Index[T], id string) []T {
	if id == "" {
		return index.All()
	}
	if object, ok, _ := index.Get(id); ok {
		return []T{object}
	}
	return nil
}

// pinned tells whether the sandbox's namespaces are still there.
func (sb *sandbox) pinned() bool {
	return !slices.ContainsFunc(namespaceKinds(sb.options()), func(kind string) bool { return !namespaces.Pinned(sb.namespaceDir(), kind) })
}
