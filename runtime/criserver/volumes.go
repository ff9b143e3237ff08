package criserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/oci"
)

const maxVolumes = 256

// volumes are the container's image mounts, and the volumes that its image declares unless something else is mounted there.
func (s *Server) volumes(ctx context.Context, sb *sandbox, c *container, image *images.Image) ([]specs.Mount, error) {
	var mounts []specs.Mount
	taken := map[string]bool{}
	for i, mount := range c.Config.Config.GetMounts() {
		taken[filepath.Clean(mount.GetContainerPath())] = true
		if mount.GetImage().GetImage() == "" {
			continue
		}
		volume, err := s.imageVolume(ctx, sb, c, i, mount)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, volume)
	}
	declared := slices.Sorted(maps.Keys(image.Config.Config.Volumes))
	if len(declared) > maxVolumes {
		return nil, fmt.Errorf("%w: the image declares %d volumes", oci.ErrInvalid, len(declared))
	}
	for _, path := range declared {
		if path = filepath.Join("/", path); taken[path] || path == "/" || ofSystem(path) {
			continue
		}
		dir, err := sb.declaredVolume(c.rootfs(), path)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, specs.Mount{Destination: path, Type: "bind", Source: dir, Options: []string{"rbind", "rprivate", "rw"}})
	}
	return mounts, nil
}

// ofSystem tells whether a path is at or below /proc, /sys or /dev, which every container has mounted: no directory of the
// image may take their place.
func ofSystem(path string) bool {
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// declaredVolume is the directory of a volume that the image declares: the image's own with owner, mode and content, in the
// container's writable layer, or a new one there. Mounted over itself it stays writable in a container whose root is not.
func (sb *sandbox) declaredVolume(rootfs, path string) (string, error) {
	dir, err := dirIn(rootfs, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = sb.giveToPod(dir)
		}
	}
	if err == nil && dir == rootfs {
		err = errors.New("it is the root directory")
	}
	if err != nil {
		return "", fmt.Errorf("%w: make volume %s of the image: %w", oci.ErrInvalid, path, err)
	}
	return dir, nil
}

// dirIn is the directory that a path means in an image mounted at root, without links, also if it is not there. Links are
// followed inside the image only; the container does not run yet and cannot change that.
func dirIn(root, path string) (string, error) {
	dir, err := securejoin.SecureJoin(root, path)
	if err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	return dir, err
}

// imageVolume mounts an image, or a directory of it, read-only.
func (s *Server) imageVolume(ctx context.Context, sb *sandbox, c *container, i int, mount *runtimeapi.Mount) (specs.Mount, error) {
	image, ok := s.images.Image(mount.GetImage().GetImage())
	if !ok {
		return specs.Mount{}, fmt.Errorf("image %q to mount at %s: %w", mount.GetImage().GetImage(), mount.GetContainerPath(), errNotFound)
	}
	if mount.GetHostPath() != "" {
		return specs.Mount{}, fmt.Errorf("%w: mount at %s has both an image and a host path", oci.ErrInvalid, mount.GetContainerPath())
	}
	name := "image-" + strconv.Itoa(i)
	dir := filepath.Join(c.task.bundle, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return specs.Mount{}, fmt.Errorf("make directory for image: %w", err)
	}
	if err := s.images.Mount(ctx, c.ID+"-"+name, image.ID, dir, sb.owner()); err != nil {
		return specs.Mount{}, fmt.Errorf("mount image %s: %w", image.ID, err)
	}
	source := dir
	if sub := mount.GetImageSubPath(); sub != "" {
		var err error
		if !filepath.IsLocal(sub) {
			return specs.Mount{}, fmt.Errorf("%w: path %q leads out of the image", oci.ErrInvalid, sub)
		}
		if source, err = dirIn(dir, sub); err != nil {
			return specs.Mount{}, fmt.Errorf("%w: open %q of the image: %w", oci.ErrInvalid, sub, err)
		}
	}
	return specs.Mount{Destination: filepath.Join("/", mount.GetContainerPath()), Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "ro"}}, nil
}

// imageRefs are the IDs of the images that a container mounts, by where.
func (s *Server) imageRefs(config *runtimeapi.ContainerConfig) map[string]string {
	refs := map[string]string{}
	for _, mount := range config.GetMounts() {
		if image, ok := s.images.Image(mount.GetImage().GetImage()); ok {
			refs[mount.GetContainerPath()] = image.ID
		}
	}
	return refs
}

// prepareMounts makes host paths that are missing, as other runtimes do, and checks that mounts can be propagated as asked.
func prepareMounts(mounts []*runtimeapi.Mount) error {
	for _, mount := range mounts {
		path := mount.GetHostPath()
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%w: host path %q is not absolute", oci.ErrInvalid, path)
		}
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = os.MkdirAll(path, 0o755)
		}
		if err != nil {
			return fmt.Errorf("find or make host path: %w", err)
		}
		if err := checkPropagation(path, mount.GetPropagation()); err != nil {
			return err
		}
	}
	return nil
}

// checkPropagation refuses a propagation that the mount which a path is on does not have: nothing would ever come through.
func checkPropagation(path string, propagation runtimeapi.MountPropagation) error {
	if propagation == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("follow host path: %w", err)
	}
	parents, err := mountinfo.GetMounts(mountinfo.ParentsFilter(resolved))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var on *mountinfo.Info
	for _, parent := range parents {
		if on == nil || len(parent.Mountpoint) >= len(on.Mountpoint) {
			on = parent
		}
	}
	if on == nil {
		return fmt.Errorf("%w: %s is on no mount", oci.ErrInvalid, path)
	}
	shared := strings.Contains(on.Optional, "shared:")
	slave := strings.Contains(on.Optional, "master:")
	if propagation == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL && !shared || !shared && !slave {
		return fmt.Errorf("%w: %s is on %s, which is no shared mount", oci.ErrInvalid, path, on.Mountpoint)
	}
	return nil
}
