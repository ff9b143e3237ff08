package settings

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"
)

// Embedded is the runtime endpoint that stands for a CRI server in the kubelet's own process.
const Embedded = "embedded"

// maxSocketPath is what the kernel takes, 108, without the zero at the end.
const maxSocketPath = 107

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
func (s *Settings) completeEmbedded(flags *pflag.FlagSet) (errs []error) {
	if !s.IsEmbedded() {
		flags.VisitAll(func(flag *pflag.Flag) {
			switch {
			case flag.Changed && removedFlags[flag.Name] != "": // it was upstream's too: --cni-bin-dir, --cni-conf-dir
				s.Warnings = append(s.Warnings, fmt.Sprintf("--%s has no effect%s: %s", flag.Name, lastRelease(flag.Name), runtimesNetwork))
			case flag.Changed:
				errs = append(errs, fmt.Errorf("--%s: needs --container-runtime-endpoint=%s", flag.Name, Embedded))
			}
		})
		return errs
	}
	dir := s.Embedded.State
	if !filepath.IsAbs(dir) {
		return []error{fmt.Errorf("--runtime-state-dir: %q is not an absolute path", dir)}
	}
	s.Embedded.Root, s.Embedded.State = filepath.Join(s.RootDir, "cri"), filepath.Join(dir, "cri")
	s.Embedded.CgroupManager = s.CgroupDriver
	s.Embedded.StreamAddress = "127.0.0.1:0" // the kubelet's server is what others connect to
	if socket := s.RuntimeSocket(); len(socket)-len("unix://") > maxSocketPath {
		errs = append(errs, fmt.Errorf("--runtime-state-dir: %q is too long for a socket in it", dir))
	}
	return errs
}
