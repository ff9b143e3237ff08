package story

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
)

// answer is why a pod does not run, is not ready, or was restarted.
type answer struct{ cause, text, remedy string }

const (
	containerCreating = "ContainerCreating"
	podInitializing   = "PodInitializing"
)

// answer asks one question after another; the first that has an answer is the reason for all that comes after it in a
// pod's life. nil means that there is nothing to explain.
func (t Input) answer() *answer {
	for _, ask := range []func() *answer{
		t.terminating, t.ended, t.notBegun, t.containers, t.readinessGates, t.stepUnderWay, t.starting, t.restarted,
	} {
		if a := ask(); a != nil {
			return a
		}
	}
	return nil
}

// terminating is why a deleted pod is still there.
func (t Input) terminating() *answer {
	if t.Pod.DeletionTimestamp == nil {
		return nil
	}
	running := t.running()
	left := t.Pod.DeletionTimestamp.Sub(t.Now).Round(time.Second) // of the grace period
	if len(running) == 0 && len(t.Pod.Finalizers) > 0 {
		return &answer{"Finalizers", fmt.Sprintf("The pod has ended and is kept by its finalizers: %s.", strings.Join(t.Pod.Finalizers, ", ")),
			"A controller put them there, and removes them when its work is done: see whether it runs."}
	}
	if e := t.last("", "FailedKillPod", "FailedUnMount", "FailedRemoveContainers", "FailedPreStopHook"); e != nil {
		if a := endings.find(e.Reason + ": " + e.Message); a != nil {
			return a
		}
	}
	switch {
	case len(running) == 0:
		return &answer{"CleaningUp", "The pod has ended, and what it had on the node is being removed.", ""}
	case left > 0 && t.Pod.DeletionGracePeriodSeconds != nil:
		return &answer{"GracePeriod", fmt.Sprintf("The pod was deleted, and %s may use its grace period, which ends in %s.", names(running), left),
			"A program that ends on SIGTERM ends sooner; deleting with a shorter grace period does so now."}
	}
	return &answer{"Stopping", fmt.Sprintf("The pod was deleted, and %s is being killed.", names(running)), ""}
}

func (t Input) running() []string {
	var running []string
	for _, c := range t.statuses() {
		if c.State.Running != nil {
			running = append(running, c.Name)
		}
	}
	return running
}

// names are containers as the subject of a sentence.
func names(containers []string) string {
	if len(containers) == 1 {
		return "container " + containers[0]
	}
	return "each of the containers " + strings.Join(containers, ", ")
}

// ended is why a pod is over.
func (t Input) ended() *answer {
	s := &t.Pod.Status
	switch {
	case s.Phase == corev1.PodSucceeded:
		return &answer{"Completed", "The pod has done its work: all its containers ended with success and are not to be started again.", ""}
	case s.Phase != corev1.PodFailed:
		return nil
	case s.Reason != "":
		return t.verdict()
	}
	for _, c := range t.statuses() {
		if end := c.State.Terminated; end != nil && end.ExitCode != 0 {
			why, name := t.end(c.Name, end), t.named(c.Name)
			return &answer{why.cause, fmt.Sprintf("The pod has failed: its %s %s, and its restart policy is %s.",
				strings.ToLower(name[:1])+name[1:], why.text, t.Pod.Spec.RestartPolicy), why.remedy}
		}
	}
	return &answer{"Failed", "The pod has failed.", ""}
}

// amount is a number of bytes in a sentence.
var amount = regexp.MustCompile(`\d+ bytes`)

// verdict is why the node refused the pod, or ended it.
func (t Input) verdict() *answer {
	reason, message := t.Pod.Status.Reason, t.Pod.Status.Message
	did := "The node ended the pod"
	if refused, ok := strings.CutPrefix(message, "Pod was rejected: "); ok {
		did, message = "The node did not take the pod", refused
	}
	a := verdicts.find(reason+": "+message, t.asks()...)
	if a == nil {
		return &answer{reason, fmt.Sprintf("%s (%s): %s.", did, reason, firstLine(message)), ""}
	}
	a.text = did + ", because " + amount.ReplaceAllStringFunc(a.text, func(text string) string {
		n, _ := strconv.ParseInt(strings.TrimSuffix(text, " bytes"), 10, 64) // digits, as amount has it
		return size(n)
	}) + "."
	return a
}

// asks are facts of what the pod asks of the node.
func (t Input) asks() []string {
	spec := &t.Pod.Spec
	var ports []string
	for c := range podinfo.LastingContainers(t.Pod) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, fmt.Sprint(p.HostPort))
			}
		}
	}
	selector, system := "", spec.NodeSelector[corev1.LabelOSStable]
	if len(spec.NodeSelector) > 0 {
		selector = fmt.Sprintf(" (%s)", labels.Set(spec.NodeSelector))
	}
	if spec.OS != nil {
		system = string(spec.OS.Name)
	}
	return []string{
		"{ports}", strings.Join(ports, ", "), "{selector}", selector, "{os}", system,
		"{deadline}", fmt.Sprint(ptr.Deref(spec.ActiveDeadlineSeconds, 0)),
	}
}

// begun tells whether a container was ever made, so that what is before that is not what the pod waits for.
func (t Input) begun() bool {
	return slices.ContainsFunc(t.statuses(), func(c corev1.ContainerStatus) bool {
		w := c.State.Waiting
		return w == nil || w.Reason != containerCreating && w.Reason != podInitializing
	})
}

// notBegun is what keeps the first container of a pod from being made: the node's trouble, a pod of the same name, or what its
// newest event says, if that does not show that it goes on.
func (t Input) notBegun() *answer {
	if t.begun() {
		return nil
	}
	said := []string{"Trouble: " + t.Trouble}
	for _, c := range t.statuses() {
		said = append(said, c.State.Waiting.Reason+": "+c.State.Waiting.Message)
	}
	tries := ""
	e := t.last("", "FailedValidation", "FailedMount", "FailedMapVolume", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedPodSandBoxStatus", "Pulling", "Pulled", "Created", "Started")
	if len(t.Attaching) > 0 && (e == nil || !strings.Contains(e.Message, "to be attached")) { // an event of before says more
		said = append(said, "Attaching: "+strings.Join(t.Attaching, ", "))
	}
	if e != nil {
		said = append(said, e.Reason+": "+e.Message)
		if e.Count > 1 {
			tries = fmt.Sprintf(" (tried %d times)", e.Count)
		}
	}
	for _, message := range said {
		if a := beginnings.find(message, "{tries}", tries, "{source}", t.source(message)); a != nil && (a.cause != "NetworkNotReady" || !t.Pod.Spec.HostNetwork) {
			return a
		}
	}
	return nil
}

// source is what the volume that a message is about is made of.
func (t Input) source(message string) string {
	for _, v := range t.Pod.Spec.Volumes {
		switch {
		case !strings.Contains(message, fmt.Sprintf("for volume %q", v.Name)):
		case v.ConfigMap != nil:
			return "the ConfigMap " + v.ConfigMap.Name
		case v.Secret != nil:
			return "the Secret " + v.Secret.SecretName
		}
	}
	return "its source"
}

// readinessGates keep a pod whose containers are all ready from being so.
func (t Input) readinessGates() *answer {
	c := t.readiness()
	if c.Reason != "ReadinessGatesNotReady" || t.isReady() {
		return nil
	}
	return &answer{"ReadinessGates", "All containers are ready, but a readiness gate is not: " + firstLine(c.Message) + ".",
		"A controller sets that condition to True in the pod's status: see whether it runs."}
}

// stepUnderWay is what the kubelet does just now, if it takes long.
func (t Input) stepUnderWay() *answer {
	if now := t.progress(); now != "" && !t.isReady() {
		return &answer{"Working", "The kubelet is at work for the pod: " + now + ".", ""}
	}
	return nil
}

// starting is a pod of which the kubelet has not told anything yet.
func (t Input) starting() *answer {
	switch {
	case t.Pod.Status.Phase == corev1.PodRunning || t.begun():
		return nil
	case t.Trouble != "":
		return &answer{"Starting", "The pod was seen; the node is not ready: " + firstLine(t.Trouble) + ".", ""}
	}
	return &answer{"Starting", "The pod was seen, and its start is under way.", ""}
}

// restarted is why a container of a pod that is well had to be started again.
func (t Input) restarted() *answer {
	for _, c := range t.statuses() {
		if why := t.restartOf(&c); why != nil {
			return &answer{why.cause, fmt.Sprintf("Container %s runs now; it was started again (%s): before that it %s.", c.Name, times(c.RestartCount), why.text), why.remedy}
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
