package server

import (
	"errors"
	"time"

	"k8s.io/klog/v2"
)

// logTimeout is how long writing out the log may take before that counts as a fault.
const logTimeout = time.Second

// newLogCheck returns a check that the log can be written: a reader of standard error that hangs stops the kubelet
// sooner or later.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/server/healthz/healthz.go LogHealthz
func newLogCheck() func() error {
	flushing := make(chan struct{}, 1)
	return func() error {
		select {
		case flushing <- struct{}{}:
		default:
			return errors.New("an earlier write of the log has not ended")
		}
		done := make(chan struct{})
		go func() {
			klog.Flush()
			<-flushing
			close(done)
		}()
		select {
		case <-done:
			return nil
		case <-time.After(logTimeout):
			return errors.New("the log could not be written in time")
		}
	}
}
