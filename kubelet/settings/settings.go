// Package settings reads the kubelet's flags and configuration files. What to run is no setting: see package config.
package settings

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"minikubelet/runtime/criserver"
)

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
	// NodeIPs are the addresses of --node-ip: none, one, or one of each family. 0.0.0.0 or :: alone stands for an
	// address of the machine, of that family if there is one.
	NodeIPs []net.IP
	// RootDir is where the kubelet keeps pods' files.
	RootDir string
	// BootstrapKubeconfig leads to the first client certificate, CertDir holds what the kubelet is signed.
	BootstrapKubeconfig, CertDir string
	// Embedded configures the runtime in the kubelet's own process, if there is one.
	Embedded criserver.Options
	// NodeLabels are put on the node when it registers.
	NodeLabels map[string]string
	// ExternalCloud says that the cluster's cloud controller initialises the node and finds its addresses.
	ExternalCloud bool
	// RuntimeCgroups is the cgroup that the container runtime runs in, "" if it is not told.
	RuntimeCgroups string
	// CredentialProviderConfig and CredentialProviderBinDir say which programs provide credentials for images; both or none are given.
	CredentialProviderConfig, CredentialProviderBinDir string
	// Timeline is where the timeline's page is served, "" for nowhere; Step and Chaos say which steps are held and which
	// calls are tampered with.
	Timeline, Step, Chaos string
	// DebugHold says that a debugger may hold the kubelet.
	DebugHold bool
	// Version is what the node reports.
	Version string
	// Warnings say which of the given settings have no effect, or not the one that their name promises.
	Warnings []string
	// Flags is the command line, every flag with its value.
	Flags map[string]string

	args              []string // of Load, for Reload
	config, configDir string   // --config and --config-dir
}

// Standalone tells whether there is no apiserver.
func (s *Settings) Standalone() bool { return s.Kubeconfig == "" }

// Load reads flags, the files that they name, and defaults: a flag wins over a drop-in, that over the file, and that
// over the default. The error names every problem that there is, each with its flag, or its file and field. --help and --version are
// written to out and returned as pflag.ErrHelp and ErrVersion.
//
// Upstream: cmd/kubelet/app/server.go NewKubeletCommand.
func Load(args []string, out io.Writer) (*Settings, error) {
	s, err := readAll(args, out)
	if err != nil {
		return nil, err
	}
	return s, applyLogging(&s.KubeletConfiguration, os.Stderr)
}

func readAll(args []string, out io.Writer) (*Settings, error) {
	f := newFlags(out)
	known, wrong := dropUnknown(f.set, args)
	if err := f.set.Parse(known); err != nil {
		return nil, errors.Join(append(wrong, err)...)
	}
	if f.version == "true" || f.version == "raw" {
		printVersion(out, f.version == "raw")
		return nil, ErrVersion
	}
	if rest := f.set.Args(); len(rest) > 0 {
		wrong = append(wrong, fmt.Errorf("unknown command %q: a command comes first, before all flags, and kubelet --help lists them", rest[0]))
	}
	g, unread := readFiles(f.config, f.configDir)
	wrong = append(append(wrong, unread...), f.apply(g)...)
	c, err := g.decode()
	if err != nil {
		return nil, errors.Join(append(wrong, err)...)
	}
	s := &Settings{
		KubeletConfiguration: *c, Kubeconfig: f.kubeconfig, RootDir: f.rootDir,
		BootstrapKubeconfig: f.bootstrapKubeconfig, CertDir: f.certDir, RuntimeCgroups: f.runtimeCgroups,
		CredentialProviderConfig: f.pluginConfig, CredentialProviderBinDir: f.pluginDir,
		Timeline: f.timeline, Step: f.step, Chaos: f.chaos, DebugHold: f.debugHold, NodeLabels: labels(f.nodeLabels.text), Version: Version, Flags: map[string]string{}, Warnings: append(f.idleWarnings(), g.warnings...),
	}
	f.set.VisitAll(func(f *pflag.Flag) { s.Flags[f.Name] = f.Value.String() })
	if err := errors.Join(append(wrong, s.complete(f))...); err != nil {
		return nil, err
	}
	s.args, s.config, s.configDir = args, f.config, f.configDir
	return s, nil
}

// debugHoldTimeout is how long a call to the runtime may take with --debug-hold: the time goes on while nothing runs.
const debugHoldTimeout = time.Hour

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
	if s.CertDir == "" {
		s.CertDir = filepath.Join(s.RootDir, "pki")
	}
	s.NodeName = strings.ToLower(strings.TrimSpace(name))
	var errs []error
	if s.NodeIPs, errs = parseNodeIPs(f.nodeIP); s.RunOnce && !s.Standalone() {
		errs = append(errs, errors.New("--runonce: runs the pods of file and URL without an apiserver; leave out --kubeconfig"))
	}
	if s.BootstrapKubeconfig != "" && s.Standalone() {
		errs = append(errs, errors.New("--bootstrap-kubeconfig: needs --kubeconfig, the file to write"))
	}
	if f.step != "" && f.timeline == "" {
		errs = append(errs, errors.New("--step: needs --timeline, whose page shows and releases what is held"))
	}
	if s.DebugHold {
		s.RuntimeRequestTimeout.Duration = max(s.RuntimeRequestTimeout.Duration, debugHoldTimeout)
	}
	if f.version != "" && f.version != "false" {
		reported, warning, err := reportedVersion(f.version)
		if err != nil {
			errs = append(errs, err)
		}
		if s.Version = reported; warning != "" {
			s.Warnings = append(s.Warnings, warning)
		}
	}
	if s.ExternalCloud = f.cloudProvider == "external"; !s.ExternalCloud && f.cloudProvider != "" {
		errs = append(errs, fmt.Errorf("--cloud-provider: %q: must be external or empty; providers in the kubelet were removed upstream in 1.31", f.cloudProvider))
	}
	if (s.CredentialProviderConfig == "") != (s.CredentialProviderBinDir == "") {
		errs = append(errs, errors.New("--image-credential-provider-config and --image-credential-provider-bin-dir need each other"))
	}
	if !filepath.IsAbs(s.RootDir) {
		errs = append(errs, fmt.Errorf("--root-dir: %q is not an absolute path", s.RootDir))
	}
	errs = append(errs, validateNodeName(s.NodeName)...)
	errs = append(errs, s.completeEmbedded(&f.embedded)...)
	return errors.Join(append(errs, validateNodeLabels(s.NodeLabels)...)...)
}

// parseNodeIPs reads --node-ip.
func parseNodeIPs(text string) (ips []net.IP, errs []error) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		ip := net.ParseIP(part)
		switch {
		case ip == nil:
			errs = append(errs, fmt.Errorf("--node-ip: %q is not an IP address", part))
		case ip.IsLoopback(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
			errs = append(errs, fmt.Errorf("--node-ip: %s: must not be a loopback, multicast or link-local address", part))
		default:
			ips = append(ips, ip)
		}
	}
	switch {
	case len(ips) > 2 || len(ips) == 2 && (ips[0].To4() == nil) == (ips[1].To4() == nil):
		errs = append(errs, fmt.Errorf("--node-ip: %q: want one address, or one of each family", text))
	case len(ips) == 2 && (ips[0].IsUnspecified() || ips[1].IsUnspecified()):
		errs = append(errs, fmt.Errorf("--node-ip: %q: 0.0.0.0 and :: must stand alone", text))
	}
	return ips, errs
}
