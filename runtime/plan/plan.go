// Package plan decides what has to be done so that the runtime has what a pod asks for. It is pure: what a pod is, what
// the runtime and the probes say of it and what it was allocated are arguments.
package plan

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
	"minikubelet/runtime/resize"
	"minikubelet/runtime/spec"
)

// Input is all that ComputePodActions looks at.
type Input struct {
	Pod      *corev1.Pod
	Observed *cri.PodStatus
	Verdicts map[string]Verdict // of running containers, by ID
	Resize   *resize.Change     // part: resize of what runs, runtime/resize
	Ended    bool               // nothing of Observed runs, and the runtime was told to stop each sandbox
}

// Verdict is what the probes say of a running container.
type Verdict struct {
	Restart string // RestartLiveness or RestartStartup if that probe has failed, RestartHook if the postStart hook has, else ""
	Started bool   // the startup probe has passed; the next init container waits for it
}

// What Verdict.Restart may be.
const (
	RestartLiveness = "LivenessProbe"
	RestartStartup  = "StartupProbe"
	RestartHook     = "PostStartHook"
)

// Kind is the list of the pod's that a container is in.
type Kind string

// The three lists.
const (
	Init      Kind = "init container"
	Regular   Kind = "container"
	Ephemeral Kind = "ephemeral container"
)

// Start starts a new instance of a container.
type Start struct {
	Kind      Kind
	Container *corev1.Container
	Target    string // ephemeral containers: the container whose processes it sees
	Attempt   uint32
	Reason    string
}

// Kill ends a running instance. Message is what the Killing event says.
type Kill struct {
	ID, Name, Message string
	Reason            string // RestartLiveness, RestartStartup or another word for the log
}

// Remove removes an instance that is not running.
type Remove struct{ ID, Name, Reason string }

// Actions is the plan, carried out in the order of its fields.
type Actions struct {
	KillPod       string  // if not empty: end all containers and sandboxes, for this reason
	Reset         []Reset // all containers, if they are to begin anew
	Kill          []Kill
	Remove        []Remove
	Resize        *resize.Change // if not nil: the pod and its containers get other resources
	CreateSandbox string         // if not empty: make a new sandbox, for this reason
	SandboxID     string         // the sandbox to start containers in, or the one being replaced
	Attempt       uint32         // of the sandbox
	Start         []Start
}

// Empty tells that nothing has to be done.
func (a *Actions) Empty() bool {
	return a.KillPod == "" && a.CreateSandbox == "" && len(a.Reset)+len(a.Kill)+len(a.Remove)+len(a.Start) == 0 && a.Resize == nil
}

// Leave takes out what concerns containers that wait, or for which something failed, in the same sync.
func (a *Actions) Leave(waits func(container string) bool) {
	a.Kill = slices.DeleteFunc(a.Kill, func(k Kill) bool { return waits(k.Name) })
	a.Start = slices.DeleteFunc(a.Start, func(s Start) bool { return waits(s.Container.Name) })
	a.Remove = slices.DeleteFunc(a.Remove, func(r Remove) bool { return waits(r.Name) })
}

// planner is one run of ComputePodActions.
type planner struct {
	Input
	Actions
}

// ComputePodActions decides what has to be done so that the runtime has what the pod asks for.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_manager.go computePodActions
func ComputePodActions(in Input) Actions {
	if in.Observed == nil {
		in.Observed = &cri.PodStatus{UID: in.Pod.UID}
	}
	p := planner{Input: in}
	change, attempt, id := sandboxChanged(in.Pod, in.Observed)
	p.Attempt, p.SandboxID = attempt, id
	if change != "" {
		p.planSandbox(change)
		return p.Actions
	}
	if p.planReset() { // part: restart of all containers, runtime/plan/reset.go
		return p.Actions
	}
	p.planDuplicates()
	p.planEphemeral()
	if p.planInit() {
		p.planRegular()
	}
	if p.KillPod != "" {
		// Everything goes: starting or killing single containers as well would be work for nothing.
		p.Start, p.Kill = nil, nil
		return p.Actions
	}
	p.Actions.Resize = p.Input.Resize.Leave(func(id string) bool {
		return slices.ContainsFunc(p.Kill, func(k Kill) bool { return k.ID == id })
	})
	return p.Actions
}

// sandboxChanged tells why a new sandbox is needed ("" if it is not), its attempt number and the present sandbox.
func sandboxChanged(pod *corev1.Pod, observed *cri.PodStatus) (reason string, attempt uint32, id string) {
	if reason = observed.SandboxProblem(pod.Spec.HostNetwork); len(observed.Sandboxes) == 0 {
		return reason, 0, ""
	}
	newest := observed.Sandboxes[0]
	attempt, id = newest.GetMetadata().GetAttempt(), newest.GetId()
	if reason != "" {
		attempt++
	}
	return reason, attempt, id
}

// planSandbox plans for a pod without a usable sandbox: all that is left of the old one ends, and the containers that are not over
// begin anew, the init containers first. A pod that is over gets no new sandbox.
func (p *planner) planSandbox(reason string) {
	if len(p.Observed.Sandboxes)+len(p.Observed.Containers) > 0 && !p.Ended {
		p.KillPod = reason // containers may run although the runtime has lost their sandbox
	}
	var regular []Start
	for i := range p.Pod.Spec.Containers {
		container := &p.Pod.Spec.Containers[i]
		if status := p.Observed.Container(container.Name); !over(p.Pod, container, status) {
			regular = append(regular, p.start(Regular, container, status, reason))
		}
	}
	if len(regular) == 0 || p.initFailed() {
		return
	}
	p.CreateSandbox = reason
	for _, status := range p.Observed.Containers {
		// The init containers run again: records of their earlier runs are removed, since they would count as done. A container that
		// was created and never started is removed too, since the runtime refuses another one of the same name and attempt.
		if podinfo.IsInit(p.Pod, status.Name) || status.State == cri.Created {
			p.Remove = append(p.Remove, Remove{status.ID, status.Name, reason})
		}
	}
	if len(p.Pod.Spec.InitContainers) > 0 {
		first := &p.Pod.Spec.InitContainers[0]
		p.Start = []Start{p.start(Init, first, p.Observed.Container(first.Name), reason)}
		return
	}
	p.Start = regular
}

// over tells whether a container that ran in a sandbox that is gone is not to run again. One that still ran there has not ended well.
func over(pod *corev1.Pod, container *corev1.Container, status *cri.ContainerStatus) bool {
	switch {
	case status == nil, status.State == cri.Created:
		return false
	case status.State == cri.Exited:
		return !podinfo.Restarts(pod, container, status.ExitCode)
	}
	return !restartsOnProbe(pod, container)
}

// initFailed tells whether an init container of a sandbox that is gone has not done its work, and is not to run again.
func (p *planner) initFailed() bool {
	return slices.ContainsFunc(p.Pod.Spec.InitContainers, func(c corev1.Container) bool {
		status := p.Observed.Container(c.Name)
		if status == nil || status.State != cri.Exited {
			return over(p.Pod, &c, status)
		}
		code := podinfo.InitCode(status.ExitCode, status.Reason)
		return code != 0 && !podinfo.Restarts(p.Pod, &c, code)
	})
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
		case cri.Unknown:
			p.clear(status)
		case cri.Running:
			p.kill(status, "Duplicate", fmt.Sprintf("Container %s runs more than once, keeping the newest", status.Name))
		case cri.Created:
			p.Remove = append(p.Remove, Remove{status.ID, status.Name, "created but never started, and superseded"})
		}
	}
}

func (p *planner) planEphemeral() {
	for i := range p.Pod.Spec.EphemeralContainers {
		e := &p.Pod.Spec.EphemeralContainers[i]
		container := (*corev1.Container)(&e.EphemeralContainerCommon)
		status := p.Observed.Container(e.Name)
		if status != nil && status.State != cri.Created {
			if status.State == cri.Unknown {
				p.clear(status)
			}
			continue // an ephemeral container is never restarted
		}
		p.replaceCreated(status)
		action := p.start(Ephemeral, container, status, "the ephemeral container has not run")
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
		if status == nil || status.State != cri.Running {
			reason := startReason(p.Pod, container, status)
			if reason == "" {
				continue
			}
			p.clear(status)
			p.Start = append(p.Start, p.start(Regular, container, status, reason))
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
			p.Start = append(p.Start, p.start(Regular, container, status, message))
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

// Reasons of Kill, beside those of the probes.
const (
	reasonChanged = "Changed"
	reasonResized = "Resized"
)

// killReason tells why a running container has to end, as the Killing event puts it; "" keeps it.
func (p *planner) killReason(container *corev1.Container, status *cri.ContainerStatus, what string) (message, reason string) {
	// A container without a hash is not one of ours to judge.
	if status.Hash != "" && status.Hash != spec.Hash(container) {
		return fmt.Sprintf("%s %s definition changed", what, container.Name), reasonChanged
	}
	switch verdict := p.Verdicts[status.ID].Restart; verdict {
	case "":
		if p.Input.Resize.Restarts(container.Name) {
			return fmt.Sprintf("Container %s resize requires restart", container.Name), reasonResized
		}
		return "", ""
	case RestartHook:
		return "FailedPostStartHook", verdict
	case RestartStartup:
		return fmt.Sprintf("%s %s failed startup probe", what, container.Name), verdict
	default:
		return fmt.Sprintf("%s %s failed liveness probe", what, container.Name), verdict
	}
}

// clear makes way for a new instance: one in an unknown state may be running and is ended first, one that was
// created and never started is removed.
func (p *planner) clear(status *cri.ContainerStatus) {
	if status == nil || p.replaceCreated(status) || status.State == cri.Exited {
		return
	}
	p.kill(status, "Unknown", fmt.Sprintf("Container is in %q state, try killing it before restart", "unknown"))
}

// replaceCreated plans the removal of an instance that a kubelet created and did not live to start.
func (p *planner) replaceCreated(status *cri.ContainerStatus) bool {
	if status == nil || status.State != cri.Created {
		return false
	}
	p.Remove = append(p.Remove, Remove{status.ID, status.Name, "created but never started"})
	return true
}

func (p *planner) kill(status *cri.ContainerStatus, reason, message string) {
	p.Kill = append(p.Kill, Kill{ID: status.ID, Name: status.Name, Message: message, Reason: reason})
}

// start numbers the new instance: one more than the last that ran, the same as one that never did.
func (p *planner) start(kind Kind, c *corev1.Container, last *cri.ContainerStatus, reason string) Start {
	action := Start{Kind: kind, Container: c, Reason: reason}
	if last != nil {
		action.Attempt = last.Attempt
		if last.State != cri.Created {
			action.Attempt++
		}
	}
	return action
}

// startReason tells why a container that is not running is to be started; "" leaves it.
func startReason(pod *corev1.Pod, container *corev1.Container, status *cri.ContainerStatus) string {
	switch {
	case pod.DeletionTimestamp != nil:
		return ""
	case status == nil:
		return "the container has not run"
	case status.State == cri.Created:
		return "the container was created but never started"
	case status.State != cri.Exited:
		return "the container is in an unknown state"
	case podinfo.Restarts(pod, container, status.ExitCode):
		return fmt.Sprintf("the container exited with code %d", status.ExitCode)
	}
	return ""
}

// restartsOnProbe leaves the restart rules out: they go by exit code and the container still runs.
func restartsOnProbe(pod *corev1.Pod, container *corev1.Container) bool {
	return podinfo.RestartPolicy(pod, container) != corev1.RestartPolicyNever
}
