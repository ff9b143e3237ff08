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

// installation makes the layers of one image that are missing.
type installation struct {
	*Store
	*record
	image  string                                                  // its name, for events
	open   func(ctx context.Context, n int) (io.ReadCloser, error) // a layer, compressed or not
	budget *budget
}

// ensureLayers makes several layers at the same time, and starts them from the lowest up, so that none waits for one that
// is not started yet.
func (i *installation) ensureLayers(caller context.Context) error {
	group, ctx := errgroup.WithContext(caller)
	group.SetLimit(parallelLayers)
	below := make(chan struct{}) // closed when the layer below is in its place; the lowest has none
	close(below)
	for n := range i.Chains {
		if ctx.Err() != nil {
			break
		}
		under, done := below, make(chan struct{})
		below = done
		group.Go(func() error {
			if err := i.ensureLayer(ctx, n, under); err != nil {
				return fmt.Errorf("layer %d of %d, %s: %w", n+1, len(i.Chains), i.diffID(n), err)
			}
			close(done)
			i.report(ctx, Event{Image: i.image, Layer: i.diffID(n).String(), Phase: Ready})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(caller)
}

func (i *installation) diffID(n int) v1.Hash { return i.config.RootFS.DiffIDs[n] }

// ensureLayer unpacks a layer unless it is there, and moves it to its place after the one below.
func (i *installation) ensureLayer(ctx context.Context, n int, below <-chan struct{}) error {
	chain := i.Chains[n]
	unlock, err := i.busy.lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	if l, known := i.layer(ctx, chain); known {
		return i.budget.count(int64(l.Bytes))
	}
	content, err := i.open(ctx, n)
	if err != nil {
		return err
	}
	defer content.Close()
	temp, err := os.MkdirTemp(i.path("tmp"), "layer-")
	if err != nil {
		return err
	}
	defer func() { // after the rename it is gone
		if err := trees.Remove(temp); err != nil {
			klog.FromContext(ctx).Error(err, "Could not delete a layer that was not finished; the next start tries again")
		}
	}()
	fs := filepath.Join(temp, "fs")
	l, implied, err := i.unpack(ctx, n, content, fs)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	select {
	case <-below:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := i.inheritAll(fs, implied, i.Chains[:n]); err != nil {
		return fmt.Errorf("give directories the attributes they have below: %w", err)
	}
	return i.place(temp, chain, l)
}

// unpack waits for its turn: few layers of all images are unpacked at the same time, since each may need the memory of a
// large window, and of many names.
func (i *installation) unpack(ctx context.Context, n int, content io.Reader, dir string) (layer, []string, error) {
	select {
	case i.unpacks <- struct{}{}:
	case <-ctx.Done():
		return layer{}, nil, context.Cause(ctx)
	}
	defer func() { <-i.unpacks }()
	i.report(ctx, Event{Image: i.image, Layer: i.diffID(n).String(), Phase: Unpacking})
	return i.unpackLayer(ctx, content, dir, i.diffID(n), i.budget, n == 0)
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
func (s *Store) unpackLayer(ctx context.Context, content io.Reader, dir string, diffID v1.Hash, b *budget, lowest bool) (layer, []string, error) {
	started := time.Now()
	hasher, err := v1.Hasher(diffID.Algorithm)
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return layer{}, nil, err
	}
	l, implied, err := unpackTar(ctx, content, dir, s.options.Limits, b, hasher, lowest)
	if err != nil {
		return layer{}, nil, err
	}
	if err := checkDigest(hasher, diffID); err != nil {
		return layer{}, nil, fmt.Errorf("check the diffID: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Unpacked layer", "diffID", diffID, "bytes", l.Bytes, "inodes", l.Inodes, "seconds", time.Since(started).Seconds())
	l.DiffID = diffID.String()
	return l, implied, nil
}

// place moves a finished layer where it is used.
func (s *Store) place(temp, chain string, l layer) error {
	content, err := json.Marshal(l)
	if err == nil {
		err = os.WriteFile(filepath.Join(temp, "layer.json"), content, 0o600)
	}
	if err == nil {
		err = trees.Remove(s.path("layers", chain)) // what is left of one that was deleted: see layer
	}
	if err == nil {
		err = os.Rename(temp, s.path("layers", chain))
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[chain] = l
	return nil
}

// readLayer checks at start that a layer is there.
func (s *Store) readLayer(chain string) (layer, error) {
	var l layer
	if err := bounded.ReadJSON(s.path("layers", chain, "layer.json"), 64<<10, &l); err != nil {
		return layer{}, err
	}
	info, err := os.Lstat(s.layerFS(chain))
	if err == nil && !info.IsDir() {
		err = errors.New("fs is not a directory")
	}
	return l, err
}
