package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// runOnceLimit is how long RunOnce waits for its pods, image pulls included.
const runOnceLimit = 5 * time.Minute

// RunOnce starts the pods of the file and the URL, waits until each runs or ended, writes
// a line for each to out, and leaves them running. It fails when one of them did.
//
// Upstream, until v1.22: pkg/kubelet/runonce.go RunOnce.
func (k *Kubelet) RunOnce(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, runOnceLimit)
	ran := make(chan error, 1)
	go func() { ran <- k.Run(ctx) }()
	var report onceReport
	_ = wait.PollUntilContextCancel(ctx, 200*time.Millisecond, false, func(context.Context) (bool, error) {
		report = k.reportPods(false)
		return report.done, nil
	})
	if !report.done {
		report = k.reportPods(true)
	}
	cancel()
	if err := <-ran; err != nil {
		return err
	}
	for _, line := range report.lines {
		fmt.Fprintln(out, line)
	}
	return errors.Join(report.failed...)
}

// onceReport is how the pods of RunOnce stand.
type onceReport struct {
	lines  []string
	failed []error
	done   bool
}

func (k *Kubelet) reportPods(final bool) onceReport {
	pods := k.core.pods.All()
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	r := onceReport{done: k.core.config.AllReady()}
	for _, pod := range pods {
		s, _ := k.core.status.Get(pod.UID)
		line := fmt.Sprintf("%s/%s %s", pod.Namespace, pod.Name, s.Phase)
		if why := waitingReasons(s); why != "" {
			line += " " + why
		}
		r.lines = append(r.lines, line)
		switch {
		case s.Phase == corev1.PodFailed, final && !runsOrEnded(s):
			r.failed = append(r.failed, errors.New("pod did not start: "+line))
		case !runsOrEnded(s):
			r.done = false
		}
	}
	return r
}

// runsOrEnded tells whether the pod runs with all its containers, or ended.
func runsOrEnded(s corev1.PodStatus) bool {
	switch s.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		return true
	case corev1.PodRunning:
		return !slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.State.Waiting != nil })
	}
	return false
}

func waitingReasons(s corev1.PodStatus) string {
	var why []string
	if s.Reason != "" {
		why = append(why, s.Reason+": "+s.Message)
	}
	for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
		if w := c.State.Waiting; w != nil {
			why = append(why, strings.TrimSuffix(c.Name+": "+w.Reason+": "+w.Message, ": "))
		}
	}
	return strings.Join(why, "; ")
}
