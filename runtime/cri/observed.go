package cri

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// Annotations of containers and sandboxes that hold what a kubelet needs to end a pod it has never seen.
const (
	AnnotationHash                     = "io.kubernetes.container.hash"
	AnnotationRestartCount             = "io.kubernetes.container.restartCount"
	AnnotationTerminationMessagePath   = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPreStopHandler           = "io.kubernetes.container.preStopHandler"
	AnnotationPorts                    = "io.kubernetes.container.ports"
	AnnotationPodDeletionGracePeriod   = "io.kubernetes.pod.deletionGracePeriod"
	AnnotationPodTerminationGrace      = "io.kubernetes.pod.terminationGracePeriod"
)

// States of containers.
const (
	Created = runtimeapi.ContainerState_CONTAINER_CREATED
	Running = runtimeapi.ContainerState_CONTAINER_RUNNING
	Exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	Unknown = runtimeapi.ContainerState_CONTAINER_UNKNOWN // it may be running
)

// PodStatus is what the runtime says of one pod. It is never changed once made; With... return a changed copy.
//
// Upstream: pkg/kubelet/container/runtime.go PodStatus
type PodStatus struct {
	UID             types.UID
	Namespace, Name string
	Sandboxes       []*runtimeapi.PodSandboxStatus // newest attempt first
	Containers      []*ContainerStatus             // newest attempt first; all that the runtime still has
	IPs             []string                       // of the newest sandbox, also once it has ended; nil on the host's network
	ObservedAt      time.Time                      // when the reading began
}

// ContainerStatus is what the runtime says of one container.
type ContainerStatus struct {
	ID, SandboxID, Name string
	State               runtimeapi.ContainerState
	Attempt             uint32 // the restart count
	CreatedAt           time.Time
	StartedAt           time.Time // zero before the start
	FinishedAt          time.Time // zero before the end
	ExitCode            int32
	Reason, Message     string
	Image               string // as the runtime calls it
	ImageRef            string // a digest; what image pulls return
	Hash                string // annotation AnnotationHash
	LogPath             string
	Labels, Annotations map[string]string
	Resources           *runtimeapi.ContainerResources
	User                *runtimeapi.ContainerUser
	Mounts              []*runtimeapi.Mount

	shallow bool // from a list: no times but CreatedAt, no exit code, no reason
}

// HasStarted reports that the container has been started, and that all of what the runtime says of that is known.
func (c *ContainerStatus) HasStarted() bool {
	return !c.shallow && (c.State == Running || c.State == Exited)
}

// Container returns the newest attempt of the container with that name, nil if there is none.
func (s *PodStatus) Container(name string) *ContainerStatus {
	return s.find(func(c *ContainerStatus) bool { return c.Name == name })
}

// ContainerByID returns the container with that ID, nil if there is none.
func (s *PodStatus) ContainerByID(id string) *ContainerStatus {
	return s.find(func(c *ContainerStatus) bool { return c.ID == id })
}

func (s *PodStatus) find(match func(*ContainerStatus) bool) *ContainerStatus {
	if s == nil {
		return nil
	}
	if i := slices.IndexFunc(s.Containers, match); i >= 0 {
		return s.Containers[i]
	}
	return nil
}

// Sandbox returns the sandbox with that ID, nil if there is none.
func (s *PodStatus) Sandbox(id string) *runtimeapi.PodSandboxStatus {
	if s == nil {
		return nil
	}
	if i := slices.IndexFunc(s.Sandboxes, func(b *runtimeapi.PodSandboxStatus) bool { return b.Id == id }); i >= 0 {
		return s.Sandboxes[i]
	}
	return nil
}

// ReadySandbox returns the newest sandbox if it is ready, else nil.
func (s *PodStatus) ReadySandbox() *runtimeapi.PodSandboxStatus {
	if s == nil || len(s.Sandboxes) == 0 || s.Sandboxes[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	return s.Sandboxes[0]
}

// Running returns the running containers, newest first.
func (s *PodStatus) Running() (running []*ContainerStatus) {
	if s == nil {
		return nil
	}
	for _, c := range s.Containers {
		if c.State == Running {
			running = append(running, c)
		}
	}
	return running
}

// Gone reports that nothing of the pod runs: no container and no sandbox, whichever attempt.
func (s *PodStatus) Gone() bool { return len(s.Running()) == 0 && s.readySandboxes() == 0 }

func (s *PodStatus) readySandboxes() (n int) {
	if s == nil {
		return 0
	}
	for _, sandbox := range s.Sandboxes {
		if sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			n++
		}
	}
	return n
}

// SandboxProblem tells why the pod's newest sandbox cannot be used, "" if it can. The pod's status shows it.
//
// Upstream: pkg/kubelet/kuberuntime/util/util.go PodSandboxChanged
func (s *PodStatus) SandboxProblem(hostNetwork bool) string {
	ready := s.ReadySandbox()
	switch {
	case s == nil || len(s.Sandboxes) == 0:
		return "no pod sandbox exists"
	case s.readySandboxes() > 1:
		return "multiple pod sandboxes are ready and need to be reconciled"
	case ready == nil:
		return "pod sandbox is not ready"
	case ready.GetLinux().GetNamespaces().GetOptions().GetNetwork() != NetworkMode(hostNetwork):
		return "network namespace mode changed and sandbox needs to be recreated"
	case !hostNetwork && ready.Network != nil && ready.Network.Ip == "":
		return "pod sandbox has no IP address"
	}
	return ""
}

// NetworkMode is POD, or NODE for a pod in the network of the node.
func NetworkMode(hostNetwork bool) runtimeapi.NamespaceMode {
	if hostNetwork {
		return runtimeapi.NamespaceMode_NODE
	}
	return runtimeapi.NamespaceMode_POD
}

// Shallow reports that the reading came from lists: states are right, but exit codes, times and IPs are missing.
func (s *PodStatus) Shallow() bool {
	return s.find(func(c *ContainerStatus) bool { return c.shallow }) != nil ||
		slices.ContainsFunc(s.Sandboxes, func(b *runtimeapi.PodSandboxStatus) bool {
			return b.Network == nil && b.State == runtimeapi.PodSandboxState_SANDBOX_READY
		})
}

// At returns a copy with another time of observation.
func (s *PodStatus) At(at time.Time) *PodStatus { return s.With(s.Sandboxes, s.Containers, at) }

// WithContainer returns a copy that has this container instead of the one with its ID. It is how a caller that acted
// on one container brings its reading up to date with one call, ReadContainer.
func (s *PodStatus) WithContainer(c *ContainerStatus, at time.Time) *PodStatus {
	others := slices.DeleteFunc(slices.Clone(s.Containers), func(other *ContainerStatus) bool { return other.ID == c.ID })
	return s.With(s.Sandboxes, append(others, c), at)
}

// WithSandbox returns a copy that has this sandbox instead of the one with its ID.
func (s *PodStatus) WithSandbox(sandbox *runtimeapi.PodSandboxStatus, at time.Time) *PodStatus {
	others := slices.DeleteFunc(slices.Clone(s.Sandboxes), func(b *runtimeapi.PodSandboxStatus) bool { return b.Id == sandbox.Id })
	return s.With(append(others, sandbox), s.Containers, at)
}

// With returns a reading of the same pod with copies of these lists, sorted. Its addresses are those of the sandbox in use, or
// while there is none those that the pod had.
func (s *PodStatus) With(sandboxes []*runtimeapi.PodSandboxStatus, containers []*ContainerStatus, at time.Time) *PodStatus {
	out := &PodStatus{
		UID: s.UID, Namespace: s.Namespace, Name: s.Name, IPs: s.IPs,
		Sandboxes: slices.Clone(sandboxes), Containers: slices.Clone(containers), ObservedAt: at,
	}
	slices.SortStableFunc(out.Sandboxes, func(a, b *runtimeapi.PodSandboxStatus) int {
		return Newer(a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt(), a.CreatedAt, b.CreatedAt)
	})
	slices.SortStableFunc(out.Containers, func(a, b *ContainerStatus) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	if ready := out.ReadySandbox(); ready != nil {
		out.IPs = sandboxIPs(ready)
	}
	return out
}

// Newer orders sandboxes or containers of one name, newest first, for slices.SortFunc. The attempt decides: creation
// times go back when the clock is set back.
func Newer(attemptA, attemptB uint32, createdA, createdB int64) int {
	return cmp.Or(cmp.Compare(attemptB, attemptA), cmp.Compare(createdB, createdA))
}

// sandboxIPs returns what is an IP address among what the runtime calls one.
func sandboxIPs(sandbox *runtimeapi.PodSandboxStatus) []string {
	if sandbox.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	var out []string
	add := func(ip string) {
		if parsed := net.ParseIP(ip); parsed != nil {
			out = append(out, parsed.String())
		}
	}
	add(sandbox.GetNetwork().GetIp())
	for _, ip := range sandbox.GetNetwork().GetAdditionalIps() {
		add(ip.GetIp())
	}
	return out
}

// errNotOurs says that a sandbox or container was not made by a kubelet.
var errNotOurs = errors.New("no label " + kubelettypes.KubernetesPodUIDLabel)

// podOf is the pod that labels name, without sandboxes and containers.
func podOf(labels map[string]string) (*PodStatus, error) {
	pod := &PodStatus{
		UID:       types.UID(labels[kubelettypes.KubernetesPodUIDLabel]),
		Namespace: labels[kubelettypes.KubernetesPodNamespaceLabel],
		Name:      labels[kubelettypes.KubernetesPodNameLabel],
	}
	if pod.UID == "" {
		return nil, errNotOurs
	}
	return pod, nil
}

// podOfSandbox is the pod of a sandbox, or an error that names what a runtime must not leave out.
func podOfSandbox(s *runtimeapi.PodSandboxStatus) (*PodStatus, error) {
	switch {
	case s == nil:
		return nil, errors.New("runtime returned no sandbox status")
	case s.Id == "":
		return nil, errors.New("runtime returned a sandbox without ID")
	case s.Metadata == nil:
		return nil, fmt.Errorf("sandbox %q has no metadata", s.Id)
	}
	pod, err := podOf(s.Labels)
	if err != nil {
		return nil, fmt.Errorf("sandbox %q: %w", s.Id, err)
	}
	return pod, nil
}

// newContainerStatus takes over a full status. sandboxID is the caller's knowledge: the CRI's type lacks it.
func newContainerStatus(s *runtimeapi.ContainerStatus, sandboxID string) (*ContainerStatus, error) {
	if s == nil {
		return nil, errors.New("runtime returned no container status")
	}
	out, err := newContainer(s.Id, s.Metadata, s.Labels, s.Annotations)
	if err != nil {
		return nil, err
	}
	out.SandboxID, out.State = sandboxID, knownState(s.State)
	out.CreatedAt, out.StartedAt, out.FinishedAt = nanoTime(s.CreatedAt), nanoTime(s.StartedAt), nanoTime(s.FinishedAt)
	out.ExitCode, out.Reason, out.Message = s.ExitCode, s.Reason, s.Message
	out.Image, out.ImageRef, out.LogPath = s.GetImage().GetImage(), s.ImageRef, s.LogPath
	out.Resources, out.User, out.Mounts = s.Resources, s.User, s.Mounts
	return out, nil
}

// newListedContainer takes over what a list says.
func newListedContainer(c *runtimeapi.Container) (*ContainerStatus, error) {
	out, err := newContainer(c.Id, c.Metadata, c.Labels, c.Annotations)
	if err != nil {
		return nil, err
	}
	out.SandboxID, out.State, out.CreatedAt, out.shallow = c.PodSandboxId, knownState(c.State), nanoTime(c.CreatedAt), true
	out.Image, out.ImageRef = c.GetImage().GetImage(), c.ImageRef
	return out, nil
}

func newContainer(id string, metadata *runtimeapi.ContainerMetadata, labels, annotations map[string]string) (*ContainerStatus, error) {
	if id == "" {
		return nil, errors.New("runtime returned a container without ID")
	}
	name := cmp.Or(labels[kubelettypes.KubernetesContainerNameLabel], metadata.GetName())
	if metadata == nil || name == "" {
		return nil, fmt.Errorf("container %q has no metadata or no name", id)
	}
	return &ContainerStatus{
		ID: id, Name: name, Attempt: metadata.Attempt, Hash: annotations[AnnotationHash], Labels: labels, Annotations: annotations,
	}, nil
}

// knownState is Unknown for a state that a later CRI has: a container in it may be running.
func knownState(state runtimeapi.ContainerState) runtimeapi.ContainerState {
	if _, ok := runtimeapi.ContainerState_name[int32(state)]; !ok {
		return Unknown
	}
	return state
}

// nanoTime leaves "not yet" zero.
func nanoTime(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
