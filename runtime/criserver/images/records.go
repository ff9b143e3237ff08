package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
)

// record is what is kept of an image, as its file has it.
type record struct {
	ID      string    `json:"id"`
	Tags    []string  `json:"tags,omitempty"`
	Digests []string  `json:"digests,omitempty"`
	Config  []byte    `json:"config"` // as it was pulled: its digest is the ID
	Chains  []string  `json:"chains"` // hex chain ID of each layer, the lowest first
	Updated time.Time `json:"updated"`
	Boot    string    `json:"boot,omitempty"` // set until all of it is known to be on the disk: good until the machine stops

	config v1.ConfigFile
}

// newRecord checks a config and derives the layers' names from it. A layer is named after itself and all below it, since
// its files depend on those below where it has none of its own (see inherit).
func (s *Store) newRecord(config []byte) (*record, error) {
	r := &record{ID: digest.FromBytes(config).String(), Config: config}
	if err := json.Unmarshal(config, &r.config); err != nil {
		return nil, fmt.Errorf("read image config %s: %w", r.ID, err)
	}
	var chains []digest.Digest
	for _, diffID := range r.config.RootFS.DiffIDs {
		if diffID.Hex == "" {
			return nil, fmt.Errorf("image config %s has a layer without a diffID", r.ID)
		}
		chains = append(chains, digest.Digest(diffID.String()))
	}
	if len(chains) > s.options.Limits.Layers {
		return nil, fmt.Errorf("image has %d layers, more than %d", len(chains), s.options.Limits.Layers)
	}
	for _, chain := range identity.ChainIDs(chains) {
		r.Chains = append(r.Chains, chain.Encoded())
	}
	return r, nil
}

// loadRecords reads all records. One that cannot be used is set aside: the kubelet pulls the image again.
func (s *Store) loadRecords(ctx context.Context) error {
	files, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	var loaded []*record
	for _, f := range files {
		file := s.path("images", f.Name())
		if strings.HasPrefix(f.Name(), tempPrefix) {
			_ = os.Remove(file)
		}
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // *.corrupt is for people
		}
		r, err := s.readRecord(file)
		if err != nil {
			err = errors.Join(err, os.Rename(file, file+".corrupt"))
			klog.FromContext(ctx).Error(err, "Setting a corrupt image record aside", "file", file, "to", file+".corrupt")
			continue
		}
		loaded = append(loaded, r)
	}
	// After a crash between two records' writes, the newer one has the tag.
	slices.SortFunc(loaded, func(a, b *record) int { return a.Updated.Compare(b.Updated) })
	for _, r := range loaded {
		for _, old := range s.images {
			old.Tags = without(old.Tags, r.Tags)
		}
		s.images[r.ID] = r
	}
	return nil
}

// readRecord reads one file and checks that all it needs is there.
func (s *Store) readRecord(file string) (*record, error) {
	var r record
	if err := bounded.ReadJSON(file, 2*s.options.Limits.ConfigBytes+1<<20, &r); err != nil { // more than one with the largest config takes
		return nil, err
	}
	if r.Boot != "" && r.Boot != s.boot {
		return nil, errors.New("the machine stopped before the image was written to the disk")
	}
	made, err := s.newRecord(r.Config)
	if err != nil {
		return nil, err
	}
	if r.ID != made.ID || s.recordFile(r.ID) != file || !slices.Equal(r.Chains, made.Chains) {
		return nil, fmt.Errorf("the config is that of image %s", made.ID)
	}
	r.config = made.config
	for _, chain := range r.Chains {
		if _, known := s.layers[chain]; known {
			continue
		}
		if s.layers[chain], err = s.readLayer(chain); err != nil {
			delete(s.layers, chain)
			return nil, fmt.Errorf("look for layer %s: %w", chain, err)
		}
	}
	return &r, nil
}

func (s *Store) recordFile(id string) string {
	return s.path("images", strings.TrimPrefix(id, "sha256:")+".json")
}

// writeRecord makes a record the valid one, on the disk and here; s.commits must be held. One that is not for this boot
// only must not be lost with the machine either.
func (s *Store) writeRecord(r *record) error {
	content, err := json.Marshal(r)
	if err == nil {
		err = writeFile(s.recordFile(r.ID), content, r.Boot == "")
	}
	if err != nil {
		return fmt.Errorf("write the record of image %s: %w", r.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[r.ID] = r
	return nil
}

// tempPrefix begins the names of files that a crash may leave beside records.
const tempPrefix = ".tmp-"

// writeFile replaces a file whole or not at all; if durable, also when the machine stops.
func writeFile(name string, content []byte, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if !durable {
		return nil
	}
	dir, err := os.Open(filepath.Dir(name)) // the file has its name on the disk once its directory is there
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// maxDigests is how many digests of one image are remembered, newest last: each registry it came from adds one.
const maxDigests = 64

// commit makes an image that is completely unpacked visible, and gives it names, which others then lose. The digest is
// that by which the names mean the image; an archive of docker's has none.
func (s *Store) commit(ctx context.Context, r *record, names []reference.Named, digest v1.Hash) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	updated := *r
	updated.Tags, updated.Digests, updated.Boot = nil, nil, s.boot // r may be of an image that was removed since
	old := s.images[r.ID]
	if old != nil {
		updated = *old
	}
	for _, named := range names {
		if tagged, ok := named.(reference.NamedTagged); ok {
			updated.Tags = with(updated.Tags, tagged.String())
		}
		if digest.Hex != "" {
			updated.Digests = with(updated.Digests, reference.TrimNamed(named).String()+"@"+digest.String())
		}
	}
	changed := []*record{&updated}
	for _, other := range s.images {
		if left := without(other.Tags, updated.Tags); other.ID != r.ID && len(left) < len(other.Tags) {
			loser := *other
			loser.Tags = left
			changed = append(changed, &loser)
		}
	}
	s.mu.Unlock()
	if old != nil && len(updated.Tags) == len(old.Tags) && len(updated.Digests) == len(old.Digests) {
		return nil
	}
	updated.Digests = updated.Digests[max(0, len(updated.Digests)-maxDigests):]
	updated.Updated = time.Now()
	for _, record := range changed {
		if err := s.writeRecord(record); err != nil {
			return err
		}
	}
	s.persist(ctx)
	for _, other := range changed[1:] {
		klog.FromContext(ctx).Info("An image lost its name to a newer one", "imageID", other.ID, "newImageID", r.ID)
	}
	return nil
}

// with returns a list with an element.
func with(list []string, element string) []string {
	if slices.Contains(list, element) {
		return list
	}
	return append(slices.Clone(list), element)
}

// without returns a new list.
func without(list, elements []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(elements, s) })
}

// persist writes everything to the disk in the background, and then says so in the records. A pull does not wait for the
// disk, which may take seconds: a process that is killed loses nothing of what it wrote, only a machine that stops does.
func (s *Store) persist(ctx context.Context) {
	s.persists.Go(func() {
		s.syncs.Lock()
		defer s.syncs.Unlock()
		s.mu.Lock()
		var pending []*record
		for _, r := range s.images {
			if r.Boot != "" {
				pending = append(pending, r)
			}
		}
		s.mu.Unlock()
		if len(pending) == 0 {
			return // the one before has done it
		}
		err := s.syncFilesystem()
		if err == nil {
			err = s.markPersisted(pending)
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Images could not be written to the disk; they will be lost if the machine stops now", "images", len(pending))
		}
	})
}

// markPersisted says of records that they outlive the machine's stop. It leaves out those that have changed meanwhile: each
// change is followed by a call of persist.
func (s *Store) markPersisted(records []*record) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	for _, r := range records {
		s.mu.Lock()
		current := s.images[r.ID] == r
		s.mu.Unlock()
		if !current {
			continue
		}
		persisted := *r
		persisted.Boot = ""
		if err := s.writeRecord(&persisted); err != nil {
			return err
		}
	}
	return nil
}

// syncFilesystem is one call for thousands of files, where fsync of each would take minutes.
func (s *Store) syncFilesystem() error {
	dir, err := os.Open(s.options.Root)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}
