package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
)

const (
	maxArchives      = 10_000 // in the archive directory
	maxArchiveImages = 1_000  // in one archive
	importsFile      = "imports.json"
	nameAnnotation   = "io.containerd.image.name"
	refAnnotation    = "org.opencontainers.image.ref.name"
)

// imported is what came of an archive, so that the next Open need not read it again.
type imported struct {
	Stamp  string   `json:"stamp"` // size and time
	Images []string `json:"images"`
}

// importArchives imports what is new in the archive directory. A broken archive is a log line, not a failure: whoever
// needs its images will say so.
func (s *Store) importArchives(ctx context.Context) error {
	if s.options.ArchiveDir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.options.ArchiveDir)
	if err != nil {
		return err
	}
	if len(entries) > maxArchives {
		return fmt.Errorf("more than %d files", maxArchives)
	}
	before := s.readImports()
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
	if err := writeFile(s.path(importsFile), content, false); err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down which archives were imported; the next start reads them again")
	}
	return nil
}

// readImports may forget: archives are then only read once more.
func (s *Store) readImports() map[string]imported {
	known := map[string]imported{}
	content, err := bounded.ReadFile(s.path(importsFile), 64<<20)
	if err != nil || json.Unmarshal(content, &known) != nil {
		return nil
	}
	return known
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
	} else if archiveBase(path) == "" {
		return "", false
	}
	if err != nil || !info.Mode().IsRegular() {
		return "", false
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), true
}

// archiveBase is the name of an archive without what says its format, or "".
func archiveBase(path string) string {
	name := filepath.Base(path)
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base
		}
	}
	return ""
}

// importArchive imports all images of an archive that are for this platform.
func (s *Store) importArchive(ctx context.Context, path string) (ids []string, err error) {
	files, err := s.openArchive(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	base := archiveBase(path)
	if base == "" {
		base = filepath.Base(path)
	}
	i := &importer{Store: s, files: files, base: base}
	if _, err := i.read("oci-layout", s.options.Limits.ManifestBytes); err == nil {
		err = i.importOCI(ctx)
		return i.ids, err
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = i.importDocker(ctx)
	return i.ids, err
}

// importer reads one archive.
type importer struct {
	*Store
	files *archive
	base  string // names images that have no name of their own
	ids   []string
}

func (i *importer) read(name string, limit int64) ([]byte, error) {
	f, err := i.files.open(name)
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

// importOCI imports an OCI image layout.
func (i *importer) importOCI(ctx context.Context) error {
	content, err := i.read("index.json", i.options.Limits.ManifestBytes)
	if err != nil {
		return err
	}
	var idx v1.IndexManifest
	if err := json.Unmarshal(content, &idx); err != nil {
		return fmt.Errorf("read index.json: %w", err)
	}
	if len(idx.Manifests) > maxArchiveImages {
		return fmt.Errorf("more than %d images", maxArchiveImages)
	}
	var failures []error
	for _, d := range idx.Manifests {
		if d.Platform != nil && !i.runs(*d.Platform) {
			klog.FromContext(ctx).V(2).Info("Skipped an image for another platform", "platform", d.Platform, "digest", d.Digest)
			continue
		}
		if err := i.importDescriptor(ctx, d); err != nil {
			failures = append(failures, fmt.Errorf("import %s: %w", d.Digest, err))
		}
	}
	if len(i.ids) == 0 && len(failures) == 0 {
		return fmt.Errorf("no image for %s", i.platform)
	}
	return errors.Join(failures...)
}

// importDescriptor finds the manifest for this platform under an entry of index.json.
func (i *importer) importDescriptor(ctx context.Context, top v1.Descriptor) error {
	d := top
	for range maxIndexDepth {
		content, err := i.blob(d, i.options.Limits.ManifestBytes)
		if err != nil {
			return err
		}
		if !isIndex(d.MediaType, content) {
			return i.importManifest(ctx, top, d, content)
		}
		if d, err = i.choose(content); err != nil {
			return err
		}
	}
	return fmt.Errorf("indexes are nested more than %d deep", maxIndexDepth)
}

func (i *importer) importManifest(ctx context.Context, top, d v1.Descriptor, content []byte) error {
	manifest, err := i.parseManifest(content, d.MediaType)
	if err != nil {
		return err
	}
	config, err := i.blob(manifest.Config, i.options.Limits.ConfigBytes)
	if err != nil {
		return err
	}
	r, err := i.newRecord(config)
	if err == nil {
		r, err = i.checkConfig(r, manifest)
	}
	if err != nil {
		return err
	}
	tags, repositories := i.names(ctx, ociNames(top, i.base))
	var digests []string
	for _, repository := range repositories {
		digests = append(digests, repository+"@"+top.Digest.String())
	}
	return i.importImage(ctx, r, tags, digests, func(n int) (io.ReadCloser, error) {
		f, err := i.files.open(blobPath(manifest.Layers[n].Digest))
		if err != nil {
			return nil, err
		}
		return verify(f, manifest.Layers[n])
	})
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// blob reads a small blob.
func (i *importer) blob(d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Digest.Hex == "" {
		return nil, errors.New("a descriptor has no digest")
	}
	f, err := i.files.open(blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := readVerified(f, d, limit)
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	return content, nil
}

// ociNames are the names of an image in a layout: a whole one in either annotation, or only the tag. An image without
// any is called like the file.
func ociNames(d v1.Descriptor, base string) []string {
	if name := d.Annotations[nameAnnotation]; name != "" {
		return []string{name}
	}
	ref := d.Annotations[refAnnotation]
	if strings.ContainsAny(ref, "/:") {
		return []string{ref}
	}
	if ref == "" {
		ref = "latest"
	}
	return []string{base + ":" + ref}
}

// names normalises names, and leaves out what is none.
func (i *importer) names(ctx context.Context, names []string) (tags, repositories []string) {
	for _, n := range names {
		named, err := parseReference(n)
		if err != nil {
			klog.FromContext(ctx).Info("Importing an image without the name that it has in the archive", "name", n, "err", err)
			continue
		}
		if tagged, ok := named.(reference.NamedTagged); ok {
			tags = append(tags, tagged.String())
			repositories = append(repositories, reference.TrimNamed(named).String())
		}
	}
	slices.Sort(tags)
	slices.Sort(repositories)
	return slices.Compact(tags), slices.Compact(repositories)
}

// importDocker imports what `docker save` writes.
func (i *importer) importDocker(ctx context.Context) error {
	content, err := i.read("manifest.json", i.options.Limits.ManifestBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("neither an OCI image layout nor a docker archive: it has no oci-layout and no manifest.json")
	} else if err != nil {
		return err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(content, &images); err != nil {
		return fmt.Errorf("read manifest.json: %w", err)
	}
	if len(images) > maxArchiveImages {
		return fmt.Errorf("more than %d images", maxArchiveImages)
	}
	var failures []error
	for _, image := range images {
		if err := i.importDockerImage(ctx, image.Config, image.RepoTags, image.Layers); err != nil {
			failures = append(failures, fmt.Errorf("import %s: %w", image.RepoTags, err))
		}
	}
	return errors.Join(failures...)
}

func (i *importer) importDockerImage(ctx context.Context, configName string, repoTags, layers []string) error {
	config, err := i.read(configName, i.options.Limits.ConfigBytes)
	if err != nil {
		return err
	}
	r, err := i.newRecord(config)
	if err == nil {
		r, err = i.checkConfig(r, &v1.Manifest{Layers: make([]v1.Descriptor, len(layers))})
	}
	if err != nil {
		return err
	}
	tags, _ := i.names(ctx, repoTags)
	return i.importImage(ctx, r, tags, nil, func(n int) (io.ReadCloser, error) { return i.files.open(layers[n]) })
}

// importImage unpacks the layers that are missing, and commits.
func (i *importer) importImage(ctx context.Context, r *record, tags, digests []string, open func(n int) (io.ReadCloser, error)) error {
	defer i.claim(r.Chains...)()
	name := r.ID
	if len(tags) > 0 {
		name = tags[0]
	}
	specs := make([]layerSpec, len(r.Chains))
	for n := range specs {
		specs[n] = layerSpec{chain: r.Chains[n], diffID: r.config.RootFS.DiffIDs[n],
			open: func(context.Context) (io.ReadCloser, error) { return open(n) }}
	}
	if err := i.ensureLayers(ctx, name, specs); err != nil {
		return err
	}
	if err := i.commit(ctx, r, tags, digests); err != nil {
		return err
	}
	i.ids = append(i.ids, r.ID)
	klog.FromContext(ctx).Info("Imported image", "image", name, "imageID", r.ID, "layers", len(specs))
	i.report(ctx, Event{Image: name, Phase: Ready})
	return nil
}

// verifier fails at the end of a blob that was another.
type verifier struct {
	io.ReadCloser
	hasher hash.Hash
	want   v1.Descriptor
	left   int64
}

func verify(r io.ReadCloser, want v1.Descriptor) (io.ReadCloser, error) {
	hasher, err := v1.Hasher(want.Digest.Algorithm)
	if err != nil {
		r.Close()
		return nil, err
	}
	return &verifier{ReadCloser: r, hasher: hasher, want: want, left: want.Size}, nil
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.hasher.Write(p[:n])
	if v.left -= int64(n); v.left < 0 {
		return 0, fmt.Errorf("blob %s is larger than %d bytes", v.want.Digest, v.want.Size)
	}
	if errors.Is(err, io.EOF) && fmt.Sprintf("%x", v.hasher.Sum(nil)) != v.want.Digest.Hex {
		return 0, fmt.Errorf("blob %s has other content", v.want.Digest)
	}
	return n, err
}
