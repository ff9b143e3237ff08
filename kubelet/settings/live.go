package settings

import (
	"io"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
)

// liveFields are the fields of the table that a running kubelet takes new values of.
var liveFields = map[string]bool{
	"evictionHard": true, "evictionSoft": true, "evictionSoftGracePeriod": true, "evictionPressureTransitionPeriod": true,
	"evictionMaxPodGracePeriod": true, "evictionMinimumReclaim": true, "mergeDefaultEvictionSettings": true,
	"imageMinimumGCAge": true, "imageMaximumGCAge": true, "imageGCHighThresholdPercent": true, "imageGCLowThresholdPercent": true,
	"containerLogMaxSize": true, "containerLogMaxFiles": true,
	"logging.verbosity": true, "logging.vmodule": true,
	"nodeStatusUpdateFrequency": true, "nodeStatusReportFrequency": true, "nodeStatusMaxImages": true,
	"kubeAPIQPS": true, "kubeAPIBurst": true, "eventRecordQPS": true, "eventBurst": true,
	"registryPullQPS": true, "registryBurst": true, "crashLoopBackOff.maxContainerRestartPeriod": true,
	"shutdownGracePeriod": true, "shutdownGracePeriodCriticalPods": true, "shutdownGracePeriodByPodPriority": true,
	"streamingConnectionIdleTimeout": true, // the server asks for the settings in force
}

// Change is what differs between the settings in force and those that are given now.
type Change struct {
	// Settings are those in force from now on: the ones before, with the new values of the fields in Applied.
	Settings *Settings
	// Applied are the fields that a running kubelet takes, Restart those that need a restart, in the table's order.
	Applied, Restart []string
	// Warnings are those that the settings before did not have.
	Warnings []string
}

// Files are the configuration file and the directory of drop-ins, "" for none.
func (s *Settings) Files() (config, configDir string) { return s.config, s.configDir }

// Reload reads the files again, under the same flags, and compares. Nothing is changed; the error is Load's.
func (s *Settings) Reload() (Change, error) {
	now, err := readAll(s.args, io.Discard)
	if err != nil {
		return Change{}, err
	}
	force := *s
	force.KubeletConfiguration = *s.DeepCopy()
	force.Warnings = now.Warnings
	c := Change{Settings: &force, Warnings: slices.DeleteFunc(slices.Clone(now.Warnings), func(w string) bool { return slices.Contains(s.Warnings, w) })}
	for _, f := range table {
		if equality.Semantic.DeepEqual(valueAt(&s.KubeletConfiguration, f.Path), valueAt(&now.KubeletConfiguration, f.Path)) {
			continue
		}
		if !liveFields[f.Path] {
			c.Restart = append(c.Restart, f.Path)
			continue
		}
		c.Applied = append(c.Applied, f.Path)
		from, _ := fieldAt(reflect.ValueOf(&now.KubeletConfiguration).Elem(), f.Path)
		to, _ := fieldAt(reflect.ValueOf(&force.KubeletConfiguration).Elem(), f.Path)
		to.Set(from)
	}
	return c, nil
}
