// Package node registers the node, keeps its lease and status, and knows what the node offers to pods.
package node

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/measure"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// Client writes nodes, as client-go's typed client does.
type Client interface {
	Create(ctx context.Context, node *corev1.Node, o metav1.CreateOptions) (*corev1.Node, error)
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Node, error)
	Patch(ctx context.Context, name string, kind types.PatchType, body []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Node, error)
}

// LeaseClient writes the leases of nodes, as client-go's typed client does.
type LeaseClient interface {
	Create(ctx context.Context, lease *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error)
	Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error)
	Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error)
}

// Options are what a Node is made of.
type Options struct {
	// Watch lists and watches the node's object. Nodes and Leases write it and its lease. All are nil without an apiserver.
	Watch  cache.ListerWatcher
	Nodes  Client
	Leases LeaseClient
	// Known is closed when the apiserver can know the kubelet by its credentials; nil if it can from the start.
	Known <-chan struct{}

	Settings *settings.Settings
	CRI      *cri.Client
	// Images lists the images on the node, the largest first.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
	// RuntimeHealthy tells why events of the runtime do not come through, nil if they do.
	RuntimeHealthy func() error
	// RuntimeSynced is closed when they first do; nil if that is not told.
	RuntimeSynced <-chan struct{}
	Events        record.EventRecorder
	// Network is where the node's addresses come from: the machine if nil.
	Network *Network
	Machine *measure.Machine
}

// Reports are what the status says of parts of the kubelet that are made after the Node. Fields may be nil.
type Reports struct {
	// LoopHealthy returns why the sync loop stands still.
	LoopHealthy func() error
	// PodsStart returns why no pod can start.
	PodsStart func() error
	// VolumesInUse names the volumes that must not be detached from the node.
	VolumesInUse func() []corev1.UniqueVolumeName
	// Devices returns how many devices of plugins there are, and how many pods can have. Recreated tells that what an existing
	// object of the node says of extended resources is of another machine of its name.
	Devices   func() (capacity, allocatable corev1.ResourceList) // part: devices, kubelet/devices
	Recreated func() bool
}

// Node is this node.
type Node struct {
	opts     Options
	reports  Reports // of Run
	ref      atomic.Pointer[corev1.ObjectReference]
	machine  hardware
	capacity corev1.ResourceList
	enforced [2]corev1.ResourceList // capacity and that less what is reserved, both with processes
	alloc    corev1.ResourceList    // that less what must stay free
	check    chan struct{}          // asks for the status to be worked out now, capacity 1
	appeared chan struct{}          // tells that there is a node to keep a lease for, capacity 1
	vanished chan struct{}          // tells that there is none any more, capacity 1
	synced   chan struct{}          // see Synced
	pace     atomic.Pointer[pace]   // in force
	rebooted sync.Once              // tells that the machine has

	mu            sync.RWMutex
	ips           []net.IP      // the node's addresses, the primary first
	named         bool          // they are those that the name service has
	node          *corev1.Node  // as the apiserver has it, or as it would be registered
	changed       chan struct{} // closed, and made anew, when node is replaced
	deleted       bool          // from the apiserver
	known         bool          // synced is closed
	unschedulable bool          // as was last told
	runtime       runtimeState
	stopping      bool // the machine goes down
	pressure      []corev1.NodeConditionType
	images        []corev1.ContainerImage // nil until they were listed
	reported      time.Time               // when the status was last written
	written       *corev1.NodeStatus      // what was written then
	answered      *corev1.NodeStatus      // and what the apiserver made of it
}

// cgroupV1Warning is what upstream's kubelet tells of a node with cgroup v1.
const cgroupV1Warning = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. " +
	"More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1"

// New reads the machine. It fails when it cannot, and when the settings do not fit it: reservations that exceed it,
// failCgroupV1 on cgroup v1, no address to tell the apiserver.
func New(opts Options) (*Node, error) {
	s := opts.Settings
	m, err := readMachine(opts.Machine, s.RootDir)
	if err != nil {
		return nil, err
	}
	if *s.FailCgroupV1 && !m.cgroupV2 {
		return nil, errors.New("failCgroupV1: the machine uses cgroup v1")
	}
	if err := checkReservedCPUs(opts.Machine, s.ReservedSystemCPUs); err != nil {
		return nil, err
	}
	n := &Node{opts: opts, machine: m, check: make(chan struct{}, 1), appeared: make(chan struct{}, 1), vanished: make(chan struct{}, 1), changed: make(chan struct{}), synced: make(chan struct{})}
	n.Reconfigure(s)
	n.refer(types.UID(s.NodeName))
	n.capacity = m.capacity(podLimit(s, m.cpus))
	if isolate := s.LocalStorageCapacityIsolation; isolate != nil && !*isolate {
		delete(n.capacity, corev1.ResourceEphemeralStorage)
	}
	n.enforced[0] = m.withPIDs(n.capacity)
	if n.enforced[1], err = reserve(n.enforced[0], s); err != nil {
		return nil, err
	}
	if n.alloc, err = allocatable(n.capacity, n.enforced[1], s); err != nil {
		return nil, err
	}
	delete(n.alloc, pid)
	if n.opts.Network == nil {
		n.opts.Network = &thisMachine
	}
	if n.ips, n.named, err = addresses(s.NodeIPs, s.NodeName, *n.opts.Network); err != nil && opts.Nodes != nil && !n.awaitsCloud() {
		return nil, err // without an apiserver no address is reported
	}
	n.runtime.err = errNotAsked
	n.node = n.initial()
	return n, nil
}

// Node returns the node as it is known now. Callers must not change it.
func (n *Node) Node() *corev1.Node {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.node
}

// Current returns the node as it is known now, and a channel that is closed when another version of it is.
func (n *Node) Current() (*corev1.Node, <-chan struct{}) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.node, n.changed
}

// Synced is closed when it is known what the apiserver has of the node, or that it has nothing. Before that its labels, taints and
// extended resources are not known.
func (n *Node) Synced() <-chan struct{} { return n.synced }

// CheckStatus works the node's status out now, and writes it if it has changed, instead of at the usual time.
func (n *Node) CheckStatus() { wake(n.check) }

// Allocatable returns what pods may request in all: the capacity without what is reserved, and what others wrote into
// the node's status. Callers must not change it.
func (n *Node) Allocatable() corev1.ResourceList {
	others := othersResources(n.Node().Status.Capacity)
	if len(others) == 0 {
		return n.alloc
	}
	maps.Copy(others, n.alloc)
	return others
}

// Swap is how many bytes of swap the machine has.
func (n *Node) Swap() int64 { return n.machine.swap }

// Enforceable returns what all pods together can be held to: what the machine has, or what is not reserved of it, with
// the number of processes, "pid", in both. Callers must not change it.
//
// Upstream: pkg/kubelet/cm/node_container_manager_linux.go getNodeAllocatableInternalAbsolute
func (n *Node) Enforceable() (capacity, unreserved corev1.ResourceList) {
	return n.enforced[0], n.enforced[1]
}

// othersResources returns the resources of a status that are not the kubelet's: extended ones, above all.
func othersResources(list corev1.ResourceList) corev1.ResourceList {
	others := corev1.ResourceList{}
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods:
		default:
			if !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
				others[name] = quantity
			}
		}
	}
	return others
}

// SetPressure says of which resources the node is short: MemoryPressure, DiskPressure, PIDPressure. It is reported at
// once; the taints that keep pods away are the node controller's to set, as a node may not change its own.
func (n *Node) SetPressure(conditions []corev1.NodeConditionType) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.pressure, conditions) {
		n.pressure = slices.Clone(conditions)
		wake(n.check)
	}
}

// SetShuttingDown says whether the machine goes down: the node is not ready then.
func (n *Node) SetShuttingDown(stopping bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopping = stopping
	wake(n.check)
}

// Ref is the object of the node's events. Its UID is that of the apiserver's object, so that events are found by it. Before that
// is known it is the node's name, by which kubectl describe looks as well.
//
// Upstream: pkg/kubelet/kubelet_node_status.go nodeRefWithUID.
func (n *Node) Ref() *corev1.ObjectReference { return n.ref.Load() }

func (n *Node) refer(uid types.UID) {
	n.ref.Store(&corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: n.opts.Settings.NodeName, UID: uid})
}

// NetworkReady tells why pods cannot have a network of their own yet, nil if they can.
func (n *Node) NetworkReady() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.runtime.network
}

// Trouble is what keeps the node from being ready, "" if nothing does.
func (n *Node) Trouble() string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.state().why()
}

// HostIPs are the node's addresses now, the primary first.
func (n *Node) HostIPs() []string {
	if n.opts.Settings.ExternalCloud {
		return HostIPs(n.Node())
	}
	var ips []string
	for _, ip := range n.addresses() {
		ips = append(ips, ip.String())
	}
	return ips
}

// Run registers the node and keeps it up to date, with what is reported, until ctx ends. Without an apiserver it follows the runtime only.
func (n *Node) Run(ctx context.Context, reports Reports) {
	n.reports = reports
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { n.watchRuntime(ctx) })
	parts.Go(func() { n.watchAddresses(ctx) })
	parts.Go(func() { n.tellPodCIDR(ctx) }) // part: pod CIDR, podcidr.go
	if n.opts.Nodes == nil {
		return
	}
	parts.Go(func() { n.watchImages(ctx) })
	n.opts.Events.Event(n.Ref(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if !n.machine.cgroupV2 {
		n.opts.Events.Event(n.Ref(), corev1.EventTypeWarning, "CgroupV1", cgroupV1Warning)
	}
	if n.opts.Known != nil { // so that the node registers at once then, and not when a request is tried again
		select {
		case <-n.opts.Known:
		case <-ctx.Done():
			return
		}
	}
	parts.Go(func() { n.watchNode(ctx) })
	n.awaitFirstAnswers(ctx)
	if *n.opts.Settings.RegisterNode && !n.register(ctx) {
		return
	}
	if *n.opts.Settings.RegisterNode {
		parts.Go(func() { n.comeBackAfterDeletion(ctx) })
	}
	parts.Go(func() { n.keepLease(ctx) })
	n.keepStatus(ctx)
}

// awaitFirstAnswers waits for the first answers of the runtime, so that a kubelet that starts again beside a running runtime does
// not report the node as not ready in between.
func (n *Node) awaitFirstAnswers(ctx context.Context) {
	start := time.Now()
	soon, late := time.NewTimer(notReadyPatience), time.NewTimer(silencePatience)
	defer soon.Stop()
	defer late.Stop()
	for !n.reportable(time.Since(start)) {
		select {
		case <-ctx.Done():
			return
		case <-n.check:
		case <-soon.C:
		case <-late.C:
		}
	}
}

// reportable reports whether the node's state can be told. A runtime that said that it is not ready has a moment to
// become so; one that did not say anything yet, or whose events were not heard yet, has longer.
func (n *Node) reportable(waited time.Duration) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	s := n.runtime
	switch {
	case s.why() == "" && n.images != nil:
		return true
	case errors.Is(s.err, errNotAsked), s.err == nil && s.network == nil && s.events != nil:
		return waited >= silencePatience
	}
	return waited >= notReadyPatience
}

// event tells of a state that the node is in now.
func (n *Node) event(reason string) {
	n.opts.Events.Eventf(n.Ref(), corev1.EventTypeNormal, reason, "Node %s status is now: %s", n.opts.Settings.NodeName, reason)
}
