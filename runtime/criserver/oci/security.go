package oci

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCapabilities are those of a container that names none, the same as in docker and containerd.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilitiesOf are what the process may do: the defaults, with what is added and without what is dropped. One that is
// dropped by name is missing even if all are added; one that is added by name is there even if all are dropped, which counts
// over all added.
func capabilitiesOf(security *runtimeapi.LinuxContainerSecurityContext, m Machine) (*specs.LinuxCapabilities, error) {
	set, asked := slices.Clone(defaultCapabilities), security.GetCapabilities()
	if security.GetPrivileged() { // whatever it asks for
		set, asked = slices.Clone(m.Capabilities), nil
	}
	add, addAll, addErr := capabilityNames(asked.GetAddCapabilities())
	drop, dropAll, dropErr := capabilityNames(asked.GetDropCapabilities())
	ambient, _, ambientErr := capabilityNames(asked.GetAddAmbientCapabilities())
	if err := errors.Join(addErr, dropErr, ambientErr); err != nil {
		return nil, err
	}
	if addAll {
		set = append(set, m.Capabilities...)
	}
	if dropAll {
		set = nil
	}
	set = append(append(set, add...), ambient...)
	set = slices.DeleteFunc(set, func(name string) bool { return slices.Contains(drop, name) })
	slices.Sort(set)
	set = slices.Compact(set)
	ambient = slices.DeleteFunc(ambient, func(name string) bool { return !slices.Contains(set, name) })
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient}, nil
}

// capabilityNames completes the names that users write, as in NET_ADMIN.
func capabilityNames(names []string) (full []string, all bool, err error) {
	for _, name := range names {
		one := capabilityName(name)
		switch {
		case strings.EqualFold(name, "ALL"):
			all = true
		case slices.Contains(knownCapabilities(), one):
			full = append(full, one)
		default:
			return nil, false, invalid("unknown capability %q", name)
		}
	}
	return full, all, nil
}

// capabilityName is CAP_CHOWN for chown, Cap_Chown and CAP_CHOWN.
func capabilityName(name string) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
}

// seccompOf is the filter of system calls.
func seccompOf(c Container, m Machine, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	security := c.Config.GetLinux().GetSecurityContext()
	profile := security.GetSeccomp()
	if profile == nil || profile.GetProfileType() == runtimeapi.SecurityProfile_Unconfined || security.GetPrivileged() {
		return nil, nil
	}
	if !m.Seccomp {
		return nil, invalid("a seccomp profile is asked for but the kernel has no seccomp")
	}
	switch profile.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		filter, err := seccomp.GetDefaultProfile(spec)
		if err != nil {
			return nil, invalid("make default seccomp profile: %w", err)
		}
		// Distributions switch the x32 ABI off, and a filter for it would cost as much again as
		// that for x86-64 whenever a container is made: what there may be of it is refused.
		filter.Architectures = slices.DeleteFunc(filter.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
		return filter, nil
	case runtimeapi.SecurityProfile_Localhost:
		filter, err := seccomp.LoadProfile(c.SeccompProfile, spec)
		if err != nil {
			return nil, invalid("read seccomp profile %s: %w", profile.GetLocalhostRef(), err)
		}
		return filter, nil
	}
	return nil, invalid("unknown type %d of seccomp profile", profile.GetProfileType())
}

// seLinuxLabel is the context of the process where SELinux is on.
func seLinuxLabel(security *runtimeapi.LinuxContainerSecurityContext, m Machine) (string, error) {
	o := security.GetSelinuxOptions()
	if !m.SELinux || o == nil || o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() == "" || security.GetPrivileged() {
		return "", nil
	}
	parts := []string{o.GetUser(), o.GetRole(), o.GetType(), o.GetLevel()}
	if slices.Contains(parts, "") {
		return "", invalid("SELinux options need user, role, type and level: there are no defaults here")
	}
	return strings.Join(parts, ":"), nil
}
