package settings

import (
	"net/url"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// Mask stands for what is secret.
const Mask = "<masked>"

// Masked is the configuration without the secrets in it: who asks for static pods at a URL, and what for.
func (s *Settings) Masked() *kubeletconfig.KubeletConfiguration {
	c := s.DeepCopy()
	c.StaticPodURL = MaskURL(c.StaticPodURL)
	for name := range c.StaticPodURLHeader {
		c.StaticPodURLHeader[name] = []string{Mask}
	}
	return c
}

// YAML is the masked configuration as a file would have it.
func (s *Settings) YAML() string {
	text, err := yaml.Marshal(s.Masked())
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
