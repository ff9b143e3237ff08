package settings

import (
	"net/url"
	"regexp"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// Mask stands for what is secret.
const Mask = "<masked>"

// credential matches the names of headers that hold one.
var credential = regexp.MustCompile(`(?i)auth|cookie|key|password|secret|session|signature|token`)

// Masked is the configuration without the secrets in it: who asks for static pods at a URL, and what for.
func (s *Settings) Masked() *kubeletconfig.KubeletConfiguration {
	return s.masked(credential.MatchString)
}

func (s *Settings) masked(header func(name string) bool) *kubeletconfig.KubeletConfiguration {
	c := s.DeepCopy()
	c.StaticPodURL = MaskURL(c.StaticPodURL)
	for name := range c.StaticPodURLHeader {
		if header(name) {
			c.StaticPodURLHeader[name] = []string{Mask}
		}
	}
	return c
}

// YAML is the masked configuration as a file would have it. As it goes into the log, which more people read than may ask the
// kubelet for its configuration, no header's value is in it.
func (s *Settings) YAML() string {
	text, err := yaml.Marshal(s.masked(func(string) bool { return true }))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// MaskURL is a URL without what may be secret in it.
func MaskURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return Mask
	}
	if u.User != nil {
		u.User = url.User("masked")
	}
	if u.RawQuery != "" {
		u.RawQuery = "masked"
	}
	return u.String()
}
