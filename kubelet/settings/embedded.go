package settings

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"minikubelet/runtime/criserver"
)

// Embedded is the runtime endpoint that stands for a CRI server in the kubelet's own process.
const Embedded = "embedded"

// maxSocketPath is what the kernel takes, 108, without the zero at the end.
const maxSocketPath = 107

// embeddedFlags are the flags of the embedded runtime.
type embeddedFlags struct {
	set     *pflag.FlagSet
	options criserver.Options
}

func (f *embeddedFlags) flags() *pflag.FlagSet {
	f.set = pflag.NewFlagSet(Embedded, pflag.ContinueOnError)
	f.set.StringVar(&f.options.State, "runtime-state-dir", "/run/minikubelet", "embedded runtime: directory of its socket, cri.sock, and of mounts and namespaces; empty after a reboot")
	f.options.AddFlags(f.set, "embedded runtime: ")
	return f.set
}

// IsEmbedded tells whether the kubelet is its own runtime.
func (s *Settings) IsEmbedded() bool { return s.ContainerRuntimeEndpoint == Embedded }

// RuntimeSocket is the address of the CRI, of the embedded runtime or another.
func (s *Settings) RuntimeSocket() string {
	if s.IsEmbedded() {
		return "unix://" + filepath.Join(filepath.Dir(s.Embedded.State), "cri.sock")
	}
	return s.ContainerRuntimeEndpoint
}

// completeEmbedded gives the embedded runtime what the kubelet's other settings say, and refuses its flags where there
// is none.
func (s *Settings) completeEmbedded(f *embeddedFlags) (errs []error) {
	if !s.IsEmbedded() {
		f.set.VisitAll(func(flag *pflag.Flag) {
			if flag.Changed {
				errs = append(errs, fmt.Errorf("--%s: needs --container-runtime-endpoint=%s", flag.Name, Embedded))
			}
		})
		return errs
	}
	if !filepath.IsAbs(f.options.State) {
		return []error{fmt.Errorf("--runtime-state-dir: %q is not an absolute path", f.options.State)}
	}
	s.Embedded = f.options
	s.Embedded.Root = filepath.Join(s.RootDir, "cri")
	s.Embedded.State = filepath.Join(f.options.State, "cri")
	s.Embedded.CgroupManager = s.CgroupDriver
	s.Embedded.StreamAddress = "127.0.0.1:0" // the kubelet's server is what others connect to
	if socket := s.RuntimeSocket(); len(socket)-len("unix://") > maxSocketPath {
		errs = append(errs, fmt.Errorf("--runtime-state-dir: %q is too long for a socket in it", f.options.State))
	}
	return errs
}
