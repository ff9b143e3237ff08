package criserver

import (
	"cmp"
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

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
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

// ofSystem tells of a path that it is or is below what every container has mounted: no directory of the image may take
// the place of /proc, /sys and /dev.
func ofSystem(path string) bool {
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// declaredVolume is the directory of a volume that the image declares: the image's own with owner, mode and content, in the
// container's writable layer, or a new one there. Mounted over itself it stays writable in a container whose root is not.
// Links are followed inside the image only, and the path that is returned has none; the container does not run yet and
// cannot change that.
func (sb *sandbox) declaredVolume(rootfs, path string) (dir string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: make volume %s of the image: %w", oci.ErrInvalid, path, err)
		}
	}()
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer root.Close()
	handle, err := openDir(rootfs, path)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing {
		handle, err = pathrs.MkdirAllHandle(root, path, 0o755)
	}
	if err != nil {
		return "", err
	}
	defer handle.Close()
	if dir, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", handle.Fd())); err != nil {
		return "", err
	}
	if base, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root.Fd())); err != nil || !strings.HasPrefix(dir, base+"/") {
		return "", cmp.Or(err, fmt.Errorf("%s is not below %s", dir, base))
	}
	if missing {
		err = sb.giveToPod(dir)
	}
	return dir, err
}

// imageKey is the snapshot of a container's image mount.
func imageKey(id string, i int) string { return fmt.Sprintf("%s-image-%d", id, i) }

// imageVolume mounts an image, or a directory of it, read-only.
func (s *Server) imageVolume(ctx context.Context, sb *sandbox, c *container, i int, mount *runtimeapi.Mount) (specs.Mount, error) {
	image, ok := s.images.Image(mount.GetImage().GetImage())
	if !ok {
		return specs.Mount{}, fmt.Errorf("image %q to mount at %s: %w", mount.GetImage().GetImage(), mount.GetContainerPath(), errNotFound)
	}
	if mount.GetHostPath() != "" {
		return specs.Mount{}, fmt.Errorf("%w: mount at %s has both an image and a host path", oci.ErrInvalid, mount.GetContainerPath())
	}
	dir := filepath.Join(c.task.bundle, "image-"+strconv.Itoa(i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return specs.Mount{}, fmt.Errorf("make directory for image: %w", err)
	}
	if err := s.images.Mount(ctx, imageKey(c.ID, i), image.ID, dir, sb.owner()); err != nil {
		return specs.Mount{}, fmt.Errorf("mount image %s: %w", image.ID, err)
	}
	source := dir
	if sub := mount.GetImageSubPath(); sub != "" {
		var err error
		if source, err = pin(dir, sub, filepath.Join(c.task.bundle, "subpath-"+strconv.Itoa(i))); err != nil {
			return specs.Mount{}, err
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

// openDir opens a directory of an image, following links inside it only.
func openDir(root, path string) (*os.File, error) {
	handle, err := pathrs.OpenInRoot(root, path)
	if err != nil {
		return nil, err
	}
	info, err := handle.Stat()
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, errors.Join(err, handle.Close())
	}
	return handle, nil
}

// pin bind mounts what a path inside an image means, so that the OCI runtime need not look it up again.
func pin(root, sub, target string) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("%w: path %q leads out of the image", oci.ErrInvalid, sub)
	}
	handle, err := openDir(root, sub)
	if err != nil {
		return "", fmt.Errorf("%w: open %q of the image: %w", oci.ErrInvalid, sub, err)
	}
	defer handle.Close()
	if err := os.Mkdir(target, 0o700); err != nil {
		return "", fmt.Errorf("make directory for part of image: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()), target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mount %q of the image: %w", sub, err)
	}
	return target, nil
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

// checkPropagation refuses a propagation that the mount which a path is on does not have:
// nothing would ever come through.
func checkPropagation(path string, propagation runtimeapi.MountPropagation) error {
	if propagation == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("look at host path: %w", err)
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
