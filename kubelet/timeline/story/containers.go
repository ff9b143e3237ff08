package story

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

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
		case c.State.Terminated != nil && (!init || c.State.Terminated.ExitCode != 0):
			why := t.end(c.Name, c.State.Terminated)
			return &answer{why.cause, fmt.Sprintf("%s does not run: it %s.", t.named(c.Name), why.text), why.remedy}
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
	wait := ""
	if _, after, ok := strings.Cut(c.State.Waiting.Message, "back-off "); ok {
		wait, _, _ = strings.Cut(after, " ")
		wait = " " + wait
	}
	why, again := answer{"CrashLoop", "ends", itsLog}, ""
	if end := c.LastTerminationState.Terminated; end != nil {
		why, again = t.end(c.Name, end), fmt.Sprintf(", and does so again and again (restarted %s)", times(c.RestartCount))
	}
	return &answer{why.cause, fmt.Sprintf("%s %s%s; the kubelet waits%s before it starts it again.", t.named(c.Name), why.text, again, wait), why.remedy}
}

// about tells whether an event, nil for none, belongs to a container's end: it says why it was killed before that ends.
func (t Input) about(e *Event, end *corev1.ContainerStateTerminated) bool {
	return e != nil && e.Last.Sub(end.FinishedAt.Time).Abs() < time.Minute
}

// end says how a container ended: "ended with exit code 3" and the like.
func (t Input) end(name string, end *corev1.ContainerStateTerminated) answer {
	spec := t.container(name)
	if kill := t.last(name, "Killing"); t.about(kill, end) {
		for kind, probe := range map[string]*corev1.Probe{"Liveness": spec.LivenessProbe, "Startup": spec.StartupProbe} {
			if strings.Contains(kill.Message, "failed "+strings.ToLower(kind)+" probe") {
				return answer{kind + "Probe", fmt.Sprintf("was killed because its %s probe%s failed%s", strings.ToLower(kind), asked(probe), t.found(name, kind)), t.probeRemedy(name, probe)}
			}
		}
	}
	words, code := "", end.ExitCode
	if m := strings.TrimSpace(end.Message); m != "" {
		words = fmt.Sprintf("; its last words: %q", firstLine(m))
	}
	return *ends.find(fmt.Sprintf("%s %d: %s", end.Reason, code, end.Message), "{words}", words, "{limit}", memoryLimit(spec), "{program}", program(spec),
		"{signal}", fmt.Sprintf("%d, %s", code-128, syscall.Signal(code-128)))
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
	if words := slices.Concat(c.Command, c.Args); len(words) > 0 {
		return " (" + strings.Join(words, " ") + ")"
	}
	return ""
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
	what := fmt.Sprintf("its %s probe%s", strings.ToLower(kind), asked(probe))
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
	end := c.LastTerminationState.Terminated
	if c.RestartCount == 0 || end == nil {
		return nil
	}
	why := t.end(c.Name, end)
	return &why
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
		if found = firstLine(found); found == "" {
			return ", and says nothing"
		}
		return ": " + found
	}
	return ""
}

// asked is what a probe looks at, as a sentence has it.
func asked(p *corev1.Probe) string {
	if p == nil {
		return ""
	}
	what, _ := looks(p.ProbeHandler)
	return what
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
