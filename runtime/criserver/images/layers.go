package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/trees"
)

// layer is what layer.json has of an unpacked layer.
type layer struct {
	DiffID string `json:"diffID"`
	Bytes  uint64 `json:"bytes"`
	Inodes uint64 `json:"inodes"`
	Opaque bool   `json:"opaque,omitempty"` // its root hides all layers below, which overlayfs does not do by itself
}

// parallelLayers of one image are downloaded and unpacked at the same time.
const parallelLayers = 3

func (s *Store) layerFS(chain string) string { return s.path("layers", chain, "fs") }

// ensureLayers makes the layers of an image that are missing. The caller has claimed them.
func (s *Store) ensureLayers(ctx context.Context, image string, r *record, open func(ctx context.Context, n int) (io.ReadCloser, error)) error {
	caller, b := ctx, s.newBudget()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	below := make(chan struct{}) // closed when the layer below is in its place; the lowest has none
	close(below)
	for n, diffID := range r.config.RootFS.DiffIDs {
		if ctx.Err() != nil {
			break
		}
		under, done := below, make(chan struct{})
		below = done
		// Layers are started from the lowest up, so that none waits for one that is not started yet.
		group.Go(func() error {
			job := layerJob{Store: s, image: image, chain: r.Chains[n], diffID: diffID, parents: r.Chains[:n], below: under, budget: b}
			if err := job.ensure(ctx, func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, n) }); err != nil {
				return fmt.Errorf("layer %d of %d, %s: %w", n+1, len(r.Chains), diffID, err)
			}
			close(done)
			s.report(ctx, Event{Image: image, Layer: diffID.String(), Phase: Ready})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(caller)
}

// layerJob makes one layer of an image.
type layerJob struct {
	*Store
	image   string // for events
	chain   string
	diffID  v1.Hash
	parents []string        // chain IDs of the layers below, the lowest first
	below   <-chan struct{} // closed when they are in their places
	budget  *budget
}

// ensure unpacks the layer unless it is there, and moves it to its place after the one below.
func (j *layerJob) ensure(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) error {
	unlock, err := j.busy.lock(ctx, j.chain)
	if err != nil {
		return err
	}
	defer unlock()
	if l, known := j.layer(ctx, j.chain); known {
		return j.budget.count(int64(l.Bytes))
	}
	content, err := open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	temp, err := os.MkdirTemp(j.path("tmp"), "layer-")
	if err != nil {
		return err
	}
	defer func() { // after the rename it is gone
		if err := trees.Remove(temp); err != nil {
			klog.FromContext(ctx).Error(err, "Could not delete a layer that was not finished; the next start tries again")
		}
	}()
	l, implied, err := j.unpack(ctx, content, filepath.Join(temp, "fs"))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	select {
	case <-j.below:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := j.inheritAll(filepath.Join(temp, "fs"), implied, j.parents); err != nil {
		return fmt.Errorf("give directories the attributes they have below: %w", err)
	}
	return j.place(temp, j.chain, l)
}

// unpack waits for its turn: few layers of all images are unpacked at the same time, since each may need the memory of a
// large window, and of many names.
func (j *layerJob) unpack(ctx context.Context, content io.Reader, dir string) (layer, []string, error) {
	select {
	case j.unpacks <- struct{}{}:
	case <-ctx.Done():
		return layer{}, nil, context.Cause(ctx)
	}
	defer func() { <-j.unpacks }()
	j.report(ctx, Event{Image: j.image, Layer: j.diffID.String(), Phase: Unpacking})
	started := time.Now()
	l, implied, err := j.unpackLayer(ctx, content, dir, j.diffID, j.budget)
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Unpacked layer", "diffID", j.diffID, "bytes", l.Bytes, "inodes", l.Inodes, "seconds", time.Since(started).Seconds())
	}
	return l, implied, err
}

// layer returns a layer that is there; the caller holds its lock.
func (s *Store) layer(ctx context.Context, chain string) (layer, bool) {
	s.mu.Lock()
	l, known := s.layers[chain]
	s.mu.Unlock()
	if !known {
		return layer{}, false
	}
	if _, err := os.Lstat(s.layerFS(chain)); err != nil {
		klog.FromContext(ctx).Error(err, "A layer was deleted by someone else, making it again", "chainID", chain)
		return layer{}, false
	}
	return l, true
}

// unpackLayer unpacks and checks that the content was what the image's config says. It returns the directories that the
// layer only implies, too.
func (s *Store) unpackLayer(ctx context.Context, content io.Reader, dir string, diffID v1.Hash, b *budget) (layer, []string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return layer{}, nil, err
	}
	hasher, err := v1.Hasher(diffID.Algorithm)
	if err != nil {
		return layer{}, nil, err
	}
	l, implied, err := unpackTar(ctx, content, dir, s.options.Limits, b, hasher)
	if err != nil {
		return layer{}, nil, err
	}
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != diffID.Hex {
		return layer{}, nil, fmt.Errorf("content has diffID %s, not %s", got, diffID.Hex)
	}
	l.DiffID = diffID.String()
	return l, implied, nil
}

// place moves a finished layer where it is used.
func (s *Store) place(temp, chain string, l layer) error {
	content, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, "layer.json"), content, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o700); err != nil {
		return err
	}
	if err := trees.Remove(s.path("layers", chain)); err != nil { // what is left of one that was deleted: see layer
		return err
	}
	if err := os.Rename(temp, s.path("layers", chain)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[chain] = l
	return nil
}

// readLayer checks at start that a layer is there.
func (s *Store) readLayer(chain string) (layer, error) {
	content, err := bounded.ReadFile(s.path("layers", chain, "layer.json"), 64<<10)
	if err != nil {
		return layer{}, err
	}
	var l layer
	if err := json.Unmarshal(content, &l); err != nil {
		return layer{}, err
	}
	info, err := os.Lstat(s.layerFS(chain))
	if err == nil && !info.IsDir() {
		err = errors.New("fs is not a directory")
	}
	return l, err
}
