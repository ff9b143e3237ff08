package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"sort"
	"strings"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// source is where the description of an image is: a registry, or an archive in the layout of the OCI. The caller checks the
// digests.
type source interface {
	// manifest reads a manifest or an index.
	manifest(ctx context.Context, digest v1.Hash) ([]byte, error)
	// config reads an image's config.
	config(ctx context.Context, want v1.Descriptor) ([]byte, error)
}

// maxManifests is how many indexes and manifests are read to find the one for this machine.
const maxManifests = 100

// describe goes from a manifest or index to the manifest for this machine, and returns the layers that this names and
// what the image's config says. The content of the first is read unless it is known.
func (s *Store) describe(ctx context.Context, from source, at v1.Descriptor, content []byte) ([]v1.Descriptor, *record, error) {
	var offered []string // platforms of other machines
	candidates := []v1.Descriptor{at}
	for n := 0; len(candidates) > 0; n, content = n+1, nil {
		if n == maxManifests {
			return nil, nil, fmt.Errorf("no image for %s in the first %d manifests and indexes", s.platform, maxManifests)
		}
		at, candidates = candidates[0], candidates[1:]
		if content == nil {
			var err error
			if content, err = from.manifest(ctx, at.Digest); err == nil {
				err = verify(content, at.Digest)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("read manifest %s: %w", at.Digest, err)
			}
		}
		if isIndex(at.MediaType, content) {
			fitting, others, err := s.choose(content)
			if err != nil {
				return nil, nil, err
			}
			candidates, offered = append(fitting, candidates...), append(offered, others...)
			continue
		}
		layers, r, err := s.describeManifest(ctx, from, at.MediaType, content)
		if err != nil || s.runs(r.config.Platform()) {
			return layers, r, err
		}
		offered = append(offered, r.config.Platform().String())
	}
	return nil, nil, fmt.Errorf("no image for %s, only for [%s]", s.platform, strings.Join(offered, ", "))
}

// describeManifest does not read the config again when an image here has it.
func (s *Store) describeManifest(ctx context.Context, from source, mediaType types.MediaType, content []byte) ([]v1.Descriptor, *record, error) {
	manifest, err := s.parseManifest(content, mediaType)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	r := s.images[manifest.Config.Digest.String()]
	s.mu.Unlock()
	if r == nil {
		config, err := from.config(ctx, manifest.Config)
		if err == nil {
			err = verify(config, manifest.Config.Digest)
		}
		if err == nil {
			r, err = s.newRecord(config)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read image config: %w", err)
		}
	}
	return manifest.Layers, r, r.checkLayers(len(manifest.Layers))
}

// parseManifest refuses what is not an image that can run here.
func (s *Store) parseManifest(content []byte, mediaType types.MediaType) (*v1.Manifest, error) {
	if mediaType == types.DockerManifestSchema1 || mediaType == types.DockerManifestSchema1Signed {
		return nil, errors.New("the image has a manifest of docker's schema 1, which is not supported: push it again with a newer tool")
	}
	var m v1.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if m.SchemaVersion != 2 || m.Config.Digest.Hex == "" {
		return nil, fmt.Errorf("manifest of type %q is not that of an image", mediaType)
	}
	if len(m.Layers) > s.options.Limits.Layers {
		return nil, fmt.Errorf("image has %d layers, more than %d", len(m.Layers), s.options.Limits.Layers)
	}
	for _, l := range m.Layers {
		if l.Digest.Hex == "" || l.Size <= 0 || l.Size > s.options.Limits.CompressedBytes {
			return nil, fmt.Errorf("layer %q of %d bytes is refused: more than %d or nothing", l.Digest, l.Size, s.options.Limits.CompressedBytes)
		}
	}
	if m.Config.Size <= 0 || m.Config.Size > s.options.Limits.ConfigBytes {
		return nil, fmt.Errorf("image config of %d bytes is refused: more than %d or nothing", m.Config.Size, s.options.Limits.ConfigBytes)
	}
	return &m, nil
}

// checkLayers compares an image's config with the number of layers that come with it.
func (r *record) checkLayers(n int) error {
	if have := len(r.Chains); have != n {
		return fmt.Errorf("image has %d layers in its manifest and %d in its config: perhaps it is an artifact of another kind", n, have)
	}
	return nil
}

// verify compares content with the digest that it must have.
func verify(content []byte, want v1.Hash) error {
	hasher, err := v1.Hasher(want.Algorithm)
	if err != nil {
		return err
	}
	hasher.Write(content)
	return checkDigest(hasher, want)
}

func checkDigest(hasher hash.Hash, want v1.Hash) error {
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != want.Hex {
		return fmt.Errorf("content has digest %s, not %s", got, want.Hex)
	}
	return nil
}

// fits tells whether an image for a platform runs here, or with another variant of this architecture. Unlike containerd, this
// leaves out 32-bit images on 64-bit machines: not all of those run them, and an error of the pull says why.
func (s *Store) fits(p v1.Platform) bool {
	spec := specOf(p)
	return spec.Architecture == s.platform.Architecture && s.order.Match(spec)
}

// specOf has the names of Go for what other tools call x86_64 or aarch64.
func specOf(p v1.Platform) specs.Platform {
	return platforms.Normalize(specs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
}

// runs takes an image that does not say its platform for one that runs everywhere.
func (s *Store) runs(p *v1.Platform) bool {
	return p == nil || p.OS == "" || p.Architecture == "" || s.fits(*p)
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

// choose picks from an index what may lead to the image for this machine: entries for it, the best first, then those
// without a platform. others are the platforms of the rest.
func (s *Store) choose(content []byte) (fitting []v1.Descriptor, others []string, err error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(content, &idx); err != nil {
		return nil, nil, fmt.Errorf("read index: %w", err)
	}
	var unnamed []v1.Descriptor
	for _, m := range idx.Manifests {
		switch {
		case m.Platform != nil && m.Platform.OS == "unknown": // says how another one was made
		case m.Digest.Hex == "" || !m.MediaType.IsImage() && !m.MediaType.IsIndex() && m.MediaType != "":
		case m.Platform == nil || m.Platform.OS == "":
			unnamed = append(unnamed, m)
		case s.fits(*m.Platform):
			fitting = append(fitting, m)
		default:
			others = append(others, m.Platform.String())
		}
	}
	sort.SliceStable(fitting, func(i, j int) bool {
		return s.order.Less(specOf(*fitting[i].Platform), specOf(*fitting[j].Platform))
	})
	return append(fitting, unnamed...), others, nil
}
