package criserver

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/namespaces"
	"minikubelet/runtime/criserver/store"
)

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
		response.Info, err = info(map[string]any{"state": sb.State(), "netns": sb.netns(), "directory": sb.stateDir, "namespaces": sb.kinds()})
	}
	return response, err
}

// info is what verbose answers carry: JSON in one string.
func info(value any) (map[string]string, error) {
	text, err := json.Marshal(value)
	return map[string]string{"info": string(text)}, err
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
	return &runtimeapi.ListPodSandboxResponse{Items: s.listSandboxes(r.GetFilter())}, nil
}

// StreamPodSandboxes is ListPodSandbox for answers of any length.
func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, stream runtimeapi.RuntimeService_StreamPodSandboxesServer) error {
	return inPieces(s.listSandboxes(r.GetFilter()), func(part []*runtimeapi.PodSandbox) error {
		return stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// piece is how many items one message of a stream has.
const piece = 100

func inPieces[T any](items []T, send func([]T) error) error {
	for part := range slices.Chunk(items, piece) {
		if err := send(part); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) listSandboxes(filter *runtimeapi.PodSandboxFilter) []*runtimeapi.PodSandbox {
	var items []*runtimeapi.PodSandbox
	for _, sb := range withID(s.sandboxes, filter.GetId()) {
		if filter.GetState() != nil && filter.GetState().GetState() != sb.state() || !hasLabels(sb.Config.Config.GetLabels(), filter.GetLabelSelector()) {
			continue
		}
		items = append(items, &runtimeapi.PodSandbox{
			Id: sb.ID, Metadata: sb.Config.Config.GetMetadata(), State: sb.state(), CreatedAt: sb.Config.CreatedAt.UnixNano(),
			Labels: sb.Config.Config.GetLabels(), Annotations: sb.Config.Config.GetAnnotations(), RuntimeHandler: sb.Config.RuntimeHandler,
		})
	}
	slices.SortFunc(items, func(a, b *runtimeapi.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return items
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

func hasLabels(labels, wanted map[string]string) bool {
	for key, want := range wanted {
		if value, ok := labels[key]; !ok || value != want {
			return false
		}
	}
	return true
}

// pinned tells whether the sandbox's namespaces are still there.
func (sb *sandbox) pinned() bool {
	for _, kind := range sb.kinds() {
		if !namespaces.Pinned(sb.namespaceDir(), kind) {
			return false
		}
	}
	return true
}
