package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"minikubelet/runtime/criserver/bounded"
)

// source is where the parts of an image are: a registry, or an archive in the layout of the OCI.
type source interface {
	// manifest reads the manifest or index with a digest.
	manifest(ctx context.Context, digest v1.Hash) ([]byte, error)
	// blob opens a config or a layer. The caller checks its size and digest.
	blob(ctx context.Context, want v1.Descriptor) (io.ReadCloser, error)
}

// maxIndexDepth is how many indexes may name one another before a manifest comes.
const maxIndexDepth = 4

// describe goes from a manifest or index to the manifest for this machine, and returns the layers that this names and
// what the image's config says. The config is not read again when an image here has it.
func (s *Store) describe(ctx context.Context, from source, top v1.Descriptor, content []byte) ([]v1.Descriptor, *record, error) {
	mediaType := top.MediaType
	for range maxIndexDepth {
		if !isIndex(mediaType, content) {
			return s.describeManifest(ctx, from, mediaType, content)
		}
		chosen, err := s.choose(content)
		if err != nil {
			return nil, nil, err
		}
		if content, err = from.manifest(ctx, chosen.Digest); err != nil {
			return nil, nil, err
		}
		mediaType = chosen.MediaType
	}
	return nil, nil, fmt.Errorf("indexes are nested more than %d deep", maxIndexDepth)
}

func (s *Store) describeManifest(ctx context.Context, from source, mediaType types.MediaType, content []byte) ([]v1.Descriptor, *record, error) {
	manifest, err := s.parseManifest(content, mediaType)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	r := s.images[manifest.Config.Digest.String()]
	s.mu.Unlock()
	if r == nil {
		body, err := from.blob(ctx, manifest.Config)
		if err != nil {
			return nil, nil, fmt.Errorf("read image config: %w", err)
		}
		defer body.Close()
		config, err := readVerified(body, manifest.Config.Digest, s.options.Limits.ConfigBytes)
		if err != nil {
			return nil, nil, fmt.Errorf("read image config: %w", err)
		}
		if r, err = s.newRecord(config); err != nil {
			return nil, nil, err
		}
	}
	return manifest.Layers, r, s.checkConfig(r, len(manifest.Layers))
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

// checkConfig compares an image's config with the number of layers that come with it, and with this machine.
func (s *Store) checkConfig(r *record, layers int) error {
	if have := len(r.Chains); have != layers {
		return fmt.Errorf("image has %d layers in its manifest and %d in its config", layers, have)
	}
	if p := r.config.Platform(); p != nil && !s.runs(*p) {
		return fmt.Errorf("image is for %s, this machine is %s", p, s.platform)
	}
	return nil
}

// readVerified reads a small blob whole.
func readVerified(r io.Reader, want v1.Hash, limit int64) ([]byte, error) {
	hasher, err := v1.Hasher(want.Algorithm)
	if err != nil {
		return nil, err
	}
	content, err := bounded.ReadAll(io.TeeReader(r, hasher), limit)
	if err != nil {
		return nil, err
	}
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != want.Hex {
		return nil, fmt.Errorf("content has digest %s, not %s", got, want.Hex)
	}
	return content, nil
}
