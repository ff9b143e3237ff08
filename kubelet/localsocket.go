package kubelet

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/local"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/timeline/story"
	"minikubelet/runtime/criserver/images"
)

// newLocal makes what the local socket tells from before anything else, so that nothing is missed. The embedded runtime says how
// far its pulls are.
func newLocal(b *base) *local.Local {
	l := local.New()
	b.events.queue.StartEventWatcher(l.Record)
	b.settings.Embedded.Images.Progress = func(e images.Event) {
		switch {
		case e.Layer == "":
			l.Pulled(e.Image)
		case e.Phase == images.Downloading:
			l.Pulling(e.Image, e.Layer, e.Done, e.Total)
		}
	}
	return l
}

// openLocal opens the local socket, and returns what answers on it. A kubelet that cannot have one says so and runs without.
func openLocal(ctx context.Context, b *base, c *core) []func(context.Context) {
	socket, s := b.local, b.settings
	c.status.OnChange(socket.Changed)
	if err := socket.Listen(local.Options{
		RootDir: s.RootDir, Pods: c.podsWithStatus,
		Server: server.NewLocal(ctx, server.Options{Settings: s, CRI: b.cri, Pods: c.podsWithStatus, Observed: c.cache.Get}),
		Story:  func(pod *corev1.Pod) story.Story { return tell(b, c, pod) }, Summaries: func() []story.Summary { return summaries(b, c) },
		Stop: func(pod *corev1.Pod, gracePeriod *int64) <-chan struct{} {
			c.fail(pod, gracePeriod, "Stopped", "Stopped on the node by kubelet stop", nil)
			return c.workers.Cleaned(pod.UID)
		},
	}); err != nil {
		klog.FromContext(ctx).Error(err, "There will be no local socket, and so no kubelet explain, pods, watch, logs, exec and stop")
		return nil
	}
	return []func(context.Context){socket.Run}
}

// summaries are a line of each pod, by name.
func summaries(b *base, c *core) (all []story.Summary) {
	for _, pod := range c.podsWithStatus() {
		all = append(all, tell(b, c, pod).Summary)
	}
	slices.SortFunc(all, func(a, b story.Summary) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID)) })
	return all
}

// tell tells a pod's story from what is known of it now.
func tell(b *base, c *core, pod *corev1.Pod) story.Story {
	in := story.Input{Pod: pod, Events: b.local.Events(pod.UID), Trouble: c.node.Trouble(), Pulls: b.local.Pulls(), Attaching: c.csi.Attaching(pod.UID), Now: time.Now()}
	if recorder := b.timeline.recorder; recorder != nil { // part: timeline, kubelet/timeline
		for _, step := range recorder.Steps(pod.UID) {
			in.Steps = append(in.Steps, step.Step)
		}
		for _, held := range b.timeline.steps.Held() {
			if held.Pod == pod.UID {
				in.Steps = append(in.Steps, held.Step.Step)
			}
		}
	}
	return story.Tell(in)
}
