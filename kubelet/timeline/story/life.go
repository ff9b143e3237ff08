package story

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// life is what happened to the pod, in the order of time: its events, and what its status says of times.
func (t teller) life() []Line {
	var lines []Line
	add := func(at time.Time, format string, args ...any) {
		if !at.IsZero() {
			lines = append(lines, Line{at, fmt.Sprintf(format, args...)})
		}
	}
	from := t.Pod.Annotations["kubernetes.io/config.source"]
	if from == "" || from == "api" {
		add(t.Pod.CreationTimestamp.Time, "The pod was created.")
	} else {
		from = " from " + from
	}
	if at := t.Pod.Status.StartTime; at != nil {
		add(at.Time, "The kubelet took it%s.", strings.TrimSuffix(from, "api"))
	}
	for i := range t.Events {
		e := &t.Events[i]
		add(e.First, "%s", sentence(e))
		if e.Count > 1 && e.Last.Sub(e.First) >= time.Second {
			add(e.Last, "%s For the %s time.", sentence(e), ordinal(e.Count))
		}
	}
	for _, s := range t.Steps {
		if s.Error != "" {
			add(s.Began.Add(s.Took), "%s failed: %s", s.Name, firstLine(s.Error))
		}
	}
	for _, c := range t.statuses() {
		for _, end := range []*corev1.ContainerStateTerminated{c.LastTerminationState.Terminated, c.State.Terminated} {
			if end != nil {
				add(t.behindStart(end.FinishedAt.Time, c.Name), "Container %s %s.", c.Name, t.end(c.Name, end).text)
			}
		}
	}
	if c := t.readiness(); c != nil && c.Status == corev1.ConditionTrue {
		add(t.behindStart(c.LastTransitionTime.Time, ""), "The pod is Ready%s.", at(t.Pod.Status.PodIP))
	}
	if d := t.Pod.DeletionTimestamp; d != nil {
		grace := time.Duration(0)
		if g := t.Pod.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		add(d.Add(-grace), "It was deleted, with %s of grace.", grace)
	}
	slices.SortStableFunc(lines, func(a, b Line) int { return a.At.Compare(b.At) })
	return lines
}

// behindStart moves a time of the status, which has no fractions of a second, behind the starts in the same second: those of the
// container, or of all for "".
func (t teller) behindStart(at time.Time, container string) time.Time {
	if at.Nanosecond() != 0 {
		return at
	}
	for i := range t.Events {
		e := &t.Events[i]
		if e.Reason == "Started" && (container == "" || e.Container == container) && e.First.Unix() == at.Unix() && e.First.After(at) {
			at = e.First
		}
	}
	return at
}

func at(address string) string {
	if address == "" {
		return ""
	}
	return ", at " + address
}

// deeds are the sentences of events whose messages say less than they could.
var deeds = map[string]string{
	"Created": "Container %s was made.",
	"Started": "Container %s was started.",
	"BackOff": "Container %s has to wait before the next try.",
}

// sentence is what an event tells.
func sentence(e *Event) string {
	if deed, ok := deeds[e.Reason]; ok && e.Container != "" {
		return fmt.Sprintf(deed, e.Container)
	}
	text := cmp.Or(firstLine(e.Message), e.Reason)
	if !strings.ContainsAny(text[len(text)-1:], ".!?") {
		text += "."
	}
	return text
}

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
