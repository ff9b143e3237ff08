package server

import (
	"net/http"
	"time"

	"minikubelet/kubelet/settings"
)

// getConfigz answers with the configuration that is in force, without the secrets in it. Fields that differ in the files and
// need a restart are named beside it.
//
// Upstream: staging/src/k8s.io/component-base/configz/configz.go
func (s *Server) getConfigz(w http.ResponseWriter, _ *http.Request) error {
	force, restart := s.current()
	answer := map[string]any{"kubeletconfig": force.Masked()}
	if len(restart) > 0 {
		answer["needsRestart"] = restart
	}
	return writeJSON(w, answer)
}

// current returns the settings in force, and the fields that need a restart.
func (s *Server) current() (*settings.Settings, []string) {
	if s.options.Current != nil { // part: live settings, kubelet/live
		return s.options.Current()
	}
	return s.settings, nil
}

// idleTimeout is how long a connection may stand still: streamingConnectionIdleTimeout.
func (s *Server) idleTimeout() time.Duration {
	force, _ := s.current()
	return force.StreamingConnectionIdleTimeout.Duration
}
