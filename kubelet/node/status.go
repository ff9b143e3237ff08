package node

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// keepStatus writes the node's status: when it changes, and at least every nodeStatusReportFrequency.
//
// Upstream: pkg/kubelet/kubelet_node_status.go syncNodeStatus and updateNodeStatus.
func (n *Node) keepStatus(ctx context.Context) {
	retry := retries(min(n.pace.Load().update, retryMost))
	for ctx.Err() == nil {
		wait := n.pace.Load().update
		if err := n.syncStatus(ctx); err == nil {
			retry = retries(min(wait, retryMost))
		} else if ctx.Err() == nil {
			wait = retry.Step()
			klog.FromContext(ctx).Error(err, "Writing the node's status failed, will be retried", "after", wait)
		}
		pause(ctx, wait, n.check)
	}
}

// syncStatus works the status out and sends what differs.
func (n *Node) syncStatus(ctx context.Context) error {
	have := n.registered()
	if have == nil {
		return nil
	}
	n.mu.RLock()
	state, images, pressure, reported := n.state(), n.images, n.pressure, n.reported
	n.mu.RUnlock()
	now := time.Now()
	want := have.DeepCopy()
	want.Status = n.status(have.Status, state, images, pressure, now)
	n.restoreLabels(want)
	n.tellCloud(want)
	due := now.Sub(reported) >= n.pace.Load().report
	if !due && maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations) && (sameStatus(&have.Status, &want.Status) || n.wrote(have, want)) {
		return nil
	}
	got, err := n.patch(ctx, have, want, "status")
	if apierrors.IsNotFound(err) {
		n.lost(have)
	}
	if err != nil {
		return err
	}
	n.events(&have.Status, &want.Status)
	if boot := have.Status.NodeInfo.BootID; boot != "" && boot != n.machine.bootID {
		n.rebooted.Do(func() { // once, as another kubelet of this name writes its own ID again and again
			n.opts.Events.Eventf(n.Ref(), corev1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", have.Name, n.machine.bootID)
		})
	}
	n.set(got)
	n.mu.Lock()
	n.reported, n.written, n.answered = now, &want.Status, &got.Status
	n.mu.Unlock()
	return nil
}

// wrote tells whether the last write was of this status, and the apiserver made of it what it has: an older one leaves out fields that
// it does not know.
func (n *Node) wrote(have, want *corev1.Node) bool {
	return n.written != nil && sameStatus(&want.Status, n.written) && sameStatus(&have.Status, n.answered)
}

// restoreLabels restores the labels that say what the machine is, since pods are placed by them.
func (n *Node) restoreLabels(node *corev1.Node) {
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	for _, label := range []string{corev1.LabelOSStable, corev1.LabelArchStable} {
		node.Labels[label] = n.machine.labels(node.Name)[label]
	}
}

// sameStatus compares all but the times of heartbeats.
func sameStatus(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

// declaredFeatures, sorted, are what pods may ask for that not every kubelet of this version has: the apiserver refuses a
// resize, and the scheduler a pod, that needs another.
var declaredFeatures = []string{
	"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits",
}

// status is the node's status, from the one before; what is others' in it stays. It is pure but for the machine.
func (n *Node) status(have corev1.NodeStatus, state runtimeState, images []corev1.ContainerImage, pressure []corev1.NodeConditionType, now time.Time) corev1.NodeStatus {
	s := *have.DeepCopy()
	// Resources of others are theirs to write, and nothing is reserved of them.
	s.Capacity, s.Allocatable = othersResources(have.Capacity), othersResources(have.Capacity)
	if n.reports.Devices != nil { // part: devices, kubelet/devices
		capacity, allocatable := n.reports.Devices()
		maps.Copy(s.Capacity, capacity)
		maps.Copy(s.Allocatable, allocatable)
	}
	maps.Copy(s.Capacity, n.capacity)
	maps.Copy(s.Allocatable, n.alloc)
	s.Addresses = n.statusAddresses(have.Addresses)
	s.DaemonEndpoints.KubeletEndpoint.Port = n.opts.Settings.Port
	s.NodeInfo = corev1.NodeSystemInfo{
		MachineID: n.machine.machineID, SystemUUID: n.machine.systemUUID, BootID: n.machine.bootID, KernelVersion: n.machine.kernel,
		OSImage: n.machine.osImage, ContainerRuntimeVersion: state.version, KubeletVersion: n.opts.Settings.Version,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, RunningInUserNamespace: &n.machine.userNamespace,
	}
	if n.machine.swap > 0 {
		s.NodeInfo.Swap = &corev1.NodeSwapStatus{Capacity: &n.machine.swap}
	}
	s.DeclaredFeatures = declaredFeatures
	if state.err == nil {
		s.RuntimeHandlers, s.Features = state.handlers, state.features
	}
	if images != nil {
		s.Images = images
	}
	if n.reports.VolumesInUse != nil {
		s.VolumesInUse = n.reports.VolumesInUse()
	}
	set := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, message string) {
		setCondition(&s, corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: message}, now)
	}
	for _, p := range pressures {
		if slices.Contains(pressure, p.kind) {
			set(p.kind, corev1.ConditionTrue, p.bad[0], p.bad[1])
		} else {
			set(p.kind, corev1.ConditionFalse, p.good[0], p.good[1])
		}
	}
	if why := state.why(); why != "" {
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", why)
	} else {
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	}
	return s
}

// pressures are the conditions of short resources, with reason and message of each state.
var pressures = []struct {
	kind      corev1.NodeConditionType
	good, bad [2]string
}{
	{
		corev1.NodeMemoryPressure, [2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
	},
	{
		corev1.NodeDiskPressure, [2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
	},
	{
		corev1.NodePIDPressure, [2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
		[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
	},
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

// events tell of the conditions of the kubelet's that changed. Their names are the conditions' reasons, said of the node:
// KubeletHasDiskPressure is NodeHasDiskPressure.
func (n *Node) events(before, after *corev1.NodeStatus) {
	for _, c := range after.Conditions {
		name, ours := strings.CutPrefix(c.Reason, "Kubelet")
		i := slices.IndexFunc(before.Conditions, func(b corev1.NodeCondition) bool { return b.Type == c.Type })
		isNew := i < 0
		switch {
		case !ours, !isNew && before.Conditions[i].Status == c.Status:
		case isNew && c.Type == corev1.NodeReady && c.Status == corev1.ConditionFalse: // a new node that is not ready yet is no news
		default:
			n.event("Node" + name)
		}
	}
}
