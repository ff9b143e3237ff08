package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// idleFlags are flags of upstream's, of today or of earlier releases, that real nodes pass and that change nothing here. Each is
// taken with one warning, which says what holds in its place. Those in switches may stand without a value.
//
// Upstream: cmd/kubelet/app/options/options.go AddFlags and globalflags.go, and releases since 1.16.
var idleFlags = []struct{ instead, flags, switches string }{
	{"the runtime's own configuration names its sandbox image, which image collection leaves alone if the runtime says that it is pinned", "pod-infra-container-image", ""},
	{
		"containers are the matter of a CRI runtime, which is found through --container-runtime-endpoint",
		"containerd container-runtime docker-endpoint docker-env-metadata-whitelist docker-root docker-tls-ca docker-tls-cert docker-tls-key " +
			"experimental-dockershim-root-directory image-pull-progress-deadline",
		"docker-only docker-tls redirect-container-streaming",
	},
	{runtimesNetwork, "network-plugin cni-cache-dir network-plugin-mtu non-masquerade-cidr", ""},
	{"the cluster's cloud controller has its own configuration", "cloud-config", ""},
	{"--image-credential-provider-config names the programs that provide credentials for images", "azure-container-registry-config", ""},
	{"settings are read from --config and --config-dir", "dynamic-config-dir", ""},
	{"static pods are read from --pod-manifest-path", "bootstrap-checkpoint-path", ""},
	{"seccomp profiles are in the directory seccomp below --root-dir", "seccomp-profile-root", ""},
	{"the apiserver decides who may run privileged pods", "", "allow-privileged"},
	{"volumes are mounted with mount(2)", "experimental-mounter-path", "experimental-check-node-capabilities-before-mount"},
	{"hard eviction thresholds are taken from allocatable", "", "experimental-allocatable-ignore-eviction"},
	{pressureStalls, "", "experimental-kernel-memcg-notification"},
	{noNUMA, "reserved-memory", ""},
	{
		"statistics are read from the kernel when they are asked for",
		"housekeeping-interval global-housekeeping-interval application-metrics-count-limit boot-id-file container-hints containerd-namespace docker " +
			"event-storage-age-limit event-storage-event-limit machine-id-file storage-driver-buffer-duration storage-driver-db storage-driver-host " +
			"storage-driver-password storage-driver-table storage-driver-user",
		"enable-cadvisor-json-endpoints enable-load-reader log-cadvisor-usage storage-driver-secure",
	},
	{noIPTables, "iptables-drop-bit iptables-masquerade-bit", ""},
	{"--register-with-taints keeps pods off a new node", "", "register-schedulable"},
	{
		"dead containers go a minute after their pod, or with the next of their name",
		"minimum-container-ttl-duration maximum-dead-containers maximum-dead-containers-per-container", "",
	},
	{"volumes of ended pods are unmounted", "", "keep-terminated-pod-volumes"},
	{"services of the namespace default stand for the apiserver", "master-service-namespace", ""},
	{
		"logs go to standard error, from where the service manager takes them",
		"stderrthreshold log-file log-file-max-size log-dir", "alsologtostderr logtostderr one-output log-json-split-stream log-text-split-stream",
	},
	{"errors name what failed", "log-backtrace-at", ""},
	{"log lines are written as they are", "", "experimental-logging-sanitization"},
	{"log lines name the file", "", "add-dir-header"},
	{"log lines have their headers", "", "skip-headers skip-log-headers"},
	{"logs are not buffered", "log-flush-frequency log-json-info-buffer-size log-text-info-buffer-size", ""},
}

// runtimesNetwork is what holds in place of flags about network plugins.
const runtimesNetwork = "the runtime calls the network plugins, and its configuration says where they are"

// removedFlags has, for each flag that upstream's kubelet had once and refuses today, the last release that had it. Those that stand
// in idleFlags as well are taken.
var removedFlags = func() map[string]string {
	last := map[string]string{}
	for release, names := range map[string]string{
		"1.14": "allow-privileged",
		"1.18": "bootstrap-checkpoint-path",
		"1.20": "enable-cadvisor-json-endpoints",
		"1.21": "chaos-chance experimental-logging-sanitization redirect-container-streaming",
		"1.22": "experimental-bootstrap-kubeconfig seccomp-profile-root",
		"1.23": "cni-bin-dir cni-cache-dir cni-conf-dir docker docker-endpoint docker-env-metadata-whitelist docker-only docker-root docker-tls " +
			"docker-tls-ca docker-tls-cert docker-tls-key dynamic-config-dir experimental-check-node-capabilities-before-mount " +
			"experimental-dockershim-root-directory image-pull-progress-deadline network-plugin network-plugin-mtu non-masquerade-cidr really-crash-for-testing",
		"1.24": "experimental-kernel-memcg-notification",
		"1.25": "add-dir-header alsologtostderr log-backtrace-at log-dir log-file log-file-max-size logtostderr one-output skip-headers skip-log-headers stderrthreshold",
		"1.26": "container-runtime master-service-namespace",
		"1.29": "azure-container-registry-config",
		"1.30": "iptables-drop-bit iptables-masquerade-bit keep-terminated-pod-volumes",
		"1.33": "cloud-config register-schedulable",
		"1.34": "pod-infra-container-image",
		"1.36": "application-metrics-count-limit boot-id-file container-hints containerd containerd-namespace enable-load-reader event-storage-age-limit " +
			"event-storage-event-limit global-housekeeping-interval log-cadvisor-usage machine-id-file storage-driver-buffer-duration storage-driver-db " +
			"storage-driver-host storage-driver-password storage-driver-secure storage-driver-table storage-driver-user",
	} {
		for name := range strings.FieldsSeq(names) {
			last[name] = release
		}
	}
	return last
}()

// onlyValues are the values of flags without effect that ask for what this kubelet does anyway. Others are refused.
var onlyValues = map[string][]string{"container-runtime": {"", "remote"}, "network-plugin": {"", "cni"}}

// addIdleFlags defines the flags that change nothing, and returns for each what holds in its place.
func addIdleFlags(set *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	for _, i := range idleFlags {
		for name := range strings.FieldsSeq(i.flags + " " + i.switches) {
			all[name] = i.instead
			set.Var(&flagText{kind: "ignored"}, name, "no effect"+lastRelease(name)+": "+i.instead)
		}
		for name := range strings.FieldsSeq(i.switches) {
			set.Lookup(name).NoOptDefVal = "true"
		}
	}
	return all
}

// idleWarnings has a sentence for each of the given flags that changes nothing.
func (f *flags) idleWarnings() (warnings []string) {
	f.set.Visit(func(flag *pflag.Flag) {
		if instead, idle := f.idle[flag.Name]; idle {
			warnings = append(warnings, fmt.Sprintf("--%s has no effect%s: %s", flag.Name, lastRelease(flag.Name), instead))
		}
	})
	return warnings
}

// lastRelease says when upstream had a flag that it has no more.
func lastRelease(name string) string {
	if release := removedFlags[name]; release != "" {
		return " (last in Kubernetes " + release + ")"
	}
	return ""
}

// wrongValues refuses flags without effect whose value asks for what is not built.
func (f *flags) wrongValues() (wrong []error) {
	for name, values := range onlyValues {
		if value := f.set.Lookup(name).Value.String(); !slices.Contains(values, value) {
			wrong = append(wrong, fmt.Errorf("--%s: %s is not built here%s: %s", name, value, lastRelease(name), f.idle[name]))
		}
	}
	return wrong
}

// dropUnknown returns the arguments that name flags of the set, and why each of the others is refused. So one start tells of all of them.
func dropUnknown(set *pflag.FlagSet, args []string) (known []string, wrong []error) {
	var names, dashed []string
	set.VisitAll(func(f *pflag.Flag) { names, dashed = append(names, f.Name), append(dashed, "--"+f.Name) })
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(known, args[i:]...), wrong
		}
		long, isLong := strings.CutPrefix(arg, "--")
		if !isLong && (len(arg) < 2 || arg[0] != '-' || arg[1] == 'v' || arg == "-h") {
			known = append(known, arg)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimPrefix(long, "-"), "=")
		name = strings.ReplaceAll(name, "_", "-")
		if !isLong {
			wrong = append(wrong, fmt.Errorf("%s: unknown flag%s", arg, didYouMean("-"+name, dashed)))
			continue
		}
		if flag := set.Lookup(name); flag != nil || name == "help" {
			known = append(known, arg)
			if flag != nil && !hasValue && flag.NoOptDefVal == "" && i+1 < len(args) { // the value is the next argument
				i++
				known = append(known, args[i])
			}
			continue
		}
		wrong = append(wrong, unknownFlag(name, names))
		if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++ // most likely its value
		}
	}
	return known, wrong
}

func unknownFlag(name string, names []string) error {
	if release, gone := removedFlags[name]; gone {
		return fmt.Errorf("--%s: removed upstream: last in Kubernetes %s", name, release)
	}
	slices.Sort(names)
	return fmt.Errorf("--%s: unknown flag%s", name, didYouMean(name, names))
}
