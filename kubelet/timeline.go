package kubelet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/hold"
	"minikubelet/kubelet/local"
	"minikubelet/kubelet/server"
	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/timeline"
	"minikubelet/kubelet/timeline/story"
	"minikubelet/runtime/criserver/images"
)

// timelineFile is the file below the root directory that has the link of the timeline's page.
const timelineFile = "timeline-link"

// timelinePart is the timeline, or what is on of it. All of its fields may be nil.
type timelinePart struct {
	recorder *timeline.Recorder
	watcher  sdktrace.SpanProcessor // the recorder, which wants the spans
	page     *timeline.Page
	steps    *timeline.StepMode
	// Calls to the runtime pass through first before their deadlines begin, and through calls afterwards.
	first, calls []grpc.DialOption
}

// newTimeline makes what --timeline, --step and --chaos ask for.
func newTimeline(ctx context.Context, s *settings.Settings) (t *timelinePart, err error) {
	t = &timelinePart{}
	chaos, wrongChaos := timeline.ParseChaos(s.Chaos)
	steps, wrongStep := timeline.ParseStep(s.Step)
	if err := errors.Join(wrongChaos, wrongStep); err != nil {
		return nil, err
	}
	if chaos != nil {
		klog.FromContext(ctx).Info("CHAOS: calls to the container runtime are made to fail, wait or hang", "chaos", s.Chaos)
		t.calls = []grpc.DialOption{grpc.WithChainUnaryInterceptor(chaos.Unary)}
	}
	if t.steps = steps; s.Timeline == "" {
		return t, nil
	}
	t.recorder = timeline.NewRecorder()
	t.watcher = t.recorder
	if t.steps != nil {
		t.steps.Use(ctx, t.recorder, s.NodeName)
		t.first = []grpc.DialOption{grpc.WithChainUnaryInterceptor(t.steps.Unary)}
	}
	t.page, err = timeline.Listen(s.Timeline, t.recorder, t.steps, chaos)
	return t, err
}

// run serves the page until ctx ends.
func (t *timelinePart) run(b *base, c *core) func(context.Context) {
	return func(ctx context.Context) {
		if t.page == nil {
			return
		}
		path := filepath.Join(b.settings.RootDir, timelineFile)
		if err := renameio.WriteFile(path, []byte(t.page.Link()+"\n"), 0o600); err != nil {
			klog.FromContext(ctx).Error(err, "The link of the timeline's page could not be written down")
		}
		defer os.Remove(path)
		if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil && t.steps != nil {
			go t.steps.Terminal(os.Stdin, os.Stderr) // ends with the process: nothing interrupts a read of a terminal
		}
		t.page.Run(ctx, func() timeline.State {
			state := timeline.State{Node: b.settings.NodeName, Version: b.settings.Version, Pods: b.local.Summaries(), Channels: c.channels(), Writes: c.status.Unwritten()}
			for _, m := range c.workers.Mailboxes() {
				state.Workers = append(state.Workers, timeline.Worker{Pod: m.UID, Phase: m.Phase.String(), Mail: m.Mail, Rings: m.Rings})
			}
			return state
		})
	}
}

// channels are those that the loop reads from.
func (c *core) channels() []timeline.Channel {
	return []timeline.Channel{
		{Name: "changes of pods, from the sources", Waiting: len(c.config.Updates()), Capacity: cap(c.config.Updates())},
		{Name: "pods that the runtime says changed (a bell)", Waiting: len(c.pleg.Bell()), Capacity: cap(c.pleg.Bell())},
		{Name: "results of probes", Waiting: len(c.probes.Results()), Capacity: cap(c.probes.Results())},
		{Name: "pods whose Secrets, ConfigMaps or node changed", Waiting: len(c.resync), Capacity: cap(c.resync)},
	}
}

// newLocal makes what the local socket tells from, before all else, so that it misses nothing. The embedded runtime says how pulls go.
func newLocal(b *base) *local.Local {
	l := local.New()
	b.events.queue.StartEventWatcher(l.Record)
	b.settings.Embedded.Images.Progress = func(e images.Event) {
		if e.Layer == "" || e.Phase == images.Downloading {
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
		Story:  func(pod *corev1.Pod) story.Story { return tell(b, c, pod) },
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

// tell tells a pod's story from what is known of it now.
func tell(b *base, c *core, pod *corev1.Pod) story.Story {
	in := story.Input{Pod: pod, Events: b.local.Events(pod.UID), Trouble: c.node.Trouble(), Pulls: b.local.Pulls(), Attaching: c.csi.Attaching(pod.UID), Now: time.Now()}
	if recorder := b.timeline.recorder; recorder != nil { // part: timeline, kubelet/timeline
		for _, step := range recorder.Steps(string(pod.UID)) {
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

// holdLease returns what renews the node's lease while a debugger holds this process; nothing without --debug-hold. A kubelet
// without an apiserver has no lease.
func holdLease(ctx context.Context, b *base) []func(context.Context) {
	s, logger := b.settings, klog.FromContext(ctx)
	switch {
	case !s.DebugHold:
		return nil
	case s.Standalone():
		logger.Info("WARNING: --debug-hold: calls to the runtime may take an hour; there is no apiserver, and so no lease to renew")
		return nil
	}
	wait, err := hold.Start(ctx, hold.Options{Kubeconfig: s.Kubeconfig, Node: s.NodeName, Duration: time.Duration(s.NodeLeaseDurationSeconds) * time.Second})
	if err != nil {
		logger.Error(err, "The node's lease is not renewed while a debugger holds the kubelet")
		return nil
	}
	logger.Info("WARNING: --debug-hold: the node stays Ready in its cluster even while a debugger holds the kubelet and its pods are not synced")
	return []func(context.Context){wait}
}
