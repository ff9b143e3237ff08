package kubelet

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"

	"minikubelet/kubelet/client"
)

// eventLanes records events and sends them in two lanes: what goes wrong is told at once, while what goes well waits
// for pods that are starting.
//
// Upstream: cmd/kubelet/app/server.go makeEventRecorder has one.
type eventLanes struct {
	normal, warnings lane
	quiet            client.WaitQuiet // what normal events wait for; set before start
}

var _ record.EventRecorder = (*eventLanes)(nil)

func newEvents(nodeName string) *eventLanes {
	return &eventLanes{normal: newLane(nodeName), warnings: newLane(nodeName)}
}

// start logs events, and sends them to the apiserver, nil for none, until ctx ends.
func (e *eventLanes) start(ctx context.Context, to *client.Client) {
	e.normal.start(ctx, to, e.quiet)
	e.warnings.start(ctx, to, nil)
}

// lane is a queue of events with its recorder.
type lane struct {
	queue    record.EventBroadcaster
	recorder record.EventRecorder
}

func newLane(nodeName string) lane {
	queue := record.NewBroadcaster()
	return lane{queue, queue.NewRecorder(client.Scheme, corev1.EventSource{Component: "kubelet", Host: nodeName})}
}

func (l lane) start(ctx context.Context, to *client.Client, quiet client.WaitQuiet) {
	l.queue.StartStructuredLogging(3)
	if to != nil {
		l.queue.StartRecordingToSink(to.EventSink(ctx, quiet))
	}
	context.AfterFunc(ctx, l.queue.Shutdown)
}

func (e *eventLanes) lane(eventType string) record.EventRecorder {
	if eventType == corev1.EventTypeWarning {
		return e.warnings.recorder
	}
	return e.normal.recorder
}

// Event implements record.EventRecorder.
func (e *eventLanes) Event(object runtime.Object, eventType, reason, message string) {
	e.lane(eventType).Event(object, eventType, reason, message)
}

// Eventf implements record.EventRecorder.
func (e *eventLanes) Eventf(object runtime.Object, eventType, reason, format string, args ...any) {
	e.lane(eventType).Eventf(object, eventType, reason, format, args...)
}

// AnnotatedEventf implements record.EventRecorder.
func (e *eventLanes) AnnotatedEventf(object runtime.Object, annotations map[string]string, eventType, reason, format string, args ...any) {
	e.lane(eventType).AnnotatedEventf(object, annotations, eventType, reason, format, args...)
}
