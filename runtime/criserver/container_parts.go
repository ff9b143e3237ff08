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

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/oci"
)

const (
	maxSeccompProfile = 1 << 20
	maxVolumes        = 256
)

// pidMode is whose processes the container sees. The CRI's zero value is the pod's.
func pidMode(config *runtimeapi.ContainerConfig) runtimeapi.NamespaceMode {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
}

// namespacesOf are the namespaces that the container joins or gets.
func (s *Server) namespacesOf(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig) ([]specs.LinuxNamespace, error) {
	joined := sb.joined()
	if s.machine.CgroupV2 && !config.GetLinux().GetSecurityContext().GetPrivileged() {
		joined = append(joined, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if inUserNamespace(options) && !inUserNamespace(sb.options()) {
		return nil, fmt.Errorf("%w: a container in a user namespace, of a pod that has none", oci.ErrInvalid)
	}
	pid := specs.LinuxNamespace{Type: specs.PIDNamespace}
	switch mode := pidMode(config); mode {
	case runtimeapi.NamespaceMode_NODE:
		if inUserNamespace(sb.options()) {
			return nil, fmt.Errorf("%w: a container in a user namespace cannot see the node's processes", oci.ErrInvalid)
		}
		return joined, nil
	case runtimeapi.NamespaceMode_CONTAINER:
	case runtimeapi.NamespaceMode_POD:
		if err := s.ensurePause(ctx, sb); err != nil {
			return nil, err
		}
		pid.Path = fmt.Sprintf("/proc/%d/ns/pid", sb.State().Pause.PID)
	case runtimeapi.NamespaceMode_TARGET:
		target, err := s.findContainer(options.GetTargetId())
		if err != nil {
			return nil, fmt.Errorf("find container to share processes with: %w", err)
		}
		if target.Config.SandboxID != sb.ID {
			return nil, fmt.Errorf("%w: container %s, to share processes with, is of another pod", oci.ErrInvalid, target.ID)
		}
		if err := target.running(); err != nil {
			return nil, fmt.Errorf("share processes: %w", err)
		}
		pid.Path = fmt.Sprintf("/proc/%d/ns/pid", target.State().Process.PID)
	default:
		return nil, fmt.Errorf("%w: unknown PID namespace mode %d", oci.ErrInvalid, mode)
	}
	return append(joined, pid), nil
}

// seccompProfile reads a profile of the machine.
func seccompProfile(profile *runtimeapi.SecurityProfile) (string, error) {
	if profile.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return "", nil
	}
	path := strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: path %q of seccomp profile is not absolute", oci.ErrInvalid, path)
	}
	text, err := bounded.ReadFile(path, maxSeccompProfile)
	if err != nil {
		return "", fmt.Errorf("%w: read seccomp profile: %w", oci.ErrInvalid, err)
	}
	return string(text), nil
}

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
	handle, err := pathrs.OpenInRoot(rootfs, path)
	missing := errors.Is(err, fs.ErrNotExist)
	if missing {
		handle, err = pathrs.MkdirAllHandle(root, path, 0o755)
	}
	if err != nil {
		return "", err
	}
	defer handle.Close()
	if info, err := handle.Stat(); err != nil || !info.IsDir() {
		return "", cmp.Or(err, error(unix.ENOTDIR))
	}
	link := fmt.Sprintf("/proc/self/fd/%d", handle.Fd())
	if dir, err = os.Readlink(link); err != nil {
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

// pin bind mounts what a path inside an image means, links followed inside it only, so that the
// OCI runtime need not look it up again.
func pin(root, sub, target string) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("%w: path %q leads out of the image", oci.ErrInvalid, sub)
	}
	handle, err := pathrs.OpenInRoot(root, sub)
	if err != nil {
		return "", fmt.Errorf("%w: open %q of the image: %w", oci.ErrInvalid, sub, err)
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err == nil && !info.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return "", fmt.Errorf("%w: open %q of the image: %w", oci.ErrInvalid, sub, err)
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		return "", fmt.Errorf("make directory for part of image: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()), target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mount %q of the image: %w", sub, err)
	}
	return target, nil
}

// prepareMounts makes what is not there of the host's side, as everywhere, and checks that
// mounts can be propagated as asked.
func prepareMounts(mounts []*runtimeapi.Mount) error {
	for _, mount := range mounts {
		path := mount.GetHostPath()
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%w: host path %q is not absolute", oci.ErrInvalid, path)
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("make host path: %w", err)
			}
		} else if err != nil {
			return fmt.Errorf("look at host path: %w", err)
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

// stopSignal is the container's, or the image's, or SIGTERM.
func stopSignal(config *runtimeapi.ContainerConfig, image *images.Image) string {
	if signal := config.GetStopSignal(); signal != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return strings.TrimPrefix(signal.String(), "SIGNAL_")
	}
	if _, ok := signalNumber(image.Config.Config.StopSignal); ok {
		return image.Config.Config.StopSignal
	}
	return "SIGTERM"
}

// imageRef is the name by which the image can be pulled again.
func imageRef(image *images.Image) string {
	if len(image.Digests) > 0 {
		return image.Digests[0]
	}
	return image.ID
}

// signalNumber reads SIGTERM, TERM, SIGRTMIN+3 or 15.
func signalNumber(name string) (unix.Signal, bool) {
	name = strings.ToUpper(strings.TrimSpace(name))
	if number, err := strconv.Atoi(name); err == nil {
		return unix.Signal(number), number > 0 && number < 65
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	// The C library keeps two real-time signals for itself.
	for base, value := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		rest, ok := strings.CutPrefix(name, base)
		if !ok {
			continue
		}
		rest = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(rest)
		offset, err := strconv.Atoi(rest)
		if rest != "" && err != nil || value+offset < 34 || value+offset > 64 {
			return 0, false
		}
		return unix.Signal(value + offset), true
	}
	if other, ok := map[string]string{"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}[name]; ok {
		name = other
	}
	number := unix.SignalNum(name)
	return number, number != 0
}
