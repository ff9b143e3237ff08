package pleg

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

const (
	podReadTimeout  = 10 * time.Second // a pod that cannot be read sooner waits for the next relist
	podReadParallel = 8
)

// relistLoop relists when asked, and after a while when not.
func (p *PLEG) relistLoop(ctx context.Context) {
	failures := logChange{what: "Listing the pods of the runtime"}
	for ctx.Err() == nil {
		complete, err := p.relist(ctx)
		if ctx.Err() != nil {
			return
		}
		failures.log(ctx, err)
		select {
		case <-time.After(p.pause(complete && err == nil)):
		case <-p.kick:
		case <-ctx.Done():
		}
	}
}

// pause is the time until the next relist. The first one after the stream was opened may have been too early: the
// runtime does not say when it begins to send. So a second one follows soon.
func (p *PLEG) pause(complete bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.streaming || !complete {
		return relistPeriod
	}
	if !p.relistedOnce {
		p.relistedOnce = true
		return relistPeriod
	}
	return eventedRelistPeriod
}

// relist lists all pods and reads those that are not as the cache has them. complete is false when some could not be
// read.
//
// Upstream: pkg/kubelet/pleg/generic.go Relist
func (p *PLEG) relist(ctx context.Context) (complete bool, err error) {
	start := time.Now()
	listed, err := cri.ListPods(ctx, p.CRI)
	if err != nil {
		return false, err
	}
	p.Cache.retain(listed, start, p.tell)
	complete = p.readChanged(ctx, listed)
	if before := p.Cache.listedAt(start); !before.IsZero() {
		p.metrics.interval.Observe(start.Sub(before).Seconds())
	}
	p.metrics.duration.Observe(time.Since(start).Seconds())
	p.alive()
	select {
	case <-p.synced:
	default:
		close(p.synced)
	}
	return complete, nil
}

// readChanged reads the pods whose states differ from the cache's, some at a time: one that hangs holds up no other.
func (p *PLEG) readChanged(ctx context.Context, listed map[types.UID]*cri.PodStatus) (complete bool) {
	var group errgroup.Group
	group.SetLimit(podReadParallel)
	for uid, shallow := range listed {
		old, known := p.Cache.Get(uid)
		if known && !old.Shallow() && same(old, shallow) {
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, podReadTimeout)
			defer cancel()
			start := time.Now()
			pod, err := cri.ReadPod(ctx, p.CRI, uid, old)
			p.metrics.podRead.Observe(time.Since(start).Seconds())
			if err != nil {
				klog.FromContext(ctx).Error(err, "Reading a pod from the runtime failed, will be retried", "pod", klog.KRef(shallow.Namespace, shallow.Name), "podUID", uid)
				if known {
					return err
				}
				p.tell(p.Cache.take(shallow, fromPart)) // at least it is known to be there
				return err
			}
			p.tell(p.Cache.take(pod, fromList))
			return nil
		})
	}
	return group.Wait() == nil
}
