package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/klog/v2"
)

const (
	maxArchiveImages = 1_000 // in one archive
	nameAnnotation   = "io.containerd.image.name"
	refAnnotation    = "org.opencontainers.image.ref.name"
)

// importer reads one archive.
type importer struct {
	*Store
	files *archive
	base  string // names images that have no name of their own
	ids   []string
}

// importArchive imports all images of an archive that are for this platform.
func (s *Store) importArchive(ctx context.Context, path string) (ids []string, err error) {
	files, err := s.openArchive(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	i := &importer{Store: s, files: files, base: archiveBase(path)}
	if i.base == "" {
		i.base = filepath.Base(path)
	}
	_, err = files.Stat("oci-layout")
	switch {
	case err == nil:
		err = i.importOCI(ctx)
	case errors.Is(err, fs.ErrNotExist):
		err = i.importDocker(ctx)
	}
	return i.ids, err
}

// importOCI imports an image layout of the OCI.
func (i *importer) importOCI(ctx context.Context) error {
	var index v1.IndexManifest
	if err := i.readJSON("index.json", &index); err != nil {
		return err
	}
	if len(index.Manifests) > maxArchiveImages {
		return fmt.Errorf("more than %d images", maxArchiveImages)
	}
	var failures []error
	for _, d := range index.Manifests {
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

// importDescriptor imports the image for this platform of an entry of index.json.
func (i *importer) importDescriptor(ctx context.Context, top v1.Descriptor) error {
	content, err := i.files.manifest(ctx, top.Digest)
	if err != nil {
		return err
	}
	layers, r, err := i.describe(ctx, i.files, top, content)
	if err != nil {
		return err
	}
	return i.importImage(ctx, r, ociNames(top, i.base), top.Digest, func(ctx context.Context, n int) (io.ReadCloser, error) {
		return i.files.blob(ctx, layers[n])
	})
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

// importDocker imports what `docker save` writes.
func (i *importer) importDocker(ctx context.Context) error {
	var images []dockerImage
	if err := i.readJSON("manifest.json", &images); errors.Is(err, fs.ErrNotExist) {
		return errors.New("neither an OCI image layout nor a docker archive: it has no oci-layout and no manifest.json")
	} else if err != nil {
		return err
	}
	if len(images) > maxArchiveImages {
		return fmt.Errorf("more than %d images", maxArchiveImages)
	}
	var failures []error
	for _, image := range images {
		if err := i.importDockerImage(ctx, image); err != nil {
			failures = append(failures, fmt.Errorf("import %s: %w", image.RepoTags, err))
		}
	}
	return errors.Join(failures...)
}

// dockerImage is an image in a docker archive's manifest.json.
type dockerImage struct {
	Config   string // the file's name, as for layers
	RepoTags []string
	Layers   []string
}

func (i *importer) importDockerImage(ctx context.Context, image dockerImage) error {
	config, err := i.files.read(image.Config, i.options.Limits.ConfigBytes)
	if err != nil {
		return err
	}
	r, err := i.newRecord(config)
	if err != nil {
		return err
	}
	if err := i.checkConfig(r, len(image.Layers)); err != nil {
		return err
	}
	return i.importImage(ctx, r, image.RepoTags, v1.Hash{}, func(_ context.Context, n int) (io.ReadCloser, error) { return i.files.open(image.Layers[n]) })
}

// importImage installs an image under those of its names in the archive that are names with a tag.
func (i *importer) importImage(ctx context.Context, r *record, names []string, digest v1.Hash, open func(context.Context, int) (io.ReadCloser, error)) error {
	var tagged []reference.Named
	for _, name := range names {
		named, err := parseReference(name)
		if err != nil {
			klog.FromContext(ctx).Info("Importing an image without the name that it has in the archive", "name", name, "err", err)
		} else if _, ok := named.(reference.NamedTagged); ok {
			tagged = append(tagged, named)
		}
	}
	if err := i.install(ctx, r, tagged, digest, open); err != nil {
		return err
	}
	i.ids = append(i.ids, r.ID)
	klog.FromContext(ctx).Info("Imported image", "names", names, "imageID", r.ID, "layers", len(r.Chains))
	return nil
}

func (i *importer) readJSON(name string, into any) error {
	content, err := i.files.read(name, i.options.Limits.ManifestBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}
