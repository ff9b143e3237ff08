package server

import "net/http"

// getConfigz answers with the configuration that is in force, without the secrets in it. Fields that differ in the files and
// need a restart are named beside it.
//
// Upstream: staging/src/k8s.io/component-base/configz/configz.go
func (s *Server) getConfigz(w http.ResponseWriter, _ *http.Request) error {
	force, restart := s.settings, []string(nil)
	if s.options.Current != nil { // part: live settings, kubelet/live
		force, restart = s.options.Current()
	}
	answer := map[string]any{"kubeletconfig": force.Masked()}
	if len(restart) > 0 {
		answer["needsRestart"] = restart
	}
	return writeJSON(w, answer)
}
