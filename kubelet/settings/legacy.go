package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// idleFlag is a flag of upstream's, of today or of earlier releases, that real nodes pass and that changes nothing here.
type idleFlag struct {
	name string
	// instead tells what holds in its place.
	instead string
	// yesNo is for flags that may stand without a value.
	yesNo bool
}

const (
	toStderr    = "logs go to standard error, from where the service manager takes them"
	noCadvisor  = "statistics are read from the kernel when they are asked for"
	noDeadLimit = "dead containers go a minute after their pod, or with the next of their name"
)

// idleFlags are taken, each with one warning.
//
// Upstream: cmd/kubelet/app/options/options.go AddFlags and globalflags.go, and releases since 1.16.
var idleFlags = []idleFlag{
	{"pod-infra-container-image", "the runtime's own configuration names its sandbox image, which image collection leaves alone if the runtime says that it is pinned", false},
	{"containerd", "the runtime is found through --container-runtime-endpoint", false},
	{"experimental-mounter-path", "volumes are mounted with mount(2)", false},
	{"experimental-allocatable-ignore-eviction", "hard eviction thresholds are taken from allocatable", true},
	{"housekeeping-interval", noCadvisor, false},
	{"global-housekeeping-interval", noCadvisor, false},
	{"application-metrics-count-limit", noCadvisor, false},
	{"boot-id-file", noCadvisor, false},
	{"container-hints", noCadvisor, false},
	{"containerd-namespace", noCadvisor, false},
	{"docker", noCadvisor, false},
	{"enable-load-reader", noCadvisor, true},
	{"event-storage-age-limit", noCadvisor, false},
	{"event-storage-event-limit", noCadvisor, false},
	{"log-cadvisor-usage", noCadvisor, true},
	{"machine-id-file", noCadvisor, false},
	{"storage-driver-buffer-duration", noCadvisor, false},
	{"iptables-drop-bit", noIPTables, false},
	{"iptables-masquerade-bit", noIPTables, false},
	{"register-schedulable", "--register-with-taints keeps pods off a new node", true},
	{"minimum-container-ttl-duration", noDeadLimit, false},
	{"maximum-dead-containers", noDeadLimit, false},
	{"maximum-dead-containers-per-container", noDeadLimit, false},
	{"keep-terminated-pod-volumes", "volumes of ended pods are unmounted", true},
	{"master-service-namespace", "services of the namespace default stand for the apiserver", false},
	{"alsologtostderr", toStderr, true},
	{"logtostderr", toStderr, true},
	{"stderrthreshold", toStderr, false},
	{"log-file", toStderr, false},
	{"log-file-max-size", toStderr, false},
	{"log-dir", toStderr, false},
	{"log-backtrace-at", "errors name what failed", false},
	{"add-dir-header", "log lines name the file", true},
	{"skip-headers", "log lines have their headers", true},
	{"skip-log-headers", "log lines have their headers", true},
	{"one-output", toStderr, true},
	{"log-flush-frequency", "logs are not buffered", false},
	{"log-json-info-buffer-size", "logs are not buffered", false},
	{"log-json-split-stream", toStderr, true},
	{"log-text-info-buffer-size", "logs are not buffered", false},
	{"log-text-split-stream", toStderr, true},
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

// addIdleFlags defines the flags that change nothing.
func addIdleFlags(set *pflag.FlagSet) {
	for _, i := range idleFlags {
		set.Var(&flagText{kind: "ignored"}, i.name, "no effect: "+i.instead)
		if i.yesNo {
			set.Lookup(i.name).NoOptDefVal = "true"
		}
	}
}

// idleWarnings has a sentence for each of the given flags that changes nothing.
func idleWarnings(set *pflag.FlagSet) (warnings []string) {
	for _, i := range idleFlags {
		if set.Changed(i.name) {
			warnings = append(warnings, fmt.Sprintf("--%s has no effect: %s", i.name, i.instead))
		}
	}
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
