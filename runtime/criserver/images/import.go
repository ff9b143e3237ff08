package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/trees"
)

// imported is what came of an archive, so that the next Open need not read it again.
type imported struct {
	Stamp  string   `json:"stamp"` // size and time
	Images []string `json:"images"`
}

// importArchives imports what is new in the archive directory. A broken archive is a log line, not a failure: only
// pods that need its images fail.
func (s *Store) importArchives(ctx context.Context) error {
	if s.options.ArchiveDir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.options.ArchiveDir)
	if err != nil {
		return err
	}
	var before map[string]imported // if it cannot be read, archives are only read once more
	_ = bounded.ReadJSON(s.path("imports.json"), 64<<20, &before)
	after := map[string]imported{}
	for _, entry := range entries {
		path := filepath.Join(s.options.ArchiveDir, entry.Name())
		logger := klog.LoggerWithValues(klog.FromContext(ctx), "archive", path)
		stamp, ok := archiveStamp(path)
		if !ok {
			logger.V(2).Info("Not an image archive")
			continue
		}
		if old := before[entry.Name()]; old.Stamp == stamp && s.hasAll(old.Images) {
			after[entry.Name()] = old
			continue
		}
		ids, err := s.importArchive(klog.NewContext(ctx, logger), path)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			logger.Error(err, "Could not import all of an image archive", "imported", len(ids))
			continue
		}
		after[entry.Name()] = imported{Stamp: stamp, Images: ids}
	}
	content, err := json.Marshal(after)
	if err != nil {
		return err
	}
	if err := writeFile(s.path("imports.json"), content, false); err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down which archives were imported; the next start reads them again")
	}
	return nil
}

func (s *Store) hasAll(ids []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.images[id] == nil {
			return false
		}
	}
	return len(ids) > 0
}

// archiveStamp tells whether a path may be an archive, and something that changes with it.
func archiveStamp(path string) (string, bool) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		info, err = os.Stat(filepath.Join(path, "index.json"))
	} else if archiveBase(path) == filepath.Base(path) {
		return "", false
	}
	if err != nil || !info.Mode().IsRegular() {
		return "", false
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), true
}

// archiveBase is the name of an archive without what says that it is a tar.
func archiveBase(path string) string {
	name := filepath.Base(path)
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// archived is one image of an archive.
type archived struct {
	names  []string // that it has there
	digest v1.Hash  // by which the names mean it; docker's archives have none
	// read reads its config, and returns how to open its layers.
	read func(context.Context) (*record, func(ctx context.Context, n int) (io.ReadCloser, error), error)
}

// importArchive imports all images of an archive that are for this platform.
func (s *Store) importArchive(ctx context.Context, path string) (ids []string, err error) {
	files, err := s.openArchive(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	var images []archived
	if _, err = files.Stat("oci-layout"); err == nil {
		images, err = s.ociImages(ctx, files, archiveBase(path))
	} else if errors.Is(err, fs.ErrNotExist) {
		images, err = s.dockerImages(files)
	}
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, image := range images {
		id, err := s.importImage(ctx, image)
		if err != nil {
			failures = append(failures, fmt.Errorf("import %s: %w", image.names, err))
			continue
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(failures...)
}

// importImage installs an image under those of its names in the archive that are names with a tag.
func (s *Store) importImage(ctx context.Context, image archived) (id string, err error) {
	r, open, err := image.read(ctx)
	if err != nil {
		return "", err
	}
	var tagged []reference.Named
	for _, name := range image.names {
		named, err := parseReference(name)
		if err != nil {
			klog.FromContext(ctx).Info("Importing an image without the name that it has in the archive", "name", name, "err", err)
		} else if _, ok := named.(reference.NamedTagged); ok {
			tagged = append(tagged, named)
		}
	}
	if err := s.install(ctx, r, tagged, image.digest, open); err != nil {
		return "", err
	}
	klog.FromContext(ctx).Info("Imported image", "names", image.names, "imageID", r.ID, "layers", len(r.Chains))
	return r.ID, nil
}

// ociImages are the images for this platform of an image layout of the OCI.
func (s *Store) ociImages(ctx context.Context, files *archive, base string) (images []archived, err error) {
	var index v1.IndexManifest
	if err := files.readJSON("index.json", &index); err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		if !s.runs(d.Platform) {
			klog.FromContext(ctx).V(2).Info("Skipped an image for another platform", "platform", d.Platform, "digest", d.Digest)
			continue
		}
		image := archived{names: []string{ociName(d, base)}, digest: d.Digest}
		image.read = func(ctx context.Context) (*record, func(context.Context, int) (io.ReadCloser, error), error) {
			layers, r, err := s.describe(ctx, files, d, nil)
			// A layer's own digest is not looked at: what it is unpacked to must have the one that the config says.
			return r, func(_ context.Context, n int) (io.ReadCloser, error) { return files.open(blob(layers[n].Digest)) }, err
		}
		images = append(images, image)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("no image for %s", s.platform)
	}
	return images, nil
}

// ociName is the name of an image in a layout: a whole one in either annotation, or only the tag. An image without any is
// called like the archive.
func ociName(d v1.Descriptor, base string) string {
	ref := d.Annotations["org.opencontainers.image.ref.name"]
	switch name := d.Annotations["io.containerd.image.name"]; {
	case name != "":
		return name
	case strings.ContainsAny(ref, "/:"):
		return ref
	case ref == "":
		return base + ":latest"
	}
	return base + ":" + ref
}

// dockerImages are those of what `docker save` writes.
func (s *Store) dockerImages(files *archive) (images []archived, err error) {
	var manifest []struct {
		Config   string // the file's name, as for layers
		RepoTags []string
		Layers   []string
	}
	if err := files.readJSON("manifest.json", &manifest); errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("neither an OCI image layout nor a docker archive: it has no oci-layout and no manifest.json")
	} else if err != nil {
		return nil, err
	}
	for _, m := range manifest {
		image := archived{names: m.RepoTags}
		image.read = func(context.Context) (*record, func(context.Context, int) (io.ReadCloser, error), error) {
			config, err := files.read(m.Config, s.options.Limits.ConfigBytes)
			if err != nil {
				return nil, nil, err
			}
			r, err := s.newRecord(config)
			if err == nil {
				err = r.checkLayers(len(m.Layers))
			}
			if err == nil && !s.runs(r.config.Platform()) {
				err = fmt.Errorf("no image for %s, only for %s", s.platform, r.config.Platform())
			}
			return r, func(_ context.Context, n int) (io.ReadCloser, error) { return files.open(m.Layers[n]) }, err
		}
		images = append(images, image)
	}
	return images, nil
}

// maxArchiveFiles bounds an archive's tar.
const maxArchiveFiles = 100_000

// archive is the files of an archive, below a directory that no name and no link in it leads out of.
//
// go-containerregistry's layout follows links out of the directory, and its tarball package reads the whole tar once for
// each file. Neither has bounds.
type archive struct {
	*os.Root
	unpacked string // the directory of a tar's files; "" for an archive that is a directory itself
	limits   Limits
}

// openArchive opens a directory, or a tar, which is unpacked into the store first as a layer is: with its bounds.
func (s *Store) openArchive(ctx context.Context, name string) (*archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a, dir := &archive{limits: s.options.Limits}, name
	if !info.IsDir() {
		if dir, err = os.MkdirTemp(s.path("tmp"), "archive-"); err != nil {
			return nil, err
		}
		a.unpacked = dir
		limits := s.options.Limits
		limits.LayerEntries = maxArchiveFiles
		if _, _, err := unpackTar(ctx, f, dir, limits, s.newBudget(), io.Discard, true); err != nil {
			return nil, errors.Join(fmt.Errorf("unpack: %w", err), trees.Remove(dir))
		}
	}
	a.Root, err = os.OpenRoot(dir)
	return a, err
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	info, err := a.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a fifo waits for a writer
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return a.Open(name)
}

func (a *archive) read(name string, limit int64) ([]byte, error) {
	f, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := bounded.ReadAll(f, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

func (a *archive) readJSON(name string, into any) error {
	content, err := a.read(name, a.limits.ManifestBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// blob is the file of a layer, a manifest or a config in the layout of the OCI.
func blob(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

// manifest implements source.
func (a *archive) manifest(_ context.Context, digest v1.Hash) ([]byte, error) {
	return a.read(blob(digest), a.limits.ManifestBytes)
}

// config implements source.
func (a *archive) config(_ context.Context, want v1.Descriptor) ([]byte, error) {
	return a.read(blob(want.Digest), a.limits.ConfigBytes)
}

// Close also removes what was unpacked.
func (a *archive) Close() error {
	err := a.Root.Close()
	if a.unpacked != "" {
		err = errors.Join(err, trees.Remove(a.unpacked))
	}
	return err
}
