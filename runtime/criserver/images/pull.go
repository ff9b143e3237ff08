package images

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.opentelemetry.io/otel/trace"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
)

// Phase says what is done with an image or layer.
type Phase string

// The phases, in their order. A layer that is there already goes straight to Ready.
const (
	Resolving   Phase = "Resolving"   // an image's manifest and config are read
	Downloading Phase = "Downloading" // of a layer; several times as it goes on
	Unpacking   Phase = "Unpacking"   // of a layer
	Ready       Phase = "Ready"       // of a layer, then of the image
)

// Event is one step of a pull or an import.
type Event struct {
	Image string // its name
	Layer string // diffID of the layer; "" for the image
	Phase Phase
	Done  int64 // bytes of the layer downloaded
	Total int64
}

// report hands a step to whoever asked for it.
func (s *Store) report(ctx context.Context, e Event) {
	klog.FromContext(ctx).V(4).Info("Image progress", "image", e.Image, "layer", e.Layer, "phase", e.Phase, "bytes", e.Done, "of", e.Total)
	if e.Layer != "" {
		trace.SpanFromContext(ctx).AddEvent(fmt.Sprintf("%s: layer %.12s, %.1f of %.1f MB", e.Phase, strings.TrimPrefix(e.Layer, "sha256:"), float64(e.Done)/1e6, float64(e.Total)/1e6))
	}
	if s.options.Progress != nil {
		s.options.Progress(e)
	}
}

// Pull brings an image here and returns its ID. It always asks a registry: what a name means may have changed, and the
// credentials may not be good for it. Only what is missing is then downloaded. Equal pulls at the same time are one.
func (s *Store) Pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	named, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	return s.flights.do(ctx, pullKey(named, auth), func(ctx context.Context) (string, error) {
		return s.pull(ctx, named, auth)
	})
}

// pullKey tells pulls apart by credentials too: nobody shares in what only another may pull.
func pullKey(named reference.Named, auth *runtimeapi.AuthConfig) string {
	secret := fmt.Sprintf("%q", []string{auth.GetUsername(), auth.GetPassword(), auth.GetAuth(), auth.GetServerAddress(),
		auth.GetIdentityToken(), auth.GetRegistryToken()})
	return fmt.Sprintf("%s %x", named, sha256.Sum256([]byte(secret)))
}

// pull tries the mirrors, then the registry.
func (s *Store) pull(ctx context.Context, named reference.Named, auth *runtimeapi.AuthConfig) (string, error) {
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "image", named.String())
	ctx = klog.NewContext(ctx, logger)
	started := time.Now()
	var failures []error
	for _, e := range s.endpoints(reference.Domain(named)) {
		r, err := s.pullFrom(ctx, e, named, auth)
		if err == nil {
			logger.Info("Pulled image", "imageID", r.ID, "from", e.host, "layers", len(r.Chains), "seconds", time.Since(started).Seconds())
			s.report(ctx, Event{Image: named.String(), Phase: Ready})
			return r.ID, nil
		}
		failures = append(failures, fmt.Errorf("pull %s from %s: %w", named, e.host, err))
		if ctx.Err() != nil {
			break
		}
		logger.Info("Could not pull image", "from", e.host, "err", err)
	}
	return "", errors.Join(failures...)
}

func (s *Store) pullFrom(ctx context.Context, e endpoint, named reference.Named, auth *runtimeapi.AuthConfig) (r *record, err error) {
	s.report(ctx, Event{Image: named.String(), Phase: Resolving})
	from, digest, manifest, r, err := s.describe(ctx, e, named, auth)
	if err != nil {
		return nil, err
	}
	release := s.claim(append(blobNames(manifest.Layers), r.Chains...)...)
	defer func() {
		release()
		if err == nil { // else the next try needs them
			s.dropBlobs(manifest.Layers)
		}
	}()
	specs := make([]layerSpec, len(r.Chains))
	for i := range specs {
		specs[i] = layerSpec{chain: r.Chains[i], diffID: r.config.RootFS.DiffIDs[i], open: func(ctx context.Context) (io.ReadCloser, error) {
			return s.fetchBlob(ctx, from, manifest.Layers[i], func(done int64) {
				s.report(ctx, Event{Image: named.String(), Layer: r.config.RootFS.DiffIDs[i].String(), Phase: Downloading,
					Done: done, Total: manifest.Layers[i].Size})
			})
		}}
	}
	if err = s.ensureLayers(ctx, named.String(), specs); err != nil {
		return nil, err
	}
	var tags []string
	if tagged, ok := named.(reference.NamedTagged); ok {
		tags = append(tags, tagged.String())
	}
	digests := []string{reference.TrimNamed(named).String() + "@" + digest.String()}
	if err = s.commit(ctx, r, tags, digests); err != nil {
		return nil, err
	}
	return r, nil
}

// describeTimeout is for all that comes before the layers, which is small. Tests shorten it.
var describeTimeout = 2 * time.Minute

// describe logs in and reads what the image consists of.
func (s *Store) describe(ctx context.Context, e endpoint, named reference.Named, auth *runtimeapi.AuthConfig) (from *session, digest v1.Hash,
	manifest *v1.Manifest, r *record, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, describeTimeout, fmt.Errorf("the registry takes longer than %s to describe the image", describeTimeout))
	defer cancel()
	if from, err = s.dial(ctx, e, named, auth); err != nil {
		err = fmt.Errorf("log in: %w", err)
	} else if digest, manifest, err = s.resolve(ctx, from, named); err == nil {
		r, err = s.remoteConfig(ctx, from, manifest)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return from, digest, manifest, r, err
}

// resolve reads the manifest for this platform, and the digest by which the image is known: the index's if it has one.
func (s *Store) resolve(ctx context.Context, from *session, named reference.Named) (v1.Hash, *v1.Manifest, error) {
	identifier := "latest"
	switch n := named.(type) {
	case reference.Digested:
		identifier = n.Digest().String()
	case reference.Tagged:
		identifier = n.Tag()
	}
	top, err := from.manifest(ctx, identifier)
	if err != nil {
		return v1.Hash{}, nil, err
	}
	content, mediaType := top.Manifest, top.MediaType
	for range maxIndexDepth {
		if !isIndex(mediaType, content) {
			manifest, err := s.parseManifest(content, mediaType)
			return top.Digest, manifest, err
		}
		chosen, err := s.choose(content)
		if err != nil {
			return v1.Hash{}, nil, err
		}
		next, err := from.manifest(ctx, chosen.Digest.String())
		if err != nil {
			return v1.Hash{}, nil, err
		}
		content, mediaType = next.Manifest, next.MediaType
	}
	return v1.Hash{}, nil, fmt.Errorf("indexes are nested more than %d deep", maxIndexDepth)
}

// maxIndexDepth is how many indexes may name one another before a manifest comes.
const maxIndexDepth = 4

// manifest reads a manifest or index, by digest only the one that has it.
func (s *session) manifest(ctx context.Context, identifier string) (*remote.Descriptor, error) {
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(s.transport)}
	var ref name.Reference = s.repository.Tag(identifier)
	if _, err := v1.NewHash(identifier); err == nil {
		ref = s.repository.Digest(identifier)
	}
	d, err := remote.Get(ref, options...)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", identifier, classify(err))
	}
	return d, nil
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

// remoteConfig reads the config, unless an image here has it.
func (s *Store) remoteConfig(ctx context.Context, from *session, manifest *v1.Manifest) (*record, error) {
	s.mu.Lock()
	known := s.images[manifest.Config.Digest.String()]
	s.mu.Unlock()
	if known != nil {
		return s.checkConfig(known, manifest)
	}
	body, err := from.open(ctx, manifest.Config.Digest, 0, manifest.Config.Size)
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	defer body.Close()
	config, err := readVerified(body, manifest.Config, s.options.Limits.ConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	r, err := s.newRecord(config)
	if err != nil {
		return nil, err
	}
	return s.checkConfig(r, manifest)
}

// checkConfig compares an image's config with its manifest and with this machine.
func (s *Store) checkConfig(r *record, manifest *v1.Manifest) (*record, error) {
	if have := len(r.config.RootFS.DiffIDs); have != len(manifest.Layers) {
		return nil, fmt.Errorf("image has %d layers in its manifest and %d in its config", len(manifest.Layers), have)
	}
	if p := r.config.Platform(); p != nil && !s.runs(*p) {
		return nil, fmt.Errorf("image is for %s, this machine is %s", p, s.platform)
	}
	return r, nil
}

// readVerified reads a small blob whole.
func readVerified(r io.Reader, d v1.Descriptor, limit int64) ([]byte, error) {
	content, err := bounded.ReadAll(r, limit)
	if err != nil {
		return nil, err
	}
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return nil, err
	}
	hasher.Write(content)
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != d.Digest.Hex {
		return nil, fmt.Errorf("content has digest %s, not %s", got, d.Digest.Hex)
	}
	return content, nil
}
