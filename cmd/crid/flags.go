package main

import (
	"flag"
	"fmt"

	"github.com/spf13/pflag"

	"minikubelet/runtime/criserver"
)

// parse reads the command line.
func parse(args []string) (criserver.Options, string, error) {
	var address string
	o := criserver.Options{CgroupManager: criserver.Cgroupfs}
	flags := pflag.NewFlagSet("crid", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringVar(&address, "listen", "unix:///run/minikubelet/crid.sock", "address of the CRI")
	flags.StringVar(&o.Root, "root", "/var/lib/minikubelet/crid", "directory of images and records")
	flags.StringVar(&o.State, "state", "/run/minikubelet/crid", "directory of mounts and namespaces, empty after a reboot")
	o.AddFlags(flags, "")
	flags.Var(criserver.ChoiceFlag(&o.CgroupManager, criserver.Cgroupfs, criserver.Systemd), "cgroup-manager", "who makes cgroups: cgroupfs or systemd")
	flags.StringVar(&o.CgroupParent, "cgroup-parent", "", "cgroup of pods that name none (default /crid or crid.slice)")
	flags.StringVar(&o.StreamAddress, "stream-address", "127.0.0.1:0", "loopback address of exec, attach and port-forward")
	klogFlags := flag.CommandLine
	flags.AddGoFlag(klogFlags.Lookup("v"))
	flags.AddGoFlag(klogFlags.Lookup("vmodule"))
	if err := flags.Parse(args); err != nil {
		return o, "", err
	}
	if flags.NArg() > 0 {
		return o, "", fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	return o, address, nil
}
