// Package node registers the node, keeps its lease and status, and knows what the node offers to pods.
package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// Options are what a Node is made of.
type Options struct {
	// Client is nil without an apiserver. Heartbeats writes status and lease, and gives up sooner; Client if nil.
	Client, Heartbeats kubernetes.Interface

	Settings *settings.Settings
	CRI      *cri.Client
	// Images lists the images on the node, the largest first.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
	// RuntimeHealthy tells why events of the runtime do not come through, nil if they do.
	RuntimeHealthy func() error
	Events         record.EventRecorder
	// Root is the directory below which the machine is read: "/" if empty.
	Root string
}

// Node is this node.
type Node struct {
	opts     Options
	ref      *corev1.ObjectReference
	machine  machine
	ips      []net.IP
	capacity corev1.ResourceList
	alloc    corev1.ResourceList
	check    chan struct{} // asks for the status to be worked out now, capacity 1

	mu       sync.RWMutex
	node     *corev1.Node // as the apiserver has it, or as it would be registered
	deleted  bool         // from the apiserver, by somebody else
	runtime  runtimeState
	reported time.Time // when the status was last written
}

// New reads the machine. It fails when it cannot, and when the settings do not fit it: reservations that exceed it,
// failCgroupV1 on cgroup v1, no address.
func New(opts Options) (*Node, error) {
	s := opts.Settings
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Heartbeats == nil {
		opts.Heartbeats = opts.Client
	}
	m, err := readMachine(opts.Root, s.RootDir)
	if err != nil {
		return nil, err
	}
	if *s.FailCgroupV1 && !m.cgroupV2 {
		return nil, errors.New("failCgroupV1: the machine uses cgroup v1")
	}
	n := &Node{opts: opts, machine: m, check: make(chan struct{}, 1)}
	n.ref = &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: s.NodeName, UID: types.UID(s.NodeName)}
	n.capacity = m.capacity(s.MaxPods)
	if n.alloc, err = allocatable(n.capacity, s); err != nil {
		return nil, err
	}
	if n.ips, err = addresses(s.NodeIPs, s.NodeName); err != nil {
		return nil, err
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

// Capacity returns what the machine has. Callers must not change it.
func (n *Node) Capacity() corev1.ResourceList { return n.capacity }

// Allocatable returns what pods may request in all: the capacity without what is reserved, and the extended resources
// that others wrote into the node's status. Callers must not change it.
func (n *Node) Allocatable() corev1.ResourceList {
	others := extended(n.Node().Status.Capacity)
	if len(others) == 0 {
		return n.alloc
	}
	maps.Copy(others, n.alloc)
	return others
}

// extended returns the resources of a status that are not the kubelet's: those with a domain in their name.
func extended(list corev1.ResourceList) corev1.ResourceList {
	others := corev1.ResourceList{}
	for name, quantity := range list {
		if strings.Contains(string(name), "/") {
			others[name] = quantity
		}
	}
	return others
}

// NetworkReady tells why pods cannot have a network of their own yet, nil if they can.
func (n *Node) NetworkReady() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.runtime.network
}

// HostIPs are the node's addresses, the primary first.
func (n *Node) HostIPs() []string {
	var ips []string
	for _, ip := range n.ips {
		ips = append(ips, ip.String())
	}
	return ips
}

// Run registers the node and keeps it up to date until ctx ends. Without an apiserver it follows the runtime only.
//
// Upstream: pkg/kubelet/kubelet.go BirthCry, pkg/kubelet/kubelet_node_status.go syncNodeStatus and fastStatusUpdateOnce.
func (n *Node) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { n.watchRuntime(ctx) })
	if n.opts.Client == nil {
		return
	}
	n.opts.Events.Event(n.ref, corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	if s := n.opts.Settings; *s.CgroupsPerQOS && slices.Contains(s.EnforceNodeAllocatable, "pods") {
		n.opts.Events.Event(n.ref, corev1.EventTypeNormal, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
	}
	n.settle(ctx)
	if *n.opts.Settings.RegisterNode && !n.register(ctx) {
		return
	}
	parts.Go(func() { n.watchNode(ctx) })
	n.keepStatus(ctx)
}

// settle waits a moment for the runtime's first answers, so that a kubelet that starts again beside a running runtime
// does not report the node as not ready in between.
func (n *Node) settle(ctx context.Context) {
	enough := time.After(settleTime)
	for {
		n.mu.RLock()
		ready := n.runtime.why() == ""
		n.mu.RUnlock()
		if ready {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-enough:
			return
		case <-n.check:
		}
	}
}

// set takes a newer version of the node. A watch tells late of what an answer already told.
func (n *Node) set(node *corev1.Node) {
	node = node.DeepCopy()
	node.ManagedFields = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	if order, err := resourceversion.CompareResourceVersion(node.ResourceVersion, n.node.ResourceVersion); err == nil && order < 0 {
		return
	}
	n.node, n.deleted = node, false
}

// watchNode follows the node's object, so that changed labels and taints count at once in admission. A node that is
// deleted stays deleted until the kubelet starts again, as upstream: who deletes it wants it gone. The lease is kept
// while there is a node that it belongs to.
func (n *Node) watchNode(ctx context.Context) {
	var lease sync.WaitGroup
	defer lease.Wait()
	stopLease := context.CancelFunc(nil)
	nodes := n.opts.Client.CoreV1().Nodes()
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, n.ref.Name).String()
	listWatch := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (apiruntime.Object, error) {
			o.FieldSelector = selector
			return nodes.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return nodes.Watch(ctx, o)
		},
	}
	store := cache.NewUndeltaStore(func(items []any) {
		for _, item := range items {
			if node, ok := item.(*corev1.Node); ok && node.Name == n.ref.Name {
				if n.set(node); stopLease == nil {
					var leaseCtx context.Context
					leaseCtx, stopLease = context.WithCancel(ctx)
					lease.Go(func() { n.renewLease(leaseCtx) })
				}
				return
			}
		}
		if stopLease != nil {
			stopLease()
			stopLease = nil
		}
		n.mu.Lock()
		n.deleted = true
		n.mu.Unlock()
		klog.FromContext(ctx).Info("The node is not in the apiserver; its status and lease are not written until it is", "node", n.ref.Name)
	}, cache.MetaNamespaceKeyFunc)
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(listWatch, n.opts.Client), &corev1.Node{}, store, cache.ReflectorOptions{Name: "kubelet node"})
	reflector.RunWithContext(ctx)
}

// renewLease keeps the node's lease, from which the cluster sees that it lives.
//
// Upstream: pkg/kubelet/kubelet.go, component-helpers lease.NewController.
func (n *Node) renewLease(ctx context.Context) {
	seconds := n.opts.Settings.NodeLeaseDurationSeconds
	renew := time.Duration(seconds) * time.Second / 4
	own := func(l *coordinationv1.Lease) error {
		node := n.Node()
		if node.UID == "" {
			return fmt.Errorf("node %s is not registered", node.Name)
		}
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
		return nil
	}
	c := lease.NewController(clock.RealClock{}, n.opts.Heartbeats, n.ref.Name, seconds, nil, renew, n.ref.Name, corev1.NamespaceNodeLease, own)
	c.Run(ctx)
}
