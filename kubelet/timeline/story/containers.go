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
func (t teller) containers() *answer {
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
func (t teller) named(container string) string {
	if t.isInit(container) {
		return "Init container " + container
	}
	return "Container " + container
}

// waiting is why a container does not start. nil means that it merely has not been its turn.
func (t teller) waiting(c *corev1.ContainerStatus) *answer {
	w := c.State.Waiting
	spec := t.container(c.Name)
	what := t.named(c.Name)
	sentence := func(m *meaning, format string, args ...any) *answer {
		return &answer{m.cause, fmt.Sprintf(format, args...), m.remedy}
	}
	switch w.Reason {
	case "", containerCreating, podInitializing:
		return nil
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError":
		m := explain(w.Message, "ImagePull", images)
		again := ""
		if w.Reason == "ImagePullBackOff" {
			again = "; the kubelet waits longer after each try"
		}
		return sentence(m, "%s waits for its image %s: %s%s.", what, spec.Image, m.because, again)
	case "ErrImageNeverPull":
		return &answer{"ImageNeverPull", fmt.Sprintf("%s may not have its image %s pulled (imagePullPolicy: Never), and the node does not have it.", what, spec.Image),
			"Bring the image to the node, or let it be pulled: imagePullPolicy: IfNotPresent."}
	case "InvalidImageName":
		return &answer{"ImageName", fmt.Sprintf("%s has the image name %q, which is not one.", what, spec.Image),
			"A name is [host[:port]/]path[:tag], its path in lower case."}
	case "SignatureValidationFailed":
		return &answer{"ImageSignature", fmt.Sprintf("%s may not have its image %s, whose signature the runtime does not accept.", what, spec.Image), "Sign the image, or correct the runtime's policy."}
	case "CreateContainerConfigError", "CreateContainerError":
		m := explain(w.Message, w.Reason, inputs, starts)
		return sentence(m, "%s cannot be made: %s.", what, m.because)
	case "RunContainerError":
		m := explain(w.Message, w.Reason, starts)
		return sentence(m, "%s cannot be started: %s%s.", what, m.because, program(spec))
	case "PostStartHookError":
		return t.hookFailed(c)
	case "CrashLoopBackOff":
		return t.crashLoop(c, what)
	}
	return &answer{w.Reason, fmt.Sprintf("%s waits: %s %s.", what, w.Reason, firstLine(w.Message)), ""}
}

func (t teller) hookFailed(c *corev1.ContainerStatus) *answer {
	hook := ""
	if l := t.container(c.Name).Lifecycle; l != nil && l.PostStart != nil {
		hook = describe(l.PostStart.Exec, l.PostStart.HTTPGet, nil)
	}
	return &answer{"PostStartHook", fmt.Sprintf("Container %s is ended each time it has started, because its postStart hook fails%s.", c.Name, hook),
		"Correct the hook: it runs beside the container's program, perhaps before that is ready."}
}

// crashLoop is a container that ends again and again.
func (t teller) crashLoop(c *corev1.ContainerStatus, what string) *answer {
	wait := ""
	if _, after, ok := strings.Cut(c.State.Waiting.Message, "back-off "); ok {
		wait, _, _ = strings.Cut(after, " ")
		wait = " " + wait
	}
	end := c.LastTerminationState.Terminated
	if end == nil {
		return &answer{"CrashLoop", fmt.Sprintf("%s ends again and again; the kubelet waits%s before it starts it again.", what, wait), "Look at its log: kubelet logs -p."}
	}
	if hook := t.last(c.Name, "FailedPostStartHook"); hook != nil && near(hook.Last, end.FinishedAt.Time) {
		return t.hookFailed(c)
	}
	why := t.end(c.Name, end)
	return &answer{why.cause, fmt.Sprintf("%s %s, and does so again and again (restarted %s); the kubelet waits%s before it starts it again.",
		what, why.text, times(c.RestartCount), wait), why.remedy}
}

// near tells whether two moments belong together: an event says why a container was killed before it ends.
func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute }

// end says how a container ended: "ended with exit code 3" and the like.
func (t teller) end(name string, end *corev1.ContainerStateTerminated) answer {
	if kill := t.last(name, "Killing"); kill != nil && near(kill.Last, end.FinishedAt.Time) {
		for _, kind := range []string{"Liveness", "Startup"} {
			if strings.Contains(kill.Message, "failed "+strings.ToLower(kind)+" probe") {
				return t.killedByProbe(name, kind)
			}
		}
	}
	words := ""
	if m := strings.TrimSpace(end.Message); m != "" {
		words = fmt.Sprintf("; its last words: %q", firstLine(m))
	}
	code := end.ExitCode
	switch {
	case end.Reason == "OOMKilled":
		limit := ""
		if l := t.container(name).Resources.Limits.Memory(); !l.IsZero() {
			limit = " of " + l.String()
		}
		return answer{"OOMKilled", fmt.Sprintf("used more memory than its limit%s allows and was killed (OOMKilled)", limit), "Raise resources.limits.memory, or have the program use less."}
	case strings.HasSuffix(end.Reason, "StartError") || end.Reason == "ContainerCannotRun":
		m := explain(end.Message, "RunContainerError", starts)
		return answer{m.cause, "could not be started: " + m.because + program(t.container(name)), m.remedy}
	case code == 0:
		return answer{"Completed", "ended with success (exit code 0)", "A container that is to go on running must not end; one that is to end needs the restart policy OnFailure or Never."}
	case code == 126:
		return answer{"ExitCode", "ended with exit code 126: its shell could not execute a command" + words, "Look at its log: kubelet logs -p, or kubectl logs -p."}
	case code == 127:
		return answer{"ExitCode", "ended with exit code 127: its shell did not find a command" + words, "Look at its log: kubelet logs -p, or kubectl logs -p."}
	case code > 128 && code < 160:
		signal := syscall.Signal(code - 128)
		return answer{"Signal", fmt.Sprintf("was ended by signal %d, %s (exit code %d)%s", code-128, signal, code, words), "Look at its log, and at who sent the signal: the node, a probe, or the program itself."}
	}
	return answer{"ExitCode", fmt.Sprintf("ended with exit code %d%s", code, words), "Look at its log: kubelet logs -p, or kubectl logs -p."}
}

// program is what a container runs, if the pod says it.
func program(c *corev1.Container) string {
	if words := slices.Concat(c.Command, c.Args); len(words) > 0 {
		return " (" + strings.Join(words, " ") + ")"
	}
	return ""
}

// killedByProbe is a container that the kubelet killed for what a probe found.
func (t teller) killedByProbe(name, kind string) answer {
	spec := t.container(name)
	probe := spec.LivenessProbe
	if kind == "Startup" {
		probe = spec.StartupProbe
	}
	found := ""
	if e := t.probeEvent(name, kind); e != nil {
		found = saying(e.Message)
	}
	return answer{kind + "Probe", fmt.Sprintf("was killed because its %s probe%s failed%s", strings.ToLower(kind), asked(probe), found), t.probeRemedy(name, probe)}
}

// saying is what a probe found, if it said anything.
func saying(message string) string {
	if found := firstLine(message); found != "" {
		return ": " + found
	}
	return ""
}

// unready is why a running container is not ready.
func (t teller) unready(c *corev1.ContainerStatus) *answer {
	spec := t.container(c.Name)
	kind, probe := "Readiness", spec.ReadinessProbe
	if spec.StartupProbe != nil && (c.Started == nil || !*c.Started) {
		kind, probe = "Startup", spec.StartupProbe
	}
	if probe == nil {
		return nil
	}
	e := t.probeEvent(c.Name, kind)
	if e == nil {
		return &answer{kind + "Probe", fmt.Sprintf("Container %s runs, and its %s probe%s has not succeeded yet.", c.Name, strings.ToLower(kind), asked(probe)), ""}
	}
	text := fmt.Sprintf("Container %s runs but is not ready, because its %s probe%s fails%s", c.Name, strings.ToLower(kind), asked(probe), saying(e.Message))
	if why := t.restartOf(c); why != "" {
		text += ". It was restarted before, since it " + why
	}
	return &answer{kind + "Probe", text + tries(e) + ".", t.probeRemedy(c.Name, probe)}
}

// restartOf is why a container was started again, "" if it was not.
func (t teller) restartOf(c *corev1.ContainerStatus) string {
	end := c.LastTerminationState.Terminated
	if c.RestartCount == 0 || end == nil {
		return ""
	}
	return t.end(c.Name, end).text
}

// probeEvent is the newest failure of a probe; the message is what it found.
func (t teller) probeEvent(container, kind string) *Event {
	var newest *Event
	for i := range t.Events {
		e := t.Events[i]
		_, found, ok := strings.Cut(e.Message, kind+" probe ")
		if e.Container != container || e.Reason != "Unhealthy" || !ok || newest != nil && e.Last.Before(newest.Last) {
			continue
		}
		if _, message, cut := strings.Cut(found, ": "); cut {
			found = message
		}
		e.Message = found
		newest = &e
	}
	return newest
}

// asked is what a probe looks at.
func asked(p *corev1.Probe) string {
	if p == nil {
		return ""
	}
	if p.GRPC != nil {
		return fmt.Sprintf(" (grpc, port %d)", p.GRPC.Port)
	}
	return describe(p.Exec, p.HTTPGet, p.TCPSocket)
}

func describe(exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction) string {
	switch {
	case exec != nil:
		return fmt.Sprintf(" (%s)", strings.Join(exec.Command, " "))
	case get != nil:
		return fmt.Sprintf(" (GET %s, port %s)", get.Path, get.Port.String())
	case tcp != nil:
		return fmt.Sprintf(" (tcp, port %s)", tcp.Port.String())
	}
	return ""
}

// probeRemedy compares the probe's port with those that the container names.
func (t teller) probeRemedy(container string, p *corev1.Probe) string {
	if p == nil {
		return ""
	}
	var port int32
	switch {
	case p.HTTPGet != nil:
		port = p.HTTPGet.Port.IntVal
	case p.TCPSocket != nil:
		port = p.TCPSocket.Port.IntVal
	case p.GRPC != nil:
		port = p.GRPC.Port
	}
	ports := t.container(container).Ports
	var listed []string
	for _, c := range ports {
		if c.ContainerPort == port {
			listed = nil
			break
		}
		listed = append(listed, fmt.Sprint(c.ContainerPort))
	}
	if port != 0 && len(listed) > 0 {
		return fmt.Sprintf("The probe asks port %d, and the container names port %s: correct the probe.", port, strings.Join(listed, ", "))
	}
	return fmt.Sprintf("See whether the program answers what the probe asks within %s, and from when on (initialDelaySeconds, failureThreshold, or a startup probe).",
		time.Duration(max(p.TimeoutSeconds, 1))*time.Second)
}
