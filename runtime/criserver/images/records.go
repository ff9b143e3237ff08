package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
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

// maxRecordBytes is more than a record with the largest config takes.
func (s *Store) maxRecordBytes() int64 { return 2*s.options.Limits.ConfigBytes + 1<<20 }

// maxDigests is how many digests of one image are remembered, newest last: each registry it came from adds one.
const maxDigests = 64

// newRecord checks a config and derives the layers' names from it.
func (s *Store) newRecord(config []byte) (*record, error) {
	r := &record{ID: digestOf(config), Config: config}
	if err := json.Unmarshal(config, &r.config); err != nil {
		return nil, fmt.Errorf("read image config %s: %w", r.ID, err)
	}
	if n := len(r.config.RootFS.DiffIDs); n > s.options.Limits.Layers {
		return nil, fmt.Errorf("image has %d layers, more than %d", n, s.options.Limits.Layers)
	}
	for _, diffID := range r.config.RootFS.DiffIDs {
		if diffID.Hex == "" {
			return nil, fmt.Errorf("image config %s has a layer without a diffID", r.ID)
		}
	}
	r.Chains = chainIDs(r.config.RootFS.DiffIDs)
	return r, nil
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// chainIDs names each layer after itself and all below it, as the OCI image specification does: a layer's files depend
// on those below where it has none of its own (see inherit).
func chainIDs(diffIDs []v1.Hash) []string {
	chains := make([]string, len(diffIDs))
	for i, diffID := range diffIDs {
		if i == 0 {
			chains[0] = diffID.Hex
			continue
		}
		below := "sha256:" + chains[i-1]
		if i == 1 {
			below = diffIDs[0].String()
		}
		sum := sha256.Sum256([]byte(below + " " + diffID.String()))
		chains[i] = hex.EncodeToString(sum[:])
	}
	return chains
}

// loadRecords reads all records. One that cannot be used is set aside: the kubelet pulls the image again.
func (s *Store) loadRecords(ctx context.Context) error {
	files, err := os.ReadDir(s.path("images"))
	if err != nil {
		return err
	}
	var loaded []*record
	for _, f := range files {
		if strings.HasPrefix(f.Name(), tempPrefix) {
			if err := os.Remove(s.path("images", f.Name())); err != nil {
				klog.FromContext(ctx).Error(err, "Could not delete a record that was not finished")
			}
		}
		if !strings.HasSuffix(f.Name(), ".json") {
			continue // *.corrupt is for people
		}
		r, err := s.readRecord(f.Name())
		if err != nil {
			file := s.path("images", f.Name())
			klog.FromContext(ctx).Error(err, "Setting a corrupt image record aside", "file", file, "to", file+".corrupt")
			if err := os.Rename(file, file+".corrupt"); err != nil {
				klog.FromContext(ctx).Error(err, "Could not set it aside")
			}
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
func (s *Store) readRecord(name string) (*record, error) {
	content, err := bounded.ReadFile(s.path("images", name), s.maxRecordBytes())
	if err != nil {
		return nil, err
	}
	var stored record
	if err := json.Unmarshal(content, &stored); err != nil {
		return nil, err
	}
	r, err := s.newRecord(stored.Config)
	if err != nil {
		return nil, err
	}
	if stored.Boot != "" && stored.Boot != s.boot {
		return nil, errors.New("the machine stopped before the image was written to the disk")
	}
	if r.ID != stored.ID || recordName(r.ID) != name || !slices.Equal(r.Chains, stored.Chains) {
		return nil, fmt.Errorf("the config is that of image %s", r.ID)
	}
	r.Tags, r.Digests, r.Updated, r.Boot = stored.Tags, stored.Digests, stored.Updated, stored.Boot
	for _, chain := range r.Chains {
		if _, known := s.layers[chain]; known {
			continue
		}
		l, err := s.readLayer(chain)
		if err != nil {
			return nil, fmt.Errorf("look for layer %s: %w", chain, err)
		}
		s.layers[chain] = l
	}
	return r, nil
}

func recordName(id string) string { return strings.TrimPrefix(id, "sha256:") + ".json" }

// commit makes an image that is completely unpacked visible, and gives it the names, which others then lose. The layers
// must be claimed by the caller.
func (s *Store) commit(ctx context.Context, r *record, tags, digests []string) error {
	s.commits.Lock()
	defer s.commits.Unlock()
	s.mu.Lock()
	updated := *r
	updated.Tags, updated.Digests, updated.Boot = nil, nil, s.boot // r may be of an image that was removed since
	if old := s.images[r.ID]; old != nil {
		if containsAll(old.Tags, tags) && containsAll(old.Digests, digests) {
			s.mu.Unlock()
			return nil
		}
		updated.Tags, updated.Digests, updated.Boot = old.Tags, old.Digests, old.Boot
	}
	var others []*record
	for _, other := range s.images {
		if other.ID != r.ID && slices.ContainsFunc(other.Tags, func(tag string) bool { return slices.Contains(tags, tag) }) {
			changed := *other
			changed.Tags = without(other.Tags, tags)
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

func containsAll(list, elements []string) bool { return len(without(elements, list)) == 0 }

// without returns a new list.
func without(list, elements []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(elements, s) })
}

// writeRecord makes a record the valid one, on the disk and here; s.commits must be held. One that is not for this boot
// only must not be lost with the machine either.
func (s *Store) writeRecord(r *record) error {
	content, err := json.Marshal(r)
	if err == nil {
		err = writeFile(s.path("images", recordName(r.ID)), content, r.Boot == "")
	}
	if err != nil {
		return fmt.Errorf("write the record of image %s: %w", r.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[r.ID] = r
	return nil
}

// settle has everything written to the disk, and then says so in the records. A process that dies loses nothing of what
// it wrote, only a machine does; so nobody waits for the disk, which may take seconds.
func (s *Store) settle(ctx context.Context) {
	logger := klog.FromContext(ctx)
	s.settling.Go(func() {
		unlock, err := s.busy.lock(context.Background(), "settle")
		if err != nil {
			return
		}
		defer unlock()
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
		if err = syncFilesystem(s.options.Root); err == nil {
			err = s.markSettled(unsettled)
		}
		if err != nil {
			logger.Error(err, "Images could not be written to the disk; they will be lost if the machine stops now", "images", len(unsettled))
		}
	})
}

// markSettled leaves out those that have changed meanwhile: each change is followed by a call of settle.
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
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
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
