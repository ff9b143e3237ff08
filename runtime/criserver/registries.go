package criserver

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"minikubelet/runtime/criserver/images"
)

// LoadRegistries reads a file that says how to reach registries, by the host in image references:
//
//	docker.io: {mirrors: ["http://10.0.0.1:5000"]}
//	registry.example:5000: {insecure: true}
func LoadRegistries(path string) (map[string]images.Registry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read registry configuration: %w", err)
	}
	var hosts map[string]struct {
		Mirrors  []string `json:"mirrors"`
		Insecure bool     `json:"insecure"`
	}
	if err := yaml.UnmarshalStrict(data, &hosts); err != nil {
		return nil, fmt.Errorf("read registry configuration %s: %w", path, err)
	}
	registries := map[string]images.Registry{}
	for host, how := range hosts {
		registries[host] = images.Registry{Mirrors: how.Mirrors, Insecure: how.Insecure}
	}
	return registries, nil
}
