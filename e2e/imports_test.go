package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "minikubelet/"

// layers says which packages of this module each package may import; the first
// matching entry counts. "x/..." is x and everything below it. What is not
// listed may import nothing of ours, but for the leaf.
var layers = []struct {
	of    string
	allow []string
}{
	{"cmd/crid", []string{"runtime/criserver/...", "kubelet/tracing/otlp"}},
	{"cmd/...", []string{"kubelet/..."}},
	{"e2e/...", []string{"..."}},
	{"examples/minimal", []string{
		"config", "syncloop", "podworkers", "podworkers/objects", "podworkers/probes", "podworkers/volumes", "status",
		"runtime", "runtime/cgroups", "runtime/cri", "runtime/images", "runtime/pleg", "runtime/runtimeclass", "runtime/spec",
	}},
	{"kubelet", []string{"kubelet/...", "syncloop", "podworkers/...", "status", "config", "runtime/..."}},
	{"kubelet/server", []string{"kubelet/server/...", "kubelet/settings", "runtime/cri"}},
	{"kubelet/timeline/story", nil},
	{"kubelet/devices", []string{"kubelet/devices/checkpoint"}},
	{"kubelet/timeline", []string{"kubelet/timeline/story"}},
	{"kubelet/tracing/otlp", nil},
	{"kubelet/tracing", []string{"kubelet/tracing/otlp"}},
	{"kubelet/hold", []string{"kubelet/client", "kubelet/node"}},
	{"kubelet/local", []string{"kubelet/server", "kubelet/timeline/story"}},
	{"kubelet/identity", []string{"kubelet/client"}},
	{"kubelet/settings", []string{"runtime/criserver"}},
	{"kubelet/node", []string{"kubelet/measure", "kubelet/settings", "runtime/cri", "status/patch"}},
	{"kubelet/measure", nil},
	{"kubelet/...", []string{"kubelet/measure", "kubelet/settings", "runtime/criserver/diskusage", "runtime/cri"}},
	{"syncloop", []string{"config", "podworkers", "podworkers/probes", "runtime/pleg", "runtime/cri", "runtime/cgroups", "runtime/allocation", "status"}},
	{"podworkers", []string{"podworkers/...", "runtime", "runtime/spec", "runtime/plan", "runtime/resize", "runtime/allocation", "runtime/cri", "runtime/pleg", "status"}},
	{"podworkers/volumes", []string{"podworkers/csi", "podworkers/objects", "podworkers/env", "runtime/cri", "runtime/cgroups", "runtime/mounts"}},
	{"podworkers/csi", []string{"podworkers/objects", "runtime/cri", "runtime/mounts"}},
	{"podworkers/env", []string{"podworkers/objects", "runtime/cri"}},
	{"podworkers/probes", []string{"podworkers/env", "runtime/cri", "runtime/httpget"}},
	{"podworkers/...", []string{"runtime/cri"}},
	{"status", []string{"runtime/cri", "status/patch"}},
	{"status/patch", nil},
	{"runtime", []string{"runtime/httpget", "runtime/plan", "runtime/resize", "runtime/spec", "runtime/memoryqos", "runtime/cri", "runtime/pleg", "runtime/images", "runtime/runtimeclass", "runtime/cgroups", "runtime/allocation", "runtime/mounts", "runtime/userns"}},
	{"runtime/plan", []string{"runtime/cri", "runtime/resize", "runtime/spec"}},
	{"runtime/resize", []string{"runtime/allocation", "runtime/cgroups", "runtime/cri", "runtime/spec"}},
	{"runtime/spec", []string{"runtime/cri", "runtime/cgroups", "runtime/memoryqos"}},
	{"runtime/memoryqos", []string{"runtime/cgroups"}},
	{"runtime/criserver/...", []string{"runtime/criserver/...", "runtime/mounts"}},
	{"runtime/httpget", nil},
	{"runtime/cri", nil},
	{"runtime/mounts", nil},
	{"runtime/...", []string{"runtime/cri"}},
	{"config", []string{"runtime/cri"}},
}

// leaf is what all but the CRI server may import.
const leaf = "config/pod"

// TestImportDirections checks, over the build graph, that imports point one way.
func TestImportDirections(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; checked++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, imported := range p.Imports {
			if to, ours := strings.CutPrefix(imported, module); ours && !mayImport(strings.TrimPrefix(p.ImportPath, module), to) {
				t.Errorf("%s must not import %s", p.ImportPath, imported)
			}
		}
	}
	if checked < 5 {
		t.Errorf("go list named only %d packages", checked)
	}
}

// TestLargeImports checks that no library brings what the programs are large by and do not use.
func TestLargeImports(t *testing.T) {
	for program, without := range map[string][]string{
		"kubelet": {"k8s.io/client-go/kubernetes/scheme"}, // the types of all APIs: 9 MB
		"crid":    {"k8s.io/client-go/rest", "k8s.io/api/core/v1", "text/template"},
	} {
		cmd := exec.Command("go", "list", "-tags", "grpcnotrace", "-deps", "./cmd/"+program)
		cmd.Dir = ".."
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		packages := strings.Fields(string(out))
		for _, large := range without {
			if slices.Contains(packages, large) {
				t.Errorf("%s is in %s; go list -deps -json=ImportPath,Imports names who imports it", large, program)
			}
		}
	}
}

func mayImport(from, to string) bool {
	if to == leaf && from != leaf && !matches("runtime/criserver/...", from) {
		return true
	}
	for _, layer := range layers {
		if !matches(layer.of, from) {
			continue
		}
		for _, allowed := range layer.allow {
			if matches(allowed, to) {
				return true
			}
		}
		return false
	}
	return false
}

// matches tells whether pkg is the pattern or, for "x/...", below x.
func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	if below, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == below || strings.HasPrefix(pkg, below+"/")
	}
	return pkg == pattern
}

func TestMayImport(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		want     bool
	}{
		{"cmd/kubelet", "kubelet/settings", true},
		{"cmd/kubelet", "runtime", false},
		{"cmd/crid", "kubelet", false},
		{"kubelet", "runtime/criserver", true},
		{"kubelet/node", "kubelet/server", false},
		{"podworkers/probes", "podworkers", false},
		{"podworkers", "runtime/pleg", true},
		{"runtime", "podworkers", false},
		{"runtime", "runtime/criserver", false},
		{"runtime/pleg", "runtime/cri", true},
		{"runtime/pleg", "runtime/images", false},
		{"runtime/criserver/oci", "runtime/cri", false},
		{"runtime/cri/crifake", "runtime/cri", true},
		{"config", "status", false},
		{"config", "config/pod", true},
		{"config/pod", "config", false},
		{"runtime/criserver", "config/pod", false},
		{"elsewhere", "config", false},
	} {
		if got := mayImport(tc.from, tc.to); got != tc.want {
			t.Errorf("mayImport(%s, %s) = %v, want %v", tc.from, tc.to, got, tc.want)
		}
	}
}
