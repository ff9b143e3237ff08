package server

import (
	"net/http"
	"net/url"
)

// masked stands for what is secret.
const masked = "<masked>"

// getConfigz answers with the configuration that is in force, without the secrets in it.
//
// Upstream: staging/src/k8s.io/component-base/configz/configz.go
func (s *Server) getConfigz(w http.ResponseWriter, _ *http.Request) error {
	config := s.settings.DeepCopy()
	config.StaticPodURL = maskedURL(config.StaticPodURL)
	for name := range config.StaticPodURLHeader {
		config.StaticPodURLHeader[name] = []string{masked}
	}
	return writeJSON(w, map[string]any{"kubeletconfig": config})
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
