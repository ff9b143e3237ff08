package settings

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Support is what becomes of a field of KubeletConfiguration.
type Support string

// The kinds of support.
const (
	Supported Support = "supported"
	Accepted  Support = "accepted" // taken, and without effect for the reason in the note
	Refused   Support = "refused"  // an error, unless it holds upstream's default
)

// Field is one line of the compatibility table.
type Field struct {
	Path    string
	Support Support
	Note    string
}

// supported are the fields that do what upstream's do, by path; a path covers what is below it.
var supported = []string{
	"staticPodPath", "podLogsDir", "fileCheckFrequency", "httpCheckFrequency", "staticPodURL", "staticPodURLHeader",
	"registryPullQPS", "registryBurst", "eventRecordQPS", "eventBurst", "healthzPort", "healthzBindAddress", "clusterDomain", "clusterDNS",
	"nodeStatusUpdateFrequency", "nodeStatusReportFrequency", "nodeLeaseDurationSeconds", "nodeStatusMaxImages", "cgroupRoot", "cgroupsPerQOS", "cgroupDriver",
	"singleProcessOOMKill", "runtimeRequestTimeout", "maxPods", "podPidsLimit", "resolvConf", "runOnce", "cpuCFSQuota", "cpuCFSQuotaPeriod",
	"kubeAPIQPS", "kubeAPIBurst", "serializeImagePulls", "maxParallelImagePulls", "systemReserved", "kubeReserved", "enforceNodeAllocatable",
	"allowedUnsafeSysctls", "providerID", "logging.verbosity", "crashLoopBackOff", "seccompDefault", "registerWithTaints", "registerNode",
	"containerRuntimeEndpoint", "imageServiceEndpoint",
	"enableServer", "address", "port", "readOnlyPort", "tlsCertFile", "tlsPrivateKeyFile", "tlsCipherSuites", "tlsMinVersion", "authentication", "authorization",
	"enableDebuggingHandlers", "enableSystemLogHandler", "enableProfilingHandler", "enableDebugFlagsHandler", "enableContentionProfiling",
	"streamingConnectionIdleTimeout",
}

// accepted are fields that configurations in use carry and that have nothing to act on here, with the reason.
var accepted = map[string]string{
	"syncFrequency":                    "pods are synced by events, not by period",
	"rotateCertificates":               "the credentials of --kubeconfig are used as they are",
	"contentType":                      "the apiserver is spoken to in protobuf, or JSON where it must be",
	"evictionPressureTransitionPeriod": evictionNote,
	"evictionHard":                     evictionNote + "; upstream's default or 0 (off) for each signal, else refused; memory.available counts against allocatable",
	"imageGCHighThresholdPercent":      "images are not collected; upstream's default or 100 (off), else refused",
	"imageGCLowThresholdPercent":       "images are not collected",
	"imageMinimumGCAge":                "images are not collected",
	"volumeStatsAggPeriod":             "volumes are not measured",
	"cpuManagerReconcilePeriod":        "only used by the static policy, which is refused",
	"failSwapOn":                       "swap is neither refused nor given to pods",
	"failCgroupV1":                     "cgroup v1 is supported; true is accepted and has no effect",
	"volumePluginDir":                  "there are no flexvolume plugins",
	"logging":                          "klog's text format; only verbosity can be set",
	"oomScoreAdj":                      "the kubelet keeps the score it was started with",
	"makeIPTablesUtilChains":           "no iptables chains are made, as upstream since 1.28",
	"hairpinMode":                      "the CNI plugin's matter",
}

const evictionNote = "pods are not evicted yet"

// supportOf returns what becomes of a path: that of the longest entry above it.
func supportOf(path string) (Support, string) {
	for p := path; p != ""; {
		if slices.Contains(supported, p) {
			return Supported, ""
		}
		if note, ok := accepted[p]; ok {
			return Accepted, note
		}
		cut := strings.LastIndexByte(p, '.')
		if cut < 0 {
			break
		}
		p = p[:cut]
	}
	return Refused, ""
}

// Fields returns every top-level field of KubeletConfiguration with its support, for docs/compatibility.md.
func Fields() []Field {
	t := reflect.TypeFor[kubeletconfig.KubeletConfiguration]()
	var fields []Field
	for f := range t.Fields() {
		name := jsonName(f)
		if name == "" {
			continue // kind and apiVersion
		}
		support, note := supportOf(name)
		fields = append(fields, Field{Path: name, Support: support, Note: note})
	}
	return fields
}

// unsupported names every field of a document that asks for what is not built.
func unsupported(document map[string]any) []error {
	defaults := defaultDocument()
	var errs []error
	for key, value := range document {
		if key == "apiVersion" || key == "kind" {
			continue
		}
		if support, _ := supportOf(key); support != Refused || harmless(key, value) {
			continue
		}
		if !sameValue(value, defaults[key]) {
			errs = append(errs, fmt.Errorf("%s: not supported by this kubelet yet", key))
		}
	}
	errs = append(errs, unbuilt(document, defaults)...)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// unbuilt names thresholds that ask for what is not built: they may only be upstream's, or off.
func unbuilt(document, defaults map[string]any) []error {
	var errs []error
	thresholds, _ := document["evictionHard"].(map[string]any)
	usual, _ := defaults["evictionHard"].(map[string]any)
	for signal, value := range thresholds {
		text := fmt.Sprint(value)
		off := strings.Trim(text, "0%KMGTi") == ""
		if signal != "memory.available" && !off && !sameValue(value, usual[signal]) {
			errs = append(errs, fmt.Errorf("evictionHard[%s]: %s: pods are not evicted by this kubelet yet; 0%% is off", signal, text))
		}
	}
	if high, given := document["imageGCHighThresholdPercent"]; given && !sameValue(high, defaults["imageGCHighThresholdPercent"]) && !sameValue(high, 100) {
		errs = append(errs, fmt.Errorf("imageGCHighThresholdPercent: %v: images are not collected by this kubelet yet; 100 is off", high))
	}
	return errs
}

// harmless tells whether a value asks for nothing, or switches off what is not built anyway.
func harmless(key string, value any) bool {
	if off, ok := value.(bool); ok {
		return !off && defaultDocument()[key] != true
	}
	return empty(value)
}

// sameValue compares values as JSON has them, where 5, 5.0 and int64(5) are one.
func sameValue(a, b any) bool { return equality.Semantic.DeepEqual(normal(a), normal(b)) }

func normal(v any) any {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case []any:
		out := make([]any, len(n))
		for i := range n {
			out[i] = normal(n[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k, e := range n {
			out[k] = normal(e)
		}
		return out
	}
	return v
}
