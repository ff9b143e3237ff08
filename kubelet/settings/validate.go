package settings

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// validate checks a complete configuration. Every error names its field.
//
// Upstream: pkg/kubelet/apis/config/validation/validation.go ValidateKubeletConfiguration.
func validate(c *kubeletconfig.KubeletConfiguration) []error {
	p := &problems{}
	p.numbers(c)
	p.places(c)
	p.lists(c)
	p.server(c)
	slices.SortFunc(p.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return p.errs
}

// problems collects what is wrong with a configuration.
type problems struct{ errs []error }

func (p *problems) add(bad bool, path string, value any, detail string) {
	if bad {
		p.errs = append(p.errs, field.Invalid(field.NewPath(path), value, detail))
	}
}

// numbers checks durations, counts, rates and ports.
func (p *problems) numbers(c *kubeletconfig.KubeletConfiguration) {
	add := p.add
	for path, d := range map[string]metav1.Duration{
		"fileCheckFrequency": c.FileCheckFrequency, "httpCheckFrequency": c.HTTPCheckFrequency, "runtimeRequestTimeout": c.RuntimeRequestTimeout,
		"nodeStatusUpdateFrequency": c.NodeStatusUpdateFrequency, "nodeStatusReportFrequency": c.NodeStatusReportFrequency,
	} {
		add(d.Duration <= 0, path, d.Duration.String(), "must be greater than 0")
	}
	for path, n := range map[string]int32{
		"registryPullQPS": *c.RegistryPullQPS, "registryBurst": c.RegistryBurst, "eventRecordQPS": *c.EventRecordQPS, "eventBurst": c.EventBurst,
		"kubeAPIQPS": *c.KubeAPIQPS, "kubeAPIBurst": c.KubeAPIBurst, "maxPods": c.MaxPods,
	} {
		add(n < 0, path, n, "must not be negative")
	}
	add(*c.NodeStatusMaxImages < -1, "nodeStatusMaxImages", *c.NodeStatusMaxImages, "must be -1 (no limit) or greater")
	add(c.NodeLeaseDurationSeconds <= 0, "nodeLeaseDurationSeconds", c.NodeLeaseDurationSeconds, "must be greater than 0")
	add(*c.HealthzPort < 0 || *c.HealthzPort > 65535, "healthzPort", *c.HealthzPort, "must be between 0 (off) and 65535")
	if m := c.MaxParallelImagePulls; m != nil {
		add(*m < 1, "maxParallelImagePulls", *m, "must be greater than 0")
		add(*m > 1 && *c.SerializeImagePulls, "maxParallelImagePulls", *m, "cannot be greater than 1 while serializeImagePulls is true")
	}
	add(c.CPUCFSQuotaPeriod.Duration < 1e6 || c.CPUCFSQuotaPeriod.Duration > 1e9, "cpuCFSQuotaPeriod", c.CPUCFSQuotaPeriod.Duration.String(), "must be between 1ms and 1s")
	if m := c.CrashLoopBackOff.MaxContainerRestartPeriod; m != nil {
		add(m.Seconds() < 1 || m.Seconds() > 300, "crashLoopBackOff.maxContainerRestartPeriod", m.Duration.String(), "must be between 1s and 300s")
	}
	add(*c.PodPidsLimit == 0 || *c.PodPidsLimit < -1, "podPidsLimit", *c.PodPidsLimit, "must be -1 (no limit) or greater than 0")
}

// places checks addresses, paths and names.
func (p *problems) places(c *kubeletconfig.KubeletConfiguration) {
	add := p.add
	add(net.ParseIP(c.HealthzBindAddress) == nil, "healthzBindAddress", c.HealthzBindAddress, "must be an IP address")
	add(!slices.Contains([]string{"cgroupfs", "systemd"}, c.CgroupDriver), "cgroupDriver", c.CgroupDriver, "must be cgroupfs or systemd")
	add(c.CgroupRoot != "" && !strings.HasPrefix(c.CgroupRoot, "/"), "cgroupRoot", c.CgroupRoot, "must be an absolute path")
	add(!strings.HasPrefix(c.PodLogsDir, "/"), "podLogsDir", c.PodLogsDir, "must be an absolute path")
	if c.StaticPodURL != "" {
		u, err := url.Parse(c.StaticPodURL)
		add(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https", "staticPodURL", c.StaticPodURL, "must be an http or https URL")
	}
	for _, endpoint := range []struct{ path, value string }{{"containerRuntimeEndpoint", c.ContainerRuntimeEndpoint}, {"imageServiceEndpoint", c.ImageServiceEndpoint}} {
		bad := endpoint.value != "" && !strings.HasPrefix(endpoint.value, "unix:///") && !strings.HasPrefix(endpoint.value, "/")
		add(bad, endpoint.path, endpoint.value, "must be unix:///path/to/socket")
	}
}

// lists checks what has several values.
func (p *problems) lists(c *kubeletconfig.KubeletConfiguration) {
	for i, ip := range c.ClusterDNS {
		p.add(net.ParseIP(ip) == nil, fmt.Sprintf("clusterDNS[%d]", i), ip, "must be an IP address")
	}
	for path, reserved := range map[string]map[string]string{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		for _, err := range validateReserved(field.NewPath(path), reserved) {
			p.errs = append(p.errs, err)
		}
	}
	for i, what := range c.EnforceNodeAllocatable {
		p.add(what != "pods" && what != "none", fmt.Sprintf("enforceNodeAllocatable[%d]", i), what, "must be pods or none")
	}
}

func validateReserved(path *field.Path, reserved map[string]string) field.ErrorList {
	var errs field.ErrorList
	for name, value := range reserved {
		at := path.Key(name)
		if !slices.Contains([]string{"cpu", "memory", "ephemeral-storage", "pid"}, name) {
			errs = append(errs, field.NotSupported(path, name, []string{"cpu", "memory", "ephemeral-storage", "pid"}))
			continue
		}
		q, err := resource.ParseQuantity(value)
		if err != nil {
			errs = append(errs, field.Invalid(at, value, err.Error()))
		} else if q.Sign() < 0 {
			errs = append(errs, field.Invalid(at, value, "must not be negative"))
		}
	}
	return errs
}

func validateNodeName(name string) []error {
	var errs []error
	for _, problem := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, fmt.Errorf("the node's name %q (--hostname-override): %s", name, problem))
	}
	return errs
}

// kubeletLabels are the labels of Kubernetes' own prefixes that a kubelet may set on its node.
//
// Upstream: staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go.
var kubeletLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	"beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "node.kubernetes.io/windows-build",
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region", "failure-domain.kubernetes.io/zone",
	"failure-domain.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
}

func validateNodeLabels(labels map[string]string) []error {
	var errs []error
	for key, value := range labels {
		for _, problem := range slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)) {
			errs = append(errs, fmt.Errorf("--node-labels: %s=%s: %s", key, value, problem))
		}
		prefix, _, _ := strings.Cut(key, "/")
		reserved := strings.Contains(key, "/") && (prefix == "kubernetes.io" || prefix == "k8s.io" || strings.HasSuffix(prefix, ".kubernetes.io") || strings.HasSuffix(prefix, ".k8s.io"))
		open := prefix == "kubelet.kubernetes.io" || prefix == "node.kubernetes.io" ||
			strings.HasSuffix(prefix, ".kubelet.kubernetes.io") || strings.HasSuffix(prefix, ".node.kubernetes.io")
		if reserved && !open && !slices.Contains(kubeletLabels, key) {
			errs = append(errs, fmt.Errorf("--node-labels: %s: a kubelet may not set labels of this prefix, except of kubelet.kubernetes.io and node.kubernetes.io", key))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}
