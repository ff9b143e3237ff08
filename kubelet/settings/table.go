package settings

import (
	"cmp"
	"slices"
)

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
	// Idle are values of a refused field that are taken and have no effect: a warning says so, with the note.
	Idle []any
	// Flag is the flag that sets the field, "" for none. Usage describes it; by default the note does.
	Flag, Usage string
	// ZeroIsDefault says that 0 means the default in a flag too, as it does in a file.
	ZeroIsDefault bool
	Note          string
}

// usage describes the field's flag.
func (f Field) usage() string {
	if f.Support == Accepted {
		return "no effect: " + f.Note
	}
	return cmp.Or(f.Usage, f.Note)
}

// fieldsWithFlag are the fields that a flag sets.
func fieldsWithFlag() []Field {
	return slices.DeleteFunc(slices.Clone(table), func(f Field) bool { return f.Flag == "" })
}

const (
	noManager  = "left out by decision: no pod gets CPUs, memory or NUMA nodes of its own here"
	noIPTables = "no iptables rules are made; upstream's chains serve nothing since 1.28"
	noNUMA     = "pods share the CPUs and the memory of all NUMA nodes"
	// pressureStalls is what stands in the place of memcg notifications.
	pressureStalls = "the kernel's pressure stall information is always listened to, on cgroup v1 and v2"
)

// memoryQoS is the one feature gate that switches something, and allBeta sets it where it is not given itself.
const (
	memoryQoS = "MemoryQoS"
	allBeta   = "AllBeta"
)

const protobuf = "application/vnd.kubernetes.protobuf"

// table holds every field of KubeletConfiguration once: defaults, support and notes come from here and nowhere else,
// and docs/compatibility.md is written from it. A default that differs from upstream's is this kubelet's own, the
// same whether or not there is a configuration file.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go SetDefaults_KubeletConfiguration, cmd/kubelet/app/options/options.go
// AddKubeletConfigFlags.
var table = []Field{
	{Group: "Which pods", Path: "staticPodPath", Support: Supported, Flag: "pod-manifest-path", Usage: "directory of static pod manifests, or one file"},
	{Path: "staticPodURL", Support: Supported, Flag: "manifest-url", Usage: "URL of a pod or a list of pods"},
	{Path: "staticPodURLHeader", Support: Supported, Flag: "manifest-url-header", Usage: "headers for --manifest-url: name:value,name:value"},
	{Path: "fileCheckFrequency", Support: Supported, Default: "20s", Flag: "file-check-frequency", Usage: "how often --pod-manifest-path is read even if nothing seems to change there"},
	{Path: "httpCheckFrequency", Support: Supported, Default: "20s", Flag: "http-check-frequency", Usage: "how often --manifest-url is read"},
	{Path: "syncFrequency", Support: Accepted, Default: "1m0s", Flag: "sync-frequency", Note: "pods are synced by events, not by period"},
	{Path: "runOnce", Support: Supported, Flag: "runonce", Usage: "start the pods of file and URL, report how they are, and end", Note: "upstream removed it; only without an apiserver"},
	{Path: "maxPods", Support: Supported, Default: 110, Flag: "max-pods", Usage: "how many pods may run here"},
	{Path: "podsPerCore", Support: Supported, Flag: "pods-per-core", Usage: "how many pods may run here for each CPU, up to --max-pods; 0 for no such limit", Note: "0 for no such limit; maxPods holds as well"},
	{Path: "podCIDR", Support: Supported, Flag: "pod-cidr", Usage: "addresses of pods, told to the runtime until the node's object has some", Note: "told to the runtime, until the node's object has some"},

	{Group: "The kubelet's own ports", Path: "healthzPort", Support: Supported, Default: 10248, Flag: "healthz-port", Usage: "port of /healthz; 0 for none"},
	{Path: "healthzBindAddress", Support: Supported, Default: "127.0.0.1", Flag: "healthz-bind-address", Usage: "address of /healthz"},
	{Path: "enableServer", Support: Supported, Default: true, Flag: "enable-server", Usage: "answer requests on --port"},
	{Path: "address", Support: Supported, Default: "0.0.0.0", Flag: "address", Usage: "address of the kubelet's server", Note: "without an apiserver the loopback address counts instead"},
	{Path: "port", Support: Supported, Default: 10250, Flag: "port", Usage: "port of the kubelet's server"},
	{Path: "readOnlyPort", Support: Supported, Flag: "read-only-port", Usage: "port for the metrics, stats and pods without authentication; 0 for none", Note: "no port unless one is given: it answers without authentication"},
	{Path: "tlsCertFile", Support: Supported, Flag: "tls-cert-file", Usage: "certificate of the kubelet's server", Note: "read again when it changes; without it a self-signed certificate is made in pki below --root-dir"},
	{Path: "tlsPrivateKeyFile", Support: Supported, Flag: "tls-private-key-file", Usage: "key of --tls-cert-file"},
	{Path: "tlsCipherSuites", Support: Supported, Flag: "tls-cipher-suites", Usage: "cipher suites of TLS 1.2; by default those of Go's that authenticate what they encrypt: no CBC", Note: "all names that upstream takes; a warning names those that Go calls insecure"},
	{Path: "tlsCurvePreferences", Support: Supported},
	{Path: "tlsMinVersion", Support: Supported, Flag: "tls-min-version", Usage: "VersionTLS12 or VersionTLS13", Note: "VersionTLS12 or VersionTLS13; older ones are taken with a warning, and 1.2 holds"},
	{Path: "authentication.x509.clientCAFile", Support: Supported, Flag: "client-ca-file", Usage: "authorities of client certificates", Note: "read again when it changes"},
	{Path: "authentication.webhook.enabled", Support: Supported, Default: true, Flag: "authentication-token-webhook", Usage: "have the apiserver review bearer tokens", Note: "without an apiserver it has no effect"},
	{Path: "authentication.webhook.cacheTTL", Support: Supported, Default: "2m0s", Flag: "authentication-token-webhook-cache-ttl", Usage: "how long the review of a token holds"},
	{Path: "authentication.anonymous.enabled", Support: Supported, Default: false, Flag: "anonymous-auth", Usage: "let requests without credentials on to the authorizer, as system:anonymous"},
	{Path: "authorization.mode", Support: Supported, Default: "Webhook", Flag: "authorization-mode", Usage: "Webhook, which asks the apiserver, or AlwaysAllow", Note: "without an apiserver every known user may do everything"},
	{Path: "authorization.webhook.cacheAuthorizedTTL", Support: Supported, Default: "5m0s", Flag: "authorization-webhook-cache-authorized-ttl", Usage: "how long a granted access holds"},
	{Path: "authorization.webhook.cacheUnauthorizedTTL", Support: Supported, Default: "30s", Flag: "authorization-webhook-cache-unauthorized-ttl", Usage: "how long a refused access holds"},
	{Path: "streamingConnectionIdleTimeout", Support: Supported, Default: "5m0s", Upstream: "4h0m0s", Flag: "streaming-connection-idle-timeout", Usage: "how long nothing may pass on a connection into a container; 0 for ever", Note: "a connection on which not even keepalives pass"},
	{Path: "enableDebuggingHandlers", Support: Supported, Default: true, Flag: "enable-debugging-handlers", Usage: "answer requests into containers, and for logs and the configuration"},
	{Path: "enableProfilingHandler", Support: Supported, Default: false, Upstream: true},
	{Path: "enableDebugFlagsHandler", Support: Supported, Default: false, Upstream: true},
	{Path: "enableSystemLogHandler", Support: Supported, Default: true},
	{Path: "enableContentionProfiling", Support: Supported, Flag: "contention-profiling", Usage: "profile contention, if profiling is on"},
	{Path: "enableSystemLogQuery", Support: Supported, Default: false, Note: "/logs/?query=SERVICE asks journalctl, with upstream's options"},
	{Path: "serverTLSBootstrap", Support: Supported, Flag: "rotate-server-certificates", Usage: "have the cluster sign the serving certificate, and renew it in time"},
	{Path: "rotateCertificates", Support: Supported, Default: true, Upstream: false, Flag: "rotate-certificates", Usage: "renew the client certificate in time"},

	{Group: "The node", Path: "registerNode", Support: Supported, Default: true, Flag: "register-node", Usage: "make the node's object in the apiserver"},
	{Path: "registerWithTaints", Support: Supported, Flag: "register-with-taints", Usage: "taints to register the node with: key=value:effect,..."},
	{Path: "providerID", Support: Supported, Flag: "provider-id", Usage: "the node's name at its cloud provider"},
	{Path: "nodeStatusUpdateFrequency", Support: Supported, Default: "10s", Flag: "node-status-update-frequency", Usage: "how often the node's status is worked out"},
	{Path: "nodeStatusReportFrequency", Support: Supported, Default: "5m0s", Note: "as upstream, nodeStatusUpdateFrequency if only that is given"},
	{Path: "nodeLeaseDurationSeconds", Support: Supported, Default: 40},
	{Path: "nodeStatusMaxImages", Support: Supported, Default: 50, Flag: "node-status-max-images", Usage: "how many images the status lists; -1 for all"},
	{Path: "systemReserved", Support: Supported, Flag: "system-reserved", Usage: "what the rest of the system gets, and pods may not have: cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000"},
	{Path: "kubeReserved", Support: Supported, Flag: "kube-reserved", Usage: "what the kubelet and the runtime get, and pods may not have: cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000"},
	{Path: "enforceNodeAllocatable", Support: Supported, Default: []any{"pods"}, Flag: "enforce-node-allocatable", Usage: "pods: all pods together get no more than allocatable; kube-reserved, system-reserved, or these with -compressible: the cgroups of the reservations get no more; none", Note: "pods, kube-reserved, system-reserved, these with -compressible, or none"},
	{Path: "systemReservedCgroup", Support: Supported, Flag: "system-reserved-cgroup", Usage: "cgroup that --system-reserved is enforced on, if --enforce-node-allocatable says so", Note: "enforced if enforceNodeAllocatable says so"},
	{Path: "kubeReservedCgroup", Support: Supported, Flag: "kube-reserved-cgroup", Usage: "cgroup that --kube-reserved is enforced on, if --enforce-node-allocatable says so", Note: "enforced if enforceNodeAllocatable says so"},
	{Path: "reservedSystemCPUs", Support: Supported, Flag: "reserved-cpus", Usage: "CPUs for the system, as 0-1,4: their number is reserved in place of what --kube-reserved and --system-reserved say of cpu", Note: "as many CPUs as the list names, which must be online, are reserved in place of what kubeReserved and systemReserved say of cpu; as upstream without the static policy, pods may run on each"},
	{Path: "reservedMemory", Support: Accepted, Note: noNUMA},
	{Path: "qosReserved", Support: Accepted, Flag: "qos-reserved", Note: "no requests are reserved by QoS class, nor upstream without the alpha feature gate QOSReserved"},
	{Path: "shutdownGracePeriod", Support: Supported, Note: "needs systemd-logind"},
	{Path: "shutdownGracePeriodCriticalPods", Support: Supported},
	{Path: "shutdownGracePeriodByPodPriority", Support: Supported},

	{Group: "The apiserver", Path: "kubeAPIQPS", Support: Supported, Default: 50, Flag: "kube-api-qps", Usage: "requests to the apiserver a second"},
	{Path: "kubeAPIBurst", Support: Supported, Default: 100, Flag: "kube-api-burst", Usage: "requests to the apiserver at once", ZeroIsDefault: true},
	{Path: "eventRecordQPS", Support: Supported, Default: 50, Flag: "event-qps", Usage: "events a second"},
	{Path: "eventBurst", Support: Supported, Default: 100, Flag: "event-burst", Usage: "events at once", ZeroIsDefault: true},
	{Path: "contentType", Support: Supported, Default: protobuf, Flag: "kube-api-content-type", Usage: "how objects are written to the apiserver: application/vnd.kubernetes.protobuf or application/json", Note: "that, or application/json"},
	{Path: "configMapAndSecretChangeDetectionStrategy", Support: Refused, Default: "Watch", Idle: []any{"Get", "Cache"}, Note: "ConfigMaps and Secrets are watched, so that changes arrive at once"},

	{Group: "The runtime and its images", Path: "containerRuntimeEndpoint", Support: Supported, Default: "unix:///run/containerd/containerd.sock", Flag: "container-runtime-endpoint", Usage: "socket of the CRI runtime, unix:///path, or embedded: the kubelet runs containers itself, with runc, conmon and CNI plugins", Note: "or embedded, for the runtime in the kubelet's own process; CRI-O's socket if it exists and containerd's does not"},
	{Path: "imageServiceEndpoint", Support: Supported, Flag: "image-service-endpoint", Usage: "socket of the CRI image service, if it is another"},
	{Path: "runtimeRequestTimeout", Support: Supported, Default: "2m0s", Flag: "runtime-request-timeout", Usage: "time limit of calls to the runtime"},
	{Path: "registryPullQPS", Support: Supported, Default: 5, Flag: "registry-qps", Usage: "image pulls a second; 0 for no limit"},
	{Path: "registryBurst", Support: Supported, Default: 10, Flag: "registry-burst", Usage: "image pulls at once, while --registry-qps is kept on average", ZeroIsDefault: true},
	{Path: "serializeImagePulls", Support: Supported, Default: true, Flag: "serialize-image-pulls", Usage: "pull one image at a time", Note: "as upstream, false if only maxParallelImagePulls is given and greater than 1"},
	{Path: "maxParallelImagePulls", Support: Supported},
	{Path: "imagePullCredentialsVerificationPolicy", Support: Supported, Default: "NeverVerifyPreloadedImages"},
	{Path: "preloadedImagesVerificationAllowlist", Support: Supported, Note: "with NeverVerifyAllowlistedImages"},
	{Path: "imageMinimumGCAge", Support: Supported, Default: "2m0s", Flag: "minimum-image-ttl-duration", Usage: "how long an image stays at least"},
	{Path: "imageMaximumGCAge", Support: Supported, Note: "an image is that old when it was not used, and was on the node, for so long"},
	{Path: "imageGCHighThresholdPercent", Support: Supported, Default: 85, Flag: "image-gc-high-threshold", Usage: "from what usage of the disk, in percent, unused images are removed; 100 for never", Note: "looked at every 5 minutes as upstream, and after each pull"},
	{Path: "imageGCLowThresholdPercent", Support: Supported, Default: 80, Flag: "image-gc-low-threshold", Usage: "down to what usage of the disk, in percent"},

	{Group: "Cgroups", Path: "cgroupRoot", Support: Supported, Flag: "cgroup-root", Usage: "cgroup that holds those of pods"},
	{Path: "cgroupsPerQOS", Support: Supported, Default: true, Flag: "cgroups-per-qos", Usage: "a cgroup for every QoS class and pod"},
	{Path: "cgroupDriver", Support: Supported, Default: "cgroupfs", Flag: "cgroup-driver", Usage: "cgroupfs or systemd; a runtime that tells its own decides", Note: "the runtime's counts and is waited for; the setting does for a runtime that cannot tell"},
	{Path: "podPidsLimit", Support: Supported, Default: 4096, Upstream: -1, Flag: "pod-max-pids", Usage: "how many processes a pod may have; 0 or less for no limit", Note: "0 or less for no limit"},
	{Path: "cpuCFSQuota", Support: Supported, Default: true, Flag: "cpu-cfs-quota", Usage: "enforce CPU limits"},
	{Path: "cpuCFSQuotaPeriod", Support: Supported, Default: "100ms", Flag: "cpu-cfs-quota-period", Usage: "period of CPU limits, 1ms to 1s"},
	{Path: "singleProcessOOMKill", Support: Supported},
	{Path: "failCgroupV1", Support: Supported, Default: false, Upstream: true, Flag: "fail-cgroupv1", Usage: "do not start on cgroup v1", Note: "cgroup v1 works here, so it is no reason to fail unless asked for"},
	{Path: "kubeletCgroups", Support: Supported, Flag: "kubelet-cgroups", Usage: "cgroup that the kubelet runs in, for statistics; it is moved to none", Note: "its statistics are read from it, if it exists; the kubelet stays in the cgroup it was started in"},
	{Path: "systemCgroups", Support: Accepted, Flag: "system-cgroups", Note: "processes stay in the cgroups they are in: moving those of others is their owner's matter"},
	{Path: "memoryThrottlingFactor", Support: Supported, Note: "on cgroup v2, unless the feature gate MemoryQoS is false"},
	{Path: "memoryReservationPolicy", Support: Supported, Default: "None", Note: "or TieredReservation, on cgroup v2, unless the feature gate MemoryQoS is false"},
	{Path: "memorySwap.swapBehavior", Support: Supported, Note: "NoSwap, as without a value, or LimitedSwap, which has an effect on cgroup v2 only"},
	{Path: "failSwapOn", Support: Accepted, Default: true, Also: []any{false}, Flag: "fail-swap-on", Note: "a machine that has swap is no reason to fail: pods get none of it, or what memorySwap says"},
	{Path: "cpuManagerPolicy", Support: Refused, Default: "none", Flag: "cpu-manager-policy", Usage: "none, and no other: no pod gets CPUs of its own", Note: noManager},
	{Path: "cpuManagerPolicyOptions", Support: Refused, Flag: "cpu-manager-policy-options", Usage: "empty: the policy none has no options", Note: noManager},
	{Path: "cpuManagerReconcilePeriod", Support: Accepted, Default: "10s", Flag: "cpu-manager-reconcile-period", Note: "only the static policy has use for it, which is refused"},
	{Path: "memoryManagerPolicy", Support: Refused, Default: "None", Flag: "memory-manager-policy", Usage: "None, and no other: no pod gets memory of its own", Note: noManager},
	{Path: "topologyManagerPolicy", Support: Refused, Default: "none", Idle: []any{"best-effort"}, Flag: "topology-manager-policy", Usage: "none, or best-effort, which has no effect: no pod gets a NUMA node of its own", Note: noManager},
	{Path: "topologyManagerScope", Support: Accepted, Default: "container", Flag: "topology-manager-scope", Note: noNUMA},
	{Path: "topologyManagerPolicyOptions", Support: Accepted, Flag: "topology-manager-policy-options", Note: noNUMA},

	{Group: "What pods get", Path: "clusterDomain", Support: Supported, Flag: "cluster-domain", Usage: "the cluster's domain"},
	{Path: "clusterDNS", Support: Supported, Flag: "cluster-dns", Usage: "addresses of the cluster's DNS servers, separated by commas"},
	{Path: "resolvConf", Support: Supported, Default: "/etc/resolv.conf", Flag: "resolv-conf", Usage: "resolver configuration that pods' own is made from"},
	{Path: "podLogsDir", Support: Supported, Default: "/var/log/pods"},
	{Path: "crashLoopBackOff.maxContainerRestartPeriod", Support: Supported, Default: "5m0s"},
	{Path: "seccompDefault", Support: Supported, Default: true, Upstream: false, Flag: "seccomp-default", Usage: "RuntimeDefault where a pod names no seccomp profile"},
	{Path: "allowedUnsafeSysctls", Support: Supported, Flag: "allowed-unsafe-sysctls", Usage: "sysctls, or prefixes of them with *, that pods may set besides the safe ones"},
	{Path: "defaultPodSysctls", Support: Refused, Note: "alpha upstream, where it needs the feature gate DefaultPodSysctls"},
	{Path: "userNamespaces", Support: Supported, Note: "idsPerPod, 65536 by default"},
	{Path: "hairpinMode", Support: Accepted, Default: "promiscuous-bridge", Flag: "hairpin-mode", Note: "the network plugin's matter"},
	{Path: "containerLogMaxSize", Support: Supported, Default: "10Mi", Flag: "container-log-max-size", Usage: "from what size a container's log is rotated; negative for never", Note: "negative for no rotation"},
	{Path: "containerLogMaxFiles", Support: Supported, Default: 5, Flag: "container-log-max-files", Usage: "how many files the log of one container may have"},
	{Path: "containerLogMaxWorkers", Support: Supported, Default: 1},
	{Path: "containerLogMonitorInterval", Support: Supported, Default: "10s"},
	{Path: "localStorageCapacityIsolation", Support: Supported, Default: true, Flag: "local-storage-capacity-isolation", Usage: "count ephemeral storage, and evict pods that use more than their limit"},
	{Path: "volumePluginDir", Support: Accepted, Default: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/", Flag: "volume-plugin-dir", Note: "no flexvolumes"},
	{Path: "volumeStatsAggPeriod", Support: Supported, Default: "1m0s", Flag: "volume-stats-agg-period", Usage: "how old the figures of a volume may be when statistics are asked for; 0 or less: volumes are not measured", Note: "how old the figures of a volume may be when statistics are asked for; negative: volumes are not measured"},
	{Path: "enableControllerAttachDetach", Support: Accepted, Default: true, Flag: "enable-controller-attach-detach", Note: "the cluster's controller attaches and detaches volumes, as the node's annotation asks it to"},

	{Group: "Eviction", Path: "evictionHard", Support: Supported, Default: defaultEviction, Flag: "eviction-hard", Usage: "what must stay free, lest pods are evicted, and is taken from allocatable: memory.available<500Mi", Note: "as upstream, containerfs.* follow nodefs.* or imagefs.*, whichever filesystem that is"},
	{Path: "evictionSoft", Support: Supported, Flag: "eviction-soft", Usage: "what must stay free, but for a grace period: memory.available<1Gi"},
	{Path: "evictionSoftGracePeriod", Support: Supported, Flag: "eviction-soft-grace-period", Usage: "how long soft thresholds may be crossed: memory.available=1m30s"},
	{Path: "evictionPressureTransitionPeriod", Support: Supported, Default: "5m0s", Flag: "eviction-pressure-transition-period", Usage: "how long the node reports pressure after it has ended"},
	{Path: "evictionMaxPodGracePeriod", Support: Supported, Flag: "eviction-max-pod-grace-period", Usage: "seconds that pods get at most when a soft threshold is crossed; negative for their own", Note: "negative for the pod's own"},
	{Path: "evictionMinimumReclaim", Support: Supported, Flag: "eviction-minimum-reclaim", Usage: "how much more than the threshold an eviction must leave free: nodefs.available=1Gi"},
	{Path: "mergeDefaultEvictionSettings", Support: Supported, Default: false},
	{Path: "kernelMemcgNotification", Support: Accepted, Also: []any{true}, Flag: "kernel-memcg-notification", Note: pressureStalls},

	{Group: "The kubelet's process and the machine", Path: "logging.verbosity", Support: Supported, Flag: "v", Usage: "log verbosity: 2 tells what happens to pods, 4 why"},
	{Path: "logging.format", Support: Supported, Default: "text", Flag: "logging-format", Usage: "text or json", Note: "text or json"},
	{Path: "logging.flushFrequency", Support: Accepted, Default: "5s", Note: "logs are not buffered"},
	{Path: "logging.vmodule", Support: Supported, Flag: "vmodule", Usage: "log verbosity by file: pattern=N,..."},
	{Path: "logging.options", Support: Accepted, Note: "logs go to standard error unbuffered"},
	{Path: "tracing", Support: Supported, Note: "spans go by OTLP over gRPC to endpoint, localhost:4317 by default, none without samplingRatePerMillion; beside upstream's each step of a pod has one, with its reason and its function: docs/timeline.md"},
	{Path: "featureGates", Support: Supported, Flag: "feature-gates", Usage: "name=true,name=false; upstream's names are known, MemoryQoS switches something, others keep upstream's default", Note: "every gate of upstream's is known by name; MemoryQoS, true by default, switches memoryThrottlingFactor and memoryReservationPolicy; another that is not at upstream's default has no effect and a warning says so"},
	{Path: "showHiddenMetricsForVersion", Support: Accepted, Note: "no metric is hidden"},
	{Path: "oomScoreAdj", Support: Supported, Default: -999, Flag: "oom-score-adj", Usage: "the kubelet's own oom_score_adj, -1000 to 1000", Note: "as upstream, a kubelet that may not set it says so and goes on"},
	{Path: "maxOpenFiles", Support: Supported, Default: 1000000, Flag: "max-open-files", Usage: "how many files the kubelet may have open", ZeroIsDefault: true},
	{Path: "protectKernelDefaults", Support: Supported, Flag: "protect-kernel-defaults", Usage: "do not start if one of six kernel settings is not as Kubernetes wants it, instead of setting it", Note: "false: six kernel settings are set as Kubernetes wants them; true: the kubelet does not start if one differs"},
	{Path: "makeIPTablesUtilChains", Support: Accepted, Default: true, Flag: "make-iptables-util-chains", Note: noIPTables},
	{Path: "iptablesMasqueradeBit", Support: Accepted, Default: 14, Note: noIPTables},
	{Path: "iptablesDropBit", Support: Accepted, Default: 15, Note: noIPTables},
}

// defaultEviction are upstream's thresholds on Linux.
var defaultEviction = map[string]any{
	"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%",
}
