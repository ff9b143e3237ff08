package story

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// life is what happened to the pod, in the order of time: its events, and what its status says of times. The status's times have
// no fractions of a second: what late says comes after all else of its second.
func (t Input) life() []Line {
	var lines []Line
	add := func(late bool, at time.Time, format string, args ...any) {
		if !at.IsZero() {
			lines = append(lines, Line{at, fmt.Sprintf(format, args...), late})
		}
	}
	s := &t.Pod.Status
	from := ""
	if source := t.Pod.Annotations["kubernetes.io/config.source"]; source == "" || source == "api" {
		add(false, t.Pod.CreationTimestamp.Time, "The pod was created.")
	} else {
		from = " from " + source
	}
	if s.StartTime != nil {
		add(false, s.StartTime.Time, "The kubelet took it%s.", from)
	}
	for i := range t.Events {
		e := &t.Events[i]
		add(false, e.First, "%s", sentence(e))
		if e.Count > 1 && e.Last.Sub(e.First) >= time.Second {
			add(false, e.Last, "%s By then %d times.", sentence(e), e.Count)
		}
	}
	for _, s := range t.Steps {
		if s.Error != "" {
			add(false, s.End, "%s failed: %s", path.Base(s.Name), firstLine(s.Error))
		}
	}
	for _, c := range t.statuses() {
		for _, end := range []*corev1.ContainerStateTerminated{c.LastTerminationState.Terminated, c.State.Terminated} {
			if end != nil {
				add(true, end.FinishedAt.Time, "Container %s %s.", c.Name, t.end(c.Name, end).text)
			}
		}
	}
	if t.isReady() {
		add(true, t.readiness().LastTransitionTime.Time, "The pod is Ready%s.", strings.TrimSuffix(", at "+s.PodIP, ", at "))
	}
	if d := t.Pod.DeletionTimestamp; d != nil {
		grace := time.Duration(0)
		if g := t.Pod.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		add(false, d.Add(-grace), "It was deleted, with %s of grace.", grace)
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		if order := cmp.Compare(a.At.Unix(), b.At.Unix()); order != 0 || a.late != b.late {
			return cmp.Or(order, map[bool]int{true: 1, false: -1}[a.late])
		}
		return a.At.Compare(b.At)
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
