package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

var errNotAsked = errors.New("container runtime status check may not have completed yet")

// runtimeState is what the runtime last said of itself.
type runtimeState struct {
	err      error // why it is not ready
	network  error // why its network is not
	version  string
	handlers []corev1.NodeRuntimeHandler
	features *corev1.NodeFeatures
}

func (s runtimeState) ready() bool { return s.err == nil && s.network == nil }

const (
	checkPeriod  = 5 * time.Second // of a runtime that is ready
	retryPeriod  = 250 * time.Millisecond
	checkTimeout = 5 * time.Second
)

// watchRuntime asks the runtime how it is: often until it is ready, seldom then. What changed is reported at once.
//
// Upstream: pkg/kubelet/kubelet.go updateRuntimeUp.
func (n *Node) watchRuntime(ctx context.Context) {
	for {
		state := n.askRuntime(ctx)
		n.mu.Lock()
		changed := fmt.Sprint(n.runtime.err, n.runtime.network) != fmt.Sprint(state.err, state.network)
		n.runtime = state
		n.mu.Unlock()
		if changed {
			klog.FromContext(ctx).Info("The container runtime's state changed", "err", state.err, "network", state.network)
			n.ask()
		}
		period := checkPeriod
		if !state.ready() {
			period = retryPeriod
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// RuntimeName is what the runtime calls itself; container IDs in statuses begin with it.
func (n *Node) RuntimeName() string {
	n.mu.RLock()
	version := n.runtime.version
	n.mu.RUnlock()
	if version == "" { // a container was seen before the first look at the runtime was over
		version = n.askRuntime(context.Background()).version
	}
	name, _, _ := strings.Cut(version, "://")
	return name
}

func (n *Node) ask() {
	select {
	case n.check <- struct{}{}:
	default:
	}
}

func (n *Node) askRuntime(ctx context.Context) runtimeState {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	answer, err := n.opts.CRI.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return runtimeState{err: fmt.Errorf("container runtime is down: %w", err), network: errors.New("container runtime is down")}
	}
	state := runtimeState{}
	for _, kind := range []string{runtimeapi.RuntimeReady, runtimeapi.NetworkReady} {
		i := slices.IndexFunc(answer.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool { return c.GetType() == kind })
		var problem error
		switch {
		case i < 0:
			problem = fmt.Errorf("%s is not in the runtime's status", kind)
		case !answer.GetStatus().GetConditions()[i].GetStatus():
			c := answer.GetStatus().GetConditions()[i]
			problem = fmt.Errorf("%s=false reason:%s message:%s", kind, c.GetReason(), c.GetMessage())
		}
		if kind == runtimeapi.RuntimeReady && problem != nil {
			state.err = fmt.Errorf("container runtime not ready: %w", problem)
		} else if problem != nil {
			state.network = fmt.Errorf("container runtime network not ready: %w", problem)
		}
	}
	n.mu.RLock()
	state.version = n.runtime.version
	n.mu.RUnlock()
	if v, err := n.opts.CRI.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
		state.version = v.GetRuntimeName() + "://" + v.GetRuntimeVersion()
	}
	for _, h := range answer.GetRuntimeHandlers() {
		f := h.GetFeatures()
		state.handlers = append(state.handlers, corev1.NodeRuntimeHandler{Name: h.GetName(), Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(f.GetRecursiveReadOnlyMounts()), UserNamespaces: new(f.GetUserNamespaces()),
		}})
	}
	if f := answer.GetFeatures(); f != nil {
		state.features = &corev1.NodeFeatures{SupplementalGroupsPolicy: new(f.GetSupplementalGroupsPolicy())}
	}
	return state
}

// keepStatus writes the node's status: when it changes, and at least every nodeStatusReportFrequency.
func (n *Node) keepStatus(ctx context.Context) {
	tick := time.NewTicker(n.opts.Settings.NodeStatusUpdateFrequency.Duration)
	defer tick.Stop()
	for {
		if err := n.syncStatus(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Writing the node's status failed, will be retried")
			if apierrors.IsNotFound(err) && *n.opts.Settings.RegisterNode && !n.register(ctx) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-n.check:
		case <-tick.C:
		}
	}
}

// syncStatus works the status out and sends what differs.
//
// Upstream: pkg/kubelet/kubelet_node_status.go tryUpdateNodeStatus.
func (n *Node) syncStatus(ctx context.Context) error {
	images, err := n.opts.Images(ctx)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Images of the node are not known", "err", err)
		images = nil
	}
	if limit := int(*n.opts.Settings.NodeStatusMaxImages); limit >= 0 && len(images) > limit {
		images = images[:limit]
	}
	now := time.Now()
	n.mu.RLock()
	have, state, reported := n.node, n.runtime, n.reported
	n.mu.RUnlock()
	want := have.DeepCopy()
	want.Status = n.status(have.Status, state, images, now)
	due := now.Sub(reported) >= n.opts.Settings.NodeStatusReportFrequency.Duration
	if !due && sameStatus(&have.Status, &want.Status) {
		return nil
	}
	got, err := n.patch(ctx, have, want)
	if err != nil {
		return err
	}
	n.events(&have.Status, &got.Status)
	if n.notReady(state) == "" {
		n.startup.ready()
	}
	n.set(got)
	n.mu.Lock()
	n.reported = now
	n.mu.Unlock()
	return nil
}

// sameStatus compares all but the times of heartbeats.
//
// Upstream: pkg/kubelet/kubelet_node_status.go nodeStatusHasChanged.
func sameStatus(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

// status is the node's status, from the one before; what is others' in it stays. It is pure but for the machine.
//
// Upstream: pkg/kubelet/nodestatus/setters.go.
func (n *Node) status(have corev1.NodeStatus, state runtimeState, images []corev1.ContainerImage, now time.Time) corev1.NodeStatus {
	s := *have.DeepCopy()
	s.Capacity, s.Allocatable = n.capacity, n.alloc
	s.Addresses = nil
	for _, ip := range n.opts.Settings.NodeIPs {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.opts.Settings.NodeName})
	s.DaemonEndpoints.KubeletEndpoint.Port = n.opts.Settings.Port
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: n.machine.machineID, SystemUUID: n.machine.systemUUID, BootID: n.machine.bootID, KernelVersion: n.machine.kernel,
		OSImage: n.machine.osImage, ContainerRuntimeVersion: state.version, KubeletVersion: n.opts.Settings.Version,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if n.machine.swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &n.machine.swap}
	}
	if state.err == nil {
		s.RuntimeHandlers, s.Features = state.handlers, state.features
	}
	if images != nil {
		s.Images = images
	}
	set := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) {
		setCondition(&s, corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message}, now)
	}
	set(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	set(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	set(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	if why := n.notReady(state); why != "" {
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", why)
	} else {
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	}
	return s
}

// notReady lists what keeps the node from being ready.
//
// Upstream: pkg/kubelet/nodestatus/setters.go ReadyCondition.
func (n *Node) notReady(state runtimeState) string {
	var why []string
	for _, err := range []error{state.err, state.network} {
		if err != nil {
			why = append(why, err.Error())
		}
	}
	if state.err == nil && n.opts.RuntimeHealthy != nil {
		if err := n.opts.RuntimeHealthy(); err != nil {
			why = append(why, "PLEG is not healthy: "+err.Error())
		}
	}
	if len(why) == 0 {
		return ""
	}
	return "[" + strings.Join(why, ", ") + "]"
}

func setCondition(s *corev1.NodeStatus, c corev1.NodeCondition, now time.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	for i := range s.Conditions {
		if have := s.Conditions[i]; have.Type == c.Type {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// events tell of the conditions that changed.
//
// Upstream: pkg/kubelet/kubelet_node_status.go recordNodeStatusEvent.
func (n *Node) events(before, after *corev1.NodeStatus) {
	names := map[corev1.NodeConditionType][2]string{ // when true, when false
		corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
		corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
	}
	for _, c := range after.Conditions {
		reasons, ours := names[c.Type]
		i := slices.IndexFunc(before.Conditions, func(b corev1.NodeCondition) bool { return b.Type == c.Type })
		if !ours || i >= 0 && before.Conditions[i].Status == c.Status {
			continue
		}
		reason := reasons[1]
		if c.Status == corev1.ConditionTrue {
			reason = reasons[0]
		}
		n.opts.Events.Eventf(n.ref, corev1.EventTypeNormal, reason, "Node %s status is now: %s", n.ref.Name, reason)
	}
}

// watchNode follows the node's object, so that changed labels and taints count at once in admission.
func (n *Node) watchNode(ctx context.Context) {
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
			if node, ok := item.(*corev1.Node); ok {
				n.set(node)
			}
		}
		if len(items) == 0 {
			n.ask() // deleted: it is made again when its status cannot be written
		}
	}, cache.MetaNamespaceKeyFunc)
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(listWatch, n.opts.Client), &corev1.Node{}, store, cache.ReflectorOptions{Name: "kubelet node"})
	reflector.RunWithContext(ctx)
}
