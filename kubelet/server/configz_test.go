package server

import (
	"testing"
	"time"

	"minikubelet/kubelet/settings"
)

// TestIdleTimeout: what a connection may stand still is asked of the settings in force.
func TestIdleTimeout(t *testing.T) {
	before, now := &settings.Settings{}, &settings.Settings{}
	before.StreamingConnectionIdleTimeout.Duration, now.StreamingConnectionIdleTimeout.Duration = time.Hour, time.Minute
	s := &Server{settings: before}
	if got := s.idleTimeout(); got != time.Hour {
		t.Errorf("without other settings %v", got)
	}
	s.options.Current = func() (*settings.Settings, []string) { return now, nil }
	if got := s.idleTimeout(); got != time.Minute {
		t.Errorf("with other settings %v", got)
	}
}
