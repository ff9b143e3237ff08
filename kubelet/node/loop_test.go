package node

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestLoopHealthy: a node whose pods are not looked after says so within seconds, once, whatever its runtime says.
func TestLoopHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var stall atomic.Pointer[error]
		stall.Store(new(error))
		w.reports.LoopHealthy = func() error { return *stall.Load() }
		w.start(nil)
		defer w.stop()
		w.wait(notReadyPatience)
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Fatalf("at the start: %+v", r)
		}
		stall.Store(new(errors.New("no turn since noon")))
		w.requests()
		w.wait(checkPeriod)
		if r := w.ready(); r.Status != corev1.ConditionFalse || r.Reason != "KubeletNotReady" || r.Message != "no turn since noon" {
			t.Errorf("while the loop stands still: %+v", r)
		}
		w.wait(5 * time.Second)
		if got := w.requests()["patch nodes/status"]; got != 1 {
			t.Errorf("told %d times", got)
		}
		stall.Store(new(error))
		w.wait(checkPeriod)
		if r := w.ready(); r.Status != corev1.ConditionTrue {
			t.Errorf("when it turns again: %+v", r)
		}
	})
}

// TestKnown: the apiserver is asked nothing until it can know the kubelet, and the node is registered as soon as it does.
func TestKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		known := make(chan struct{})
		o := w.options(root(t, nil))
		o.Known = known
		w.startWith(o)
		defer w.stop()
		w.wait(silencePatience + time.Minute)
		if asked := w.api.Actions(); len(asked) > 0 {
			t.Errorf("asked before the kubelet is known: %v", asked)
		}
		close(known)
		synctest.Wait()
		w.get()
	})
}
