package images

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// parsePlatform reads os/architecture[/variant].
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		return v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}, nil
	}
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, fmt.Errorf("platform %q is not os/architecture[/variant]", s)
	}
	return *p, nil
}

// variants orders the variants of an architecture by what they need; the first is what no variant means.
var variants = map[string][]string{
	"amd64": {"v1", "v2", "v3", "v4"},
	"arm64": {"v8", "v9"},
	"arm":   {"v7", "v6", "v5"}, // an armv7 machine runs all three
}

// fit tells how well an image for one platform suits another: 0 not at all, higher is better.
func fit(image, machine v1.Platform) int {
	if image.OS != machine.OS || image.Architecture != machine.Architecture {
		return 0
	}
	known := variants[image.Architecture]
	if known == nil {
		if image.Variant == machine.Variant || machine.Variant == "" {
			return 1
		}
		return 0
	}
	needs, has := index(known, image.Variant), index(known, machine.Variant)
	switch {
	case needs < 0 || has < 0:
		return 0
	case image.Architecture == "arm": // later in the list is older
		if needs < has {
			return 0
		}
		return len(known) - needs
	case needs > has:
		return 0
	}
	return 1 + needs
}

func index(list []string, variant string) int {
	if variant == "" {
		return 0
	}
	for i, v := range list {
		if v == variant {
			return i
		}
	}
	return -1
}

// runsOn takes an image that does not say its platform for one that runs everywhere.
func runsOn(image, machine v1.Platform) bool {
	if image.OS == "" || image.Architecture == "" {
		return true
	}
	return fit(image, machine) > 0
}

// isIndex goes by the media type, and by content where a registry does not tell one.
func isIndex(mediaType types.MediaType, content []byte) bool {
	if mediaType.IsIndex() {
		return true
	}
	var shape struct {
		Manifests []json.RawMessage `json:"manifests"`
		Config    json.RawMessage   `json:"config"`
	}
	return !mediaType.IsImage() && json.Unmarshal(content, &shape) == nil && shape.Manifests != nil && shape.Config == nil
}

// choose picks the manifest for this machine from an index. An entry without a platform serves when no other does.
func (s *Store) choose(content []byte) (v1.Descriptor, error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(content, &idx); err != nil {
		return v1.Descriptor{}, fmt.Errorf("read index: %w", err)
	}
	return s.chooseFrom(idx.Manifests)
}

func (s *Store) chooseFrom(manifests []v1.Descriptor) (v1.Descriptor, error) {
	var best v1.Descriptor
	bestFit := -1
	var offered []string
	for _, m := range manifests {
		if m.Digest.Hex == "" || !m.MediaType.IsImage() && !m.MediaType.IsIndex() && m.MediaType != "" {
			continue
		}
		score := 0
		if m.Platform != nil && m.Platform.OS != "" {
			offered = append(offered, m.Platform.String())
			if score = fit(*m.Platform, s.platform); score == 0 {
				continue
			}
		}
		if score > bestFit {
			best, bestFit = m, score
		}
	}
	if bestFit < 0 {
		return v1.Descriptor{}, fmt.Errorf("no image for %s, only for [%s]", s.platform, strings.Join(offered, ", "))
	}
	return best, nil
}
