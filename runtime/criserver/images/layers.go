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

// layerSpec is a layer that an image needs.
type layerSpec struct {
	chain  string
	diffID v1.Hash
	open   func(context.Context) (io.ReadCloser, error) // compressed or not
}

// parallelLayers of one image are downloaded and unpacked at the same time.
const parallelLayers = 3

func (s *Store) layerFS(chain string) string { return s.path("layers", chain, "fs") }

// ensureLayers makes all layers of an image, the lowest first in specs. The caller has claimed them.
func (s *Store) ensureLayers(ctx context.Context, image string, specs []layerSpec) error {
	caller, budget := ctx, s.newBudget()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	done := make([]chan struct{}, len(specs)) // closed when the layer is in its place
	for i := range specs {
		done[i] = make(chan struct{})
	}
	for i, spec := range specs {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			var below <-chan struct{}
			if i > 0 {
				below = done[i-1]
			}
			if err := s.ensureLayer(ctx, image, specs[:i], spec, below, budget); err != nil {
				return fmt.Errorf("layer %d of %d, %s: %w", i+1, len(specs), spec.diffID, err)
			}
			close(done[i])
			s.report(ctx, Event{Image: image, Layer: spec.diffID.String(), Phase: Ready})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(caller)
}

// ensureLayer unpacks a layer unless it is there, and moves it to its place after the one below. Layers are started from
// the lowest up, so that what is waited for is never behind.
func (s *Store) ensureLayer(ctx context.Context, image string, parents []layerSpec, spec layerSpec, below <-chan struct{}, b *budget) error {
	unlock, err := s.busy.lock(ctx, spec.chain)
	if err != nil {
		return err
	}
	defer unlock()
	if s.hasLayer(ctx, spec) {
		return b.count(s.layerBytes(spec.chain))
	}
	content, err := spec.open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	temp, err := os.MkdirTemp(s.path("tmp"), "layer-")
	if err != nil {
		return err
	}
	defer func() { // after the rename it is gone
		if err := trees.Remove(temp); err != nil {
			klog.FromContext(ctx).Error(err, "Could not delete a layer that was not finished; the next start tries again")
		}
	}()
	// Few at a time: each may need the memory of a large window, and of many names.
	select {
	case s.unpacks <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.report(ctx, Event{Image: image, Layer: spec.diffID.String(), Phase: Unpacking})
	started := time.Now()
	unpacked, implied, err := s.unpackLayer(ctx, content, filepath.Join(temp, "fs"), spec.diffID, b)
	<-s.unpacks
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if below != nil {
		select {
		case <-below:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := s.inheritAll(filepath.Join(temp, "fs"), implied, parents); err != nil {
		return fmt.Errorf("give directories the attributes they have below: %w", err)
	}
	if err := s.place(temp, spec.chain, unpacked); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Unpacked layer", "diffID", spec.diffID, "bytes", unpacked.Bytes, "inodes", unpacked.Inodes,
		"seconds", time.Since(started).Seconds())
	return nil
}

// hasLayer tells whether the layer is there; the caller holds its lock.
func (s *Store) hasLayer(ctx context.Context, spec layerSpec) bool {
	s.mu.Lock()
	_, known := s.layers[spec.chain]
	s.mu.Unlock()
	if !known {
		return false
	}
	if _, err := os.Lstat(s.layerFS(spec.chain)); err != nil {
		klog.FromContext(ctx).Error(err, "A layer was deleted by someone else, making it again", "chainID", spec.chain)
		return false
	}
	return true
}

func (s *Store) layerBytes(chain string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.layers[chain].Bytes)
}

// unpackLayer unpacks and checks that the content was what the image's config says.
func (s *Store) unpackLayer(ctx context.Context, content io.Reader, dir string, diffID v1.Hash, b *budget) (layer, []string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return layer{}, nil, err
	}
	hasher, err := v1.Hasher(diffID.Algorithm)
	if err != nil {
		return layer{}, nil, err
	}
	stream, err := decompress(&contextReader{ctx, content})
	if err != nil {
		return layer{}, nil, err
	}
	defer stream.Close()
	limited := bounded.NewReader(io.TeeReader(stream, hasher), s.options.Limits.UnpackedBytes)
	u, err := newUnpacker(dir, s.options.Limits, b)
	if err != nil {
		return layer{}, nil, err
	}
	defer u.close()
	if err := u.unpack(limited); err != nil {
		return layer{}, nil, err
	}
	if _, err := io.Copy(io.Discard, limited); err != nil { // what follows the end of the tar is hashed too
		return layer{}, nil, err
	}
	if got := fmt.Sprintf("%x", hasher.Sum(nil)); got != diffID.Hex {
		return layer{}, nil, fmt.Errorf("content has diffID %s, not %s", got, diffID.Hex)
	}
	implied := u.impliedDirs()
	l := layer{DiffID: diffID.String(), Bytes: u.bytes, Inodes: u.inodes + uint64(len(implied)), Opaque: isOpaque(int(u.tree.dir.Fd()))}
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
	if err := trees.Remove(s.path("layers", chain)); err != nil { // see hasLayer
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

// usedLayers has the layers of images, snapshots and work in flight; s.mu must be held once the store is open.
func (s *Store) usedLayers() map[string]bool {
	used := map[string]bool{}
	for _, r := range s.images {
		for _, chain := range r.Chains {
			used[chain] = true
		}
	}
	for _, snap := range s.snapshots {
		for _, chain := range snap.Chains {
			used[chain] = true
		}
	}
	for name := range s.claims {
		used[name] = true
	}
	return used
}

// contextReader ends reading when the work is not wanted any more.
type contextReader struct {
	ctx   context.Context
	inner io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.inner.Read(p)
}
