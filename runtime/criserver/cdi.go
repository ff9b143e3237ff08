package criserver

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"minikubelet/runtime/criserver/oci"
)

// injectCDI adds to a container's specification what the files of CDI say of its devices: nodes, mounts, variables, hooks.
// The files are read whenever a container has such devices, since programs of the machine write them as devices come and go.
func injectCDI(spec *specs.Spec, devices []*runtimeapi.CDIDevice, dirs []string) error {
	if len(devices) == 0 {
		return nil
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.GetName())
	}
	files, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read the descriptions of CDI devices: %w", err)
	}
	if _, err := files.InjectDevices(spec, names...); err != nil {
		broken := slices.Concat(slices.Collect(maps.Values(files.GetErrors()))...)
		return fmt.Errorf("%w: CDI devices, described in %q: %w", oci.ErrInvalid, dirs, errors.Join(append([]error{err}, broken...)...))
	}
	return nil
}
