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
	"minikubelet/kubelet/timeline/story"
)

// timelineFile is the file below the root directory that has the link of the timeline's page.
const timelineFile = "timeline-link"

// timelinePart is the timeline, or what is on of it. All of its fields may be nil.
type timelinePart struct {
	recorder *timeline.Recorder
	page     *timeline.Page
	steps    *timeline.StepMode
	chaos    *timeline.Chaos
}

// newTimeline makes what --timeline, --step and --chaos ask for.
func newTimeline(ctx context.Context, s *settings.Settings) (t *timelinePart, err error) {
	t = &timelinePart{}
	if t.steps, err = timeline.ParseStep(s.Step); err != nil {
		return nil, err
	}
	if t.chaos, err = timeline.ParseChaos(s.Chaos); err != nil {
		return nil, err
	}
	t.chaos.Warn(ctx)
	if s.Timeline == "" {
		return t, nil
	}
	t.recorder = timeline.NewRecorder()
	t.steps.Use(ctx, t.recorder)
	t.page, err = timeline.Listen(s.Timeline, t.recorder, t.steps, t.chaos)
	return t, err
}

// watcher is who wants the spans; nil for no timeline.
func (t *timelinePart) watcher() sdktrace.SpanProcessor {
	if t.recorder == nil {
		return nil
	}
	return t.recorder
}

// first is what calls to the runtime pass through before their deadlines begin, calls is what they pass through afterwards.
func (t *timelinePart) first() []grpc.DialOption { return through(t.steps != nil, t.steps.Unary) }
func (t *timelinePart) calls() []grpc.DialOption { return through(t.chaos != nil, t.chaos.Unary) }

func through(on bool, unary grpc.UnaryClientInterceptor) []grpc.DialOption {
	if !on {
		return nil
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary)}
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
		t.page.Run(ctx, timeline.Facts{
			Node: b.settings.NodeName, Version: b.settings.Version, Pods: func() []story.Summary { return summaries(b, c) },
			Channels: c.channels, Workers: c.mailboxes, Writes: c.status.Unwritten,
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

func (c *core) mailboxes() []timeline.Worker {
	var all []timeline.Worker
	for _, m := range c.workers.Mailboxes() {
		all = append(all, timeline.Worker{Pod: m.UID, Phase: m.Phase.String(), Mail: m.Mail, Rings: m.Rings})
	}
	return all
}
