// Package story tells a pod's life in sentences, and first of all why it does not run or was restarted, and what can be
// done about that. It is pure: all that it knows is its input.
package story

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	podinfo "minikubelet/config/pod"
)

// Input is all that Tell looks at.
type Input struct {
	// Pod has its newest status.
	Pod *corev1.Pod
	// Events are the pod's, the oldest first.
	Events []Event
	// Trouble is what keeps the node from being ready, "" if nothing does.
	Trouble string
	// Pulls are the images that are being pulled on the node now, with how far they are.
	Pulls []Pull
	// Attaching are the names of the pod's volumes that it waits for to be attached to the node.
	Attaching []string
	// Steps are what the kubelet did for the pod, the oldest first, if that was recorded.
	Steps []Step
	Now   time.Time
}

// Event is an event of the pod, and how often it came.
type Event struct {
	First, Last     time.Time
	Count           int
	Warning         bool
	Reason, Message string
	Container       string // "" if it is the pod's
}

// Pull is how far an image is: bytes of the layers that are being fetched.
type Pull struct {
	Image       string
	Done, Total int64
}

// Step is something that the kubelet did, or does.
type Step struct {
	Name string `json:"name"` // of a call PACKAGE.SERVICE/METHOD
	// Why is the reason for the step: the planner's, or that of what woke the worker.
	Why   string    `json:"why,omitempty"`
	Error string    `json:"error,omitempty"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"` // zero while it goes on
}

// Running tells whether the step goes on.
func (s *Step) Running() bool { return s.End.IsZero() }

// Summary is what is told of a pod in one line.
type Summary struct {
	UID      types.UID `json:"uid"`
	Name     string    `json:"pod"` // NAMESPACE/NAME
	State    string    `json:"state"`
	Ready    int       `json:"ready"` // how many containers are
	Of       int       `json:"of"`
	Restarts int32     `json:"restarts"`
	IP       string    `json:"ip,omitempty"`
	Source   string    `json:"source,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	// Cause names what Answer tells, for programs; "" if there is nothing to tell.
	Cause string `json:"cause,omitempty"`
	// Answer is why the pod does not run, is not ready, or was restarted, Remedy what can be done, "" if nothing has to be.
	Answer string `json:"answer,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Progress is what takes long just now.
	Progress string `json:"progress,omitempty"`
	// Gone says that the pod is not on the node any more.
	Gone bool `json:"gone,omitempty"`
}

// Story is what is told of a pod.
type Story struct {
	Summary
	Life []Line `json:"life"`
}

// Line is one sentence of the pod's life.
type Line struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
	late int       // 1 for after all else of its second
}

// Tell tells the story of a pod.
func Tell(in Input) Story {
	pod := in.Pod
	a := in.answer()
	s := Story{Life: in.life(), Summary: Summary{
		UID: pod.UID, Name: pod.Namespace + "/" + pod.Name, State: harmless(in.state()), Progress: harmless(in.progress()), IP: pod.Status.PodIP,
		Cause: a.cause, Answer: harmless(a.text), Remedy: harmless(a.remedy),
		Source: cmp.Or(pod.Annotations[podinfo.SourceAnnotation], "api"), Created: cmp.Or(pod.CreationTimestamp.Time, in.took()),
	}}
	for range podinfo.LastingContainers(pod) {
		s.Of++
	}
	for _, c := range in.statuses() {
		init := in.isInit(c.Name)
		if c.Ready && !init {
			s.Ready++
		}
		if !init || pod.Status.Phase == corev1.PodPending {
			s.Restarts += c.RestartCount
		}
	}
	return s
}

var control = regexp.MustCompile(`\p{Cc}`)

// harmless writes control characters, as of a probe's output, as Go does, for a terminal would obey them; a line stays one line.
func harmless(text string) string {
	return control.ReplaceAllStringFunc(text, func(c string) string { return strings.Trim(strconv.Quote(c), `"`) })
}

// Write writes the story for people.
func (s Story) Write(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s\n", s.Name, s.State)
	for _, part := range [][2]string{{"Now", s.Progress}, {"Why", s.Answer}, {"What to do", s.Remedy}} {
		if part[1] != "" {
			fmt.Fprintf(&text, "\n%s: %s\n", part[0], part[1])
		}
	}
	text.WriteString("\nIts life so far:\n")
	for _, l := range s.Life {
		fmt.Fprintf(&text, "  %s  %s\n", l.At.Local().Format("15:04:05"), l.Text)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// state is the pod's phase in a word or two, as lists of pods show it.
func (t Input) state() string {
	s := &t.Pod.Status
	switch {
	case t.Pod.DeletionTimestamp != nil:
		return "Terminating"
	case s.Reason != "" && (s.Phase == corev1.PodFailed || s.Phase == corev1.PodSucceeded):
		return fmt.Sprintf("%s (%s)", s.Phase, s.Reason)
	case t.isReady():
		return "Ready"
	}
	phase := cmp.Or(string(s.Phase), string(corev1.PodPending))
	for i, c := range t.statuses() {
		if w := c.State.Waiting; w != nil && w.Reason != "" && (w.Reason != podInitializing || i < len(s.InitContainerStatuses)) {
			return fmt.Sprintf("%s (%s: %s)", phase, c.Name, w.Reason)
		}
		if s.Phase == corev1.PodRunning && c.State.Running != nil && !c.Ready && !t.isInit(c.Name) {
			return fmt.Sprintf("%s (%s: not ready)", phase, c.Name)
		}
	}
	return phase
}

// statuses are those of all containers, init containers first.
func (t Input) statuses() []corev1.ContainerStatus {
	s := &t.Pod.Status
	return slices.Concat(s.InitContainerStatuses, s.ContainerStatuses)
}

// took is when the kubelet took the pod, zero if that is to come.
func (t Input) took() time.Time { return ptr.Deref(t.Pod.Status.StartTime, metav1.Time{}).Time }

func (t Input) container(name string) *corev1.Container {
	return cmp.Or(podinfo.Container(t.Pod, name), &corev1.Container{Name: name})
}

// isInit tells whether the container has to end before others start, so not for sidecars.
func (t Input) isInit(name string) bool {
	return podinfo.IsInit(t.Pod, name) && !podinfo.IsSidecar(t.container(name))
}

func (t Input) isReady() bool { return t.readiness().Status == corev1.ConditionTrue }

// readiness is the pod's condition Ready, an empty one if it has none.
func (t Input) readiness() corev1.PodCondition {
	for _, c := range t.Pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c
		}
	}
	return corev1.PodCondition{}
}

// last is the newest event with one of the reasons, nil if there is none. container "" is for those of all.
func (t Input) last(container string, reasons ...string) *Event {
	var newest *Event
	for i := range t.Events {
		e := &t.Events[i]
		if (container == "" || e.Container == container) && slices.Contains(reasons, e.Reason) && (newest == nil || !e.Last.Before(newest.Last)) {
			newest = e
		}
	}
	return newest
}

// progress is what takes long: a pull, or the step that is under way.
func (t Input) progress() string {
	for _, c := range t.statuses() {
		e := t.last(c.Name, "Pulling", "Pulled", "Failed", "BackOff", "Created")
		if c.State.Waiting == nil || e == nil || e.Reason != "Pulling" {
			continue
		}
		image, fetched := t.container(c.Name).Image, ""
		if i := slices.IndexFunc(t.Pulls, func(p Pull) bool { return p.Total > 0 && sameImage(p.Image, image) }); i >= 0 {
			fetched = fmt.Sprintf(", %s of %s", size(t.Pulls[i].Done), size(t.Pulls[i].Total))
		}
		return fmt.Sprintf("pulling image %s for container %s%s, for %s so far", image, c.Name, fetched, t.ago(e.Last))
	}
	for _, s := range slices.Backward(t.Steps) {
		if s.Running() && t.Now.Sub(s.Start) >= time.Second {
			return fmt.Sprintf("%s, for %s so far%s", path.Base(s.Name), t.ago(s.Start), between(", because ", s.Why, ""))
		}
	}
	return ""
}

// sameImage tells whether a pod's image is the full name that a runtime calls it by.
func sameImage(full, image string) bool {
	return full == image || strings.HasSuffix(full, "/"+image) || strings.HasPrefix(full, image+":") || strings.HasSuffix(full, "/"+image+":latest")
}

// ago is how long ago something was, in whole seconds.
func (t Input) ago(at time.Time) time.Duration { return t.Now.Sub(at).Round(time.Second) }

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// life is what happened to the pod, in the order of time: its events, and what its status says of times. The status's times have
// no fractions of a second: what late says comes after all else of its second.
func (t Input) life() []Line {
	var lines []Line
	add := func(late int, at time.Time, format string, args ...any) {
		if !at.IsZero() {
			lines = append(lines, Line{at, harmless(fmt.Sprintf(format, args...)), late})
		}
	}
	s := &t.Pod.Status
	from := ""
	if source := t.Pod.Annotations["kubernetes.io/config.source"]; source == "" || source == "api" {
		add(0, t.Pod.CreationTimestamp.Time, "The pod was created.")
	} else {
		from = " from " + source
	}
	add(0, t.took(), "The kubelet took it%s.", from)
	for i := range t.Events {
		e := &t.Events[i]
		add(0, e.First, "%s", sentence(e))
		if e.Count > 1 && e.Last.Sub(e.First) >= time.Second {
			add(0, e.Last, "%s By then %d times.", sentence(e), e.Count)
		}
	}
	for _, s := range t.Steps {
		if s.Error != "" {
			add(0, s.End, "%s failed: %s", path.Base(s.Name), firstLine(s.Error))
		}
	}
	for _, c := range t.statuses() {
		for _, end := range []*corev1.ContainerStateTerminated{c.LastTerminationState.Terminated, c.State.Terminated} {
			if end != nil {
				add(1, end.FinishedAt.Time, "Container %s %s.", c.Name, t.end(c.Name, end).text)
			}
		}
	}
	if t.isReady() {
		add(1, t.readiness().LastTransitionTime.Time, "The pod is Ready%s.", between(", at ", s.PodIP, ""))
	}
	if d := t.Pod.DeletionTimestamp; d != nil {
		grace := time.Duration(ptr.Deref(t.Pod.DeletionGracePeriodSeconds, 0)) * time.Second
		add(0, d.Add(-grace), "It was deleted, with %s of grace.", grace)
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.At.Unix(), b.At.Unix()), cmp.Compare(a.late, b.late), a.At.Compare(b.At))
	})
	return lines
}

// sentence is what an event tells, in our words where its own say less than they could.
func sentence(e *Event) string {
	deed := map[string]string{"Created": "was made.", "Started": "was started.", "BackOff": "has to wait before the next try."}[e.Reason]
	if deed != "" && e.Container != "" {
		return "Container " + e.Container + " " + deed
	}
	text := cmp.Or(firstLine(e.Message), e.Reason)
	if !strings.ContainsAny(text[len(text)-1:], ".!?") {
		text += "."
	}
	return text
}
