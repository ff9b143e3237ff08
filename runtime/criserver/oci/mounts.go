package oci

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mountsOf are the mounts of a container, parents before children, and the propagation that its
// root needs for them. What the container asks for takes the place of a default.
func mountsOf(c Container) ([]specs.Mount, string, error) {
	wanted := slices.Clone(c.Mounts)
	propagation := ""
	for _, mount := range c.Config.GetMounts() {
		if mount.GetImage().GetImage() != "" {
			continue // mounted by the caller, in c.Mounts
		}
		spec, needs, err := bindMount(c, mount)
		if err != nil {
			return nil, "", err
		}
		wanted = append(wanted, spec)
		if propagation != "rshared" && needs != "" {
			propagation = needs
		}
	}
	taken := map[string]bool{}
	for _, mount := range wanted {
		taken[path.Clean(mount.Destination)] = true
	}
	missing := func(defaults []specs.Mount) []specs.Mount {
		return slices.DeleteFunc(defaults, func(m specs.Mount) bool { return taken[m.Destination] })
	}
	// A mount hides the earlier ones below it, so they come after it: the pod's resolv.conf is there in a volume over /etc, too.
	wanted = slices.Concat(missing(sandboxMounts(c)), wanted)
	slices.SortStableFunc(wanted, func(a, b specs.Mount) int {
		return depth(a.Destination) - depth(b.Destination)
	})
	return append(missing(systemMounts(c)), wanted...), propagation, nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// bindMount translates a mount of the CRI.
func bindMount(c Container, mount *runtimeapi.Mount) (spec specs.Mount, propagation string, err error) {
	where := mount.GetContainerPath()
	if where == "" || mount.GetHostPath() == "" || strings.ContainsRune(where+mount.GetHostPath(), 0) {
		return spec, "", invalid("mount of %q at %q lacks a path", mount.GetHostPath(), where)
	}
	if len(mount.GetMountOptions()) > 0 {
		return spec, "", invalid("mount at %s: mount options are not supported", where)
	}
	uids, gids := IDMappings(mount.GetUidMappings()), IDMappings(mount.GetGidMappings())
	if len(uids)+len(gids) > 0 && (len(c.UIDMappings) == 0 || len(uids) == 0 || len(gids) == 0) {
		return spec, "", invalid("mount at %s: mappings of user and group IDs need each other and a user namespace", where)
	}
	spec = specs.Mount{Destination: path.Join("/", where), Source: mount.GetHostPath(), Type: "bind", Options: []string{"rbind"}, UIDMappings: uids, GIDMappings: gids}
	mode, known := map[runtimeapi.MountPropagation]string{
		runtimeapi.MountPropagation_PROPAGATION_PRIVATE: "rprivate", runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: "rslave",
		runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL: "rshared",
	}[mount.GetPropagation()]
	if !known {
		return spec, "", invalid("mount at %s has unknown propagation %d", where, mount.GetPropagation())
	}
	spec.Options = append(spec.Options, mode)
	if mode != "rprivate" {
		propagation = mode
	}
	switch {
	case mount.GetRecursiveReadOnly() && !mount.GetReadonly():
		return spec, "", invalid("mount at %s is recursively read-only but not read-only", where)
	case mount.GetRecursiveReadOnly() && propagation != "":
		return spec, "", invalid("mount at %s is recursively read-only, which needs private propagation", where)
	case mount.GetRecursiveReadOnly():
		spec.Options = append(spec.Options, "rro")
	case mount.GetReadonly():
		spec.Options = append(spec.Options, "ro")
	default:
		spec.Options = append(spec.Options, "rw")
	}
	return spec, propagation, nil
}

// IDMappings translates mappings of IDs.
func IDMappings(asked []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var translated []specs.LinuxIDMapping
	for _, m := range asked {
		translated = append(translated, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return translated
}

// ttyGroup is the group of terminals in every distribution. A user namespace may not have it.
const ttyGroup = 5

func terminalOptions(c Container) []string {
	options := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	has := func(m specs.LinuxIDMapping) bool { return m.ContainerID <= ttyGroup && ttyGroup-m.ContainerID < m.Size }
	if len(c.GIDMappings) == 0 || slices.ContainsFunc(c.GIDMappings, has) {
		options = append(options, "gid=5")
	}
	return options
}

// systemMounts are the kernel's file systems, which every container has.
func systemMounts(c Container) []specs.Mount {
	system := "ro"
	if c.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		system = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: terminalOptions(c)},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", system}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", system}},
	}
}

// sandboxMounts are what the containers of a pod have in common.
func sandboxMounts(c Container) (mounts []specs.Mount) {
	bind := func(where, source string, options ...string) {
		if source != "" {
			mounts = append(mounts, specs.Mount{Destination: where, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	files := "rw"
	if c.Config.GetLinux().GetSecurityContext().GetReadonlyRootfs() {
		files = "ro"
	}
	bind("/dev/shm", c.ShmDir, "rw")
	bind("/etc/hostname", c.HostnameFile, files)
	bind("/etc/resolv.conf", c.ResolvConf, files)
	return mounts
}
