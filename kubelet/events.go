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
	broadcasters [2]record.EventBroadcaster // of normal events and of warnings
	recorders    [2]record.EventRecorder
	turn         client.Turn // what normal events wait for; set before start
}

var _ record.EventRecorder = (*eventLanes)(nil)

func newEvents(nodeName string) *eventLanes {
	e := &eventLanes{}
	for i := range e.broadcasters {
		e.broadcasters[i] = record.NewBroadcaster()
		e.recorders[i] = e.broadcasters[i].NewRecorder(client.Scheme, corev1.EventSource{Component: "kubelet", Host: nodeName})
	}
	return e
}

// start logs events, and sends them to the apiserver, nil for none, until ctx ends.
func (e *eventLanes) start(ctx context.Context, to *client.Client) {
	for i, lane := range e.broadcasters {
		lane.StartStructuredLogging(3)
		if to != nil {
			lane.StartRecordingToSink(to.EventSink(ctx, [2]client.Turn{e.turn, nil}[i]))
		}
		context.AfterFunc(ctx, lane.Shutdown)
	}
}

func (e *eventLanes) lane(eventType string) record.EventRecorder {
	if eventType == corev1.EventTypeWarning {
		return e.recorders[1]
	}
	return e.recorders[0]
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
