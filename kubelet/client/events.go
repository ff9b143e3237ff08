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

// Turn waits until the machine has room for what is not urgent; leave tells that it is done.
type Turn func(ctx context.Context) (leave func(), err error)

// EventSink writes events for a record.EventBroadcaster until ctx ends. They wait for their turns, so that pods start
// before it is told that they do, but not for long: nil is no waiting.
func (c *Client) EventSink(ctx context.Context, turn Turn) record.EventSink {
	return &eventSink{client: c, ctx: ctx, turn: turn}
}

// eventSink carries its context because record's interface has none. Its methods are called one after the other.
type eventSink struct {
	client *Client
	ctx    context.Context
	turn   Turn
	urgent time.Time // until then events do not wait
}

const (
	patience   = 30 * time.Second // how long an event waits for its turn
	impatience = time.Minute      // how long others then do not
)

func (s *eventSink) wait() (leave func()) {
	if s.turn == nil || time.Now().Before(s.urgent) {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	leave, err := s.turn(ctx)
	if err != nil {
		s.urgent = time.Now().Add(impatience)
		return func() {}
	}
	return leave
}

func (s *eventSink) events(namespace string) *Kind[corev1.Event, *corev1.Event] {
	return kind[corev1.Event](s.client.core(), "events", namespace)
}

func (s *eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	defer s.wait()()
	return s.events(e.Namespace).Create(s.ctx, e, metav1.CreateOptions{})
}

func (s *eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	defer s.wait()()
	return s.events(e.Namespace).Update(s.ctx, e, metav1.UpdateOptions{})
}

func (s *eventSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	defer s.wait()()
	return s.events(e.Namespace).Patch(s.ctx, e.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
