package story

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

// answer is the first of several: it is the reason for all that comes after it in a pod's life. An empty one means that there is nothing
// to explain.
func (t Input) answer() *answer {
	return cmp.Or(t.terminating(), t.ended(), t.notBegun(), t.containers(), t.readinessGates(), t.starting(), t.restarted(), &answer{})
}

// terminating is why a deleted pod is still there.
func (t Input) terminating() *answer {
	if t.Pod.DeletionTimestamp == nil {
		return nil
	}
	running := t.running()
	left := t.Pod.DeletionTimestamp.Sub(t.Now).Round(time.Second) // of the grace period
	if running == "" && len(t.Pod.Finalizers) > 0 {
		return &answer{"Finalizers", fmt.Sprintf("The pod has ended and is kept by its finalizers: %s.", strings.Join(t.Pod.Finalizers, ", ")),
			"A controller put them there, and removes them when its work is done: see whether it runs."}
	}
	if e := t.last("", "FailedKillPod", "FailedUnMount", "FailedRemoveContainers", "FailedPreStopHook"); e != nil {
		if a := endings.find(e.Reason + ": " + e.Message); a != nil {
			return a
		}
	}
	switch {
	case running == "":
		return &answer{"CleaningUp", "The pod has ended, and what it had on the node is being removed.", ""}
	case left > 0 && t.Pod.DeletionGracePeriodSeconds != nil:
		return &answer{"GracePeriod", fmt.Sprintf("The pod was deleted, and %s may use its grace period, which ends in %s.", running, left),
			"A program that ends on SIGTERM ends sooner; deleting with a shorter grace period does so now."}
	}
	return &answer{"Stopping", fmt.Sprintf("The pod was deleted, and %s is being killed.", running), ""}
}

// running are the containers that run, as the subject of a sentence; "" for none.
func (t Input) running() string {
	var names []string
	for _, c := range t.statuses() {
		if c.State.Running != nil {
			names = append(names, c.Name)
		}
	}
	if len(names) > 1 {
		return "each of the containers " + strings.Join(names, ", ")
	}
	return between("container ", strings.Join(names, ""), "")
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
		spec := t.container(c.Name)
		if end := c.State.Terminated; end != nil && end.ExitCode != 0 && !podinfo.IsSidecar(spec) {
			why, name := t.end(c.Name, end), t.named(c.Name)
			return &answer{why.cause, fmt.Sprintf("The pod has failed: its %s %s, and its restart policy is %s.",
				strings.ToLower(name[:1])+name[1:], why.text, podinfo.RestartPolicy(t.Pod, spec)), why.remedy}
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
	system := cmp.Or(string(ptr.Deref(spec.OS, corev1.PodOS{}).Name), t.Pod.Labels[corev1.LabelOSStable])
	return []string{
		"{ports}", strings.Join(ports, ", "), "{selector}", between(" (", labels.Set(spec.NodeSelector).String(), ")"), "{os}", system,
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

// starting is what the kubelet does just now, if it takes long, or a pod of which it has not told anything yet.
func (t Input) starting() *answer {
	now := t.progress()
	switch {
	case now != "" && !t.isReady():
		return &answer{"Working", "The kubelet is at work for the pod: " + now + ".", ""}
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
			is := "runs now"
			if c.State.Running == nil {
				is = "has ended"
			}
			return &answer{why.cause, fmt.Sprintf("%s %s; it was started again (%s): before that it %s.", t.named(c.Name), is, times(c.RestartCount), why.text), why.remedy}
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

// containers is the first container that keeps the pod from being ready, in the order in which they start.
func (t Input) containers() *answer {
	if t.isReady() {
		return nil
	}
	for _, c := range t.statuses() {
		init := t.isInit(c.Name)
		switch {
		case c.State.Waiting != nil:
			if a := t.waiting(&c); a != nil {
				return a
			}
		case c.State.Running != nil && init:
			return &answer{"InitRunning", fmt.Sprintf("The pod waits for its init container %s, which has run for %s; the others start when it has ended with success.",
				c.Name, t.ago(c.State.Running.StartedAt.Time)), "If that is too long, look at its log."}
		case c.State.Running != nil && !c.Ready:
			if a := t.unready(&c); a != nil {
				return a
			}
		case c.State.Terminated != nil && (!init || podinfo.InitCode(c.State.Terminated.ExitCode, c.State.Terminated.Reason) != 0):
			end, again := c.State.Terminated, ""
			if e := t.last(c.Name, "BackOff"); e != nil && !e.Last.Before(end.FinishedAt.Time) {
				again = "; the kubelet waits before it starts it again"
			}
			why := t.end(c.Name, end)
			return &answer{why.cause, fmt.Sprintf("%s does not run: it %s%s.", t.named(c.Name), why.text, again), why.remedy}
		}
	}
	return nil
}

// named is the container as the subject of a sentence.
func (t Input) named(container string) string {
	if t.isInit(container) {
		return "Init container " + container
	}
	return "Container " + container
}

// waiting is why a container does not start. nil means that it merely has not been its turn.
func (t Input) waiting(c *corev1.ContainerStatus) *answer {
	w, end := c.State.Waiting, c.LastTerminationState.Terminated
	reason := w.Reason
	switch {
	case reason == "" || reason == containerCreating || reason == podInitializing:
		return nil
	case reason == "CrashLoopBackOff" && end != nil && t.about(t.last(c.Name, "FailedPostStartHook"), end):
		reason = "PostStartHookError"
	case reason == "CrashLoopBackOff":
		return t.crashLoop(c)
	}
	spec := t.container(c.Name)
	hook := ""
	if l := spec.Lifecycle; l != nil && l.PostStart != nil {
		hook, _ = looks(corev1.ProbeHandler{Exec: l.PostStart.Exec, HTTPGet: l.PostStart.HTTPGet})
	}
	if a := delays.find(reason+": "+w.Message, "{what}", t.named(c.Name), "{image}", spec.Image, "{program}", program(spec), "{hook}", hook, "{limit}", memoryLimit(spec)); a != nil {
		return a
	}
	return &answer{reason, fmt.Sprintf("%s waits: %s %s.", t.named(c.Name), reason, firstLine(w.Message)), ""}
}

// crashLoop is a container that ends again and again.
func (t Input) crashLoop(c *corev1.ContainerStatus) *answer {
	_, after, _ := strings.Cut(c.State.Waiting.Message, "back-off ")
	wait, _, _ := strings.Cut(after, " ")
	why, again := &answer{"CrashLoop", "ends", itsLog}, ""
	if end := c.LastTerminationState.Terminated; end != nil {
		why, again = t.end(c.Name, end), fmt.Sprintf(", and does so again and again (restarted %s)", times(c.RestartCount))
	}
	return &answer{why.cause, fmt.Sprintf("%s %s%s; the kubelet waits%s before it starts it again.", t.named(c.Name), why.text, again, between(" ", wait, "")), why.remedy}
}

// about tells whether an event, nil for none, belongs to a container's end: it says why it was killed before that ends.
func (t Input) about(e *Event, end *corev1.ContainerStateTerminated) bool {
	return e != nil && e.Last.Sub(end.FinishedAt.Time).Abs() < time.Minute
}

// end says how a container ended: "ended with exit code 3" and the like.
func (t Input) end(name string, end *corev1.ContainerStateTerminated) *answer {
	spec := t.container(name)
	if kill := t.last(name, "Killing"); t.about(kill, end) {
		for kind, probe := range map[string]*corev1.Probe{"Liveness": spec.LivenessProbe, "Startup": spec.StartupProbe} {
			if strings.Contains(kill.Message, "failed "+strings.ToLower(kind)+" probe") {
				looked, _ := looks(ptr.Deref(probe, corev1.Probe{}).ProbeHandler)
				return &answer{kind + "Probe", fmt.Sprintf("was killed because its %s probe%s failed%s", strings.ToLower(kind), looked, t.found(name, kind)), t.probeRemedy(name, probe)}
			}
		}
	}
	words, code := "", end.ExitCode
	if m := strings.TrimSpace(end.Message); m != "" {
		words = fmt.Sprintf("; its last words: %q", firstLine(m))
	}
	a := ends.find(fmt.Sprintf("%s %d: %s", end.Reason, code, end.Message), "{words}", words, "{limit}", memoryLimit(spec), "{program}", program(spec),
		"{signal}", fmt.Sprintf("%d, %s", code-128, syscall.Signal(code-128)))
	if code == 0 && !podinfo.Restarts(t.Pod, spec, code) {
		a.remedy = ""
	}
	return a
}

// memoryLimit is how much memory a container may use, if there is a limit.
func memoryLimit(c *corev1.Container) string {
	if l := c.Resources.Limits.Memory(); !l.IsZero() {
		return " of " + l.String()
	}
	return ""
}

// program is what a container runs, if the pod says it.
func program(c *corev1.Container) string {
	return between(" (", strings.Join(slices.Concat(c.Command, c.Args), " "), ")")
}

// unready is why a running container is not ready.
func (t Input) unready(c *corev1.ContainerStatus) *answer {
	spec := t.container(c.Name)
	kind, probe := "Readiness", spec.ReadinessProbe
	if spec.StartupProbe != nil && (c.Started == nil || !*c.Started) {
		kind, probe = "Startup", spec.StartupProbe
	}
	if probe == nil {
		return nil
	}
	looked, _ := looks(probe.ProbeHandler)
	what := fmt.Sprintf("its %s probe%s", strings.ToLower(kind), looked)
	found := t.found(c.Name, kind)
	if found == "" {
		return &answer{kind + "Probe", fmt.Sprintf("Container %s runs, and %s has not succeeded yet.", c.Name, what), ""}
	}
	text := fmt.Sprintf("Container %s runs but is not ready, because %s fails%s", c.Name, what, found)
	if why := t.restartOf(c); why != nil {
		text += ". It was restarted before, since it " + why.text
	}
	return &answer{kind + "Probe", text + ".", t.probeRemedy(c.Name, probe)}
}

// restartOf is why a container was started again, nil if it was not.
func (t Input) restartOf(c *corev1.ContainerStatus) *answer {
	if end := c.LastTerminationState.Terminated; end != nil && c.RestartCount > 0 {
		return t.end(c.Name, end)
	}
	return nil
}

// found is what a probe found when it failed last, "" if it has not.
func (t Input) found(container, kind string) string {
	for _, e := range slices.Backward(t.Events) {
		_, found, ok := strings.Cut(e.Message, kind+" probe ")
		if !ok || e.Container != container || e.Reason != "Unhealthy" {
			continue
		}
		if _, message, cut := strings.Cut(found, ": "); cut {
			found = message
		}
		return cmp.Or(between(": ", firstLine(found), ""), ", and says nothing")
	}
	return ""
}

// looks is what a probe or a hook does, and at which port, 0 for none that has a number.
func looks(h corev1.ProbeHandler) (what string, port int32) {
	switch {
	case h.Exec != nil:
		return fmt.Sprintf(" (%s)", strings.Join(h.Exec.Command, " ")), 0
	case h.HTTPGet != nil:
		return fmt.Sprintf(" (GET %s, port %s)", h.HTTPGet.Path, h.HTTPGet.Port.String()), h.HTTPGet.Port.IntVal
	case h.TCPSocket != nil:
		return fmt.Sprintf(" (tcp, port %s)", h.TCPSocket.Port.String()), h.TCPSocket.Port.IntVal
	case h.GRPC != nil:
		return fmt.Sprintf(" (grpc, port %d)", h.GRPC.Port), h.GRPC.Port
	}
	return "", 0
}

// probeRemedy compares the probe's port with those that the container names.
func (t Input) probeRemedy(container string, p *corev1.Probe) string {
	if p == nil {
		return ""
	}
	_, port := looks(p.ProbeHandler)
	var named []string
	for _, c := range t.container(container).Ports {
		named = append(named, fmt.Sprint(c.ContainerPort))
	}
	if port != 0 && len(named) > 0 && !slices.Contains(named, fmt.Sprint(port)) {
		return fmt.Sprintf("The probe asks port %d, and the container names port %s: correct the probe.", port, strings.Join(named, ", "))
	}
	return fmt.Sprintf("See whether the program answers what the probe asks within %s, and from when on (initialDelaySeconds, failureThreshold, or a startup probe).",
		time.Duration(max(p.TimeoutSeconds, 1))*time.Second)
}
