package criserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"minikubelet/runtime/criserver/bounded"
	"minikubelet/runtime/criserver/images"
	"minikubelet/runtime/criserver/oci"
)

const maxSeccompProfile = 1 << 20

// specify writes the container's OCI specification. It returns the user, whom only the image may know.
func (s *Server) specify(ctx context.Context, sb *sandbox, c *container, image *images.Image) (oci.User, error) {
	config := c.Config.Config
	security := config.GetLinux().GetSecurityContext()
	files, err := oci.ReadUserFiles(c.rootfs())
	if err != nil {
		return oci.User{}, err
	}
	user, err := oci.ResolveUser(security, image.Config.Config.User, files)
	if err != nil {
		return user, err
	}
	in := oci.Container{
		Config: config, Image: image.Config.Config, Sandbox: sb.Config.Config, RootFS: c.rootfs(), User: user,
		CgroupsPath: c.Config.CgroupsPath, Hostname: sb.hostname(), HostnameFile: sb.hostnameFile(), ResolvConf: sb.resolvConf(), ShmDir: sb.shm(), Annotations: annotations(c),
	}
	if in.Devices, in.DeviceAccess, err = oci.Devices(config.GetDevices(), security.GetPrivileged()); err != nil {
		return user, err
	}
	if in.SeccompProfile, err = seccompProfile(security.GetSeccomp()); err != nil {
		return user, err
	}
	if in.AppArmorProfile, err = s.appArmor.Profile(ctx, security.GetApparmor(), security.GetPrivileged()); err != nil {
		return user, err
	}
	if in.Namespaces, err = s.namespacesOf(ctx, sb, config); err != nil {
		return user, err
	}
	in.UIDMappings, in.GIDMappings = sb.mappings()
	if in.Mounts, err = s.volumes(ctx, sb, c, image); err != nil {
		return user, err
	}
	if err := prepareMounts(config.GetMounts()); err != nil {
		return user, err
	}
	spec, err := oci.Generate(in, s.machine)
	if err != nil {
		return user, err
	}
	if err := injectCDI(spec, config, s.options.CDISpecDirs); err != nil {
		return user, err
	}
	return user, writeSpec(c.task.bundle, spec)
}

// annotations tell other tools what the container is. The whole record is among them, for a server that has lost it.
func annotations(c *container) map[string]string {
	record, _ := json.Marshal(c.Config)
	return map[string]string{
		oci.AnnotationType: "container", oci.AnnotationSandboxID: c.Config.SandboxID, oci.AnnotationRecord: string(record),
		oci.AnnotationName: c.Config.Config.GetMetadata().GetName(), oci.AnnotationImage: c.Config.Config.GetImage().GetImage(),
	}
}

// pidMode is whose processes the container sees. The CRI's zero value is the pod's.
func pidMode(config *runtimeapi.ContainerConfig) runtimeapi.NamespaceMode {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
}

// hasPIDNamespace tells that the container is alone in its PID namespace, all of which ends with its first process.
func hasPIDNamespace(config *runtimeapi.ContainerConfig) bool {
	return pidMode(config) == runtimeapi.NamespaceMode_CONTAINER
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

// injectCDI adds to a container's specification what the files of CDI say of its devices: nodes, mounts, variables, hooks.
// The files are read whenever a container has such devices, since programs of the machine write them as devices come and go.
//
// Device plugins may name them in annotations, which is the older way, or in both.
func injectCDI(spec *specs.Spec, config *runtimeapi.ContainerConfig, dirs []string) error {
	_, names, err := cdi.ParseAnnotations(config.GetAnnotations())
	if err != nil {
		return fmt.Errorf("%w: %w", oci.ErrInvalid, err)
	}
	for _, d := range config.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	files, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read the descriptions of CDI devices: %w", err)
	}
	if _, err := files.InjectDevices(spec, slices.Compact(names)...); err != nil {
		broken := slices.Concat(slices.Collect(maps.Values(files.GetErrors()))...)
		return fmt.Errorf("%w: CDI devices, described in %q: %w", oci.ErrInvalid, dirs, errors.Join(append([]error{err}, broken...)...))
	}
	return nil
}
