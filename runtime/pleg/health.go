package pleg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"
)

// Healthy reports whether the runtime was heard from within relistThreshold.
func (p *PLEG) Healthy() (bool, error) {
	p.mu.Lock()
	seen := p.seen
	p.mu.Unlock()
	if seen.IsZero() {
		return false, errors.New("pleg has yet to be successful")
	}
	// The message names the moment and not the time since then: a message that changed every second would be written to
	// the node's status every second.
	if time.Since(seen) > relistThreshold {
		return false, fmt.Errorf("pleg was last seen active at %s; threshold is %v", seen.UTC().Format(time.RFC3339), relistThreshold)
	}
	return true, nil
}

// alive remembers that the runtime spoke.
func (p *PLEG) alive() {
	now := time.Now()
	p.mu.Lock()
	p.seen = now
	p.mu.Unlock()
	p.metrics.lastSeen.Set(float64(now.Unix()))
}

// logChange logs an error when it comes and when it goes, not every second between.
type logChange struct {
	what   string
	failed bool
}

func (l *logChange) log(ctx context.Context, err error) {
	switch log := klog.FromContext(ctx); {
	case err != nil && !l.failed:
		log.Error(err, l.what+" failed, will be retried")
	case err == nil && l.failed:
		log.Info(l.what + " works again")
	}
	l.failed = err != nil
}
