package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.opentelemetry.io/otel/trace"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// Pull brings an image here and returns its ID: from the first mirror that has it, else from the registry. One of them is
// asked each time: what a name means may have changed, and the credentials may not be good for it. Only what is missing is
// then downloaded, and what several pulls need at the same time once.
func (s *Store) Pull(ctx context.Context, ref string, auth *runtimeapi.AuthConfig) (string, error) {
	named, err := parseReference(ref)
	if err != nil {
		return "", err
	}
	logger := klog.LoggerWithValues(klog.FromContext(ctx), "image", named.String())
	ctx = klog.NewContext(ctx, logger)
	started := time.Now()
	var failures []error
	for _, e := range s.endpoints(reference.Domain(named)) {
		r, err := s.pullFrom(ctx, e, named, auth)
		if err == nil {
			logger.Info("Pulled image", "imageID", r.ID, "from", e.host, "layers", len(r.Chains), "seconds", time.Since(started).Seconds())
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

// describeTimeout is for all that comes before the layers, which is small. Tests shorten it.
var describeTimeout = 2 * time.Minute

func (s *Store) pullFrom(ctx context.Context, e endpoint, named reference.Named, auth *runtimeapi.AuthConfig) (*record, error) {
	s.report(ctx, Event{Image: named.String(), Phase: Resolving})
	describing, cancel := context.WithTimeoutCause(ctx, describeTimeout, fmt.Errorf("the registry takes longer than %s to describe the image", describeTimeout))
	defer cancel()
	from, err := s.dial(describing, e, named, auth)
	if err != nil {
		return nil, cmp.Or(context.Cause(describing), fmt.Errorf("log in: %w", err))
	}
	top, err := from.top(describing, named)
	if err != nil {
		return nil, cmp.Or(context.Cause(describing), err)
	}
	layers, r, err := s.describe(describing, from, top.Descriptor, top.Manifest)
	if err != nil {
		return nil, cmp.Or(context.Cause(describing), err)
	}
	// The image is known by the digest of its index, if it has one.
	err = s.install(ctx, r, []reference.Named{named}, top.Digest, func(ctx context.Context, n int) (io.ReadCloser, error) {
		return s.fetchBlob(ctx, from, layers[n], func(done int64) {
			s.report(ctx, Event{Image: named.String(), Layer: r.config.RootFS.DiffIDs[n].String(), Phase: Downloading,
				Done: done, Total: layers[n].Size})
		})
	})
	if err != nil {
		return nil, err // the downloads stay for the next try
	}
	s.dropBlobs(layers)
	return r, nil
}

// install unpacks the layers of an image that are missing, and commits it under its names. open opens a layer, compressed
// or not.
func (s *Store) install(ctx context.Context, r *record, names []reference.Named, digest v1.Hash, open func(ctx context.Context, n int) (io.ReadCloser, error)) error {
	i := &installation{Store: s, record: r, image: r.ID, open: open, budget: s.newBudget()}
	if len(names) > 0 {
		i.image = names[0].String()
	}
	s.mu.Lock()
	s.installing[i] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.installing, i)
	}()
	if err := i.ensureLayers(ctx); err != nil {
		return err
	}
	if err := s.commit(ctx, r, names, digest); err != nil {
		return err
	}
	s.report(ctx, Event{Image: i.image, Phase: Ready})
	return nil
}

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

// report tells the log, the trace and Options.Progress of a step.
func (s *Store) report(ctx context.Context, e Event) {
	klog.FromContext(ctx).V(4).Info("Image progress", "image", e.Image, "layer", e.Layer, "phase", e.Phase, "bytes", e.Done, "of", e.Total)
	if e.Layer != "" {
		trace.SpanFromContext(ctx).AddEvent(fmt.Sprintf("%s: layer %.12s, %.1f of %.1f MB", e.Phase, strings.TrimPrefix(e.Layer, "sha256:"), float64(e.Done)/1e6, float64(e.Total)/1e6))
	}
	if s.options.Progress != nil {
		s.options.Progress(e)
	}
}
