package images

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"minikubelet/runtime/criserver/diskusage"
)

// Image is one image of the store. It is a copy; what Config points to is shared and must not be changed.
type Image struct {
	ID      string   // digest of the config, "sha256:..."
	Tags    []string // "docker.io/library/busybox:1"
	Digests []string // "docker.io/library/busybox@sha256:...", by which it was pulled
	Size    uint64   // bytes on disk: unpacked layers and config
	Config  v1.ConfigFile
	User    string // of the config: name or number, perhaps with a group
}

// Image finds an image by its ID ("sha256:..."), a tag or a digest ("name@sha256:..."), or the first digits of its ID.
func (s *Store) Image(ref string) (*Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := find(s.images, ref)
	if r == nil {
		return nil, false
	}
	return s.show(r), true
}

// List returns all images, by ID: also those whose removal has failed half way, so that they are removed again.
func (s *Store) List() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := maps.Clone(s.leaving)
	maps.Copy(all, s.images)
	list := make([]*Image, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		list = append(list, s.show(all[id]))
	}
	return list
}

// minPrefix is the fewest digits that stand for an ID, so that hardly any name does.
const minPrefix = 6

// find looks an image up, nil if there is none.
func find(images map[string]*record, ref string) *record {
	if r := images[ref]; r != nil {
		return r
	}
	if named, err := parseReference(ref); err == nil {
		name := named.String()
		for _, r := range images {
			if slices.Contains(r.Tags, name) || slices.Contains(r.Digests, name) {
				return r
			}
		}
	}
	digits := strings.TrimPrefix(ref, "sha256:")
	if len(digits) < minPrefix {
		return nil
	}
	var found *record
	for id, r := range images {
		if strings.HasPrefix(id, "sha256:"+digits) {
			if found != nil {
				return nil // ambiguous
			}
			found = r
		}
	}
	return found
}

// show makes what callers see of a record; s.mu must be held.
func (s *Store) show(r *record) *Image {
	image := &Image{ID: r.ID, Tags: slices.Clone(r.Tags), Digests: slices.Clone(r.Digests), Config: r.config,
		User: r.config.Config.User, Size: uint64(len(r.Config))}
	for _, chain := range r.Chains {
		image.Size += s.layers[chain].Bytes
	}
	return image
}

// Usage returns what the layers and downloads take on the disk.
func (s *Store) Usage(ctx context.Context) (bytes, inodes uint64, err error) {
	s.mu.Lock()
	for _, l := range s.layers {
		bytes += l.Bytes
		inodes += l.Inodes
	}
	s.mu.Unlock()
	for _, dir := range []string{"blobs", "images"} {
		u, err := diskusage.Now(ctx, s.path(dir)) // as many files as there are images
		if err != nil {
			return 0, 0, err
		}
		bytes, inodes = bytes+uint64(u.Bytes), inodes+uint64(u.Inodes)
	}
	return bytes, inodes, nil
}

// parseReference normalises a name as docker does: the default registry, "latest" if it has neither tag nor digest, and
// no tag if it has a digest.
func parseReference(ref string) (reference.Named, error) {
	if strings.HasPrefix(ref, "sha256:") {
		return nil, fmt.Errorf("%w %q: this is the ID of an image, which no registry knows", ErrInvalidReference, ref)
	}
	if len(ref) > 4096 {
		return nil, fmt.Errorf("%w of %d characters", ErrInvalidReference, len(ref))
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrInvalidReference, ref, err)
	}
	return named, nil
}
