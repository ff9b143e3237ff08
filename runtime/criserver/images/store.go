// Package images is the image store of the embedded CRI server: it pulls images, keeps their unpacked layers, and mounts
// them as the root filesystems of containers.
//
//	Root/images/<hex>.json        one record an image, named by its config's digest; written last, atomically
//	Root/layers/<chain>/fs        a layer, unpacked once for every image that has it on top of the same layers
//	Root/layers/<chain>/layer.json  its diffID and size
//	Root/blobs/<algorithm>-<hex>-<size>  downloads, perhaps half done: hashed from the start before any use
//	Root/snapshots/<key>/         upper, work and snapshot.json of one container's root filesystem
//	Root/tmp                      what is being made; emptied by Open
//
// An image is there when its record is, which is written after all else. Until everything has reached the disk, the
// record is good for this boot of the machine only: a process may die at any time, and a machine may lose power.
// Whatever no record and no snapshot needs is garbage, and Open and Remove delete it. That is all of crash safety here.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/platforms"
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
	Mirrors  []string `json:"mirrors"`  // tried first, in order: host[:port], or http://host[:port] for plain HTTP
	Insecure bool     `json:"insecure"` // plain HTTP when HTTPS does not answer
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
	return Limits{
		ManifestBytes: cmp.Or(l.ManifestBytes, 4<<20), ConfigBytes: cmp.Or(l.ConfigBytes, 8<<20),
		CompressedBytes: cmp.Or(l.CompressedBytes, 16<<30), UnpackedBytes: cmp.Or(l.UnpackedBytes, 64<<30),
		ImageBytes: cmp.Or(l.ImageBytes, 128<<30), FreeBytes: cmp.Or(l.FreeBytes, 1<<30),
		LayerEntries: cmp.Or(l.LayerEntries, 4_000_000), NameBytes: cmp.Or(l.NameBytes, 128<<20),
		Unpacks: cmp.Or(l.Unpacks, 3), Layers: min(cmp.Or(l.Layers, maxLayers), maxLayers),
	}
}

// Errors that callers tell apart with errors.Is.
var (
	ErrInvalidReference = errors.New("invalid image reference")
	ErrNotFound         = errors.New("image not found")
	ErrUnauthorized     = errors.New("not authorized")
)

// Store keeps images. Its methods may be called at the same time.
type Store struct {
	options  Options
	platform v1.Platform
	order    platforms.MatchComparer // of the platforms that run here, the best first
	mirrors  map[string][]endpoint   // by registry, as in Options.Registries
	boot     string                  // which boot of the machine this is
	lock     *os.File
	http     *http.Transport
	busy     locks           // one holder for each layer, download and snapshot
	unpacks  chan struct{}   // holds one element for each layer that is being unpacked
	disk     *diskusage.Disk // measures snapshots
	stop     func()          // ends its measurements

	commits  sync.Mutex     // held while records are written
	syncs    sync.Mutex     // held while all of the store is written to the disk
	persists sync.WaitGroup // calls of persist that are not done

	mu        sync.Mutex
	images    map[string]*record  // by ID
	leaving   map[string]*record  // by ID: removed images of which not all could be deleted yet
	layers    map[string]layer    // by chain ID
	snapshots map[string]snapshot // by key
	trash     []string            // directories that could not be deleted yet

	installing map[*installation]bool // pulls and imports, whose layers, there or to come, must not be deleted
}

// Open takes over the directory: it deletes half-done work, sets records it cannot use aside, and imports archives. A
// second Open of the same directory fails until the first store is closed.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Limits = o.Limits.withDefaults()
	s := &Store{options: o, images: map[string]*record{}, leaving: map[string]*record{}, layers: map[string]layer{},
		snapshots: map[string]snapshot{}, mirrors: map[string][]endpoint{}, installing: map[*installation]bool{}, unpacks: make(chan struct{}, o.Limits.Unpacks), http: newTransport()}
	measuring, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.disk, s.stop = diskusage.NewDisk(measuring), stop
	for _, step := range []func(context.Context) error{s.configure, s.openRoot, s.probe, s.load, s.importArchives} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("open image store %s: %w", o.Root, err), s.Close())
		}
	}
	return s, nil
}

// Close gives the directory up, after everything has reached the disk. Mounted snapshots stay mounted.
func (s *Store) Close() error {
	s.stop()
	s.persists.Wait()
	s.http.CloseIdleConnections()
	if s.lock == nil {
		return nil // Open failed before it had the directory
	}
	return s.lock.Close()
}

// configure checks the options and finds out what the machine is.
func (s *Store) configure(context.Context) error {
	if s.options.Root == "" {
		return errors.New("no root directory is given")
	}
	root, err := filepath.Abs(s.options.Root)
	if err != nil {
		return err
	}
	s.options.Root = root
	text := cmp.Or(s.options.Platform, platforms.Format(platforms.DefaultSpec())) // with the variant of an ARM
	platform, err := v1.ParsePlatform(text)
	if err != nil || platform.OS == "" || platform.Architecture == "" {
		return fmt.Errorf("platform %q is not os/architecture[/variant]", text)
	}
	s.platform, s.order = *platform, platforms.Only(specOf(*platform))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read the machine's boot ID: %w", err)
	}
	s.boot = strings.TrimSpace(string(boot))
	return s.readRegistries()
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
	return os.MkdirAll(s.path("tmp"), 0o700)
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
	dirs, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	var chains []string
	for _, dir := range dirs {
		chains = append(chains, dir.Name())
	}
	if err := errors.Join(s.sweepLayers(chains), s.sweepBlobs(downloadAge)); err != nil {
		klog.FromContext(ctx).Error(err, "Could not delete all layers and downloads that no image needs; the next start tries again")
	}
	s.persist(ctx) // what an earlier process could not
	return nil
}

// locks is a mutex for each key, which can be waited for with a context.
type locks struct {
	held sync.Map // of a key: a channel that is closed when the key is free again
}

// lock returns the function that unlocks.
func (l *locks) lock(ctx context.Context, key string) (func(), error) {
	mine := make(chan struct{})
	for {
		holder, held := l.held.LoadOrStore(key, mine)
		if !held {
			return func() {
				l.held.Delete(key)
				close(mine)
			}, nil
		}
		select {
		case <-holder.(chan struct{}):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
