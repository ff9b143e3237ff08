package settings

import "slices"

// Support is what becomes of a field of KubeletConfiguration.
type Support string

// The kinds of support.
const (
	Supported Support = "supported"
	Accepted  Support = "accepted" // any value is taken and has no effect, for the reason in the note; a warning says so unless it is the default
	Refused   Support = "refused"  // an error, unless the value is upstream's default or what the note names
)

// Field is one line of the table: a field of KubeletConfiguration, its default, and what becomes of it here.
type Field struct {
	// Group heads the fields from this one on, in --help; empty for the same as before.
	Group string
	// Path is the field's name in a file, with the names above it before dots. It covers what is below it.
	Path    string
	Support Support
	// Default is the value of a field that is not given, as JSON has it; nil for the zero value.
	Default any
	// Upstream is upstream's default where it is another.
	Upstream any
	// Also are further values of a refused field that ask for nothing that is missing.
	Also []any
	Note string
}

const (
	noManager  = "left out by decision: CPUs, memory and NUMA nodes are nobody's alone here"
	noIPTables = "no iptables rules are made; upstream's chains serve nothing since 1.28"
)

// memoryQoS is the one feature gate that switches something.
const memoryQoS = "MemoryQoS"

const protobuf = "application/vnd.kubernetes.protobuf"

// table holds every field of KubeletConfiguration once: defaults, support and notes come from here and nowhere else,
// and docs/compatibility.md is written from it. A default that differs from upstream's is this kubelet's own, the
// same whether or not there is a configuration file.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go SetDefaults_KubeletConfiguration.
var table = []Field{
	{Group: "Which pods", Path: "staticPodPath", Support: Supported},
	{Path: "staticPodURL", Support: Supported},
	{Path: "staticPodURLHeader", Support: Supported},
	{Path: "fileCheckFrequency", Support: Supported, Default: "20s"},
	{Path: "httpCheckFrequency", Support: Supported, Default: "20s"},
	{Path: "syncFrequency", Support: Accepted, Default: "1m0s", Note: "pods are synced by events, not by period"},
	{Path: "runOnce", Support: Supported, Note: "upstream removed it; only without an apiserver"},
	{Path: "maxPods", Support: Supported, Default: 110},
	{Path: "podsPerCore", Support: Refused},
	{Path: "podCIDR", Support: Supported, Note: "told to the runtime, until the node's object has some"},

	{Group: "The kubelet's own ports", Path: "healthzPort", Support: Supported, Default: 10248},
	{Path: "healthzBindAddress", Support: Supported, Default: "127.0.0.1"},
	{Path: "enableServer", Support: Supported, Default: true},
	{Path: "address", Support: Supported, Default: "0.0.0.0", Note: "without an apiserver the loopback address counts instead"},
	{Path: "port", Support: Supported, Default: 10250},
	{Path: "readOnlyPort", Support: Supported, Note: "no port unless one is given: it asks nobody who they are"},
	{Path: "tlsCertFile", Support: Supported, Note: "read again when it changes; without it a self-signed certificate is made in pki below --root-dir"},
	{Path: "tlsPrivateKeyFile", Support: Supported},
	{Path: "tlsCipherSuites", Support: Supported, Note: "all names that upstream takes; a warning names those that Go calls insecure"},
	{Path: "tlsCurvePreferences", Support: Supported},
	{Path: "tlsMinVersion", Support: Supported, Note: "VersionTLS12 or VersionTLS13"},
	{Path: "authentication.x509.clientCAFile", Support: Supported, Note: "read again when it changes"},
	{Path: "authentication.webhook.enabled", Support: Supported, Default: true, Note: "without an apiserver it has no effect"},
	{Path: "authentication.webhook.cacheTTL", Support: Supported, Default: "2m0s"},
	{Path: "authentication.anonymous.enabled", Support: Supported, Default: false},
	{Path: "authorization.mode", Support: Supported, Default: "Webhook", Note: "without an apiserver every known user may do everything"},
	{Path: "authorization.webhook.cacheAuthorizedTTL", Support: Supported, Default: "5m0s"},
	{Path: "authorization.webhook.cacheUnauthorizedTTL", Support: Supported, Default: "30s"},
	{Path: "streamingConnectionIdleTimeout", Support: Supported, Default: "5m0s", Upstream: "4h0m0s", Note: "a connection on which not even keepalives pass"},
	{Path: "enableDebuggingHandlers", Support: Supported, Default: true},
	{Path: "enableProfilingHandler", Support: Supported, Default: false, Upstream: true},
	{Path: "enableDebugFlagsHandler", Support: Supported, Default: false, Upstream: true},
	{Path: "enableSystemLogHandler", Support: Supported, Default: true},
	{Path: "enableContentionProfiling", Support: Supported},
	{Path: "enableSystemLogQuery", Support: Refused, Also: []any{false}},
	{Path: "serverTLSBootstrap", Support: Supported},
	{Path: "rotateCertificates", Support: Supported, Default: true, Upstream: false},

	{Group: "The node", Path: "registerNode", Support: Supported, Default: true},
	{Path: "registerWithTaints", Support: Supported},
	{Path: "providerID", Support: Supported},
	{Path: "nodeStatusUpdateFrequency", Support: Supported, Default: "10s"},
	{Path: "nodeStatusReportFrequency", Support: Supported, Default: "5m0s", Note: "as upstream, nodeStatusUpdateFrequency if only that is given"},
	{Path: "nodeLeaseDurationSeconds", Support: Supported, Default: 40},
	{Path: "nodeStatusMaxImages", Support: Supported, Default: 50},
	{Path: "systemReserved", Support: Supported},
	{Path: "kubeReserved", Support: Supported},
	{Path: "enforceNodeAllocatable", Support: Supported, Default: []any{"pods"}, Note: "pods, kube-reserved, system-reserved, these with -compressible, or none"},
	{Path: "systemReservedCgroup", Support: Supported, Note: "enforced if enforceNodeAllocatable says so"},
	{Path: "kubeReservedCgroup", Support: Supported, Note: "enforced if enforceNodeAllocatable says so"},
	{Path: "reservedSystemCPUs", Support: Refused, Note: noManager},
	{Path: "reservedMemory", Support: Refused, Note: noManager},
	{Path: "qosReserved", Support: Refused},
	{Path: "shutdownGracePeriod", Support: Supported, Note: "needs systemd-logind"},
	{Path: "shutdownGracePeriodCriticalPods", Support: Supported},
	{Path: "shutdownGracePeriodByPodPriority", Support: Supported},

	{Group: "The apiserver", Path: "kubeAPIQPS", Support: Supported, Default: 50},
	{Path: "kubeAPIBurst", Support: Supported, Default: 100},
	{Path: "eventRecordQPS", Support: Supported, Default: 50},
	{Path: "eventBurst", Support: Supported, Default: 100},
	{Path: "contentType", Support: Supported, Default: protobuf, Note: "that, or application/json"},
	{Path: "configMapAndSecretChangeDetectionStrategy", Support: Refused, Default: "Watch"},

	{Group: "The runtime and its images", Path: "containerRuntimeEndpoint", Support: Supported, Default: "unix:///run/containerd/containerd.sock", Note: "or embedded, for the runtime in the kubelet's own process; CRI-O's socket if it exists and containerd's does not"},
	{Path: "imageServiceEndpoint", Support: Supported},
	{Path: "runtimeRequestTimeout", Support: Supported, Default: "2m0s"},
	{Path: "registryPullQPS", Support: Supported, Default: 5},
	{Path: "registryBurst", Support: Supported, Default: 10},
	{Path: "serializeImagePulls", Support: Supported, Default: true, Note: "as upstream, false if only maxParallelImagePulls is given and greater than 1"},
	{Path: "maxParallelImagePulls", Support: Supported},
	{Path: "imagePullCredentialsVerificationPolicy", Support: Supported, Default: "NeverVerifyPreloadedImages"},
	{Path: "preloadedImagesVerificationAllowlist", Support: Supported, Note: "with NeverVerifyAllowlistedImages"},
	{Path: "imageMinimumGCAge", Support: Supported, Default: "2m0s"},
	{Path: "imageMaximumGCAge", Support: Supported, Note: "an image is that old when it was not used, and was on the node, for so long"},
	{Path: "imageGCHighThresholdPercent", Support: Supported, Default: 85, Note: "looked at every 5 minutes as upstream, and after each pull"},
	{Path: "imageGCLowThresholdPercent", Support: Supported, Default: 80},

	{Group: "Cgroups", Path: "cgroupRoot", Support: Supported},
	{Path: "cgroupsPerQOS", Support: Supported, Default: true},
	{Path: "cgroupDriver", Support: Supported, Default: "cgroupfs", Note: "the runtime's counts and is waited for; the setting does for a runtime that cannot tell"},
	{Path: "podPidsLimit", Support: Supported, Default: 4096, Upstream: -1},
	{Path: "cpuCFSQuota", Support: Supported, Default: true},
	{Path: "cpuCFSQuotaPeriod", Support: Supported, Default: "100ms"},
	{Path: "singleProcessOOMKill", Support: Supported},
	{Path: "failCgroupV1", Support: Supported, Default: false, Upstream: true, Note: "cgroup v1 works here, so it is no reason to fail unless asked for"},
	{Path: "kubeletCgroups", Support: Supported, Note: "its statistics are read from it, if it exists; the kubelet stays in the cgroup it was started in"},
	{Path: "systemCgroups", Support: Accepted, Note: "processes stay in the cgroups they are in: moving those of others is their owner's matter"},
	{Path: "memoryThrottlingFactor", Support: Supported, Note: "with the feature gate MemoryQoS; then 0.9 by default"},
	{Path: "memoryReservationPolicy", Support: Supported, Default: "None", Note: "TieredReservation needs the feature gate MemoryQoS"},
	{Path: "memorySwap.swapBehavior", Support: Supported, Note: "NoSwap, as without a value, or LimitedSwap, which has an effect on cgroup v2 only"},
	{Path: "failSwapOn", Support: Accepted, Default: true, Also: []any{false}, Note: "pods get no swap, so a machine that has some is no reason to fail"},
	{Path: "cpuManagerPolicy", Support: Refused, Default: "none", Note: noManager},
	{Path: "cpuManagerPolicyOptions", Support: Refused, Note: noManager},
	{Path: "cpuManagerReconcilePeriod", Support: Accepted, Default: "10s", Note: "only the static policy has use for it, which is refused"},
	{Path: "memoryManagerPolicy", Support: Refused, Default: "None", Note: noManager},
	{Path: "topologyManagerPolicy", Support: Refused, Default: "none", Note: noManager},
	{Path: "topologyManagerScope", Support: Refused, Default: "container", Note: noManager},
	{Path: "topologyManagerPolicyOptions", Support: Refused, Note: noManager},

	{Group: "What pods get", Path: "clusterDomain", Support: Supported},
	{Path: "clusterDNS", Support: Supported},
	{Path: "resolvConf", Support: Supported, Default: "/etc/resolv.conf"},
	{Path: "podLogsDir", Support: Supported, Default: "/var/log/pods"},
	{Path: "crashLoopBackOff.maxContainerRestartPeriod", Support: Supported, Default: "5m0s"},
	{Path: "seccompDefault", Support: Supported, Default: true, Upstream: false},
	{Path: "allowedUnsafeSysctls", Support: Supported},
	{Path: "defaultPodSysctls", Support: Refused},
	{Path: "userNamespaces", Support: Supported, Note: "idsPerPod, 65536 by default"},
	{Path: "hairpinMode", Support: Accepted, Default: "promiscuous-bridge", Note: "the network plugin's matter"},
	{Path: "containerLogMaxSize", Support: Supported, Default: "10Mi", Note: "negative for no rotation"},
	{Path: "containerLogMaxFiles", Support: Supported, Default: 5},
	{Path: "containerLogMaxWorkers", Support: Supported, Default: 1},
	{Path: "containerLogMonitorInterval", Support: Supported, Default: "10s"},
	{Path: "localStorageCapacityIsolation", Support: Supported, Default: true},
	{Path: "volumePluginDir", Support: Accepted, Default: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/", Note: "no flexvolumes"},
	{Path: "volumeStatsAggPeriod", Support: Supported, Default: "1m0s", Note: "how old the figures of a volume may be when statistics are asked for"},
	{Path: "enableControllerAttachDetach", Support: Refused, Default: true},

	{Group: "Eviction", Path: "evictionHard", Support: Supported, Default: defaultEviction, Note: "as upstream, containerfs.* follow nodefs.* or imagefs.*, whichever filesystem that is"},
	{Path: "evictionSoft", Support: Supported},
	{Path: "evictionSoftGracePeriod", Support: Supported},
	{Path: "evictionPressureTransitionPeriod", Support: Supported, Default: "5m0s"},
	{Path: "evictionMaxPodGracePeriod", Support: Supported, Note: "negative for the pod's own"},
	{Path: "evictionMinimumReclaim", Support: Supported},
	{Path: "mergeDefaultEvictionSettings", Support: Supported, Default: false},
	{Path: "kernelMemcgNotification", Support: Accepted, Also: []any{true}, Note: "the kernel's pressure stall information is always listened to, on cgroup v1 and v2"},

	{Group: "The kubelet's process and the machine", Path: "logging.verbosity", Support: Supported},
	{Path: "logging.format", Support: Supported, Default: "text", Note: "text or json"},
	{Path: "logging.flushFrequency", Support: Accepted, Default: "5s", Note: "logs are not buffered"},
	{Path: "logging.vmodule", Support: Supported},
	{Path: "logging.options", Support: Accepted, Note: "logs go to standard error unbuffered"},
	{Path: "tracing", Support: Supported, Note: "spans go by OTLP over gRPC to endpoint, localhost:4317 by default, none without samplingRatePerMillion; beside upstream's each step of a pod has one, with its reason and its function: docs/timeline.md"},
	{Path: "featureGates", Support: Supported, Note: "every gate of upstream's is known by name; MemoryQoS switches something (on cgroup v2; off here, on upstream from 1.37), another that is not at upstream's default has no effect and a warning says so"},
	{Path: "showHiddenMetricsForVersion", Support: Refused},
	{Path: "oomScoreAdj", Support: Supported, Default: -999, Note: "as upstream, a kubelet that may not set it says so and goes on"},
	{Path: "maxOpenFiles", Support: Supported, Default: 1000000},
	{Path: "protectKernelDefaults", Support: Supported, Note: "false: six kernel settings are set as Kubernetes wants them; true: the kubelet does not start if one differs"},
	{Path: "makeIPTablesUtilChains", Support: Accepted, Default: true, Note: noIPTables},
	{Path: "iptablesMasqueradeBit", Support: Accepted, Default: 14, Note: noIPTables},
	{Path: "iptablesDropBit", Support: Accepted, Default: 15, Note: noIPTables},
}

// defaultEviction are upstream's thresholds on Linux.
var defaultEviction = map[string]any{
	"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%",
}

// Fields returns what becomes of every field of KubeletConfiguration, in groups that belong together.
func Fields() []Field { return slices.Clone(table) }
