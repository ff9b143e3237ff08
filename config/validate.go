package config

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	podinfo "minikubelet/config/pod"
)

// validate checks what the apiserver would have: enough that a pod which passes can be run, and one that cannot be
// is told why. It also refuses what a static pod may not have.
//
// Upstream: pkg/apis/core/validation/validation.go ValidatePodCreate and pkg/kubelet/config/common.go tryDecodeSinglePod.
func validate(pod *corev1.Pod) field.ErrorList {
	meta, spec := field.NewPath("metadata"), field.NewPath("spec")
	var errs field.ErrorList
	errs = append(errs, names(meta.Child("name"), pod.Name, validation.IsDNS1123Subdomain)...)
	errs = append(errs, names(meta.Child("namespace"), pod.Namespace, validation.IsDNS1123Label)...)
	errs = append(errs, names(spec.Child("nodeName"), pod.Spec.NodeName, validation.IsDNS1123Subdomain)...)
	if podinfo.IsMirror(pod) {
		errs = append(errs, field.Forbidden(meta.Child("annotations").Key(podinfo.MirrorAnnotation), "only the mirror pods that kubelets make have it"))
	}
	for key, value := range pod.Labels {
		errs = append(errs, names(meta.Child("labels"), key, validation.IsQualifiedName)...)
		errs = append(errs, names(meta.Child("labels").Key(key), value, validation.IsValidLabelValue)...)
	}
	errs = append(errs, oneOf(spec.Child("restartPolicy"), pod.Spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(spec.Child("dnsPolicy"), pod.Spec.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)...)
	if d := pod.Spec.ActiveDeadlineSeconds; d != nil && *d < 1 {
		errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *d, "must be greater than 0"))
	}
	if len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("schedulingGates"), "a static pod is on its node already"))
	}
	volumes, more := validateVolumes(spec.Child("volumes"), pod.Spec.Volumes)
	errs = append(errs, more...)
	errs = append(errs, validateContainers(spec, &pod.Spec, volumes)...)
	return append(errs, forbidden(spec, &pod.Spec)...)
}

func names(at *field.Path, value string, check func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for _, problem := range check(value) {
		errs = append(errs, field.Invalid(at, value, problem))
	}
	return errs
}

func oneOf[T ~string](at *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, allowed)}
}

func validateVolumes(at *field.Path, volumes []corev1.Volume) (sets.Set[string], field.ErrorList) {
	known := sets.New[string]()
	var errs field.ErrorList
	for i := range volumes {
		v, here := &volumes[i], at.Index(i)
		errs = append(errs, names(here.Child("name"), v.Name, validation.IsDNS1123Label)...)
		if known.Has(v.Name) {
			errs = append(errs, field.Duplicate(here.Child("name"), v.Name))
		}
		known.Insert(v.Name)
		if v.HostPath != nil {
			if v.HostPath.Path == "" {
				errs = append(errs, field.Required(here.Child("hostPath", "path"), ""))
			}
			if hasDotDot(v.HostPath.Path) {
				errs = append(errs, field.Invalid(here.Child("hostPath", "path"), v.HostPath.Path, "must not contain '..'"))
			}
		}
	}
	return known, errs
}

func hasDotDot(path string) bool {
	return slices.Contains(strings.Split(path, "/"), "..")
}

func validateContainers(spec *field.Path, s *corev1.PodSpec, volumes sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(spec.Child("containers"), ""))
	}
	if len(s.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	seen, hostPorts := sets.New[string](), sets.New[string]()
	for here, c := range containers(spec, s) {
		errs = append(errs, names(here.Child("name"), c.Name, validation.IsDNS1123Label)...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(here.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
		errs = append(errs, validateContainer(here, c, volumes)...)
		errs = append(errs, validatePorts(here.Child("ports"), c.Ports, hostPorts)...)
	}
	return errs
}

// containers goes through the init and regular containers, each with its place.
func containers(spec *field.Path, s *corev1.PodSpec) iter.Seq2[*field.Path, *corev1.Container] {
	return func(yield func(*field.Path, *corev1.Container) bool) {
		for i := range s.InitContainers {
			if !yield(spec.Child("initContainers").Index(i), &s.InitContainers[i]) {
				return
			}
		}
		for i := range s.Containers {
			if !yield(spec.Child("containers").Index(i), &s.Containers[i]) {
				return
			}
		}
	}
}

func validateContainer(at *field.Path, c *corev1.Container, volumes sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	if c.Image == "" || c.Image != strings.TrimSpace(c.Image) {
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must be a name without leading or trailing spaces"))
	}
	errs = append(errs, oneOf(at.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, oneOf(at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	for i := range c.Env {
		errs = append(errs, names(at.Child("env").Index(i).Child("name"), c.Env[i].Name, validation.IsRelaxedEnvVarName)...)
		if c.Env[i].Value != "" && c.Env[i].ValueFrom != nil {
			errs = append(errs, field.Invalid(at.Child("env").Index(i).Child("valueFrom"), "", "may not be specified when `value` is not empty"))
		}
	}
	for i := range c.VolumeMounts {
		m, here := &c.VolumeMounts[i], at.Child("volumeMounts").Index(i)
		if !volumes.Has(m.Name) {
			errs = append(errs, field.NotFound(here.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(here.Child("mountPath"), ""))
		}
		if hasDotDot(m.SubPath) || strings.HasPrefix(m.SubPath, "/") {
			errs = append(errs, field.Invalid(here.Child("subPath"), m.SubPath, "must be a relative path without '..'"))
		}
	}
	for name, request := range c.Resources.Requests {
		limit, limited := c.Resources.Limits[name]
		if request.Sign() < 0 || limited && request.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(at.Child("resources", "requests").Key(string(name)), request.String(), fmt.Sprintf("must be between 0 and the %s limit", name)))
		}
	}
	for name, probe := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe, "startupProbe": c.StartupProbe} {
		errs = append(errs, validateProbe(at.Child(name), probe)...)
	}
	return errs
}

func validateProbe(at *field.Path, p *corev1.Probe) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	handlers := 0
	for _, set := range []bool{p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil} {
		if set {
			handlers++
		}
	}
	if handlers != 1 {
		errs = append(errs, field.Required(at, "must specify exactly one handler type"))
	}
	for name, n := range map[string]int32{"periodSeconds": p.PeriodSeconds, "timeoutSeconds": p.TimeoutSeconds, "successThreshold": p.SuccessThreshold, "failureThreshold": p.FailureThreshold} {
		if n < 1 {
			errs = append(errs, field.Invalid(at.Child(name), n, "must be greater than 0"))
		}
	}
	if p.InitialDelaySeconds < 0 {
		errs = append(errs, field.Invalid(at.Child("initialDelaySeconds"), p.InitialDelaySeconds, "must not be negative"))
	}
	return errs
}

func validatePorts(at *field.Path, ports []corev1.ContainerPort, hostPorts sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		p, here := &ports[i], at.Index(i)
		for _, problem := range validation.IsValidPortNum(int(p.ContainerPort)) {
			errs = append(errs, field.Invalid(here.Child("containerPort"), p.ContainerPort, problem))
		}
		errs = append(errs, oneOf(here.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		if p.HostPort == 0 {
			continue
		}
		for _, problem := range validation.IsValidPortNum(int(p.HostPort)) {
			errs = append(errs, field.Invalid(here.Child("hostPort"), p.HostPort, problem))
		}
		key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
		if hostPorts.Has(key) {
			errs = append(errs, field.Duplicate(here.Child("hostPort"), p.HostPort))
		}
		hostPorts.Insert(key)
	}
	return errs
}

// forbidden names references to API objects, which a pod that needs no apiserver cannot have.
func forbidden(spec *field.Path, s *corev1.PodSpec) field.ErrorList {
	const why = "a static pod may not refer to API objects"
	var errs field.ErrorList
	add := func(bad bool, at *field.Path) {
		if bad {
			errs = append(errs, field.Forbidden(at, why))
		}
	}
	add(s.ServiceAccountName != "", spec.Child("serviceAccountName"))
	add(len(s.ImagePullSecrets) > 0, spec.Child("imagePullSecrets"))
	add(len(s.ResourceClaims) > 0, spec.Child("resourceClaims"))
	for i := range s.Volumes {
		v, at := &s.Volumes[i], spec.Child("volumes").Index(i)
		add(v.Secret != nil, at.Child("secret"))
		add(v.ConfigMap != nil, at.Child("configMap"))
		add(v.PersistentVolumeClaim != nil, at.Child("persistentVolumeClaim"))
		add(v.Ephemeral != nil, at.Child("ephemeral"))
		if v.Projected == nil {
			continue
		}
		for j := range v.Projected.Sources {
			p, at := &v.Projected.Sources[j], at.Child("projected", "sources").Index(j)
			add(p.Secret != nil, at.Child("secret"))
			add(p.ConfigMap != nil, at.Child("configMap"))
			add(p.ServiceAccountToken != nil, at.Child("serviceAccountToken"))
			add(p.ClusterTrustBundle != nil, at.Child("clusterTrustBundle"))
			add(p.PodCertificate != nil, at.Child("podCertificate"))
		}
	}
	for at, c := range containers(spec, s) {
		for j := range c.EnvFrom {
			add(true, at.Child("envFrom").Index(j))
		}
		for j := range c.Env {
			from := c.Env[j].ValueFrom
			add(from != nil && (from.ConfigMapKeyRef != nil || from.SecretKeyRef != nil), at.Child("env").Index(j).Child("valueFrom"))
		}
	}
	return errs
}
