package runtime

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/allocation"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/spec"
)

const (
	created = runtimeapi.ContainerState_CONTAINER_CREATED
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	unknown = runtimeapi.ContainerState_CONTAINER_UNKNOWN // it may be running
)

type containerKind string

const (
	initContainer      containerKind = "init container"
	regularContainer   containerKind = "container"
	ephemeralContainer containerKind = "ephemeral container"
)

// actionInput is all computePodActions looks at.
type actionInput struct {
	Pod      *corev1.Pod
	Observed *cri.PodStatus
	Verdicts ProbeVerdicts
	Actuated *allocation.Resources // what does not have its allocation yet; nil for none
	Ended    bool                  // nothing of Observed runs, and the runtime was told to stop each sandbox (Runtime.Ended)
}

// startAction starts a new instance of a container.
type startAction struct {
	Kind      containerKind
	Container *corev1.Container
	Target    string // ephemeral containers: the container whose processes it sees
	Attempt   uint32
	Reason    string
}

// killAction ends a running instance. Message is what the Killing event says.
type killAction struct {
	ID, Name, Message string
	Reason            string // RestartLiveness, RestartStartup or another word for the log
}

// removeAction removes an instance that is not running.
type removeAction struct{ ID, Name, Reason string }

// podActions is the plan, carried out in the order of its fields.
type podActions struct {
	KillPod       string        // non-empty: end all containers and sandboxes, for this reason
	Reset         []resetAction // all containers, if they are to begin anew
	Kill          []killAction
	Remove        []removeAction
	Resize        *resizeAction // non-nil: the pod and its containers get other resources
	CreateSandbox string        // non-empty: make a new sandbox, for this reason
	SandboxID     string        // the sandbox to start containers in, or the one being replaced
	Attempt       uint32        // of the sandbox
	Start         []startAction
}

func (a podActions) empty() bool {
	return a.KillPod == "" && a.CreateSandbox == "" && len(a.Reset)+len(a.Kill)+len(a.Remove)+len(a.Start) == 0 && a.Resize == nil
}

// leave takes out what concerns containers that wait, or for which something failed, in the same sync.
func (a *podActions) leave(waiting map[string]Failure) {
	a.Kill = slices.DeleteFunc(a.Kill, func(k killAction) bool { _, waits := waiting[k.Name]; return waits })
	a.Start = slices.DeleteFunc(a.Start, func(s startAction) bool { _, waits := waiting[s.Container.Name]; return waits })
	a.Remove = slices.DeleteFunc(a.Remove, func(r removeAction) bool { _, waits := waiting[r.Name]; return waits })
}

// planner is one run of computePodActions.
type planner struct {
	actionInput
	podActions
}

// computePodActions decides what has to be done so that the runtime holds what the pod asks for. It is pure.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions
func computePodActions(in actionInput) podActions {
	if in.Observed == nil {
		in.Observed = &cri.PodStatus{UID: in.Pod.UID}
	}
	p := planner{actionInput: in}
	change, attempt, id := sandboxChanged(in.Pod, in.Observed)
	p.Attempt, p.SandboxID = attempt, id
	if change != "" {
		p.planSandbox(change)
		return p.podActions
	}
	if p.planReset() {
		return p.podActions
	}
	p.planDuplicates()
	p.planEphemeral()
	if p.planInit() {
		p.planRegular()
	}
	if p.KillPod != "" {
		// Everything goes: starting or killing single containers as well would be work for nothing.
		p.Start, p.Kill = nil, nil
	}
	p.planResize()
	return p.podActions
}

// sandboxChanged tells why a new sandbox is needed ("" if it is not), its attempt number and the present sandbox.
//
// Upstream: pkg/kubelet/kuberuntime/util/util.go PodSandboxChanged
func sandboxChanged(pod *corev1.Pod, observed *cri.PodStatus) (reason string, attempt uint32, id string) {
	if len(observed.Sandboxes) == 0 {
		return "the pod has no sandbox", 0, ""
	}
	ready := 0
	for _, s := range observed.Sandboxes {
		if s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	newest := observed.Sandboxes[0]
	attempt, id = newest.GetMetadata().GetAttempt(), newest.GetId()
	switch {
	case ready > 1:
		reason = "the pod has more than one ready sandbox"
	case newest.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY:
		reason = "the sandbox is not ready"
	case newest.GetLinux().GetNamespaces().GetOptions().GetNetwork() != spec.NetworkMode(pod):
		reason = "the sandbox has another network namespace than the pod asks for"
	case !pod.Spec.HostNetwork && newest.GetNetwork() != nil && newest.GetNetwork().GetIp() == "":
		reason = "the sandbox has no IP address"
	default:
		return "", attempt, id
	}
	return reason, attempt + 1, id
}

// planSandbox plans for a pod without a usable sandbox: all that is left of the old one ends, the containers begin
// anew, the init containers first. A pod that has done its work gets no new sandbox.
func (p *planner) planSandbox(reason string) {
	hasContainers := len(p.Observed.Containers) > 0
	if len(p.Observed.Sandboxes) > 0 {
		p.KillPod = reason
	}
	if p.Ended {
		defer func() {
			if p.CreateSandbox == "" {
				p.KillPod = "" // all of it was stopped already, and nothing new will start
			}
		}()
	}
	if p.Pod.Spec.RestartPolicy == corev1.RestartPolicyNever && p.Attempt != 0 && hasContainers {
		return
	}
	var regular []startAction
	for i := range p.Pod.Spec.Containers {
		container := &p.Pod.Spec.Containers[i]
		status := p.Observed.Container(container.Name)
		if runOnce(p.Pod, container) && status != nil && status.State == exited && status.ExitCode == 0 {
			continue
		}
		regular = append(regular, p.start(regularContainer, container, status, reason))
	}
	if len(regular) == 0 && hasContainers {
		return
	}
	p.CreateSandbox = reason
	for _, status := range p.Observed.Containers {
		// The init containers run again; records of their earlier runs would say they have.
		if podinfo.IsInit(p.Pod, status.Name) {
			p.Remove = append(p.Remove, removeAction{status.ID, status.Name, reason})
		}
	}
	if len(p.Pod.Spec.InitContainers) > 0 {
		first := &p.Pod.Spec.InitContainers[0]
		p.Start = []startAction{p.start(initContainer, first, p.Observed.Container(first.Name), reason)}
		return
	}
	p.Start = regular
}

// planDuplicates ends all but the newest instance of a container that run or may run. There are two when a create call
// got no answer and was sent again.
func (p *planner) planDuplicates() {
	for _, status := range p.Observed.Containers {
		newest := p.Observed.Container(status.Name)
		if newest.ID == status.ID {
			continue
		}
		switch status.State {
		case unknown:
			p.clear(status)
		case running:
			p.kill(status, "Duplicate", fmt.Sprintf("Container %s runs more than once, keeping the newest", status.Name))
		case created:
			p.Remove = append(p.Remove, removeAction{status.ID, status.Name, "created but never started, and superseded"})
		}
	}
}

func (p *planner) planEphemeral() {
	for i := range p.Pod.Spec.EphemeralContainers {
		e := &p.Pod.Spec.EphemeralContainers[i]
		container := (*corev1.Container)(&e.EphemeralContainerCommon)
		status := p.Observed.Container(e.Name)
		if status != nil && status.State != created {
			if status.State == unknown {
				p.clear(status)
			}
			continue // an ephemeral container is never restarted
		}
		reason := "the ephemeral container has not run"
		p.replaceCreated(status)
		action := p.start(ephemeralContainer, container, status, reason)
		action.Target = e.TargetContainerName
		p.Start = append(p.Start, action)
	}
}

// planRegular plans for the regular containers of an initialised pod. With none to keep and none to start the pod
// has done its work and is ended.
func (p *planner) planRegular() {
	keep, starts := 0, 0
	for i := range p.Pod.Spec.Containers {
		container := &p.Pod.Spec.Containers[i]
		status := p.Observed.Container(container.Name)
		if status == nil || status.State != running {
			reason := startReason(p.Pod, container, status)
			if reason == "" {
				continue
			}
			p.clear(status)
			p.Start = append(p.Start, p.start(regularContainer, container, status, reason))
			starts++
			continue
		}
		message, verdict := p.killReason(container, status, "Container")
		if message == "" {
			keep++
			continue
		}
		// A changed definition is a wish for a new instance whatever the restart policy says.
		if verdict == reasonChanged || verdict == reasonResized || restartsOnProbe(p.Pod, container) {
			p.Start = append(p.Start, p.start(regularContainer, container, status, message))
			starts++
			if verdict != reasonResized {
				message += ", will be restarted"
			}
		}
		p.kill(status, verdict, message)
	}
	if keep == 0 && starts == 0 {
		p.KillPod = "all containers have ended and none is to be restarted"
	}
}

const reasonChanged = "Changed"

// killReason tells why a running container has to end, as the Killing event puts it; "" keeps it.
func (p *planner) killReason(container *corev1.Container, status *cri.ContainerStatus, what string) (message, reason string) {
	// A container without a hash is not one of ours to judge.
	if status.Hash != "" && status.Hash != spec.Hash(container) {
		return fmt.Sprintf("%s %s definition changed", what, container.Name), reasonChanged
	}
	switch verdict := p.Verdicts.Restart(status.ID); verdict {
	case "":
		if p.resizeRestarts(container) {
			return fmt.Sprintf("Container %s resize requires restart", container.Name), reasonResized
		}
		return "", ""
	case RestartStartup:
		return fmt.Sprintf("%s %s failed startup probe", what, container.Name), verdict
	default:
		return fmt.Sprintf("%s %s failed liveness probe", what, container.Name), verdict
	}
}

// clear makes way for a new instance: one in an unknown state may be running and is ended first, one that was
// created and never started is removed.
func (p *planner) clear(status *cri.ContainerStatus) {
	if status == nil || p.replaceCreated(status) || status.State == exited {
		return
	}
	p.kill(status, "Unknown", fmt.Sprintf("Container is in %q state, try killing it before restart", "unknown"))
}

// replaceCreated plans the removal of an instance that a kubelet created and did not live to start.
func (p *planner) replaceCreated(status *cri.ContainerStatus) bool {
	if status == nil || status.State != created {
		return false
	}
	p.Remove = append(p.Remove, removeAction{status.ID, status.Name, "created but never started"})
	return true
}

func (p *planner) kill(status *cri.ContainerStatus, reason, message string) {
	p.Kill = append(p.Kill, killAction{ID: status.ID, Name: status.Name, Message: message, Reason: reason})
}

// start numbers the new instance: one more than the last that ran, the same as one that never did.
func (p *planner) start(kind containerKind, c *corev1.Container, last *cri.ContainerStatus, reason string) startAction {
	action := startAction{Kind: kind, Container: c, Reason: reason}
	if last != nil {
		action.Attempt = last.Attempt
		if last.State != created {
			action.Attempt++
		}
	}
	return action
}

// startReason tells why a container that is not running is to be started; "" leaves it.
//
// Upstream: pkg/kubelet/container/helpers.go ShouldContainerBeRestarted
func startReason(pod *corev1.Pod, container *corev1.Container, status *cri.ContainerStatus) string {
	switch {
	case pod.DeletionTimestamp != nil:
		return ""
	case status == nil:
		return "the container has not run"
	case status.State == created:
		return "the container was created but never started"
	case status.State != exited:
		return "the container is in an unknown state"
	case podinfo.Restarts(pod, container, status.ExitCode):
		return fmt.Sprintf("the container exited with code %d", status.ExitCode)
	}
	return ""
}

func runOnce(pod *corev1.Pod, container *corev1.Container) bool {
	return podinfo.RestartPolicy(pod, container) == corev1.RestartPolicyOnFailure
}

// restartsOnProbe leaves the restart rules out: they go by exit code and the container still runs.
func restartsOnProbe(pod *corev1.Pod, container *corev1.Container) bool {
	return podinfo.RestartPolicy(pod, container) != corev1.RestartPolicyNever
}
