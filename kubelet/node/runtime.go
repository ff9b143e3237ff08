package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

var errNotAsked = errors.New("container runtime status check may not have completed yet")

// runtimeState is what the runtime last said of itself.
type runtimeState struct {
	err      error // why it is not ready
	network  error // why its network is not
	events   error // why what happens in it is not heard of
	loop     error // why pods are not looked after, which is not the runtime's fault
	starting error // why no pod can start
	stopping error // that the machine goes down
	version  string
	handlers []corev1.NodeRuntimeHandler
	features *corev1.NodeFeatures
}

// why lists what keeps the node from being ready; "" if nothing does.
//
// Upstream: pkg/kubelet/nodestatus/setters.go ReadyCondition.
func (s runtimeState) why() string {
	var reasons []string
	for _, err := range []error{s.err, s.network, s.events, s.loop, s.starting, s.stopping} {
		if err != nil && !slices.Contains(reasons, err.Error()) {
			reasons = append(reasons, err.Error())
		}
	}
	if len(reasons) > 1 {
		return "[" + strings.Join(reasons, ", ") + "]"
	}
	return strings.Join(reasons, "")
}

const (
	checkPeriod  = 5 * time.Second        // of a runtime that is ready
	recheckFirst = 100 * time.Millisecond // of one that is not
	recheckMost  = time.Second
	checkTimeout = 5 * time.Second

	notReadyPatience = time.Second      // of a runtime that said at the start that it is not ready
	silencePatience  = 10 * time.Second // of one that did not say anything
)

// watchRuntime asks the runtime how it is: often until it is ready, seldom then. What changed is reported at once.
func (n *Node) watchRuntime(ctx context.Context) {
	recheck, synced := recheckFirst, n.opts.RuntimeSynced
	for {
		state := n.askRuntime(ctx)
		if ctx.Err() != nil {
			return
		}
		if n.reports.LoopHealthy != nil {
			state.loop = n.reports.LoopHealthy()
		}
		if n.reports.PodsStart != nil {
			state.starting = n.reports.PodsStart()
		}
		n.mu.Lock()
		changed := n.runtime.why() != state.why()
		n.runtime = state
		n.mu.Unlock()
		if changed {
			klog.FromContext(ctx).Info("What keeps the node from being ready changed", "notReady", state.why())
			wake(n.check)
		}
		period := checkPeriod
		if state.why() != "" {
			period, recheck = recheck, min(2*recheck, recheckMost)
		} else {
			recheck = recheckFirst
		}
		select {
		case <-ctx.Done():
			return
		case <-synced:
			synced = nil
		case <-time.After(period):
		}
	}
}

// state is what the runtime last said, and whether the machine goes down. Callers hold mu.
func (n *Node) state() runtimeState {
	s := n.runtime
	if n.stopping {
		s.stopping = errStopping
	}
	return s
}

// Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go ShutdownStatus.
var errStopping = errors.New("node is shutting down")

// said is what the runtime last said. It is asked now where a pod is quicker than the first question.
func (n *Node) said(known func(runtimeState) bool) runtimeState {
	n.mu.RLock()
	state := n.runtime
	n.mu.RUnlock()
	if !known(state) {
		return n.askRuntime(context.Background())
	}
	return state
}

// RuntimeName is what the runtime calls itself; container IDs in statuses begin with it.
func (n *Node) RuntimeName() string {
	name, _, _ := strings.Cut(n.said(func(s runtimeState) bool { return s.version != "" }).version, "://")
	return name
}

// HandlerFeatures tells what a handler of the runtime can do, "" being the default one.
func (n *Node) HandlerFeatures(name string) corev1.NodeRuntimeHandlerFeatures {
	for _, h := range n.said(func(s runtimeState) bool { return s.handlers != nil }).handlers {
		if h.Name == name && h.Features != nil {
			return *h.Features
		}
	}
	return corev1.NodeRuntimeHandlerFeatures{}
}

func (n *Node) askRuntime(ctx context.Context) runtimeState {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	n.mu.RLock()
	before := n.runtime
	n.mu.RUnlock()
	answer, err := n.opts.CRI.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		down := fmt.Errorf("container runtime is down: %w", err)
		return runtimeState{err: down, network: down, version: before.version}
	}
	state := readRuntime(answer)
	// Who answers after having been away may be another version.
	if state.version = before.version; state.version == "" || before.err != nil {
		if v, err := n.opts.CRI.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
			state.version = v.GetRuntimeName() + "://" + v.GetRuntimeVersion()
		} else if state.err == nil {
			state.err = fmt.Errorf("container runtime is down: %w", err)
		}
	}
	if n.opts.RuntimeHealthy != nil {
		if err := n.opts.RuntimeHealthy(); err != nil {
			state.events = fmt.Errorf("PLEG is not healthy: %w", err)
		}
	}
	return state
}

// readRuntime reads the runtime's own account.
func readRuntime(answer *runtimeapi.StatusResponse) (state runtimeState) {
	if problem := condition(answer, runtimeapi.RuntimeReady); problem != nil {
		state.err = fmt.Errorf("container runtime not ready: %w", problem)
	}
	if problem := condition(answer, runtimeapi.NetworkReady); problem != nil {
		state.network = fmt.Errorf("container runtime network not ready: %w", problem)
	}
	for _, h := range answer.GetRuntimeHandlers() {
		f := h.GetFeatures()
		state.handlers = append(state.handlers, corev1.NodeRuntimeHandler{Name: h.GetName(), Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: new(f.GetRecursiveReadOnlyMounts()), UserNamespaces: new(f.GetUserNamespaces()),
		}})
	}
	// A runtime need not list them in the same order twice.
	slices.SortFunc(state.handlers, func(a, b corev1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	if f := answer.GetFeatures(); f != nil {
		state.features = &corev1.NodeFeatures{SupplementalGroupsPolicy: new(f.GetSupplementalGroupsPolicy())}
	}
	return state
}

// condition tells why a condition of the runtime is not true.
func condition(answer *runtimeapi.StatusResponse, kind string) error {
	for _, c := range answer.GetStatus().GetConditions() {
		if c.GetType() != kind {
			continue
		}
		if c.GetStatus() {
			return nil
		}
		return fmt.Errorf("%s=false reason:%s message:%s", kind, c.GetReason(), c.GetMessage())
	}
	return fmt.Errorf("%s is not in the runtime's status", kind)
}
