package pleg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

// plausible is how far the time in an event may be from now. An event further off was queued while there was no stream, or
// the clock was set. Such a time cannot be compared with others, so all pods are listed instead.
const plausible = time.Minute

// errNoEvents is what a runtime means that ends the stream as soon as it is opened. CRI-O does unless enable_pod_events
// is set.
var errNoEvents = errors.New("the runtime ended the event stream at once: it sends no events, so all pods are listed again and again")

// streamLoop keeps an event stream open.
func (p *PLEG) streamLoop(ctx context.Context) {
	failures := logChange{what: "Following the events of the runtime"}
	for ctx.Err() == nil {
		err := p.follow(ctx, func() { failures.log(ctx, nil) })
		p.setStreaming(false)
		if ctx.Err() != nil {
			return
		}
		p.metrics.streamErrors.Inc()
		pause := reconnectPeriod
		if cri.IsUnimplemented(err) || errors.Is(err, errNoEvents) {
			pause = reprobePeriod
		}
		failures.log(ctx, err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// follow opens the stream and takes events from it until it breaks. first is called when the first one came.
//
// Upstream: pkg/kubelet/pleg/evented.go watchEventsChannel, processCRIEvents
func (p *PLEG) follow(ctx context.Context, first func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.CRI.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return fmt.Errorf("open the event stream: %w", err)
	}
	opened := time.Now()
	p.metrics.streams.Inc()
	p.setStreaming(true)
	for n := 0; ; n++ {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) && n == 0 && time.Since(opened) < reconnectPeriod {
			return errNoEvents
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the runtime ended the event stream")
		}
		if err != nil {
			return fmt.Errorf("read the event stream: %w", err)
		}
		if n == 0 {
			first()
		}
		p.handle(ctx, event)
	}
}

// setStreaming notes whether the stream is open. A change of that asks for a relist: events may have been missed.
func (p *PLEG) setStreaming(on bool) {
	p.mu.Lock()
	changed := p.streaming != on
	p.streaming, p.relistedOnce = on, false
	p.mu.Unlock()
	if changed {
		p.relistNow()
	}
}

// handle brings the cache up to date with one event.
func (p *PLEG) handle(ctx context.Context, event *runtimeapi.ContainerEventResponse) {
	p.alive() // part: health of the PLEG, runtime/pleg/health.go
	id, removed := event.ContainerId, event.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	now := time.Now()
	age := now.Round(0).Sub(time.Unix(0, event.CreatedAt))
	at := now.Add(-max(age, 0)) // comparable with other readings although the clock may be set between
	klog.FromContext(ctx).V(5).Info("Runtime event", "containerID", id, "type", event.ContainerEventType, "age", age)
	var from *cri.PodStatus // what something was removed from
	if removed {
		var left *cri.PodStatus
		from, left = p.Cache.gone(id)
		p.tell(from, left)
	}
	if age.Abs() > plausible {
		p.relistNow()
		return
	}
	p.metrics.latency.Observe(max(age, 0).Seconds())
	payload := cri.FromEvent(event)
	// Without its sandbox an event tells nothing but a removal; with a sandbox that is no pod's of a kubelet, nothing either.
	if payload == nil && event.PodSandboxStatus == nil && !removed {
		p.relistNow()
	}
	if pod := cmp.Or(payload, from); pod != nil {
		cri.Mark(ctx, "runtimeEvent", cri.Pod(pod.UID, pod.Namespace, pod.Name), strings.TrimSuffix(event.ContainerEventType.String(), "_EVENT")+" "+id)
	}
	if payload != nil {
		p.tell(p.Cache.take(payload.At(at), fromEvent))
	}
}
