package syncloop

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

// Rejection is why the node does not take a pod, in upstream's words.
type Rejection struct{ Reason, Message string }

func (r *Rejection) why() string { return r.Reason + ": " + r.Message }

// AdmissionInput is all that Admit looks at.
type AdmissionInput struct {
	Pod *corev1.Pod
	// Others are the pods that the node has taken already and that still use it.
	Others      []*corev1.Pod
	Node        *corev1.Node
	Allocatable corev1.ResourceList
	MaxPods     int
	GOOS        string
	// ShuttingDown says that the machine is about to go down.
	ShuttingDown bool
	// Pressure is what the node is short of.
	Pressure []corev1.NodeConditionType
	// Sysctls is why the pod cannot have the sysctls that it asks for, nil if it can.
	Sysctls error
	// AppArmor is why pods cannot have a profile, nil if they can.
	AppArmor error
}

// Admit decides whether the node takes a pod; nil is yes. It is pure.
//
// Upstream: pkg/kubelet/lifecycle/predicate.go Admit, generalFilter and rejectPodAdmissionBasedOnOSSelector.
func Admit(in AdmissionInput) *Rejection {
	for _, check := range []func(AdmissionInput) *Rejection{
		checkShutdown, checkPressure, checkOS, checkSysctls, checkAppArmor, checkResources,
		checkGroupsPolicy, checkPlacement, checkPorts, checkTaints, // part: placement, syncloop/placement.go
	} {
		if r := check(in); r != nil {
			return r
		}
	}
	return nil
}

// checkShutdown keeps all pods from a machine that goes down.
func checkShutdown(in AdmissionInput) *Rejection {
	if !in.ShuttingDown {
		return nil
	}
	return &Rejection{"NodeShutdown", "Pod was rejected as the node is shutting down."}
}

// checkPressure keeps pods from a node that evicts others, except critical ones. When only memory is short, it keeps away only
// pods that request none.
func checkPressure(in AdmissionInput) *Rejection {
	if len(in.Pressure) == 0 || podinfo.IsCritical(in.Pod) {
		return nil
	}
	if len(in.Pressure) == 1 && in.Pressure[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if in.Pod.Status.QOSClass != corev1.PodQOSBestEffort || // the apiserver's word, as it works the class out
			schedulingcorev1.TolerationsTolerateTaint(klog.Background(), in.Pod.Spec.Tolerations, &taint, false) {
			return nil
		}
	}
	return &Rejection{"Evicted", fmt.Sprintf("The node had condition: %v. ", in.Pressure)}
}

func checkOS(in AdmissionInput) *Rejection {
	if os := in.Pod.Labels[corev1.LabelOSStable]; os != "" && os != in.GOOS {
		return &Rejection{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if os := in.Pod.Spec.OS; os != nil && string(os.Name) != in.GOOS {
		return &Rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

func checkSysctls(in AdmissionInput) *Rejection {
	if in.Sysctls != nil {
		return &Rejection{"SysctlForbidden", in.Sysctls.Error()}
	}
	return nil
}

// checkResources refuses a pod for the first resource of which the others leave too little.
func checkResources(in AdmissionInput) *Rejection {
	for _, s := range shortages(in) {
		return &Rejection{
			Reason: "OutOf" + string(s.name),
			Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				s.name, s.requested, s.used, s.capacity),
		}
	}
	return nil
}

// shortage is a resource of which a pod requests more than the others leave.
type shortage struct {
	name                      corev1.ResourceName
	requested, used, capacity int64
}

// shortages compares what the pod requests, overhead and sidecars included, with what the others leave.
func shortages(in AdmissionInput) []shortage {
	var short []shortage
	compare := func(s shortage) {
		if s.requested > s.capacity-s.used {
			short = append(short, s)
		}
	}
	compare(shortage{corev1.ResourcePods, 1, int64(len(in.Others)), int64(in.MaxPods)})
	requests := resource.PodRequests(in.Pod, resource.PodResourcesOptions{})
	for _, name := range slices.SortedFunc(maps.Keys(requests), precede) { // so that the same pod always gets the same message
		s := shortage{name: name, requested: amount(name, requests), capacity: amount(name, in.Allocatable)}
		// An extended resource that the node does not know is counted by somebody else, for the cluster.
		if _, known := in.Allocatable[name]; s.requested == 0 || !known && strings.Contains(string(name), "/") {
			continue
		}
		for _, other := range in.Others {
			s.used += requested(other, name)
		}
		compare(s)
	}
	return short
}

// precede sorts resources by the order in which a pod is refused for them.
func precede(a, b corev1.ResourceName) int {
	first := []corev1.ResourceName{corev1.ResourceEphemeralStorage, corev1.ResourceMemory, corev1.ResourceCPU}
	return cmp.Or(cmp.Compare(slices.Index(first, b), slices.Index(first, a)), cmp.Compare(a, b))
}

// requested is what a pod takes of a resource. A pod that shrinks takes what it had until its status says that it shrank.
func requested(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name == corev1.ResourcePods {
		return 1
	}
	return amount(name, resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}))
}

// amount counts CPU in thousandths.
func amount(name corev1.ResourceName, list corev1.ResourceList) int64 {
	quantity := list[name]
	if name == corev1.ResourceCPU {
		return quantity.MilliValue()
	}
	return quantity.Value()
}
