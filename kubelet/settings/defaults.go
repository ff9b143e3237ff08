package settings

import (
	"os"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var durationType = reflect.TypeFor[metav1.Duration]()

// defaultDocument holds the defaults. They are upstream's, but for those marked as this kubelet's own, which are the
// same whether or not a configuration file is given.
//
// Upstream: pkg/kubelet/apis/config/v1beta1/defaults.go SetDefaults_KubeletConfiguration.
func defaultDocument() map[string]any {
	return map[string]any{
		"apiVersion": apiVersion, "kind": kind,
		"enableServer":       true,
		"podLogsDir":         "/var/log/pods",
		"syncFrequency":      "1m0s",
		"fileCheckFrequency": "20s",
		"httpCheckFrequency": "20s",
		"address":            "0.0.0.0",
		"port":               10250,
		"readOnlyPort":       0,
		"rotateCertificates": true, // own
		"authentication": map[string]any{
			"x509":      map[string]any{},
			"webhook":   map[string]any{"enabled": true, "cacheTTL": "2m0s"},
			"anonymous": map[string]any{"enabled": false},
		},
		"authorization": map[string]any{
			"mode":    "Webhook",
			"webhook": map[string]any{"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
		},
		"registryPullQPS": 5, "registryBurst": 10,
		"eventRecordQPS": 50, "eventBurst": 100,
		"enableDebuggingHandlers": true,
		"healthzPort":             10248, "healthzBindAddress": "127.0.0.1",
		"oomScoreAdj":                    -999,
		"streamingConnectionIdleTimeout": "5m0s", // own
		"nodeStatusUpdateFrequency":      "10s",
		"nodeStatusReportFrequency":      "5m0s",
		"nodeLeaseDurationSeconds":       40,
		"imageMinimumGCAge":              "2m0s",
		"imageGCHighThresholdPercent":    85,
		"imageGCLowThresholdPercent":     80,
		"volumeStatsAggPeriod":           "1m0s",
		"cgroupsPerQOS":                  true,
		"cgroupDriver":                   "cgroupfs",
		"cpuManagerPolicy":               "none",
		"cpuManagerReconcilePeriod":      "10s",
		"memoryManagerPolicy":            "None",
		"topologyManagerPolicy":          "none",
		"topologyManagerScope":           "container",
		"runtimeRequestTimeout":          "2m0s",
		"hairpinMode":                    "promiscuous-bridge",
		"maxPods":                        110,
		"podPidsLimit":                   4096, // own: upstream sets no limit
		"resolvConf":                     "/etc/resolv.conf",
		"cpuCFSQuota":                    true,
		"cpuCFSQuotaPeriod":              "100ms",
		"nodeStatusMaxImages":            50,
		"maxOpenFiles":                   1000000,
		"contentType":                    "application/vnd.kubernetes.protobuf",
		"kubeAPIQPS":                     50, "kubeAPIBurst": 100,
		"serializeImagePulls":                       true,
		"evictionHard":                              map[string]any{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%", "imagefs.inodesFree": "5%"},
		"evictionPressureTransitionPeriod":          "5m0s",
		"mergeDefaultEvictionSettings":              false,
		"enableControllerAttachDetach":              true,
		"makeIPTablesUtilChains":                    true,
		"iptablesMasqueradeBit":                     14,
		"iptablesDropBit":                           15,
		"failSwapOn":                                true,
		"containerLogMaxSize":                       "10Mi",
		"containerLogMaxFiles":                      5,
		"containerLogMaxWorkers":                    1,
		"containerLogMonitorInterval":               "10s",
		"configMapAndSecretChangeDetectionStrategy": "Watch",
		"enforceNodeAllocatable":                    []any{"pods"},
		"volumePluginDir":                           "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
		"logging":                                   map[string]any{"format": "text", "flushFrequency": "5s", "verbosity": 0},
		"enableSystemLogHandler":                    true,
		"enableSystemLogQuery":                      false,
		"crashLoopBackOff":                          map[string]any{},
		"enableProfilingHandler":                    false, // own
		"enableDebugFlagsHandler":                   false, // own
		"seccompDefault":                            true,  // own
		"memoryThrottlingFactor":                    0.9,
		"registerNode":                              true,
		"localStorageCapacityIsolation":             true,
		"failCgroupV1":                              false, // own: cgroup v1 is supported here
		"containerRuntimeEndpoint":                  defaultEndpoint(),
		"imagePullCredentialsVerificationPolicy":    "NeverVerifyPreloadedImages",
	}
}

// defaultEndpoint is the first of the usual runtimes' sockets that exists, else containerd's.
func defaultEndpoint() string {
	for _, socket := range []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"} {
		if _, err := os.Stat(socket); err == nil {
			return "unix://" + socket
		}
	}
	return "unix:///run/containerd/containerd.sock"
}
