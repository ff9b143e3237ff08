package client

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// EventSink writes events for a record.EventBroadcaster until ctx ends.
func (c *Client) EventSink(ctx context.Context) record.EventSink {
	return &eventSink{client: c, ctx: ctx}
}

// eventSink carries its context because record's interface has none.
type eventSink struct {
	client *Client
	ctx    context.Context
}

func (s *eventSink) events(namespace string) *Kind[corev1.Event, *corev1.Event] {
	return kind[corev1.Event](s.client.core(), "events", namespace)
}

func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.events(e.Namespace).Create(s.ctx, e, metav1.CreateOptions{})
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return s.events(e.Namespace).Update(s.ctx, e, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.events(e.Namespace).Patch(s.ctx, e.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
