package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"minikubelet/runtime/criserver"
)

// parse reads the command line.
func parse(args []string) (criserver.Options, string, error) {
	var o criserver.Options
	var address, registryConfig string
	var runtimes []string
	flags := pflag.NewFlagSet("crid", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringVar(&address, "listen", "unix:///run/minikubelet/crid.sock", "address of the CRI")
	flags.StringVar(&o.Root, "root", "/var/lib/minikubelet/crid", "directory of images and records")
	flags.StringVar(&o.State, "state", "/run/minikubelet/crid", "directory of mounts and namespaces, empty after a reboot")
	flags.StringVar(&o.Images.ArchiveDir, "image-archive-dir", "", "directory of OCI and docker archives to import at start")
	flags.StringVar(&o.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of CNI configurations, of which the first is used")
	flags.StringSliceVar(&o.CNIBinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni"}, "directories of CNI plugins")
	flags.StringVar(&o.Conmon, "conmon", "conmon", "conmon program")
	flags.StringArrayVar(&runtimes, "runtime", []string{"runc=runc"}, "OCI runtime as handler=program; the first is the default; may be repeated")
	flags.StringVar(&o.Pause, "pause", criserver.PauseNeeded, "when a pod gets a pause process: needed (it shares its processes) or always")
	flags.StringVar(&o.PauseImage, "pause-image", "", "image of the pause process, which pods with a shared PID namespace have; without one they are refused")
	flags.StringVar(&o.CgroupManager, "cgroup-manager", criserver.Cgroupfs, "who makes cgroups: cgroupfs or systemd")
	flags.StringVar(&o.CgroupParent, "cgroup-parent", "", "cgroup of pods that name none (default /crid or crid.slice)")
	flags.StringVar(&o.StreamAddress, "stream-address", "127.0.0.1:0", "loopback address of exec, attach and port-forward")
	flags.StringVar(&registryConfig, "registry-config", "", "YAML file of mirrors and insecure registries, by host")
	klogFlags := flag.CommandLine
	flags.AddGoFlag(klogFlags.Lookup("v"))
	flags.AddGoFlag(klogFlags.Lookup("vmodule"))
	if err := flags.Parse(args); err != nil {
		return o, "", err
	}
	if flags.NArg() > 0 {
		return o, "", fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	var err error
	if o.Runtimes, o.DefaultRuntime, err = parseRuntimes(runtimes); err != nil {
		return o, "", err
	}
	if err := oneOf("--pause", o.Pause, criserver.PauseNeeded, criserver.PauseAlways); err != nil {
		return o, "", err
	}
	if err := oneOf("--cgroup-manager", o.CgroupManager, criserver.Cgroupfs, criserver.Systemd); err != nil {
		return o, "", err
	}
	if registryConfig != "" {
		if o.Images.Registries, err = criserver.LoadRegistries(registryConfig); err != nil {
			return o, "", fmt.Errorf("--registry-config: %w", err)
		}
	}
	return o, address, nil
}

func oneOf(flag, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%s=%s: it must be %s", flag, value, strings.Join(allowed, " or "))
	}
	return nil
}

// parseRuntimes reads handler=program pairs.
func parseRuntimes(pairs []string) (runtimes map[string]string, first string, err error) {
	runtimes = map[string]string{}
	for _, pair := range pairs {
		name, program, ok := strings.Cut(pair, "=")
		if !ok || name == "" || program == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return nil, "", fmt.Errorf("--runtime=%s: it must be handler=program, as in runc=/usr/bin/runc", pair)
		}
		if runtimes[name] != "" {
			return nil, "", fmt.Errorf("--runtime=%s: there are two programs for the handler", pair)
		}
		runtimes[name] = program
		if first == "" {
			first = name
		}
	}
	return runtimes, first, nil
}
