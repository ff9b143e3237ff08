// Package node registers the node, keeps its lease and status, and knows what the node offers to pods.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// Options are what a Node is made of.
type Options struct {
	// Client is nil without an apiserver. Heartbeats writes status and lease, and gives up sooner.
	Client, Heartbeats kubernetes.Interface

	Settings *settings.Settings
	CRI      *cri.Client
	// Images lists the images on the node, with at most so many names each.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
	// RuntimeHealthy tells why events of the runtime do not come through, nil if they do.
	RuntimeHealthy func() error
	Events         record.EventRecorder
	Registerer     prometheus.Registerer // may be nil
}

// Node is this node.
type Node struct {
	opts     Options
	ref      *corev1.ObjectReference
	machine  machine
	startup  *startup
	capacity corev1.ResourceList
	alloc    corev1.ResourceList
	check    chan struct{} // asks for a look at the runtime, capacity 1

	mu       sync.RWMutex
	node     *corev1.Node // as the apiserver has it, or as it would be registered
	runtime  runtimeState
	reported time.Time // when the status was last written
}

// New reads the machine. It fails when it cannot, or when the reservations exceed it.
func New(opts Options) (*Node, error) {
	m, err := readMachine("/", opts.Settings.RootDir)
	if err != nil {
		return nil, err
	}
	n := &Node{opts: opts, machine: m, startup: newStartup(opts.Registerer), check: make(chan struct{}, 1)}
	n.ref = &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: opts.Settings.NodeName, UID: types.UID(opts.Settings.NodeName)}
	n.capacity = m.capacity(opts.Settings.MaxPods)
	if n.alloc, err = allocatable(n.capacity, opts.Settings); err != nil {
		return nil, err
	}
	if len(opts.Settings.NodeIPs) == 0 {
		ip, err := defaultAddress()
		if err != nil {
			return nil, fmt.Errorf("find the node's address (--node-ip sets it): %w", err)
		}
		opts.Settings.NodeIPs = []net.IP{ip}
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

// Capacity returns what the machine has.
func (n *Node) Capacity() corev1.ResourceList { return n.capacity }

// Allocatable returns what pods may request in all: the capacity without what is reserved.
func (n *Node) Allocatable() corev1.ResourceList { return n.alloc }

// NetworkReady tells why pods cannot have a network of their own yet, nil if they can.
func (n *Node) NetworkReady() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.runtime.network
}

// HostIPs are the node's addresses, the primary first.
func (n *Node) HostIPs() []string {
	var ips []string
	for _, ip := range n.opts.Settings.NodeIPs {
		ips = append(ips, ip.String())
	}
	return ips
}

// Run registers the node and keeps it up to date until ctx ends.
//
// Upstream: pkg/kubelet/kubelet_node_status.go syncNodeStatus and fastStatusUpdateOnce.
func (n *Node) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { n.watchRuntime(ctx) })
	if n.opts.Client == nil {
		return
	}
	if !*n.opts.Settings.RegisterNode || n.register(ctx) {
		n.opts.Events.Event(n.ref, corev1.EventTypeNormal, "Starting", "Starting kubelet.")
		parts.Go(func() { n.watchNode(ctx) })
		parts.Go(func() { n.renewLease(ctx) })
		n.keepStatus(ctx)
	}
}

// register makes the node's object, or brings one that exists up to date. It tries until it works.
//
// Upstream: pkg/kubelet/kubelet_node_status.go registerWithAPIServer.
func (n *Node) register(ctx context.Context) bool {
	delay := 100 * time.Millisecond
	for {
		err := n.registerOnce(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		klog.FromContext(ctx).Error(err, "Registering the node failed, will be retried", "node", n.ref.Name, "after", delay)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(delay):
		}
		delay = min(2*delay, 7*time.Second)
	}
}

func (n *Node) registerOnce(ctx context.Context) error {
	nodes := n.opts.Client.CoreV1().Nodes()
	wanted := n.initial()
	n.startup.registering()
	made, err := nodes.Create(ctx, wanted, metav1.CreateOptions{})
	if err == nil {
		klog.FromContext(ctx).Info("Registered the node", "node", wanted.Name)
		n.startup.registered()
		n.set(made)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", wanted.Name, err)
	}
	have, err := nodes.Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node %s: %w", wanted.Name, err)
	}
	n.reportReboot(have)
	// Labels that the kubelet was told to set are set again; taints are for a node's first registration only.
	changed := have.DeepCopy()
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, wanted.Labels)
	if changed.Spec.ProviderID == "" {
		changed.Spec.ProviderID = wanted.Spec.ProviderID
	}
	if have, err = n.patch(ctx, have, changed); err != nil {
		return err
	}
	n.set(have)
	return nil
}

// reportReboot tells of a reboot since the node was last here.
func (n *Node) reportReboot(have *corev1.Node) {
	if before := have.Status.NodeInfo.BootID; before != "" && before != n.machine.bootID {
		n.opts.Events.Eventf(n.ref, corev1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", n.ref.Name, n.machine.bootID)
	}
}

// patch sends the difference of two versions of the node, if there is any, to the object or, if the status is what
// differs, to its status.
func (n *Node) patch(ctx context.Context, have, want *corev1.Node) (*corev1.Node, error) {
	if equality.Semantic.DeepEqual(have, want) {
		return have, nil
	}
	before, err := json.Marshal(have)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	body, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
	if err != nil {
		return nil, fmt.Errorf("compute the patch of node %s: %w", have.Name, err)
	}
	var sub []string
	if !equality.Semantic.DeepEqual(have.Status, want.Status) {
		sub = []string{"status"}
	}
	got, err := n.opts.Heartbeats.CoreV1().Nodes().Patch(ctx, have.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, sub...)
	if err != nil {
		return nil, fmt.Errorf("patch node %s: %w", have.Name, err)
	}
	return got, nil
}

func (n *Node) set(node *corev1.Node) {
	node = node.DeepCopy()
	node.ManagedFields = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node = node
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

// initial is the node as it registers.
//
// Upstream: pkg/kubelet/kubelet_node_status.go initialNode.
func (n *Node) initial() *corev1.Node {
	s := n.opts.Settings
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.NodeName, Labels: n.machine.labels(s.NodeName)}}
	maps.Copy(node.Labels, s.NodeLabels)
	node.Spec.ProviderID = s.ProviderID
	now := metav1.Now()
	for _, t := range s.RegisterWithTaints {
		if t.Effect == corev1.TaintEffectNoExecute && t.TimeAdded == nil {
			t.TimeAdded = &now
		}
		node.Spec.Taints = append(node.Spec.Taints, t)
	}
	n.mu.RLock()
	state := n.runtime
	n.mu.RUnlock()
	node.Status = n.status(corev1.NodeStatus{}, state, nil, time.Now())
	return node
}
