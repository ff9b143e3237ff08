package kubelet

import (
	"context"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/settings"
	"minikubelet/kubelet/timeline"
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
	chaos, err := timeline.ParseChaos(s.Chaos)
	if err != nil {
		return nil, err
	}
	if chaos != nil {
		chaos.Warn(ctx)
		t.calls = []grpc.DialOption{grpc.WithChainUnaryInterceptor(chaos.Unary)}
	}
	if t.steps, err = timeline.ParseStep(s.Step); err != nil || s.Timeline == "" {
		return t, err
	}
	t.recorder = timeline.NewRecorder()
	t.watcher = t.recorder
	if t.steps != nil {
		t.steps.Use(ctx, t.recorder)
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
			state := timeline.State{Node: b.settings.NodeName, Version: b.settings.Version, Pods: summaries(b, c), Channels: c.channels(), Writes: c.status.Unwritten()}
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
