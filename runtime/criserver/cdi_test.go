package criserver

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/oci"
)

// TestInjectCDI: a device's node, variable and mount are in the specification; one that is not described is an error, which
// also tells of descriptions that cannot be read. Device plugins may name devices in annotations, as they did before the CRI had a field.
func TestInjectCDI(t *testing.T) {
	dir := t.TempDir()
	const file = `{"cdiVersion": "0.6.0", "kind": "example.com/device", "devices": [{"name": "one", "containerEdits": {
		"env": ["CDI=one"], "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}],
		"mounts": [{"hostPath": "/opt", "containerPath": "/one", "options": ["ro", "bind"]}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "example.json"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	named := func(name string) *runtimeapi.ContainerConfig {
		return &runtimeapi.ContainerConfig{CDIDevices: []*runtimeapi.CDIDevice{{Name: name}}}
	}
	one := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	if err := injectCDI(one, named("example.com/device=one"), []string{dir}); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	twice := named("example.com/device=one")
	twice.Annotations = map[string]string{"cdi.k8s.io/plugin_1": "example.com/device=one", "other": "x"}
	if err := injectCDI(spec, twice, []string{dir}); err != nil || !reflect.DeepEqual(spec, one) {
		t.Errorf("a device that is named twice: %+v, %v", spec, err)
	}
	twice.CDIDevices = nil
	spec = &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	if err := injectCDI(spec, twice, []string{dir}); err != nil {
		t.Fatal(err)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/one" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("devices: %+v", d)
	}
	if r := spec.Linux.Resources; r == nil || !slices.ContainsFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool { return d.Allow && d.Major != nil && *d.Major == 1 }) {
		t.Errorf("what may be accessed: %+v", r)
	}
	if !slices.Contains(spec.Process.Env, "CDI=one") || len(spec.Mounts) != 1 || spec.Mounts[0].Destination != "/one" {
		t.Errorf("variables %q, mounts %+v", spec.Process.Env, spec.Mounts)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := injectCDI(spec, named("example.com/device=two"), []string{dir})
	if err == nil || !strings.Contains(err.Error(), "example.com/device=two") || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a device that is not described: %v", err)
	}
	if err := injectCDI(spec, &runtimeapi.ContainerConfig{}, []string{dir}); err != nil {
		t.Error(err)
	}
	twice.Annotations["cdi.k8s.io/plugin_2"] = "two"
	if err := injectCDI(spec, twice, []string{dir}); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("an annotation that names no device: %v", err)
	}
}
