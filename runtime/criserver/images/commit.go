package images

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// maxDigests is how many digests of one image are remembered, newest last: each registry it came from adds one.
const maxDigests = 64

// commit makes an image that is completely unpacked visible, and gives it names, which others then lose. The digest is
// that by which the names mean the image; an archive of docker's has none. The layers must be claimed by the caller.
func (s *Store) commit(ctx context.Context, r *record, names []reference.Named, digest v1.Hash) error {
	var tags, digests []string
	for _, named := range names {
		if tagged, ok := named.(reference.NamedTagged); ok && !slices.Contains(tags, tagged.String()) {
			tags = append(tags, tagged.String())
		}
		known := reference.TrimNamed(named).String() + "@" + digest.String()
		if digest.Hex != "" && !slices.Contains(digests, known) {
			digests = append(digests, known)
		}
	}
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	updated := *r
	updated.Tags, updated.Digests, updated.Boot = nil, nil, s.boot // r may be of an image that was removed since
	if old := s.images[r.ID]; old != nil {
		if len(without(tags, old.Tags)) == 0 && len(without(digests, old.Digests)) == 0 {
			s.mu.Unlock()
			return nil
		}
		updated.Tags, updated.Digests, updated.Boot = old.Tags, old.Digests, old.Boot
	}
	var others []*record
	for _, other := range s.images {
		if left := without(other.Tags, tags); other.ID != r.ID && len(left) < len(other.Tags) {
			changed := *other
			changed.Tags = left
			others = append(others, &changed)
		}
	}
	s.mu.Unlock()

	updated.Tags = append(without(updated.Tags, tags), tags...)
	updated.Digests = append(without(updated.Digests, digests), digests...)
	updated.Digests = updated.Digests[max(0, len(updated.Digests)-maxDigests):]
	updated.Updated = time.Now()
	for _, record := range append([]*record{&updated}, others...) {
		if err := s.writeRecord(record); err != nil {
			return err
		}
	}
	s.settle(ctx)
	for _, other := range others {
		klog.FromContext(ctx).Info("An image lost its name to a newer one", "imageID", other.ID, "newImageID", r.ID)
	}
	return nil
}

// without returns a new list.
func without(list, elements []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(elements, s) })
}

// settle writes everything to the disk in the background, and then says so in the records. A pull does not wait for the
// disk, which may take seconds: a process that is killed loses nothing of what it wrote, only a machine that stops does.
func (s *Store) settle(ctx context.Context) {
	s.settling.Go(func() {
		s.syncs.Lock()
		defer s.syncs.Unlock()
		s.mu.Lock()
		var unsettled []*record
		for _, r := range s.images {
			if r.Boot != "" {
				unsettled = append(unsettled, r)
			}
		}
		s.mu.Unlock()
		if len(unsettled) == 0 {
			return // the one before has done it
		}
		err := syncFilesystem(s.options.Root)
		if err == nil {
			err = s.markSettled(unsettled)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Images could not be written to the disk; they will be lost if the machine stops now", "images", len(unsettled))
		}
	})
}

// markSettled leaves out records that have changed meanwhile: each change is followed by a call of settle.
func (s *Store) markSettled(records []*record) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	for _, r := range records {
		s.mu.Lock()
		current := s.images[r.ID] == r
		s.mu.Unlock()
		if !current {
			continue
		}
		settled := *r
		settled.Boot = ""
		if err := s.writeRecord(&settled); err != nil {
			return err
		}
	}
	return nil
}

// syncFilesystem is one call for thousands of files, where fsync of each would take minutes.
func syncFilesystem(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}
