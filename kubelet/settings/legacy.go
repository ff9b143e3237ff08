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
	{"the runtime is found through --container-runtime-endpoint", "containerd", ""},
	{"volumes are mounted with mount(2)", "experimental-mounter-path", ""},
	{"hard eviction thresholds are taken from allocatable", "", "experimental-allocatable-ignore-eviction"},
	{
		"statistics are read from the kernel when they are asked for",
		"housekeeping-interval global-housekeeping-interval application-metrics-count-limit boot-id-file container-hints containerd-namespace docker " +
			"event-storage-age-limit event-storage-event-limit machine-id-file storage-driver-buffer-duration",
		"enable-load-reader log-cadvisor-usage",
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
	{"log lines name the file", "", "add-dir-header"},
	{"log lines have their headers", "", "skip-headers skip-log-headers"},
	{"logs are not buffered", "log-flush-frequency log-json-info-buffer-size log-text-info-buffer-size", ""},
}

// goneFlags are flags that upstream's kubelet refuses today, with the last release that had them.
var goneFlags = map[string]string{
	"azure-container-registry-config": "1.29", "bootstrap-checkpoint-path": "1.18", "chaos-chance": "1.21", "cloud-config": "1.33",
	"cni-bin-dir": "1.23", "cni-cache-dir": "1.23", "cni-conf-dir": "1.23", "container-runtime": "1.26", "docker-endpoint": "1.23",
	"dynamic-config-dir": "1.23", "enable-cadvisor-json-endpoints": "1.20", "experimental-bootstrap-kubeconfig": "1.22",
	"experimental-check-node-capabilities-before-mount": "1.23", "experimental-dockershim-root-directory": "1.23",
	"experimental-kernel-memcg-notification": "1.24", "image-pull-progress-deadline": "1.23", "network-plugin": "1.23", "network-plugin-mtu": "1.23",
	"non-masquerade-cidr": "1.23", "really-crash-for-testing": "1.23", "redirect-container-streaming": "1.21", "seccomp-profile-root": "1.22",
}

// notBuilt are upstream's flags that ask for what this kubelet does not have.
var notBuilt = map[string]string{
	"lock-file":               "one kubelet a node is the service manager's matter",
	"exit-on-lock-contention": "one kubelet a node is the service manager's matter",
	"reserved-memory":         noManager,
}

// addIdleFlags defines the flags that change nothing, and returns for each what holds in its place.
func addIdleFlags(set *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	for _, i := range idleFlags {
		for name := range strings.FieldsSeq(i.flags + " " + i.switches) {
			all[name] = i.instead
			set.Var(&flagText{kind: "ignored"}, name, "no effect: "+i.instead)
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
			warnings = append(warnings, fmt.Sprintf("--%s has no effect: %s", flag.Name, instead))
		}
	})
	return warnings
}

// dropUnknown returns the arguments that name flags of the set, and why each of the others is refused. So one start tells of all of them.
func dropUnknown(set *pflag.FlagSet, args []string) (known []string, wrong []error) {
	var names []string
	set.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(known, args[i:]...), wrong
		}
		long, isLong := strings.CutPrefix(arg, "--")
		if !isLong {
			known = append(known, arg)
			continue
		}
		name, _, hasValue := strings.Cut(long, "=")
		name = strings.ReplaceAll(name, "_", "-")
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
	if release, gone := goneFlags[name]; gone {
		return fmt.Errorf("--%s: removed upstream: Kubernetes %s was the last release that had it", name, release)
	}
	if reason, missing := notBuilt[name]; missing {
		return fmt.Errorf("--%s: not built here: %s", name, reason)
	}
	slices.Sort(names)
	return fmt.Errorf("--%s: unknown flag%s", name, didYouMean(name, names))
}
