package timeline

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Facts is what the page shows besides steps. Each function is called from the page's goroutines, a few times a second while
// a browser has the page open, and must not wait. Those that are nil have nothing to show.
type Facts struct {
	Node, Version string
	// Pods are the pods that should run, with their newest status.
	Pods func() []*corev1.Pod
	// Sentence says in one sentence how a pod is, and why it does not run.
	Sentence func(pod *corev1.Pod) string
	Channels func() []Channel
	Workers  func() []Worker
	// Writes are the pods whose status is not in the apiserver yet, with the time since when.
	Writes func() map[types.UID]time.Time
}

// Channel is one that the sync loop reads from.
type Channel struct {
	Name     string `json:"name"`
	Waiting  int    `json:"waiting"`
	Capacity int    `json:"capacity"`
}

// Worker is a pod's goroutine with its mailbox.
type Worker struct {
	Pod   types.UID `json:"pod"`
	Phase string    `json:"phase"`
	Mail  bool      `json:"mail"`  // an update that no step has seen
	Rings bool      `json:"rings"` // there is a reason for another step
}

// write is a status that is not in the apiserver yet.
type write struct {
	Pod   types.UID `json:"pod"`
	Since time.Time `json:"since"`
}

// state is what the page shows besides steps, as it is sent.
type state struct {
	Node     string     `json:"node"`
	Version  string     `json:"version"`
	Pods     []podState `json:"pods"`
	Channels []Channel  `json:"channels"`
	Workers  []Worker   `json:"workers"`
	Calls    []Calls    `json:"calls"`
	Writes   []write    `json:"writes"`
	Held     []Held     `json:"held"`
	Modes    []string   `json:"modes"` // what of --step and --chaos is on
}

type podState struct {
	Pod
	Phase    string `json:"phase"`
	Reason   string `json:"reason,omitempty"`
	Ready    bool   `json:"ready"`
	Gone     bool   `json:"gone,omitempty"` // only its steps are left
	Source   string `json:"source,omitempty"`
	Started  int    `json:"started"` // of its containers
	Count    int    `json:"count"`
	Restarts int32  `json:"restarts"`
	Sentence string `json:"sentence,omitempty"`
}

// state collects what is true now.
func (p *Page) state() state {
	s := state{Node: p.facts.Node, Version: p.facts.Version, Calls: p.recorder.Calls(), Held: p.steps.Held(), Modes: p.modes()}
	f := p.facts
	if f.Channels != nil {
		s.Channels = f.Channels()
	}
	if f.Workers != nil {
		s.Workers = f.Workers()
		slices.SortFunc(s.Workers, func(a, b Worker) int { return cmp.Compare(a.Pod, b.Pod) })
	}
	if f.Writes != nil {
		for uid, since := range f.Writes() {
			s.Writes = append(s.Writes, write{uid, since})
		}
		slices.SortFunc(s.Writes, func(a, b write) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Pod, b.Pod)) })
	}
	here := map[types.UID]bool{}
	if f.Pods != nil {
		for _, pod := range f.Pods() {
			here[pod.UID] = true
			s.Pods = append(s.Pods, p.podState(pod))
		}
	}
	for _, pod := range p.recorder.Pods() {
		if !here[pod.UID] {
			s.Pods = append(s.Pods, podState{Pod: pod, Phase: "Gone", Gone: true})
		}
	}
	slices.SortFunc(s.Pods, func(a, b podState) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) })
	return s
}

// podState is how a pod is, in the words of kubectl get pods.
func (p *Page) podState(pod *corev1.Pod) podState {
	s := podState{
		Pod: Pod{pod.UID, pod.Namespace + "/" + pod.Name}, Phase: cmp.Or(string(pod.Status.Phase), string(corev1.PodPending)),
		Reason: pod.Status.Reason, Source: cmp.Or(pod.Annotations["kubernetes.io/config.source"], "api"), Count: len(pod.Spec.Containers),
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		s.Restarts += c.RestartCount
		switch {
		case s.Reason != "":
		case c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing":
			s.Reason = c.State.Waiting.Reason
		case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
			s.Reason = cmp.Or(c.State.Terminated.Reason, fmt.Sprint("ExitCode ", c.State.Terminated.ExitCode))
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			s.Started++
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			s.Ready = c.Status == corev1.ConditionTrue
		}
	}
	if pod.DeletionTimestamp != nil {
		s.Phase = "Terminating"
	}
	if p.facts.Sentence != nil {
		s.Sentence = cut(p.facts.Sentence(pod))
	}
	return s
}

func (p *Page) modes() []string {
	var modes []string
	if p.steps != nil {
		modes = append(modes, "--step="+p.steps.String())
	}
	if p.chaos != nil {
		modes = append(modes, "--chaos="+p.chaos.String())
	}
	return modes
}
