package settings

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// flags are the command line. Those that can stand in a configuration file as well are in configFlags.
type flags struct {
	set                          *pflag.FlagSet
	config, configDir            string
	kubeconfig                   string
	bootstrapKubeconfig, certDir string
	hostnameOverride             string
	nodeIP                       string
	rootDir                      string
	nodeLabels                   flagText
	cloudProvider                string
	runtimeCgroups               string
	pluginConfig, pluginDir      string
	embedded                     embeddedFlags
	version                      string
	timeline, step, chaos        string
	debugHold                    bool
}

// configFlag is a flag that sets a field of the configuration.
type configFlag struct {
	name, field, usage string
	convert            func(string) (any, error)
}

// configFlags are upstream's flags for fields of the configuration. A field that is refused but for its default is so
// as a flag, too.
//
// Upstream: cmd/kubelet/app/options/options.go AddKubeletConfigFlags.
var configFlags = []configFlag{
	{"container-runtime-endpoint", "containerRuntimeEndpoint", "socket of the CRI runtime, unix:///path, or embedded: the kubelet runs containers itself, with runc, conmon and CNI plugins", text},
	{"image-service-endpoint", "imageServiceEndpoint", "socket of the CRI image service, if it is another", text},
	{"pod-manifest-path", "staticPodPath", "directory of static pod manifests, or one file", text},
	{"manifest-url", "staticPodURL", "URL of a pod or a list of pods", text},
	{"manifest-url-header", "staticPodURLHeader", "headers for --manifest-url: name:value,name:value", headers},
	{"file-check-frequency", "fileCheckFrequency", "how often --pod-manifest-path is read even if nothing seems to change there", text},
	{"http-check-frequency", "httpCheckFrequency", "how often --manifest-url is read", text},
	{"sync-frequency", "syncFrequency", "ignored: pods are synced by events", text},
	{"runonce", "runOnce", "start the pods of file and URL, report how they are, and end", yesNo},
	{"cluster-dns", "clusterDNS", "addresses of the cluster's DNS servers, separated by commas", words},
	{"cluster-domain", "clusterDomain", "the cluster's domain", text},
	{"resolv-conf", "resolvConf", "resolver configuration that pods' own is made from", text},
	{"allowed-unsafe-sysctls", "allowedUnsafeSysctls", "sysctls, or prefixes of them with *, that pods may set besides the safe ones", words},
	{"seccomp-default", "seccompDefault", "RuntimeDefault where a pod names no seccomp profile", yesNo},
	{"cgroup-driver", "cgroupDriver", "cgroupfs or systemd; a runtime that tells its own decides", text},
	{"cgroup-root", "cgroupRoot", "cgroup that holds those of pods", text},
	{"cgroups-per-qos", "cgroupsPerQOS", "a cgroup for every QoS class and pod", yesNo},
	{"fail-cgroupv1", "failCgroupV1", "do not start on cgroup v1", yesNo},
	{"fail-swap-on", "failSwapOn", "ignored: pods get no swap", yesNo},
	{"cpu-cfs-quota", "cpuCFSQuota", "enforce CPU limits", yesNo},
	{"cpu-cfs-quota-period", "cpuCFSQuotaPeriod", "period of CPU limits, 1ms to 1s", text},
	{"max-pods", "maxPods", "how many pods may run here", number},
	{"pod-max-pids", "podPidsLimit", "how many processes a pod may have; -1 for no limit", number},
	{"pods-per-core", "podsPerCore", "0: --max-pods is the limit", number},
	{"pod-cidr", "podCIDR", "addresses of pods, told to the runtime until the node's object has some", text},
	{"kube-reserved", "kubeReserved", "what pods may not have: cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000", pairs},
	{"system-reserved", "systemReserved", "the same for the rest of the system", pairs},
	{"enforce-node-allocatable", "enforceNodeAllocatable", "pods: all pods together get no more than allocatable; kube-reserved, system-reserved, or these with -compressible: the cgroups of the reservations get no more; none", words},
	{"system-reserved-cgroup", "systemReservedCgroup", "cgroup that --system-reserved is enforced on, if --enforce-node-allocatable says so", text},
	{"kube-reserved-cgroup", "kubeReservedCgroup", "cgroup that --kube-reserved is enforced on, if --enforce-node-allocatable says so", text},
	{"reserved-cpus", "reservedSystemCPUs", "empty: " + noManager, text},
	{"qos-reserved", "qosReserved", "empty: no requests are reserved by QoS class", pairs},
	{"cpu-manager-policy", "cpuManagerPolicy", "none: " + noManager, text},
	{"cpu-manager-policy-options", "cpuManagerPolicyOptions", "empty: " + noManager, pairs},
	{"cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", "ignored: " + noManager, text},
	{"memory-manager-policy", "memoryManagerPolicy", "None: " + noManager, text},
	{"topology-manager-policy", "topologyManagerPolicy", "none: " + noManager, text},
	{"topology-manager-scope", "topologyManagerScope", "container: " + noManager, text},
	{"topology-manager-policy-options", "topologyManagerPolicyOptions", "empty: " + noManager, pairs},
	{"eviction-hard", "evictionHard", "what must stay free, lest pods are evicted, and is taken from allocatable: memory.available<500Mi", thresholds},
	{"eviction-soft", "evictionSoft", "what must stay free, but for a grace period: memory.available<1Gi", thresholds},
	{"eviction-soft-grace-period", "evictionSoftGracePeriod", "how long soft thresholds may be crossed: memory.available=1m30s", pairs},
	{"eviction-pressure-transition-period", "evictionPressureTransitionPeriod", "how long the node reports pressure after it has ended", text},
	{"eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", "seconds that pods get at most when a soft threshold is crossed; negative for their own", number},
	{"eviction-minimum-reclaim", "evictionMinimumReclaim", "how much more than the threshold an eviction must leave free: nodefs.available=1Gi", pairs},
	{"kernel-memcg-notification", "kernelMemcgNotification", "ignored: the kernel's pressure stall information is always listened to", yesNo},
	{"registry-qps", "registryPullQPS", "image pulls a second; 0 for no limit", number},
	{"registry-burst", "registryBurst", "image pulls at once, while --registry-qps is kept on average", number},
	{"serialize-image-pulls", "serializeImagePulls", "pull one image at a time", yesNo},
	{"runtime-request-timeout", "runtimeRequestTimeout", "time limit of calls to the runtime", text},
	{"minimum-image-ttl-duration", "imageMinimumGCAge", "how long an image stays at least", text},
	{"image-gc-high-threshold", "imageGCHighThresholdPercent", "from what usage of the disk, in percent, unused images are removed; 100 for never", number},
	{"image-gc-low-threshold", "imageGCLowThresholdPercent", "down to what usage of the disk, in percent", number},
	{"container-log-max-size", "containerLogMaxSize", "from what size a container's log is rotated; negative for never", text},
	{"container-log-max-files", "containerLogMaxFiles", "how many files the log of one container may have", number},
	{"local-storage-capacity-isolation", "localStorageCapacityIsolation", "count ephemeral storage, and evict pods that use more than their limit", yesNo},
	{"volume-plugin-dir", "volumePluginDir", "ignored: there are no flexvolumes", text},
	{"volume-stats-agg-period", "volumeStatsAggPeriod", "how old the figures of a volume may be when statistics are asked for", text},
	{"enable-controller-attach-detach", "enableControllerAttachDetach", "true: the cluster attaches volumes", yesNo},
	{"hairpin-mode", "hairpinMode", "ignored: the network plugin's matter", text},
	{"make-iptables-util-chains", "makeIPTablesUtilChains", "ignored: " + noIPTables, yesNo},
	{"register-node", "registerNode", "make the node's object in the apiserver", yesNo},
	{"register-with-taints", "registerWithTaints", "taints to register the node with: key=value:effect,...", taints},
	{"provider-id", "providerID", "the node's name at its cloud provider", text},
	{"node-status-update-frequency", "nodeStatusUpdateFrequency", "how often the node's status is worked out", text},
	{"node-status-max-images", "nodeStatusMaxImages", "how many images the status lists; -1 for all", number},
	{"kube-api-qps", "kubeAPIQPS", "requests to the apiserver a second", number},
	{"kube-api-burst", "kubeAPIBurst", "requests to the apiserver at once", number},
	{"kube-api-content-type", "contentType", "how objects are written to the apiserver: application/vnd.kubernetes.protobuf or application/json", text},
	{"event-qps", "eventRecordQPS", "events a second", number},
	{"event-burst", "eventBurst", "events at once", number},
	{"healthz-port", "healthzPort", "port of /healthz; 0 for none", number},
	{"healthz-bind-address", "healthzBindAddress", "address of /healthz", text},
	{"enable-server", "enableServer", "answer requests on --port", yesNo},
	{"address", "address", "address of the kubelet's server", text},
	{"port", "port", "port of the kubelet's server", number},
	{"read-only-port", "readOnlyPort", "port for the metrics, stats and pods without authentication; 0 for none", number},
	{"anonymous-auth", "authentication.anonymous.enabled", "let requests without credentials on to the authorizer, as system:anonymous", yesNo},
	{"authentication-token-webhook", "authentication.webhook.enabled", "have the apiserver review bearer tokens", yesNo},
	{"authorization-mode", "authorization.mode", "Webhook, which asks the apiserver, or AlwaysAllow", text},
	{"client-ca-file", "authentication.x509.clientCAFile", "authorities of client certificates", text},
	{"tls-cert-file", "tlsCertFile", "certificate of the kubelet's server", text},
	{"tls-private-key-file", "tlsPrivateKeyFile", "key of --tls-cert-file", text},
	{"tls-min-version", "tlsMinVersion", "VersionTLS12 or VersionTLS13", text},
	{"tls-cipher-suites", "tlsCipherSuites", "cipher suites of TLS 1.2; by default those of Go's that authenticate what they encrypt: no CBC", words},
	{"authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", "how long the review of a token holds", text},
	{"authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", "how long a granted access holds", text},
	{"authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", "how long a refused access holds", text},
	{"enable-debugging-handlers", "enableDebuggingHandlers", "answer requests into containers, and for logs and the configuration", yesNo},
	{"contention-profiling", "enableContentionProfiling", "profile contention, if profiling is on", yesNo},
	{"streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", "how long nothing may pass on a connection into a container; 0 means the default", text},
	{"rotate-certificates", "rotateCertificates", "renew the client certificate in time", yesNo},
	{"rotate-server-certificates", "serverTLSBootstrap", "have the cluster sign the serving certificate, and renew it in time", yesNo},
	{"oom-score-adj", "oomScoreAdj", "the kubelet's own oom_score_adj, -1000 to 1000", number},
	{"max-open-files", "maxOpenFiles", "how many files the kubelet may have open", number},
	{"kubelet-cgroups", "kubeletCgroups", "cgroup that the kubelet runs in, for statistics; it is moved to none", text},
	{"system-cgroups", "systemCgroups", "ignored: processes stay in the cgroups they are in", text},
	{"protect-kernel-defaults", "protectKernelDefaults", "do not start if one of six kernel settings is not as Kubernetes wants it, instead of setting it", yesNo},
	{"feature-gates", "featureGates", "upstream's names are known; MemoryQoS switches something, the others keep upstream's default", gates},
	{"logging-format", "logging.format", "text or json", text},
	{"vmodule", "logging.vmodule", "log verbosity by file: pattern=N,...", modules},
	{"v", "logging.verbosity", "log verbosity: 2 tells what happens to pods, 4 why", number},
}

func newFlags(out io.Writer) *flags {
	f := &flags{set: pflag.NewFlagSet("kubelet", pflag.ContinueOnError)}
	f.set.SetOutput(out)
	f.set.StringVar(&f.config, "config", "", "configuration file: KubeletConfiguration, "+apiVersion)
	f.set.StringVar(&f.configDir, "config-dir", "", "directory of drop-ins (*.conf) laid over the configuration file in the order of their names")
	f.set.StringVar(&f.bootstrapKubeconfig, "bootstrap-kubeconfig", "", "file that leads to a first client certificate when --kubeconfig is not there; it is then written")
	f.set.StringVar(&f.certDir, "cert-dir", "", "directory of the certificates that the kubelet is signed; pki below --root-dir by default")
	f.set.StringVar(&f.kubeconfig, "kubeconfig", "", "file that leads to the apiserver; without it the kubelet runs standalone")
	f.set.StringVar(&f.hostnameOverride, "hostname-override", "", "the node's name; the machine's by default")
	f.set.StringVar(&f.nodeIP, "node-ip", "", "the node's address, or one of each family separated by a comma; 0.0.0.0 or :: for one of that family that the machine has")
	f.set.StringVar(&f.rootDir, "root-dir", "/var/lib/kubelet", "directory of pods' files")
	f.nodeLabels = flagText{kind: "pairs", many: true}
	f.set.Var(&f.nodeLabels, "node-labels", "labels to register the node with: key=value,key=value")
	f.set.StringVar(&f.cloudProvider, "cloud-provider", "", "external: the cluster's cloud controller initialises the node and finds its addresses")
	f.set.StringVar(&f.runtimeCgroups, "runtime-cgroups", "", "cgroup that the container runtime runs in, for statistics")
	f.set.StringVar(&f.pluginConfig, "image-credential-provider-config", "", "configuration of the programs that provide credentials for images: a file, or a directory of them")
	f.set.StringVar(&f.pluginDir, "image-credential-provider-bin-dir", "", "directory of those programs")
	f.set.StringVar(&f.version, "version", "", "print the version, with =raw all of it; =VERSION: report this version, which may differ behind the patch number only")
	f.set.Lookup("version").NoOptDefVal = "true"
	f.set.StringVar(&f.timeline, "timeline", "", "show what is done for each pod, live, on a page on loopback whose link is logged: a port, or a loopback address and a port; without a value, any port")
	f.set.Lookup("timeline").NoOptDefVal = "0"
	f.set.StringVar(&f.step, "step", "", "for lessons, with --timeline: hold steps until they are released on its page or with Enter: STEP, STEP@POD or STEP@NAMESPACE/POD, separated by commas, where STEP is a CRI method or a step of a pod, as in CreateContainer@default/web")
	f.set.StringVar(&f.chaos, "chaos", "", "for lessons: let calls to the runtime fail, wait or hang: METHOD=KIND:PROBABILITY, separated by commas, where KIND is error, delay(DURATION) or hang, as in RunPodSandbox=error:0.3")
	f.set.BoolVar(&f.debugHold, "debug-hold", false, "for debuggers: while one holds the kubelet a process beside it renews the node's lease, so that the cluster keeps the node's pods; calls to the runtime get an hour")
	f.set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	addIdleFlags(f.set)
	f.set.AddFlagSet(f.embedded.flags())
	for _, c := range configFlags {
		shorthand := ""
		if len(c.name) == 1 {
			shorthand = c.name
		}
		value := &flagText{kind: kindOf(c.convert)}
		if empty, err := c.convert(""); err == nil {
			_, isText := empty.(string)
			value.many = !isText
		}
		f.set.VarP(value, c.name, shorthand, c.usage)
		if value, err := c.convert("true"); err == nil && value == true {
			f.set.Lookup(c.name).NoOptDefVal = "true"
		}
	}
	f.set.Usage = func() { f.help(out) }
	return f
}

// flagText is a flag's value as it was given. One that has many parts grows each time that it is given.
type flagText struct {
	text string
	kind string // what --help calls the value
	many bool
}

func (f *flagText) String() string { return f.text }

func (f *flagText) Type() string { return f.kind }

// Set is called for every time that the flag is given.
func (f *flagText) Set(text string) error {
	if f.many && f.text != "" {
		text = f.text + "," + text
	}
	f.text = text
	return nil
}

// kindOf is what --help calls the values that convert takes.
func kindOf(convert func(string) (any, error)) string {
	empty, err := convert("")
	switch empty.(type) {
	case string:
		return "string"
	case []any:
		return "list"
	case map[string]any:
		return "pairs"
	}
	if _, wrong := convert("1"); err != nil && wrong != nil {
		return "string"
	}
	if value, _ := convert("1"); value == true {
		return "bool"
	}
	return "int"
}

// apply puts the configuration's flags over what the files said.
func (f *flags) apply(g *given) (wrong []error) {
	for _, c := range configFlags {
		flag := f.set.Lookup(c.name)
		if !flag.Changed {
			continue
		}
		value, err := c.convert(flag.Value.String())
		if err == nil {
			alone := map[string]any{}
			put(alone, c.field, value)
			_, err = toConfig(alone)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("--%s: %w", c.name, err))
			continue
		}
		put(g.document, c.field, value)
		g.origins[c.field] = "--" + c.name
	}
	return wrong
}

func text(s string) (any, error) { return s, nil }

func number(s string) (any, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	return n, nil
}

func yesNo(s string) (any, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return nil, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}

// words reads a list; "" is an empty one.
func words(s string) (any, error) {
	list := []any{}
	for word := range strings.SplitSeq(s, ",") {
		if word = strings.TrimSpace(word); word != "" {
			list = append(list, word)
		}
	}
	return list, nil
}

// pairs reads name=value,name=value.
func pairs(s string) (any, error) { return split(s, "=") }

// thresholds reads signal<value,signal<value.
func thresholds(s string) (any, error) { return split(s, "<") }

func split(s, separator string) (map[string]any, error) {
	all := map[string]any{}
	list, _ := words(s)
	for _, word := range list.([]any) {
		name, value, ok := strings.Cut(word.(string), separator)
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%q: want name%svalue", word, separator)
		}
		all[name] = strings.TrimSpace(value)
	}
	return all, nil
}

// modules reads pattern=N,pattern=N.
func modules(s string) (any, error) {
	all := []any{}
	list, _ := words(s)
	for _, word := range list.([]any) {
		pattern, level, ok := strings.Cut(word.(string), "=")
		n, err := strconv.ParseUint(level, 10, 31)
		if !ok || pattern == "" || err != nil {
			return nil, fmt.Errorf("%q: want pattern=N", word)
		}
		all = append(all, map[string]any{"filePattern": pattern, "verbosity": n})
	}
	return all, nil
}

// labels reads key=value,key=value; a key alone is a label without a value, and what is empty is none.
func labels(s string) map[string]string {
	all := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if key = strings.TrimSpace(key); key != "" {
			all[key] = strings.TrimSpace(value)
		}
	}
	return all
}

// gates reads name=true,name=false.
func gates(s string) (any, error) {
	all, err := split(s, "=")
	for name, value := range all {
		if all[name], err = yesNo(value.(string)); err != nil {
			return nil, err
		}
	}
	return all, err
}

// headers reads name:value,name:value, a name as often as it has values.
func headers(s string) (any, error) {
	all := map[string]any{}
	list, _ := words(s)
	for _, pair := range list.([]any) {
		name, value, ok := strings.Cut(pair.(string), ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%q: want name:value", pair)
		}
		values, _ := all[name].([]any)
		all[name] = append(values, strings.TrimSpace(value))
	}
	return all, nil
}

// taints reads key=value:effect or key:effect, separated by commas.
func taints(s string) (any, error) {
	all := []any{}
	list, _ := words(s)
	for _, word := range list.([]any) {
		rest, effect, ok := strings.Cut(word.(string), ":")
		key, value, _ := strings.Cut(rest, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q: want key=value:effect", word)
		}
		all = append(all, map[string]any{"key": key, "value": value, "effect": effect})
	}
	return all, nil
}
