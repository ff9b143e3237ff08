package spec

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

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
	if shared := pod.Spec.SecurityContext; shared != nil {
		out.SELinuxOptions = cmp.Or(out.SELinuxOptions, shared.SELinuxOptions)
		out.RunAsUser = cmp.Or(out.RunAsUser, shared.RunAsUser)
		out.RunAsGroup = cmp.Or(out.RunAsGroup, shared.RunAsGroup)
		out.RunAsNonRoot = cmp.Or(out.RunAsNonRoot, shared.RunAsNonRoot)
		out.SeccompProfile = cmp.Or(out.SeccompProfile, shared.SeccompProfile)
		out.AppArmorProfile = cmp.Or(out.AppArmorProfile, shared.AppArmorProfile)
	}
	return out
}

// checkNonRoot enforces runAsNonRoot; only a numeric user can be checked.
func checkNonRoot(pod *corev1.Pod, container *corev1.Container, sc *corev1.SecurityContext, user ImageUser) error {
	where := fmt.Sprintf("(pod: %q, container: %s)", ReferenceName(pod), container.Name)
	switch {
	case !ptr.Deref(sc.RunAsNonRoot, false):
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
		Privileged:       ptr.Deref(sc.Privileged, false),
		ReadonlyRootfs:   ptr.Deref(sc.ReadOnlyRootFilesystem, false),
		NoNewPrivs:       !ptr.Deref(sc.AllowPrivilegeEscalation, true),
		RunAsUser:        int64Value(sc.RunAsUser),
		RunAsGroup:       int64Value(sc.RunAsGroup),
	}
	if c := sc.Capabilities; c != nil {
		out.Capabilities = &runtimeapi.Capability{AddCapabilities: names(c.Add), DropCapabilities: names(c.Drop)}
	}
	if out.RunAsUser == nil {
		out.RunAsUser, out.RunAsUsername = int64Value(user.UID), user.Name
	}
	if ptr.Deref(sc.ProcMount, "") != corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = slices.Concat(maskedPaths, n.Kernel.ThermalThrottle), readonlyPaths
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
	file := ""
	if profile != nil {
		kind, file = profile.Type, ptr.Deref(profile.LocalhostProfile, "")
	}
	out, ok := profileOf(string(kind))
	switch {
	case !ok:
		return nil, fmt.Errorf("seccompProfile.type: unknown type %q", kind)
	case kind != corev1.SeccompProfileTypeLocalhost:
		return out, nil
	case file == "":
		return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
	case !filepath.IsLocal(file):
		return nil, fmt.Errorf("seccompProfile.localhostProfile: %q leads out of the profile directory", file)
	}
	out.LocalhostRef = filepath.Join(n.SeccompDir, file)
	return out, nil
}

// profileOf is the CRI's profile of a type that seccomp and AppArmor have in common.
func profileOf(kind string) (_ *runtimeapi.SecurityProfile, ok bool) {
	value, ok := runtimeapi.SecurityProfile_ProfileType_value[kind]
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_ProfileType(value)}, ok
}

// apparmor takes the field, else the old annotation of the container.
func apparmor(pod *corev1.Pod, container *corev1.Container, profile *corev1.AppArmorProfile) (*runtimeapi.SecurityProfile, error) {
	if profile == nil {
		profile = apparmorAnnotation(pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+container.Name])
	}
	if profile == nil {
		return nil, nil
	}
	out, ok := profileOf(string(profile.Type))
	switch {
	case !ok:
		return nil, fmt.Errorf("unknown apparmor profile type: %q", profile.Type)
	case profile.Type != corev1.AppArmorProfileTypeLocalhost:
		return out, nil
	case profile.LocalhostProfile == nil:
		return nil, fmt.Errorf("missing localhost apparmor profile name")
	}
	out.LocalhostRef = *profile.LocalhostProfile
	return out, nil
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
	switch {
	case pod.Spec.HostPID:
		out.Pid = runtimeapi.NamespaceMode_NODE
	case ptr.Deref(pod.Spec.ShareProcessNamespace, false):
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
