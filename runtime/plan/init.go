package plan

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime/cri"
)

// planInit plans for the init containers and reports whether the pod is initialised.
//
// The last init container that has a record in the present sandbox is the one the pod has come to: those before it
// are done, whatever the runtime still remembers of them, and sidecars among them are kept running. Once a regular
// container has a record all of them are behind.
//
// Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go computeInitContainerActions
func (p *planner) planInit() (initialised bool) {
	list := p.Pod.Spec.InitContainers
	if len(list) == 0 {
		return true
	}
	at := len(list)
	if !p.regularSeen() {
		for at--; at >= 0 && p.inSandbox(list[at].Name) == nil; at-- {
		}
		if at < 0 {
			p.startInit(0, "no init container has run")
			return false
		}
	}
	for i := range at {
		if podinfo.IsSidecar(&list[i]) {
			p.planSidecar(i)
		} else if status := p.Observed.Container(list[i].Name); status != nil && status.State == cri.Unknown {
			p.clear(status)
		}
	}
	if at == len(list) {
		return true
	}
	if p.planCurrentInit(at) {
		if at+1 == len(list) {
			return true
		}
		p.startInit(at+1, fmt.Sprintf("init container %s is done", list[at].Name))
	}
	return false
}

// planCurrentInit plans for the init container the pod has come to and reports whether the next may begin.
func (p *planner) planCurrentInit(i int) (done bool) {
	container := &p.Pod.Spec.InitContainers[i]
	if podinfo.IsSidecar(container) {
		return p.planSidecar(i)
	}
	status := p.inSandbox(container.Name)
	switch status.State {
	case cri.Running:
		return false
	case cri.Created:
		p.replaceCreated(status)
		p.startInit(i, "the init container was created but never started")
		return false
	case cri.Exited:
		code := podinfo.InitCode(status.ExitCode, status.Reason)
		if code == 0 {
			return true
		}
		if !podinfo.Restarts(p.Pod, container, code) {
			p.KillPod = fmt.Sprintf("init container %s failed and is not to be restarted", container.Name)
			return false
		}
		p.startInit(i, fmt.Sprintf("init container %s exited with code %d", container.Name, status.ExitCode))
		return false
	}
	if !restartsOnProbe(p.Pod, container) {
		p.KillPod = fmt.Sprintf("init container %s is in an unknown state and is not to be restarted", container.Name)
		return false
	}
	p.clear(status)
	p.startInit(i, "the init container is in an unknown state")
	return false
}

// planSidecar keeps a restartable init container running and reports whether it has started.
func (p *planner) planSidecar(i int) (started bool) {
	container := &p.Pod.Spec.InitContainers[i]
	status := p.inSandbox(container.Name)
	if status == nil || status.State != cri.Running {
		p.clear(status)
		p.startInit(i, fmt.Sprintf("restartable init container %s is not running", container.Name))
		return false
	}
	message, verdict := p.killReason(container, status, "Init container")
	if message != "" {
		p.kill(status, verdict, message)
		p.startInit(i, message)
		return verdict != RestartStartup && p.started(container, status)
	}
	return p.started(container, status)
}

func (p *planner) started(container *corev1.Container, status *cri.ContainerStatus) bool {
	return container.StartupProbe == nil || p.Verdicts[status.ID].Started
}

func (p *planner) startInit(i int, reason string) {
	container := &p.Pod.Spec.InitContainers[i]
	p.Start = append(p.Start, p.start(Init, container, p.Observed.Container(container.Name), reason))
}

// inSandbox is the newest instance of a container, if it is in the present sandbox: what ran in an earlier one says
// nothing of this one's initialisation.
func (p *planner) inSandbox(name string) *cri.ContainerStatus {
	status := p.Observed.Container(name)
	if status == nil || (status.SandboxID != "" && status.SandboxID != p.SandboxID) {
		return nil
	}
	return status
}

// regularSeen reports that a regular container got as far as being created in this sandbox.
func (p *planner) regularSeen() bool {
	for i := range p.Pod.Spec.Containers {
		if p.inSandbox(p.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}
