package spec

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/cri"
)

// effectiveSecurity lays a container's security context over its pod's.
//
// Upstream: pkg/securitycontext/util.go DetermineEffectiveSecurityContext
func effectiveSecurity(pod *corev1.Pod, container *corev1.Container) *corev1.SecurityContext {
	out := &corev1.SecurityContext{}
	if container.SecurityContext != nil {
		out = container.SecurityContext.DeepCopy()
	}
	of := pod.Spec.SecurityContext
	if of == nil {
		return out
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = of.SELinuxOptions
	}
	if out.RunAsUser == nil {
		out.RunAsUser = of.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = of.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = of.RunAsNonRoot
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = of.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = of.AppArmorProfile
	}
	return out
}

// checkNonRoot enforces runAsNonRoot; only a numeric user can be checked.
func checkNonRoot(pod *corev1.Pod, container *corev1.Container, sc *corev1.SecurityContext, user ImageUser) error {
	where := fmt.Sprintf("(pod: %q, container: %s)", ReferenceName(pod), container.Name)
	switch {
	case sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot:
		return nil
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case sc.RunAsUser != nil:
		return nil
	case user.UID == nil && user.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user.Name, where)
	case user.UID != nil && *user.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case user.UID != nil:
		if problems := validation.IsValidUserID(*user.UID); len(problems) > 0 {
			return fmt.Errorf("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s %s",
				*user.UID, math.MaxInt32, strings.Join(problems, "; "), where)
		}
	}
	return nil
}

// containerSecurity is the CRI's security context of a container.
func (n *Node) containerSecurity(pod *corev1.Pod, container *corev1.Container, user ImageUser, users *runtimeapi.UserNamespace) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, container)
	if err := checkNonRoot(pod, container, sc, user); err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(pod, users),
		SelinuxOptions:   selinuxOptions(sc.SELinuxOptions),
		Privileged:       sc.Privileged != nil && *sc.Privileged,
		ReadonlyRootfs:   sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem,
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		RunAsUser:        int64Value(sc.RunAsUser),
		RunAsGroup:       int64Value(sc.RunAsGroup),
	}
	if c := sc.Capabilities; c != nil {
		out.Capabilities = &runtimeapi.Capability{AddCapabilities: names(c.Add), DropCapabilities: names(c.Drop)}
	}
	if out.RunAsUser == nil {
		out.RunAsUser, out.RunAsUsername = int64Value(user.UID), user.Name
	}
	if sc.ProcMount == nil || *sc.ProcMount != corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = slices.Concat(maskedPaths, n.Machine.ThermalThrottle), readonlyPaths
	}
	var err error
	if out.SupplementalGroups, out.SupplementalGroupsPolicy, err = supplementalGroups(pod); err != nil {
		return nil, err
	}
	if out.Seccomp, err = n.seccomp(sc.SeccompProfile); err != nil {
		return nil, err
	}
	if out.Apparmor, err = apparmor(pod, container, sc.AppArmorProfile); err != nil {
		return nil, err
	}
	return out, nil
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

func names(list []corev1.Capability) []string {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = string(c)
	}
	return out
}

func selinuxOptions(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// supplementalGroups are fsGroup and the pod's own.
func supplementalGroups(pod *corev1.Pod) ([]int64, runtimeapi.SupplementalGroupsPolicy, error) {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil, 0, nil
	}
	var groups []int64
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	groups = append(groups, sc.SupplementalGroups...)
	if sc.SupplementalGroupsPolicy == nil {
		return groups, 0, nil
	}
	policy, ok := runtimeapi.SupplementalGroupsPolicy_value[string(*sc.SupplementalGroupsPolicy)]
	if !ok {
		return nil, 0, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *sc.SupplementalGroupsPolicy)
	}
	return groups, runtimeapi.SupplementalGroupsPolicy(policy), nil
}

// seccomp turns a profile into the CRI's; no profile is Unconfined, or RuntimeDefault under seccompDefault.
func (n *Node) seccomp(profile *corev1.SeccompProfile) (*runtimeapi.SecurityProfile, error) {
	kind := corev1.SeccompProfileTypeUnconfined
	if n.SeccompDefault {
		kind = corev1.SeccompProfileTypeRuntimeDefault
	}
	if profile != nil {
		kind = profile.Type
	}
	switch kind {
	case corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
		}
		if !filepath.IsLocal(*profile.LocalhostProfile) {
			return nil, fmt.Errorf("seccompProfile.localhostProfile: %q leads out of the profile directory", *profile.LocalhostProfile)
		}
		return &runtimeapi.SecurityProfile{
			ProfileType:  runtimeapi.SecurityProfile_Localhost,
			LocalhostRef: filepath.Join(n.SeccompDir, *profile.LocalhostProfile),
		}, nil
	}
	return nil, fmt.Errorf("seccompProfile.type: unknown type %q", kind)
}

// apparmor takes the field, else the old annotation of the container.
func apparmor(pod *corev1.Pod, container *corev1.Container, profile *corev1.AppArmorProfile) (*runtimeapi.SecurityProfile, error) {
	if profile == nil {
		profile = apparmorAnnotation(pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+container.Name])
	}
	if profile == nil {
		return nil, nil
	}
	switch profile.Type {
	case corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case corev1.AppArmorProfileTypeLocalhost:
		if profile.LocalhostProfile == nil {
			return nil, fmt.Errorf("missing localhost apparmor profile name")
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile}, nil
	}
	return nil, fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
}

func apparmorAnnotation(value string) *corev1.AppArmorProfile {
	local, isLocal := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case isLocal:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &local}
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	}
	return nil
}

// namespaces says which of the node's namespaces the pod shares; without shareProcessNamespace each container has a
// process namespace of its own.
func namespaces(pod *corev1.Pod, users *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
	out := &runtimeapi.NamespaceOption{
		Network:       cri.NetworkMode(pod.Spec.HostNetwork),
		Pid:           runtimeapi.NamespaceMode_CONTAINER,
		Ipc:           runtimeapi.NamespaceMode_POD,
		UsernsOptions: users,
	}
	if pod.Spec.HostIPC {
		out.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch share := pod.Spec.ShareProcessNamespace; {
	case pod.Spec.HostPID:
		out.Pid = runtimeapi.NamespaceMode_NODE
	case share != nil && *share:
		out.Pid = runtimeapi.NamespaceMode_POD
	}
	return out
}

// readonlyPaths and maskedPaths keep a container from what procfs and sysfs tell of, or let change on, the node.
var (
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	maskedPaths   = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
)
