package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"
)

const (
	maxReviews    = 4096             // answers that are remembered
	reviewTimeout = 10 * time.Second // for one answer, second tries included
	retryPause    = 500 * time.Millisecond
	atOnce        = 32 // questions to the apiserver at a time: guesses must not keep it from other work
)

// reviews asks each question once, remembers the answer for as long as it says, and forgets the oldest ones first.
// What was asked is kept as a keyed hash only: tokens are not to be found in the memory or the core of the kubelet.
type reviews[T any] struct {
	key     []byte
	answers *lru.Cache
	flights singleflight.Group
	slots   chan struct{}
	now     func() time.Time
}

type reviewed[T any] struct {
	value T
	until time.Time
}

func newReviews[T any]() *reviews[T] {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return &reviews[T]{key: key, answers: lru.New(maxReviews), slots: make(chan struct{}, atOnce), now: time.Now}
}

// get returns the remembered answer, or asks. All who want to know the same wait for one answer, which does not
// depend on any of them staying.
func (r *reviews[T]) get(ctx context.Context, question []byte, ask func(context.Context) (T, time.Duration, error)) (T, error) {
	var none T
	hash := hmac.New(sha256.New, r.key)
	hash.Write(question)
	key := string(hash.Sum(nil))
	if value, ok := r.remembered(key); ok {
		return value, nil
	}
	flight := r.flights.DoChan(key, func() (any, error) {
		// An earlier flight may have landed since this caller looked.
		if value, ok := r.remembered(key); ok {
			return value, nil
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		value, ttl, err := r.ask(limited, ask)
		if err == nil && ttl > 0 {
			r.answers.Add(key, reviewed[T]{value, r.now().Add(ttl)})
		}
		return value, err
	})
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case result := <-flight:
		if result.Err != nil {
			return none, result.Err
		}
		return result.Val.(T), nil
	}
}

func (r *reviews[T]) remembered(key string) (value T, ok bool) {
	if known, found := r.answers.Get(key); found {
		answer := known.(reviewed[T])
		return answer.value, r.now().Before(answer.until)
	}
	return value, false
}

// ask asks until there is an answer, time is up, or asking again makes no sense.
func (r *reviews[T]) ask(ctx context.Context, ask func(context.Context) (T, time.Duration, error)) (value T, ttl time.Duration, err error) {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return value, 0, ctx.Err()
	}
	for {
		value, ttl, err = ask(ctx)
		if err == nil || !worthRetrying(err) {
			return value, ttl, err
		}
		select {
		case <-ctx.Done():
			return value, 0, errors.Join(err, ctx.Err())
		case <-time.After(retryPause):
		}
	}
}

// worthRetrying tells an apiserver that is away or busy from one that has answered.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/util/webhook/webhook.go DefaultShouldRetry
func worthRetrying(err error) bool {
	if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
		return !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
	}
	return apierrors.IsInternalError(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err)
}
