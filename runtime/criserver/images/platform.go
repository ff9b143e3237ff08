package images

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// fits tells whether an image for a platform runs here, or with another variant of this architecture. Unlike containerd, this
// leaves out 32-bit images on 64-bit machines: not all of those run them, and an error of the pull says why.
func (s *Store) fits(p v1.Platform) bool {
	return p.Architecture == s.platform.Architecture && s.order.Match(specOf(p))
}

func specOf(p v1.Platform) specs.Platform {
	return specs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// runs takes an image that does not say its platform for one that runs everywhere.
func (s *Store) runs(p v1.Platform) bool { return p.OS == "" || p.Architecture == "" || s.fits(p) }

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
	manifests := idx.Manifests
	var best, unnamed *v1.Descriptor
	var offered []string
	for i, m := range manifests {
		switch {
		case m.Digest.Hex == "" || !m.MediaType.IsImage() && !m.MediaType.IsIndex() && m.MediaType != "":
		case m.Platform == nil || m.Platform.OS == "":
			if unnamed == nil {
				unnamed = &manifests[i]
			}
		default:
			offered = append(offered, m.Platform.String())
			if s.fits(*m.Platform) && (best == nil || s.order.Less(specOf(*m.Platform), specOf(*best.Platform))) {
				best = &manifests[i]
			}
		}
	}
	if best = cmp.Or(best, unnamed); best == nil {
		return v1.Descriptor{}, fmt.Errorf("no image for %s, only for [%s]", s.platform, strings.Join(offered, ", "))
	}
	return *best, nil
}
