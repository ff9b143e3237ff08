package volumes

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// republishPeriod is how often drivers that want it are asked again.
	republishPeriod = time.Minute
	// republishLimit is how long one of them may take.
	republishLimit = 2 * time.Minute
)

// asking is a request to a driver that goes on while the pod's worker does something else.
type asking struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// Republish calls NodePublishVolume again of drivers that ask for that, when it is time. It does not wait for the answers: the
// pod goes on with what it has, also if the call fails. ctx is that of the pod's worker, which outlives a step.
//
// Upstream: pkg/volume/csi/csi_plugin.go RequiresRemount.
func (m *Manager) Republish(ctx context.Context, pod *corev1.Pod) {
	now, refresh := time.Now(), m.opts.Objects.TokenRefresh(pod.UID)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		p, ok := m.placed(pod.UID, v.Name)
		if !ok || p.csi == nil || now.Before(p.next) && (refresh.IsZero() || now.Before(refresh)) {
			continue
		}
		p.next = now.Add(republishPeriod)
		if p.asking == nil || p.asking.ended() {
			p.asking = m.askAgain(ctx, pod, v, p)
		}
		m.put(pod.UID, v.Name, p)
	}
}

func (m *Manager) askAgain(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, p place) *asking {
	again := *p.csi
	again.Pod, again.Remount = pod, true
	return beside(ctx, republishLimit, func(limited context.Context) {
		start := time.Now()
		switch _, err := m.opts.CSI.Mount(limited, &again); {
		case err == nil:
			m.caughtUp(ctx, pod, v)
		case ctx.Err() == nil && limited.Err() != context.Canceled:
			m.fellBehind(ctx, pod, v, failed(setUpFailed, p.csi.Name, err), time.Since(start))
		}
	})
}

// beside runs do, for at most limit, while the pod's worker goes on.
func beside(ctx context.Context, limit time.Duration, do func(context.Context)) *asking {
	limited, cancel := context.WithTimeout(ctx, limit)
	a := &asking{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer cancel()
		do(limited)
	}()
	return a
}

func (a *asking) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// endRepublishing cancels the calls to drivers that are under way for the pod and waits until they have ended: after
// NodeUnpublishVolume no driver may publish again.
func (m *Manager) endRepublishing(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	var all []*asking
	for _, p := range m.places[uid] {
		if p.asking != nil {
			all = append(all, p.asking)
		}
		if p.growth != nil && p.growth.asking != nil {
			all = append(all, p.growth.asking)
		}
	}
	m.mu.Unlock()
	for _, r := range all {
		r.cancel()
		select {
		case <-r.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// nextRepublish is when the first of the pod's volumes is to be published again or may have grown, zero for never.
func (m *Manager) nextRepublish(uid types.UID) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	var first time.Time
	for _, p := range m.places[uid] {
		if p.csi != nil && (first.IsZero() || p.next.Before(first)) {
			first = p.next
		}
		if p.growth != nil && (first.IsZero() || p.growth.next.Before(first)) {
			first = p.growth.next
		}
	}
	return first
}
