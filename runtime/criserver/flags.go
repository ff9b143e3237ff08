package criserver

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"minikubelet/runtime/criserver/images"
)

// AddFlags gives the options their defaults and adds the flags that every program with a CRI server in it has: cmd/crid,
// and the kubelet, whose other flags say the rest. Each usage begins with the prefix.
func (o *Options) AddFlags(set *pflag.FlagSet, prefix string) {
	o.Runtimes, o.DefaultRuntime = map[string]string{"runc": "runc"}, "runc"
	o.Pause = PauseNeeded
	set.StringVar(&o.Images.ArchiveDir, "image-archive-dir", "", prefix+"directory of OCI and docker archives to import at start")
	set.StringVar(&o.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", prefix+"directory of CNI configurations, of which the first is used")
	set.StringSliceVar(&o.CNIBinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}, prefix+"directories of CNI plugins")
	set.StringSliceVar(&o.CDISpecDirs, "cdi-spec-dir", []string{"/etc/cdi", "/var/run/cdi"}, prefix+"directories of files that describe CDI devices")
	set.StringVar(&o.Conmon, "conmon", "conmon", prefix+"conmon program")
	set.Func("oci-runtime", prefix+"OCI runtime as handler=program; the first is the default; may be repeated", func(pair string) error {
		return o.addRuntime(!set.Changed("oci-runtime"), pair)
	})
	set.Func("pause", prefix+"when a pod gets a pause process: needed (it shares its processes; the default) or always", Choice(&o.Pause, PauseNeeded, PauseAlways))
	set.Func("registry-config", prefix+"YAML file of mirrors and insecure registries, by host", func(path string) (err error) {
		o.Images.Registries, err = LoadRegistries(path)
		return err
	})
}

// Choice sets a flag that must be one of a few words.
func Choice(value *string, allowed ...string) func(text string) error {
	return func(text string) error {
		if !slices.Contains(allowed, text) {
			return fmt.Errorf("it must be %s", strings.Join(allowed, " or "))
		}
		*value = text
		return nil
	}
}

// addRuntime reads a handler=program pair. The first that is given replaces the default.
func (o *Options) addRuntime(first bool, pair string) error {
	name, program, ok := strings.Cut(pair, "=")
	if !ok || name == "" || program == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return errors.New("it must be handler=program, as in runc=/usr/bin/runc")
	}
	if first {
		o.Runtimes, o.DefaultRuntime = map[string]string{}, name
	}
	if o.Runtimes[name] != "" {
		return errors.New("there are two programs for the handler")
	}
	o.Runtimes[name] = program
	return nil
}

// LoadRegistries reads a file that says how to reach registries, by the host in image references:
//
//	docker.io: {mirrors: ["http://10.0.0.1:5000"]}
//	registry.example:5000: {insecure: true}
func LoadRegistries(path string) (map[string]images.Registry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read registry configuration: %w", err)
	}
	var registries map[string]images.Registry
	if err := yaml.UnmarshalStrict(data, &registries); err != nil {
		return nil, fmt.Errorf("read registry configuration %s: %w", path, err)
	}
	return registries, nil
}
