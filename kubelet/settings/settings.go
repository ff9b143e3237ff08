// Package settings reads the kubelet's flags and configuration files. What to run is no setting: see package config.
package settings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Version is what --version prints and the node reports; set by the build.
var Version = "v0.0.0-dev"

// ErrVersion is returned by Load after it printed the version.
var ErrVersion = errors.New("version printed")

// Settings are all settings of a kubelet, complete and valid.
type Settings struct {
	// KubeletConfiguration holds what can stand in a configuration file, flags and defaults included.
	kubeletconfig.KubeletConfiguration

	// Kubeconfig is the path of the file that leads to the apiserver; "" for standalone.
	Kubeconfig string
	// NodeName is --hostname-override or the machine's name, in lower case.
	NodeName string
	// NodeIPs are the addresses of --node-ip, none or one, or one of each family.
	NodeIPs []net.IP
	// RootDir is where the kubelet keeps pods' files.
	RootDir string
	// NodeLabels are put on the node when it registers.
	NodeLabels map[string]string
	// RunOnce starts the pods of file and URL, reports and ends.
	RunOnce bool
	// Version is the kubelet's.
	Version string
	// Flags is the command line, every flag with its value.
	Flags map[string]string
}

// Standalone tells whether there is no apiserver.
func (s *Settings) Standalone() bool { return s.Kubeconfig == "" }

// Load reads flags, the files that they name, and defaults: a flag wins over a drop-in, that over the file, and that
// over the default. Errors name the flag, or the file and the field. --help and --version are written to out and
// returned as pflag.ErrHelp and ErrVersion.
//
// Upstream: cmd/kubelet/app/server.go NewKubeletCommand.
func Load(args []string, out io.Writer) (*Settings, error) {
	f := newFlags()
	f.set.SetOutput(out)
	if err := f.set.Parse(args); err != nil {
		return nil, err
	}
	if f.version {
		fmt.Fprintln(out, "Kubernetes", Version)
		return nil, ErrVersion
	}
	if rest := f.set.Args(); len(rest) > 0 {
		return nil, fmt.Errorf("unknown command %q: the kubelet takes flags only", rest[0])
	}
	document, err := readFiles(f.config, f.configDir)
	if err != nil {
		return nil, err
	}
	if err := f.apply(document); err != nil {
		return nil, err
	}
	c, err := decode(document, f.origin())
	if err != nil {
		return nil, err
	}
	s := &Settings{
		KubeletConfiguration: *c, Kubeconfig: f.kubeconfig, RootDir: f.rootDir,
		NodeLabels: f.nodeLabels, RunOnce: f.runOnce || c.RunOnce, Version: Version, Flags: map[string]string{},
	}
	f.set.VisitAll(func(f *pflag.Flag) { s.Flags[f.Name] = f.Value.String() })
	if err := s.complete(f); err != nil {
		return nil, err
	}
	return s, f.applyLogging(s.Logging.Verbosity)
}

// complete works out the node's name and addresses.
func (s *Settings) complete(f *flags) error {
	name := f.hostnameOverride
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the machine's name (--hostname-override sets it): %w", err)
		}
		name = host
	}
	s.NodeName = strings.ToLower(strings.TrimSpace(name))
	var errs []error
	for part := range strings.SplitSeq(f.nodeIP, ",") {
		if part == "" {
			continue
		}
		ip := net.ParseIP(strings.TrimSpace(part))
		if ip == nil {
			errs = append(errs, fmt.Errorf("--node-ip: %q is not an IP address", part))
			continue
		}
		s.NodeIPs = append(s.NodeIPs, ip)
	}
	if len(s.NodeIPs) > 2 || len(s.NodeIPs) == 2 && (s.NodeIPs[0].To4() == nil) == (s.NodeIPs[1].To4() == nil) {
		errs = append(errs, fmt.Errorf("--node-ip: %q: want one address, or one of each family", f.nodeIP))
	}
	if s.RunOnce && !s.Standalone() {
		errs = append(errs, errors.New("--runonce: runs the pods of file and URL without an apiserver; leave out --kubeconfig"))
	}
	return errors.Join(append(errs, s.validateNode(f.registerWithTaints)...)...)
}

// validateNode checks what becomes part of the node object.
func (s *Settings) validateNode(taints []string) []error {
	var errs []error
	errs = append(errs, validateNodeName(s.NodeName)...)
	errs = append(errs, validateNodeLabels(s.NodeLabels)...)
	for _, text := range taints {
		taint, err := parseTaint(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--register-with-taints: %w", err))
			continue
		}
		s.RegisterWithTaints = append(s.RegisterWithTaints, taint)
	}
	return errs
}

// parseTaint reads key=value:effect or key:effect.
func parseTaint(text string) (corev1.Taint, error) {
	rest, effect, ok := strings.Cut(text, ":")
	key, value, _ := strings.Cut(rest, "=")
	taint := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	if !ok || key == "" {
		return taint, fmt.Errorf("%q: want key=value:effect", text)
	}
	switch taint.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return taint, nil
	}
	return taint, fmt.Errorf("%q: effect %q is not one of NoSchedule, PreferNoSchedule, NoExecute", text, effect)
}

// decode turns the merged document into a configuration: defaults, support, validation.
func decode(document map[string]any, origin string) (*kubeletconfig.KubeletConfiguration, error) {
	if _, err := toConfig(document); err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	if errs := unsupported(document); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", origin, errors.Join(errs...))
	}
	c, err := toConfig(overlay(defaultDocument(), document))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	if errs := validate(c); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", origin, errors.Join(errs...))
	}
	return c, nil
}

func toConfig(document map[string]any) (*kubeletconfig.KubeletConfiguration, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	return strict(data)
}
