package client

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
)

func rateLimiter(qps float32, burst int) flowcontrol.RateLimiter {
	return flowcontrol.NewTokenBucketRateLimiter(qps, burst)
}

// WaitQuiet returns when the machine has time for what is not urgent.
type WaitQuiet func(ctx context.Context) error

// EventSink writes events for a record.EventBroadcaster until ctx ends. They wait until it is quiet, so that pods start
// before it is told that they do, but not for long: nil is no waiting.
func (c *Client) EventSink(ctx context.Context, quiet WaitQuiet) record.EventSink {
	return &eventSink{client: c, ctx: ctx, quiet: quiet}
}

// eventSink carries its context because record's interface has none. Its methods are called one after the other.
type eventSink struct {
	client *Client
	ctx    context.Context
	quiet  WaitQuiet
	urgent time.Time // until then events do not wait
}

const (
	patience   = 30 * time.Second // how long an event waits for quiet
	impatience = time.Minute      // how long others then do not
)

func (s *eventSink) wait() {
	if s.quiet == nil || time.Now().Before(s.urgent) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if s.quiet(ctx) != nil {
		s.urgent = time.Now().Add(impatience)
	}
}

func (s *eventSink) events(namespace string) *Kind[corev1.Event, *corev1.Event] {
	return kind[corev1.Event](s.client.core(), "events", namespace)
}

func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	s.wait()
	return s.events(e.Namespace).Create(s.ctx, e, metav1.CreateOptions{})
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	s.wait()
	return s.events(e.Namespace).Update(s.ctx, e, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	s.wait()
	return s.events(e.Namespace).Patch(s.ctx, e.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
