package main

import (
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"minikubelet/kubelet/tracing/otlp"
	"minikubelet/runtime/criserver"
)

// settings are what the command line says.
type settings struct {
	criserver.Options
	address string
	spans   *otlp.Collector // nil for none
}

// parse reads the command line.
func parse(args []string) (settings, error) {
	var s settings
	var spans otlp.Collector
	o := criserver.Options{CgroupManager: criserver.Cgroupfs}
	flags := pflag.NewFlagSet("crid", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringVar(&s.address, "listen", "unix:///run/minikubelet/crid.sock", "address of the CRI")
	flags.StringVar(&o.Root, "root", "/var/lib/minikubelet/crid", "directory of images and records")
	flags.StringVar(&o.State, "state", "/run/minikubelet/crid", "directory of mounts and namespaces, empty after a reboot")
	o.AddFlags(flags, "")
	flags.Func("cgroup-manager", "who makes cgroups: cgroupfs (default) or systemd", criserver.Choice(&o.CgroupManager, criserver.Cgroupfs, criserver.Systemd))
	flags.StringVar(&o.CgroupParent, "cgroup-parent", "", "cgroup of pods that name none (default /crid or crid.slice)")
	flags.StringVar(&o.StreamAddress, "stream-address", "127.0.0.1:0", "loopback address of exec, attach and port-forward")
	flags.StringVar(&spans.Endpoint, "tracing-endpoint", "", "HOST:PORT or unix://PATH of an OpenTelemetry collector (OTLP over gRPC) that gets the steps of calls; none by default")
	flags.Int32Var(&spans.PerMillion, "tracing-sampling-rate-per-million", 0, "so many of a million calls whose callers send no trace begin one; a caller's trace is the caller's choice")
	klogFlags := flag.CommandLine
	flags.AddGoFlag(klogFlags.Lookup("v"))
	flags.AddGoFlag(klogFlags.Lookup("vmodule"))
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if _, port, err := net.SplitHostPort(spans.Endpoint); spans.Endpoint != "" && !strings.HasPrefix(spans.Endpoint, "unix:") && (err != nil || strings.Contains(port, "/")) {
		return s, fmt.Errorf("--tracing-endpoint: %q: want HOST:PORT or unix://PATH", spans.Endpoint)
	}
	if n := spans.PerMillion; n < 0 || n > 1e6 || n > 0 && spans.Endpoint == "" {
		return s, fmt.Errorf("--tracing-sampling-rate-per-million: %d: want 0 to 1000000, with --tracing-endpoint", n)
	}
	for _, dir := range [][2]string{{"root", o.Root}, {"state", o.State}} {
		if !filepath.IsAbs(dir[1]) {
			return s, fmt.Errorf("--%s: %q is not an absolute path", dir[0], dir[1])
		}
	}
	s.Options = o
	if spans.Endpoint != "" {
		s.spans, s.Traces = &spans, spans.PerMillion > 0
	}
	return s, nil
}
