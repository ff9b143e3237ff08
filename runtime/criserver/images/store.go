// Package images is the image store of the embedded CRI server: it pulls images, keeps their unpacked layers, and mounts
// them as the root filesystems of containers.
//
//	Root/images/<hex>.json        one record an image, named by its config's digest; written last, atomically
//	Root/layers/<chain>/fs        a layer, unpacked once for every image that has it on top of the same layers
//	Root/layers/<chain>/layer.json  its diffID and size
//	Root/blobs/<algorithm>-<hex>  downloads, perhaps half done: hashed from the start before any use
//	Root/snapshots/<key>/         upper, work and snapshot.json of one container's root filesystem
//	Root/tmp                      what is being made; emptied by Open
//
// An image is there when its record is, which is written after all else. Until everything has reached the disk, the
// record is good for this boot of the machine only: a process may die at any time, and a machine may lose power.
// Whatever no record and no snapshot needs is garbage, and Open and Remove delete it. That is all of crash safety here.
package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/trees"
)

// Options says where the store is and where images come from.
type Options struct {
	Root       string              // the store's own directory, made with mode 0700
	ArchiveDir string              // OCI layouts (directories or tars) and docker archives that Open imports; "" for none
	Registries map[string]Registry // by host as in image references ("docker.io", "127.0.0.1:5000"); "*" for all others
	Platform   string              // os/architecture[/variant]; "" for the machine's own
	Progress   func(Event)         // called from several goroutines; nil for log lines only
	Limits     Limits
}

// Registry says how to reach one registry.
type Registry struct {
	Mirrors  []string // tried first, in order: host[:port], or http://host[:port] for plain HTTP
	Insecure bool     // plain HTTP when HTTPS does not answer
}

// Limits bound what an image may cost. Zero values mean the defaults.
type Limits struct {
	ManifestBytes   int64 // of one manifest or index: 4 MiB
	ConfigBytes     int64 // of an image's config: 8 MiB
	CompressedBytes int64 // of one layer as downloaded: 16 GiB
	UnpackedBytes   int64 // of one layer as a tar stream, and of its files: 64 GiB
	LayerEntries    int   // files, directories and links in one layer: 4 million
	ImageBytes      int64 // of all files of one image: 128 GiB
	FreeBytes       int64 // that must remain free on the file system: 1 GiB, but at most a twentieth of it
	NameBytes       int   // of memory for the names of one layer's directories: 128 MiB
	Unpacks         int   // layers of all images that are unpacked at the same time: 3
	Layers          int   // of one image: 500, which is also the most overlayfs can stack
}

// maxLayers is the kernel's OVL_MAX_STACK.
const maxLayers = 500

func (l Limits) withDefaults() Limits {
	set := func(value *int64, otherwise int64) {
		if *value <= 0 {
			*value = otherwise
		}
	}
	set(&l.ManifestBytes, 4<<20)
	set(&l.ConfigBytes, 8<<20)
	set(&l.CompressedBytes, 16<<30)
	set(&l.UnpackedBytes, 64<<30)
	set(&l.ImageBytes, 128<<30)
	set(&l.FreeBytes, 1<<30)
	if l.NameBytes <= 0 {
		l.NameBytes = 128 << 20
	}
	if l.Unpacks <= 0 {
		l.Unpacks = 3
	}
	if l.LayerEntries <= 0 {
		l.LayerEntries = 4_000_000
	}
	if l.Layers <= 0 || l.Layers > maxLayers {
		l.Layers = maxLayers
	}
	return l
}

// Errors that callers tell apart with errors.Is.
var (
	ErrInvalidReference = errors.New("invalid image reference")
	ErrNotFound         = errors.New("image not found")
	ErrUnauthorized     = errors.New("not authorized")
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

// Store keeps images. Its methods may be called at the same time.
type Store struct {
	options  Options
	platform v1.Platform
	order    platforms.MatchComparer // of the platforms that run here, the best first
	lock     *os.File
	http     *http.Transport
	flights  flights
	busy     locks         // one holder per layer, blob and snapshot
	unpacks  chan struct{} // holds one element for each layer that is being unpacked

	boot     string          // which boot of the machine this is
	commits  sync.Mutex      // held while records are written
	settling sync.WaitGroup  // see settle
	disk     *diskusage.Disk // of snapshots
	stop     func()          // ends its measurements

	mu        sync.Mutex
	images    map[string]*record  // by ID
	layers    map[string]layer    // by chain ID
	snapshots map[string]snapshot // by key
	claims    map[string]int      // chain IDs and blob names that work in flight needs
}

// Open takes over the directory: it deletes half-done work, sets records it cannot use aside, and imports archives. A
// second Open of the same directory fails until the first store is closed.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Limits = o.Limits.withDefaults()
	s := &Store{options: o, images: map[string]*record{}, layers: map[string]layer{}, snapshots: map[string]snapshot{},
		claims: map[string]int{}, unpacks: make(chan struct{}, o.Limits.Unpacks)}
	if o.Root == "" {
		return nil, errors.New("open image store: no root directory is given")
	}
	var err error
	if s.options.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if s.platform, err = parsePlatform(o.Platform); err != nil {
		return nil, err
	}
	s.order = platforms.Only(specOf(s.platform))
	if err := s.checkRegistries(); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the machine's boot ID: %w", err)
	}
	measuring, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.disk, s.stop = diskusage.NewDisk(measuring), stop
	s.boot = strings.TrimSpace(string(boot))
	s.http = newTransport()
	if err := s.openRoot(ctx); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", o.Root, err)
	}
	if err := s.load(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("read image store %s: %w", o.Root, err), s.Close())
	}
	if err := s.importArchives(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("import image archives from %s: %w", o.ArchiveDir, err), s.Close())
	}
	return s, nil
}

// Close gives the directory up, after everything has reached the disk. Mounted snapshots stay mounted.
func (s *Store) Close() error {
	s.stop()
	s.settling.Wait()
	s.http.CloseIdleConnections()
	return s.lock.Close()
}

// openRoot makes the directories, and locks them against a second store.
func (s *Store) openRoot(ctx context.Context) error {
	for _, dir := range []string{"", "images", "layers", "blobs", "snapshots", "empty"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chmod(s.options.Root, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("lock %s, perhaps another process uses it: %w", lock.Name(), err)
	}
	s.lock = lock
	if err := trees.RemoveMounted(s.path("tmp")); err != nil { // perhaps a container has made a file immutable: no reason not to start
		klog.FromContext(ctx).Error(err, "Could not delete what was left half done")
	}
	if err := os.MkdirAll(s.path("tmp"), 0o700); err != nil {
		return errors.Join(err, lock.Close())
	}
	return nil
}

func (s *Store) path(elements ...string) string {
	return filepath.Join(append([]string{s.options.Root}, elements...)...)
}

// load reads records and snapshots, then deletes the layers and old downloads that none of them needs.
func (s *Store) load(ctx context.Context) error {
	if err := s.loadSnapshots(ctx); err != nil {
		return err
	}
	if err := s.loadRecords(ctx); err != nil {
		return err
	}
	layers, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	chains := make([]string, len(layers))
	for i, dir := range layers {
		chains[i] = dir.Name()
	}
	if err := s.sweepLayers(chains); err != nil {
		klog.FromContext(ctx).Error(err, "Could not delete all layers that no image needs; the next start tries again")
	}
	s.settle(ctx) // what an earlier process could not
	if err := s.sweepBlobs(downloadAge); err != nil {
		klog.FromContext(ctx).Error(err, "Could not delete old downloads")
	}
	return nil
}

// Image finds an image by its ID ("sha256:..."), a tag or a digest ("name@sha256:..."), or the first digits of its ID.
func (s *Store) Image(ref string) (*Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.find(ref); r != nil {
		return s.show(r), true
	}
	return nil, false
}

// List returns all images, by ID.
func (s *Store) List() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Image, 0, len(s.images))
	for _, r := range s.images {
		list = append(list, s.show(r))
	}
	slices.SortFunc(list, func(a, b *Image) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// minPrefix is the fewest digits that stand for an ID, so that hardly any name does.
const minPrefix = 6

// find looks an image up; s.mu must be held.
func (s *Store) find(ref string) *record {
	if r := s.images[ref]; r != nil {
		return r
	}
	if named, err := parseReference(ref); err == nil {
		name := named.String()
		for _, r := range s.images {
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
	for id, r := range s.images {
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
