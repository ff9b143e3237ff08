package settings

import (
	goflag "flag"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// flags are the command line. Those that can stand in a configuration file as well are in configFlags.
type flags struct {
	set                *pflag.FlagSet
	config, configDir  string
	kubeconfig         string
	hostnameOverride   string
	nodeIP             string
	rootDir            string
	nodeLabels         map[string]string
	registerWithTaints []string
	runOnce, version   bool
	klog               *goflag.FlagSet
}

// configFlag is a flag that sets a field of the configuration.
type configFlag struct {
	name, field, usage string
	convert            func(*pflag.Flag) (any, error)
}

func text(f *pflag.Flag) (any, error) { return f.Value.String(), nil }
func number(f *pflag.Flag) (any, error) {
	n, err := strconv.ParseInt(f.Value.String(), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", f.Value.String())
	}
	return n, nil
}
func yesNo(f *pflag.Flag) (any, error) {
	b, err := strconv.ParseBool(f.Value.String())
	if err != nil {
		return nil, fmt.Errorf("%q is neither true nor false", f.Value.String())
	}
	return b, nil
}

func words(f *pflag.Flag) (any, error) {
	var list []any
	for word := range strings.SplitSeq(f.Value.String(), ",") {
		list = append(list, strings.TrimSpace(word))
	}
	return list, nil
}

// headers reads Name:value,Name:value, a name as often as it has values.
func headers(f *pflag.Flag) (any, error) {
	all := map[string]any{}
	for pair := range strings.SplitSeq(f.Value.String(), ",") {
		name, value, ok := strings.Cut(pair, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%q: want name:value", pair)
		}
		values, _ := all[name].([]any)
		all[name] = append(values, strings.TrimSpace(value))
	}
	return all, nil
}

var configFlags = []configFlag{
	{"container-runtime-endpoint", "containerRuntimeEndpoint", "socket of the CRI runtime: unix:///path", text},
	{"image-service-endpoint", "imageServiceEndpoint", "socket of the CRI image service, if it is another", text},
	{"pod-manifest-path", "staticPodPath", "directory of static pod manifests, or one file", text},
	{"manifest-url", "staticPodURL", "URL of a pod or a list of pods", text},
	{"manifest-url-header", "staticPodURLHeader", "headers for --manifest-url: name:value,name:value", headers},
	{"cluster-dns", "clusterDNS", "addresses of the cluster's DNS servers, separated by commas", words},
	{"cluster-domain", "clusterDomain", "the cluster's domain", text},
	{"resolv-conf", "resolvConf", "resolver configuration that pods' own is made from", text},
	{"cgroup-driver", "cgroupDriver", "cgroupfs or systemd", text},
	{"cgroup-root", "cgroupRoot", "cgroup that holds those of pods", text},
	{"max-pods", "maxPods", "how many pods may run here", number},
	{"pod-max-pids", "podPidsLimit", "how many processes a pod may have", number},
	{"healthz-port", "healthzPort", "port of /healthz on the loopback address; 0 for none", number},
	{"healthz-bind-address", "healthzBindAddress", "address of /healthz", text},
	{"register-node", "registerNode", "make the node's object in the apiserver", yesNo},
	{"provider-id", "providerID", "the node's name at its cloud provider", text},
	{"seccomp-default", "seccompDefault", "RuntimeDefault where a pod names no seccomp profile", yesNo},
	{"v", "logging.verbosity", "log verbosity: 2 tells what happens to pods, 4 why", number},
}

func newFlags() *flags {
	f := &flags{set: pflag.NewFlagSet("kubelet", pflag.ContinueOnError), klog: goflag.NewFlagSet("klog", goflag.ContinueOnError)}
	klog.InitFlags(f.klog)
	f.set.SortFlags = true
	f.set.StringVar(&f.config, "config", "", "configuration file: KubeletConfiguration, "+apiVersion)
	f.set.StringVar(&f.configDir, "config-dir", "", "directory of drop-ins (*.conf) laid over the configuration file in the order of their names")
	f.set.StringVar(&f.kubeconfig, "kubeconfig", "", "file that leads to the apiserver; without it the kubelet runs standalone")
	f.set.StringVar(&f.hostnameOverride, "hostname-override", "", "the node's name; the machine's by default")
	f.set.StringVar(&f.nodeIP, "node-ip", "", "the node's address, or one of each family separated by a comma")
	f.set.StringVar(&f.rootDir, "root-dir", "/var/lib/kubelet", "directory of pods' files")
	f.set.StringToStringVar(&f.nodeLabels, "node-labels", nil, "labels to register the node with: key=value,key=value")
	f.set.StringSliceVar(&f.registerWithTaints, "register-with-taints", nil, "taints to register the node with: key=value:effect,...")
	f.set.BoolVar(&f.runOnce, "runonce", false, "start the pods of file and URL, report how they are, and end")
	f.set.BoolVar(&f.version, "version", false, "print the version")
	for _, c := range configFlags {
		shorthand := ""
		if c.name == "v" {
			shorthand = "v" // -v=2 is what Go's own flags take
		}
		f.set.StringP(c.name, shorthand, "", c.usage)
	}
	f.set.StringVar(new(string), "vmodule", "", "pattern=N,... log verbosity by file")
	return f
}

// apply puts the configuration's flags into the document.
func (f *flags) apply(document map[string]any) error {
	for _, c := range configFlags {
		flag := f.set.Lookup(c.name)
		if !flag.Changed {
			continue
		}
		value, err := c.convert(flag)
		if err != nil {
			return fmt.Errorf("--%s: %w", c.name, err)
		}
		object, path := document, c.field
		if parent, child, nested := strings.Cut(c.field, "."); nested {
			inner, _ := document[parent].(map[string]any)
			if inner == nil {
				inner = map[string]any{}
			}
			document[parent], object, path = inner, inner, child
		}
		object[path] = value
	}
	return nil
}

// origin names where the configuration came from, for errors.
func (f *flags) origin() string {
	switch {
	case f.config != "" && f.configDir != "":
		return f.config + " with " + f.configDir + " and flags"
	case f.config != "":
		return f.config + " with flags"
	case f.configDir != "":
		return f.configDir + " with flags"
	}
	return "flags"
}

// applyLogging sets klog up.
func (f *flags) applyLogging(verbosity any) error {
	if err := f.klog.Set("v", fmt.Sprint(verbosity)); err != nil {
		return fmt.Errorf("--v: %w", err)
	}
	if err := f.klog.Set("vmodule", f.set.Lookup("vmodule").Value.String()); err != nil {
		return fmt.Errorf("--vmodule: %w", err)
	}
	return nil
}
