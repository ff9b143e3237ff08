package server

import (
	"net/http"
	"net/url"
)

// masked stands for what is secret.
const masked = "<masked>"

// getConfigz answers with the configuration that is in force, without the secrets in it. Fields that differ in the files and
// need a restart are named beside it.
//
// Upstream: staging/src/k8s.io/component-base/configz/configz.go
func (s *Server) getConfigz(w http.ResponseWriter, _ *http.Request) error {
	force, restart := s.settings, []string(nil)
	if s.options.Current != nil { // part: live settings, kubelet/live
		force, restart = s.options.Current()
	}
	config := force.DeepCopy()
	config.StaticPodURL = maskedURL(config.StaticPodURL)
	for name := range config.StaticPodURLHeader {
		config.StaticPodURLHeader[name] = []string{masked}
	}
	answer := map[string]any{"kubeletconfig": config}
	if len(restart) > 0 {
		answer["needsRestart"] = restart
	}
	return writeJSON(w, answer)
}

// maskedURL is a URL without what may be secret in it: who asks, and what for.
func maskedURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return masked
	}
	if u.User != nil {
		u.User = url.User("masked")
	}
	if u.RawQuery != "" {
		u.RawQuery = "masked"
	}
	return u.String()
}
