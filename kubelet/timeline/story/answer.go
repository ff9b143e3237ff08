package story

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// answer is why a pod does not run, is not ready, or was restarted.
type answer struct{ cause, text, remedy string }

const (
	containerCreating = "ContainerCreating"
	podInitializing   = "PodInitializing"
)

// answer asks one question after another; the first that has an answer is the reason for all that comes after it in a
// pod's life. nil means that there is nothing to explain.
func (t teller) answer() *answer {
	for _, ask := range []func() *answer{
		t.terminating, t.ended, t.runtimeAway, t.waitsForName, t.unsupported, t.network, t.volumes, t.sandbox,
		t.containers, t.readinessGates, t.stepUnderWay, t.notBegun, t.restarted,
	} {
		if a := ask(); a != nil {
			return a
		}
	}
	return nil
}

// terminating is why a deleted pod is still there.
func (t teller) terminating() *answer {
	if t.Pod.DeletionTimestamp == nil {
		return nil
	}
	running := t.runningNames()
	var ends time.Time // when the grace period is over
	if g := t.Pod.DeletionGracePeriodSeconds; g != nil {
		ends = t.Pod.DeletionTimestamp.Time
	}
	failed := t.last("", "FailedKillPod", "FailedUnMount", "FailedRemoveContainers", "FailedPreStopHook")
	switch {
	case len(running) == 0 && len(t.Pod.Finalizers) > 0 && t.over():
		return &answer{"Finalizers", fmt.Sprintf("The pod has ended and is kept by its finalizers: %s.", strings.Join(t.Pod.Finalizers, ", ")),
			"Whoever put them there removes them when its work is done; see whether it runs."}
	case failed != nil && failed.Reason == "FailedUnMount":
		return &answer{"UnmountFails", "The pod has ended, but a volume of it cannot be unmounted: " + firstLine(failed.Message) + ".",
			"See what uses the volume on the node; the kubelet tries again by itself."}
	case failed != nil && failed.Reason == "FailedKillPod":
		m := explain(failed.Message, "KillFails", sandboxes)
		return &answer{m.cause, "The pod is to end, but cannot be stopped: " + m.because + ".", m.remedy}
	case len(running) > 0 && !ends.IsZero() && ends.After(t.Now):
		return &answer{"GracePeriod", fmt.Sprintf("The pod was deleted, and %s may use its grace period, which ends in %s.",
			names(running, "container"), ends.Sub(t.Now).Round(time.Second)),
			"A program that ends on SIGTERM ends sooner; deleting with a shorter grace period does so now."}
	case len(running) > 0:
		return &answer{"Stopping", fmt.Sprintf("The pod was deleted, and %s is being killed.", names(running, "container")), ""}
	}
	return &answer{"CleaningUp", "The pod has ended, and what it had on the node is being removed.", ""}
}

// over tells whether every container that began has ended.
func (t teller) over() bool {
	return !slices.ContainsFunc(t.statuses(), func(c corev1.ContainerStatus) bool { return c.State.Running != nil })
}

func (t teller) runningNames() []string {
	var running []string
	for _, c := range t.statuses() {
		if c.State.Running != nil {
			running = append(running, c.Name)
		}
	}
	return running
}

// ended is why a pod is over.
func (t teller) ended() *answer {
	s := &t.Pod.Status
	switch s.Phase {
	case corev1.PodSucceeded:
		return &answer{"Completed", "The pod has done its work: all its containers ended with success and are not to be started again.", ""}
	case corev1.PodFailed:
	default:
		return nil
	}
	if s.Reason != "" {
		return t.verdict()
	}
	for _, c := range t.statuses() {
		if end := c.State.Terminated; end != nil && end.ExitCode != 0 {
			why := t.end(c.Name, end)
			what := "container"
			if t.isInit(c.Name) {
				what = "init container"
			}
			return &answer{why.cause, fmt.Sprintf("The pod has failed: its %s %s %s, and its restart policy is %s.",
				what, c.Name, why.text, t.Pod.Spec.RestartPolicy), why.remedy}
		}
	}
	return &answer{"Failed", "The pod has failed.", ""}
}

// runtimeAway is a runtime that does not answer. Nothing that the pod waits for can happen meanwhile.
func (t teller) runtimeAway() *answer {
	away := strings.Contains(t.Trouble, "container runtime is down") || strings.Contains(t.Trouble, "container runtime not ready")
	if !away || t.begun() {
		return nil
	}
	m := explain(t.Trouble, "RuntimeAway", sandboxes)
	return &answer{m.cause, "The pod cannot start, since " + m.because + " (" + firstLine(t.Trouble) + ").", m.remedy}
}

// waitsForName is a static pod whose predecessor still ends.
func (t teller) waitsForName() *answer {
	for _, c := range t.statuses() {
		if w := c.State.Waiting; w != nil && strings.Contains(w.Message, "which has the same name, to end") {
			return &answer{"NameInUse", "The pod waits for another one of its name to end: " + w.Message + ".",
				"It begins by itself when that one's grace period is over."}
		}
	}
	return nil
}

// progressed are the events that show that a pod has a sandbox and volumes.
var progressed = []string{"Pulling", "Pulled", "Created", "Started"}

// begun tells whether a container was ever made, so that what is before that is not what the pod waits for.
func (t teller) begun() bool {
	return slices.ContainsFunc(t.statuses(), func(c corev1.ContainerStatus) bool {
		w := c.State.Waiting
		return w == nil || w.Reason != containerCreating && w.Reason != podInitializing
	})
}

// unsupported is a field that this kubelet refuses.
func (t teller) unsupported() *answer {
	e := t.last("", "FailedValidation")
	if e == nil || t.begun() {
		return nil
	}
	_, why, _ := strings.Cut(e.Message, ": ")
	return &answer{"Unsupported", "The pod asks for what this kubelet does not do: " + firstLine(why) + ".", "Take the field out, or have the pod run on another node."}
}

// network is a node whose network plugin is not there.
func (t teller) network() *answer {
	if !strings.Contains(t.Trouble, "network not ready") || t.begun() || t.Pod.Spec.HostNetwork {
		return nil
	}
	return &answer{"NetworkNotReady", "The pod waits for the node's network: " + firstLine(t.Trouble) + ".",
		"Install or repair the network plugin (its configuration is usually in /etc/cni/net.d). Pods with hostNetwork do not wait."}
}

// volumes is a volume that cannot be mounted.
func (t teller) volumes() *answer {
	e := t.standing(append([]string{"FailedCreatePodSandBox"}, progressed...), "FailedMount", "FailedMapVolume", "FailedAttachVolume")
	if e == nil || t.begun() {
		return nil
	}
	m := explain(e.Message, "MountFails", inputs)
	volume := ""
	if _, after, ok := strings.Cut(e.Message, `for volume "`); ok {
		volume, _, _ = strings.Cut(after, `"`)
		volume = " " + volume
	}
	return &answer{m.cause, fmt.Sprintf("The pod waits for its volume%s: %s%s.", volume, m.because, tries(e)), m.remedy}
}

// sandbox is a pod's sandbox that cannot be made.
func (t teller) sandbox() *answer {
	e := t.standing(progressed, "FailedCreatePodSandBox", "FailedPodSandBoxStatus")
	if e == nil || t.begun() {
		return nil
	}
	m := explain(e.Message, "SandboxFails", sandboxes)
	return &answer{m.cause, fmt.Sprintf("The pod's sandbox, in which its containers would run, cannot be made: %s%s.", m.because, tries(e)), m.remedy}
}

func tries(e *Event) string {
	if e.Count < 2 {
		return ""
	}
	return fmt.Sprintf(" (tried %d times)", e.Count)
}

// readinessGates keep a pod whose containers are all ready from being so.
func (t teller) readinessGates() *answer {
	c := t.readiness()
	if c == nil || c.Status == corev1.ConditionTrue || c.Reason != "ReadinessGatesNotReady" {
		return nil
	}
	return &answer{"ReadinessGates", "All containers are ready, but a readiness gate is not: " + firstLine(c.Message) + ".",
		"Whoever answers for that condition has to set it to True in the pod's status."}
}

// stepUnderWay is what the kubelet does just now, if it takes long.
func (t teller) stepUnderWay() *answer {
	if t.isReady() {
		return nil
	}
	if now := t.progress(); now != "" {
		return &answer{"Working", "The kubelet is at work for the pod: " + now + ".", ""}
	}
	return nil
}

// notBegun is a pod of which the kubelet has not told anything yet.
func (t teller) notBegun() *answer {
	if t.Pod.Status.Phase != corev1.PodRunning && !t.begun() {
		text := "The pod was seen, and its start is under way."
		if t.Trouble != "" {
			text = "The pod was seen; the node is not ready: " + firstLine(t.Trouble) + "."
		}
		return &answer{"Starting", text, ""}
	}
	return nil
}

// restarted is why a container of a pod that is well had to be started again.
func (t teller) restarted() *answer {
	for _, c := range t.statuses() {
		if end := c.LastTerminationState.Terminated; c.RestartCount > 0 && end != nil {
			why := t.end(c.Name, end)
			return &answer{why.cause, fmt.Sprintf("Container %s runs now; it was started again (%s) because it %s.", c.Name, times(c.RestartCount), why.text), why.remedy}
		}
	}
	return nil
}

func times(n int32) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// names puts several of a kind into a sentence that has them as its subject.
func names(list []string, what string) string {
	if len(list) == 1 {
		return what + " " + list[0]
	}
	return "each of the " + what + "s " + strings.Join(list, ", ")
}
