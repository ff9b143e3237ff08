// Package settings reads the kubelet's flags and configuration files. What to run is no setting: see package config.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	netutils "k8s.io/utils/net"

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
	// NodeLabels are put on the node when it registers, RoleLabels too if the apiserver lets the node do that: those of distributions
	// such as OpenShift do, Kubernetes' own with its plugin NodeRestriction does not.
	NodeLabels, RoleLabels map[string]string
	// ExternalCloud says that the cluster's cloud controller initialises the node and finds its addresses.
	ExternalCloud bool
	// RuntimeCgroups is the cgroup that the container runtime runs in, "" if it is not told.
	RuntimeCgroups string
	// CredentialProviderConfig and CredentialProviderBinDir say which programs provide credentials for images; both or none are given.
	CredentialProviderConfig, CredentialProviderBinDir string
	// LockFile is locked while the kubelet runs, "" for none. With ExitOnLockContention it ends when another process opens the file.
	LockFile             string
	ExitOnLockContention bool
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
	if wrong = append(wrong, err); c == nil {
		return nil, errors.Join(wrong...)
	}
	f.KubeletConfiguration, f.NodeLabels, f.args = *c, labels(f.nodeLabels.text), args
	f.Warnings = append(f.idleWarnings(), g.warnings...)
	f.set.VisitAll(func(flag *pflag.Flag) { f.Flags[flag.Name] = flag.Value.String() })
	if err := errors.Join(append(wrong, f.complete())...); err != nil {
		return nil, err
	}
	return f.Settings, nil
}

// debugHoldTimeout is how long a call to the runtime may take with --debug-hold: the time goes on while nothing runs.
const debugHoldTimeout = time.Hour

// rolePrefix begins the labels that kubectl shows as a node's roles.
const rolePrefix = "node-role.kubernetes.io/"

// complete works out the node's name and addresses, and checks what belongs together.
func (f *flags) complete() error {
	name := f.hostnameOverride
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the machine's name (--hostname-override sets it): %w", err)
		}
		name = host
	}
	s := f.Settings
	s.NodeName = strings.ToLower(strings.TrimSpace(name))
	s.RootDir = filepath.Clean(s.RootDir)
	s.CertDir = cmp.Or(s.CertDir, filepath.Join(s.RootDir, "pki"))
	s.ExternalCloud = f.cloudProvider == "external"
	var errs []error
	warn := func(about bool, text string, args ...any) {
		if about {
			s.Warnings = append(s.Warnings, fmt.Sprintf(text, args...))
		}
	}
	warn(!s.ExternalCloud && f.cloudProvider != "", "--cloud-provider=%s has no effect: external is the only provider since Kubernetes 1.31", f.cloudProvider)
	if s.Standalone() {
		warn(s.BootstrapKubeconfig != "", "--bootstrap-kubeconfig has no effect without --kubeconfig, the file to write")
		s.BootstrapKubeconfig = ""
	}
	s.RoleLabels = map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(s.NodeLabels)) {
		if strings.HasPrefix(key, rolePrefix) {
			s.RoleLabels[key] = s.NodeLabels[key]
			delete(s.NodeLabels, key)
			warn(true, "--node-labels: %s is set only if the apiserver lets a node set its roles; Kubernetes' own does not", key)
		}
	}
	s.NodeIPs, errs = f.parseNodeIPs()
	refuse := func(bad bool, text string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(text, args...))
		}
	}
	refuse(s.RunOnce && !s.Standalone(), "--runonce: runs the pods of file and URL without an apiserver; leave out --kubeconfig")
	refuse(s.ExitOnLockContention && s.LockFile == "", "--exit-on-lock-contention: needs --lock-file")
	refuse(s.Step != "" && s.Timeline == "", "--step: needs --timeline, whose page shows and releases what is held")
	refuse((s.CredentialProviderConfig == "") != (s.CredentialProviderBinDir == ""), "--image-credential-provider-config and --image-credential-provider-bin-dir need each other")
	refuse(!filepath.IsAbs(s.RootDir), "--root-dir: %q is not an absolute path", s.RootDir)
	for _, problem := range validation.IsDNS1123Subdomain(s.NodeName) {
		refuse(true, "the node's name %q (--hostname-override): %s", s.NodeName, problem)
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
	return errors.Join(slices.Concat(errs, f.wrongValues(), s.completeEmbedded(f.embedded), validateNodeLabels(s.NodeLabels, s.RoleLabels))...)
}

// parseNodeIPs reads --node-ip. As upstream, what is no address, or none that a node can be reached at, is left out.
//
// Upstream: staging/src/k8s.io/component-helpers/node/util/ips.go ParseNodeIPArgument.
func (f *flags) parseNodeIPs() (ips []net.IP, errs []error) {
	text := f.nodeIP
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		ip := netutils.ParseIPSloppy(part)
		switch {
		case ip == nil:
			f.Warnings = append(f.Warnings, fmt.Sprintf("--node-ip: %q is not an IP address and is left out", part))
		case ip.IsLoopback(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
			f.Warnings = append(f.Warnings, fmt.Sprintf("--node-ip: %s is left out: a loopback, multicast or link-local address is not the node's", part))
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
