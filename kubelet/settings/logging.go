package settings

import (
	goflag "flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// jsonFormat is the value of logging.format for one JSON object a line.
const jsonFormat = "json"

// applyLogging sets klog up: how much is logged, in which format. JSON goes to out; text goes where klog sends it.
func applyLogging(c *kubeletconfig.KubeletConfiguration, out io.Writer) error {
	if err := SetVerbosity(c); err != nil {
		return err
	}
	if c.Logging.Format == jsonFormat {
		klog.SetLoggerWithOptions(jsonLogger(out), klog.ContextualLogger(true))
	}
	return nil
}

// jsonLevel is how much is logged as JSON.
var jsonLevel slog.LevelVar

// SetVerbosity sets how much is logged from now on: logging.verbosity and logging.vmodule.
func SetVerbosity(c *kubeletconfig.KubeletConfiguration) error {
	jsonLevel.Set(slog.Level(-int(c.Logging.Verbosity)))
	set := goflag.NewFlagSet("klog", goflag.ContinueOnError)
	klog.InitFlags(set)
	if err := set.Set("v", fmt.Sprint(uint32(c.Logging.Verbosity))); err != nil {
		return fmt.Errorf("logging.verbosity: %w", err)
	}
	var patterns []string
	for _, m := range c.Logging.VModule {
		patterns = append(patterns, fmt.Sprintf("%s=%d", m.FilePattern, m.Verbosity))
	}
	if err := set.Set("vmodule", strings.Join(patterns, ",")); err != nil {
		return fmt.Errorf("logging.vmodule: %w", err)
	}
	return nil
}

// jsonLogger writes lines with upstream's keys: ts in milliseconds since 1970, caller, msg, v, and err for errors.
//
// Upstream: staging/src/k8s.io/component-base/logs/json/json.go NewJSONLogger.
func jsonLogger(out io.Writer) logr.Logger {
	return logr.FromSlogHandler(slog.NewJSONHandler(out, &slog.HandlerOptions{
		AddSource: true,
		Level:     &jsonLevel,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch value := a.Value.Any().(type) {
			case *slog.Source:
				if a.Key == slog.SourceKey {
					return slog.String("caller", fmt.Sprintf("%s:%d", filepath.Base(value.File), value.Line))
				}
			case slog.Level:
				if a.Key == slog.LevelKey && value > slog.LevelInfo {
					return slog.Attr{} // errors have no verbosity
				} else if a.Key == slog.LevelKey {
					return slog.Int("v", int(-value))
				}
			}
			if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
				return slog.Float64("ts", float64(a.Value.Time().UnixMicro())/1000)
			}
			return a
		},
	}))
}
