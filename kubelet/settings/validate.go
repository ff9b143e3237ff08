package settings

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	cliflag "k8s.io/component-base/cli/flag"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	"k8s.io/utils/cpuset"
	netutils "k8s.io/utils/net"
)

// validate checks a complete configuration. Every error names its field.
//
// Upstream: pkg/kubelet/apis/config/validation/validation.go ValidateKubeletConfiguration.
func validate(c *kubeletconfig.KubeletConfiguration) []problem {
	p := &problems{}
	p.numbers(c)
	p.places(c)
	p.lists(c)
	p.server(c)
	p.garbage(c)
	p.verification(c)
	p.shutdown(c)
	for _, err := range tracingapi.ValidateTracingConfiguration(c.Tracing, nil, field.NewPath("tracing")) {
		p.list = append(p.list, problem{"tracing", err})
	}
	return p.list
}

// problems collects what is wrong with a configuration.
type problems struct{ list []problem }

func (p *problems) add(bad bool, path string, value any, detail string) {
	if bad {
		p.list = append(p.list, problem{path, field.Invalid(field.NewPath(path), value, detail)})
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
	add(c.Port < 1 || c.Port > 65535, "port", c.Port, "must be between 1 and 65535")
	add(*c.HealthzPort < 0 || *c.HealthzPort > 65535, "healthzPort", *c.HealthzPort, "must be between 0 (off) and 65535")
	if m := c.MaxParallelImagePulls; m != nil {
		add(*m < 1, "maxParallelImagePulls", *m, "must be greater than 0")
		add(*m > 1 && *c.SerializeImagePulls, "maxParallelImagePulls", *m, "cannot be greater than 1 while serializeImagePulls is true")
	}
	add(c.CPUCFSQuotaPeriod.Duration < 1e6 || c.CPUCFSQuotaPeriod.Duration > 1e9, "cpuCFSQuotaPeriod", c.CPUCFSQuotaPeriod.Duration.String(), "must be between 1ms and 1s")
	if m := c.CrashLoopBackOff.MaxContainerRestartPeriod; m != nil {
		add(m.Seconds() < 1 || m.Seconds() > 300, "crashLoopBackOff.maxContainerRestartPeriod", m.Duration.String(), "must be between 1s and 300s")
	}
	if f := c.MemoryThrottlingFactor; f != nil {
		add(!(*f > 0 && *f <= 1), "memoryThrottlingFactor", *f, "must be greater than 0 and at most 1")
	}
	policy := c.MemoryReservationPolicy
	add(policy != kubeletconfig.NoneMemoryReservationPolicy && policy != kubeletconfig.TieredReservationMemoryReservationPolicy,
		"memoryReservationPolicy", policy, "must be None or TieredReservation")
	add(policy == kubeletconfig.TieredReservationMemoryReservationPolicy && !c.FeatureGates[memoryQoS],
		"memoryReservationPolicy", policy, "must be None while the feature gate MemoryQoS is false")
	if u := c.UserNamespaces; u != nil && u.IDsPerPod != nil {
		add(*u.IDsPerPod <= 0 || *u.IDsPerPod%65536 != 0 || *u.IDsPerPod >= 1<<32, "userNamespaces.idsPerPod", *u.IDsPerPod, "must be a multiple of 65536 below 2^32")
	}
	add(c.PodsPerCore < 0, "podsPerCore", c.PodsPerCore, "must not be negative")
	add(*c.OOMScoreAdj < -1000 || *c.OOMScoreAdj > 1000, "oomScoreAdj", *c.OOMScoreAdj, "must be between -1000 and 1000")
	add(!slices.Contains([]string{"", "NoSwap", LimitedSwap}, c.MemorySwap.SwapBehavior), "memorySwap.swapBehavior", c.MemorySwap.SwapBehavior, "must be NoSwap or LimitedSwap")
	add(c.MaxOpenFiles < 0, "maxOpenFiles", c.MaxOpenFiles, "must not be negative")
	add(c.Logging.Verbosity > 1<<31-1, "logging.verbosity", c.Logging.Verbosity, "must be at most 2147483647")
}

// places checks addresses, paths and names.
func (p *problems) places(c *kubeletconfig.KubeletConfiguration) {
	add := p.add
	isAddress := net.ParseIP(c.HealthzBindAddress) != nil || len(validation.IsDNS1123Subdomain(c.HealthzBindAddress)) == 0
	add(!isAddress, "healthzBindAddress", c.HealthzBindAddress, "must be an IP address or a host's name")
	add(!slices.Contains([]string{"cgroupfs", "systemd"}, c.CgroupDriver), "cgroupDriver", c.CgroupDriver, "must be cgroupfs or systemd")
	add(!slices.Contains([]string{"", "text", jsonFormat}, c.Logging.Format), "logging.format", c.Logging.Format, "must be text or json")
	add(!slices.Contains([]string{protobuf, "application/json"}, c.ContentType), "contentType", c.ContentType, "must be "+protobuf+" or application/json")
	add(!strings.HasPrefix(c.PodLogsDir, "/"), "podLogsDir", c.PodLogsDir, "must be an absolute path")
	if c.StaticPodURL != "" {
		u, err := url.Parse(c.StaticPodURL)
		add(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https", "staticPodURL", c.StaticPodURL, "must be an http or https URL")
	}
	embedded := c.ContainerRuntimeEndpoint == Embedded
	add(embedded && c.ImageServiceEndpoint != "", "imageServiceEndpoint", c.ImageServiceEndpoint, "must be empty: the embedded runtime has its images itself")
	for _, endpoint := range []struct{ path, value string }{{"containerRuntimeEndpoint", c.ContainerRuntimeEndpoint}, {"imageServiceEndpoint", c.ImageServiceEndpoint}} {
		if embedded && endpoint.value == Embedded {
			continue
		}
		bad := endpoint.value != "" && !strings.HasPrefix(endpoint.value, "unix:///") && !strings.HasPrefix(endpoint.value, "/")
		add(bad, endpoint.path, endpoint.value, "must be unix:///path/to/socket")
	}
}

// lists checks what has several values.
func (p *problems) lists(c *kubeletconfig.KubeletConfiguration) {
	if c.PodCIDR != "" {
		for cidr := range strings.SplitSeq(c.PodCIDR, ",") {
			_, _, err := net.ParseCIDR(strings.TrimSpace(cidr))
			p.add(err != nil, "podCIDR", c.PodCIDR, "must be an address range as 10.244.1.0/24, or one of each family with a comma between")
		}
	}
	if c.ReservedSystemCPUs != "" {
		_, err := cpuset.Parse(c.ReservedSystemCPUs)
		p.add(err != nil, "reservedSystemCPUs", c.ReservedSystemCPUs, fmt.Sprint(err))
		p.add(c.KubeReservedCgroup+c.SystemReservedCgroup != "", "reservedSystemCPUs", c.ReservedSystemCPUs, "must not be given together with kubeReservedCgroup or systemReservedCgroup")
	}
	p.reserved("kubeReserved", c.KubeReserved)
	p.reserved("systemReserved", c.SystemReserved)
	p.enforced(c)
	for i, sysctl := range c.AllowedUnsafeSysctls {
		p.add(!sysctlPattern.MatchString(sysctl), fmt.Sprintf("allowedUnsafeSysctls[%d]", i), sysctl, "must be a sysctl's name, or a prefix of names with * at its end")
	}
	for i, t := range c.RegisterWithTaints {
		path := fmt.Sprintf("registerWithTaints[%d]", i)
		for _, detail := range validation.IsQualifiedName(t.Key) {
			p.add(true, path+".key", t.Key, detail)
		}
		for _, detail := range validation.IsValidLabelValue(t.Value) {
			p.add(true, path+".value", t.Value, detail)
		}
		p.add(!slices.Contains(taintEffects, t.Effect), path+".effect", t.Effect, "must be NoSchedule, PreferNoSchedule or NoExecute")
		p.add(t.TimeAdded != nil, path+".timeAdded", t.TimeAdded, "must not be set")
		same := func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect }
		p.add(slices.ContainsFunc(c.RegisterWithTaints[:i], same), path, t.ToString(), "is there twice")
	}
}

// LimitedSwap is the value of memorySwap.swapBehavior that lets burstable pods use swap.
const LimitedSwap = "LimitedSwap"

// enforced checks enforceNodeAllocatable.
func (p *problems) enforced(c *kubeletconfig.KubeletConfiguration) {
	all := c.EnforceNodeAllocatable
	for i, what := range all {
		path := fmt.Sprintf("enforceNodeAllocatable[%d]", i)
		switch what {
		case "pods":
			p.add(!*c.CgroupsPerQOS, path, what, "needs cgroupsPerQOS")
		case "none":
			p.add(len(all) > 1, path, what, "must stand alone")
		case KubeReserved, KubeReserved + Compressible:
			p.add(c.KubeReservedCgroup == "", path, what, "needs kubeReservedCgroup")
			p.add(slices.Contains(all, KubeReserved) && what != KubeReserved, path, what, "must not be given together with "+KubeReserved)
		case SystemReserved, SystemReserved + Compressible:
			p.add(c.SystemReservedCgroup == "", path, what, "needs systemReservedCgroup")
			p.add(slices.Contains(all, SystemReserved) && what != SystemReserved, path, what, "must not be given together with "+SystemReserved)
		default:
			p.add(true, path, what, "must be pods, kube-reserved, system-reserved, these with -compressible, or none")
		}
	}
}

// The values of enforceNodeAllocatable that name reservations; with Compressible at their end CPU alone is enforced.
const (
	KubeReserved   = "kube-reserved"
	SystemReserved = "system-reserved"
	Compressible   = "-compressible"
)

var (
	sysctlPattern = regexp.MustCompile(`^[a-z0-9][-_a-z0-9./]*\*?$`)
	taintEffects  = []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
)

// reserved checks kubeReserved and systemReserved.
func (p *problems) reserved(path string, reserved map[string]string) {
	for name, value := range reserved {
		at := path + "[" + name + "]"
		if !slices.Contains([]string{"cpu", "memory", "ephemeral-storage", "pid"}, name) {
			p.add(true, at, value, "must be cpu, memory, ephemeral-storage or pid")
			continue
		}
		q, err := resource.ParseQuantity(value)
		if err != nil {
			p.add(true, at, value, err.Error())
		} else {
			p.add(q.Sign() < 0, at, value, "must not be negative")
		}
	}
}

// server checks the fields of the server.
func (p *problems) server(c *kubeletconfig.KubeletConfiguration) {
	p.add(net.ParseIP(c.Address) == nil, "address", c.Address, "must be an IP address")
	_, err := cliflag.TLSVersion(c.TLSMinVersion)
	p.add(err != nil, "tlsMinVersion", c.TLSMinVersion, "must be VersionTLS12 or VersionTLS13")
	asked, served := c.EnableSystemLogQuery, c.EnableSystemLogHandler
	p.add(asked != nil && *asked && served != nil && !*served, "enableSystemLogQuery", true, "needs enableSystemLogHandler")
	p.add(c.ReadOnlyPort < 0 || c.ReadOnlyPort > 65535, "readOnlyPort", c.ReadOnlyPort, "must be between 0 (off) and 65535")
	p.add(c.ReadOnlyPort != 0 && c.ReadOnlyPort == c.Port, "readOnlyPort", c.ReadOnlyPort, "must not be port")
	for i, curve := range c.TLSCurvePreferences {
		p.add(curve < 1 || curve > 65535, fmt.Sprintf("tlsCurvePreferences[%d]", i), curve, "must be the number of a curve")
	}
	mode := string(c.Authorization.Mode)
	p.add(mode != "Webhook" && mode != "AlwaysAllow", "authorization.mode", mode, "must be Webhook or AlwaysAllow")
	p.add(c.TLSCertFile != "" && c.TLSPrivateKeyFile == "", "tlsCertFile", c.TLSCertFile, "needs tlsPrivateKeyFile")
	p.add(c.TLSCertFile == "" && c.TLSPrivateKeyFile != "", "tlsPrivateKeyFile", c.TLSPrivateKeyFile, "needs tlsCertFile")
	for i, name := range c.TLSCipherSuites {
		_, err := cliflag.TLSCipherSuites([]string{name})
		p.add(err != nil, fmt.Sprintf("tlsCipherSuites[%d]", i), name, "must be the name of a cipher suite that Go has")
	}
	for path, d := range map[string]metav1.Duration{
		"streamingConnectionIdleTimeout": c.StreamingConnectionIdleTimeout, "authentication.webhook.cacheTTL": c.Authentication.Webhook.CacheTTL,
		"authorization.webhook.cacheAuthorizedTTL": c.Authorization.Webhook.CacheAuthorizedTTL, "authorization.webhook.cacheUnauthorizedTTL": c.Authorization.Webhook.CacheUnauthorizedTTL,
	} {
		p.add(d.Duration < 0, path, d.Duration.String(), "must not be negative")
	}
}

// soften leaves out what upstream leaves out too, addresses of DNS servers that are none, and warns of that and of what is insecure.
func soften(c *kubeletconfig.KubeletConfiguration) (warnings []string) {
	for _, name := range c.TLSCipherSuites {
		if _, insecure := cliflag.InsecureTLSCiphers()[name]; insecure {
			warnings = append(warnings, fmt.Sprintf("tlsCipherSuites: %s is insecure", name))
		}
	}
	if slices.Contains([]string{"VersionTLS10", "VersionTLS11"}, c.TLSMinVersion) {
		warnings = append(warnings, fmt.Sprintf("tlsMinVersion: %s has no effect: VersionTLS12 is the oldest that is spoken", c.TLSMinVersion))
	}
	if c.MemoryThrottlingFactor != nil && !c.FeatureGates[memoryQoS] {
		warnings = append(warnings, "memoryThrottlingFactor has no effect: the feature gate MemoryQoS is false")
	}
	var servers []string
	for i, text := range c.ClusterDNS {
		if ip := netutils.ParseIPSloppy(text); ip != nil {
			servers = append(servers, ip.String())
		} else {
			warnings = append(warnings, fmt.Sprintf("clusterDNS[%d]: %q is no IP address and is left out", i, text))
		}
	}
	c.ClusterDNS = servers
	return warnings
}

// garbage checks what says when images, logs and pods are too many.
func (p *problems) garbage(c *kubeletconfig.KubeletConfiguration) {
	_, wrong := evictionThresholds(c)
	p.list = append(p.list, wrong...)
	p.add(c.EvictionPressureTransitionPeriod.Duration < 0, "evictionPressureTransitionPeriod", c.EvictionPressureTransitionPeriod.Duration.String(), "must not be negative")
	high, low := *c.ImageGCHighThresholdPercent, *c.ImageGCLowThresholdPercent
	p.add(high < 0 || high > 100, "imageGCHighThresholdPercent", high, "must be between 0 and 100")
	p.add(low < 0 || low > 100, "imageGCLowThresholdPercent", low, "must be between 0 and 100")
	const usual = 80 // then the other was given
	p.add(low >= high && low != usual, "imageGCLowThresholdPercent", low, fmt.Sprintf("must be less than imageGCHighThresholdPercent, %d", high))
	p.add(low >= high && low == usual, "imageGCHighThresholdPercent", high, fmt.Sprintf("must be greater than imageGCLowThresholdPercent, %d", low))
	youngest, oldest := c.ImageMinimumGCAge.Duration, c.ImageMaximumGCAge.Duration
	p.add(youngest < 0, "imageMinimumGCAge", youngest.String(), "must not be negative")
	p.add(oldest < 0 || oldest > 0 && oldest <= youngest, "imageMaximumGCAge", oldest.String(), "must be 0 for none, or greater than imageMinimumGCAge")
	_, err := ContainerLogMaxSize(c)
	p.add(err != nil, "containerLogMaxSize", c.ContainerLogMaxSize, fmt.Sprint(err))
	p.add(*c.ContainerLogMaxFiles < 2, "containerLogMaxFiles", *c.ContainerLogMaxFiles, "must be greater than 1")
	p.add(*c.ContainerLogMaxWorkers < 1, "containerLogMaxWorkers", *c.ContainerLogMaxWorkers, "must be greater than 0")
	p.add(c.ContainerLogMonitorInterval.Seconds() < 3, "containerLogMonitorInterval", c.ContainerLogMonitorInterval.Duration.String(), "must be at least 3s")
}

// verification checks who may use images that are there.
func (p *problems) verification(c *kubeletconfig.KubeletConfiguration) {
	policies := []kubeletconfig.ImagePullCredentialsVerificationPolicy{
		kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages, kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify,
	}
	policy := c.ImagePullCredentialsVerificationPolicy
	p.add(!slices.Contains(policies, policy), "imagePullCredentialsVerificationPolicy", policy, fmt.Sprintf("must be one of %v", policies))
	p.add(len(c.PreloadedImagesVerificationAllowlist) > 0 && policy != kubeletconfig.NeverVerifyAllowlistedImages,
		"preloadedImagesVerificationAllowlist", c.PreloadedImagesVerificationAllowlist, "needs imagePullCredentialsVerificationPolicy NeverVerifyAllowlistedImages")
}

// shutdown checks the grace periods of a machine that goes down.
func (p *problems) shutdown(c *kubeletconfig.KubeletConfiguration) {
	all, critical := c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration
	p.add(all != 0 && all < time.Second, "shutdownGracePeriod", all.String(), "must be 0 or at least 1s")
	p.add(critical != 0 && critical < time.Second, "shutdownGracePeriodCriticalPods", critical.String(), "must be 0 or at least 1s")
	p.add(critical > all, "shutdownGracePeriodCriticalPods", critical.String(), "must not be greater than shutdownGracePeriod, of which it is the last part")
	seen := map[int32]bool{}
	for i, g := range c.ShutdownGracePeriodByPodPriority {
		path := fmt.Sprintf("shutdownGracePeriodByPodPriority[%d]", i)
		p.add(g.ShutdownGracePeriodSeconds < 0, path+".shutdownGracePeriodSeconds", g.ShutdownGracePeriodSeconds, "must not be negative")
		p.add(seen[g.Priority], path+".priority", g.Priority, "is there twice")
		seen[g.Priority] = true
	}
	p.add(len(seen) > 0 && all > 0, "shutdownGracePeriodByPodPriority", len(seen), "must not be given together with shutdownGracePeriod")
}

// ContainerLogMaxSize is the field of that name in bytes.
func ContainerLogMaxSize(c *kubeletconfig.KubeletConfiguration) (int64, error) {
	q, err := resource.ParseQuantity(c.ContainerLogMaxSize)
	if err != nil {
		return 0, err
	}
	return q.Value(), nil
}

// validateNodeLabels checks --node-labels, those of roles apart.
func validateNodeLabels(labels, roles map[string]string) []error {
	var errs []error
	all := maps.Clone(labels)
	maps.Copy(all, roles)
	for key, value := range all {
		for _, problem := range slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)) {
			errs = append(errs, fmt.Errorf("--node-labels: %s=%s: %s", key, value, problem))
		}
		prefix, _, _ := strings.Cut(key, "/")
		reserved := strings.Contains(key, "/") && (prefix == "kubernetes.io" || prefix == "k8s.io" || strings.HasSuffix(prefix, ".kubernetes.io") || strings.HasSuffix(prefix, ".k8s.io"))
		if _, isRole := roles[key]; reserved && !isRole && !kubeletapis.IsKubeletLabel(key) {
			errs = append(errs, fmt.Errorf("--node-labels: %s: a kubelet may not set labels of this prefix, except of kubelet.kubernetes.io and node.kubernetes.io", key))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}
