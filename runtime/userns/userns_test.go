package userns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func first(t *testing.T, m *Manager, uid types.UID) uint32 {
	t.Helper()
	ns, err := m.Mapping(uid)
	if err != nil {
		t.Fatal(err)
	}
	if len(ns.Uids) != 1 || len(ns.Gids) != 1 || ns.Uids[0].HostId != ns.Gids[0].HostId || ns.Uids[0].Length != unit || ns.Uids[0].ContainerId != 0 {
		t.Errorf("mapping %v", ns)
	}
	return ns.Uids[0].HostId
}

// TestMapping: every pod has IDs of its own, keeps them over a restart, and what is given back is used again, but last.
func TestMapping(t *testing.T) {
	dir := t.TempDir()
	options := Options{PodsDir: dir, IDs: Range{2 * unit, 3 * unit}, MaxPods: 3}
	m, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	a, b := first(t, m, "a"), first(t, m, "b")
	if a != 2*unit || b != 3*unit || first(t, m, "a") != a {
		t.Errorf("a has %d, b %d", a, b)
	}
	if err := m.Release("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a", file)); !os.IsNotExist(err) {
		t.Errorf("the file of a pod without namespace: %v", err)
	}
	if c := first(t, m, "c"); c != 4*unit {
		t.Errorf("c has %d, what was just given back", c)
	}

	m, err = New(options)
	if err != nil {
		t.Fatal(err)
	}
	if got := first(t, m, "b"); got != b {
		t.Errorf("after a restart b has %d, had %d", got, b)
	}
	if d := first(t, m, "d"); d != a {
		t.Errorf("d has %d, want the free range", d)
	}
	if _, err := m.Mapping("e"); err == nil || !strings.Contains(err.Error(), "empty slot") {
		t.Errorf("a fourth pod of three: %v", err)
	}
	if err := m.Retain(func(uid types.UID) bool { return uid != "d" }); err != nil {
		t.Fatal(err)
	}
	if e := first(t, m, "e"); e != a {
		t.Errorf("e has %d", e)
	}
	if _, err := m.Mapping("../x"); err == nil {
		t.Error("a UID that leads elsewhere is taken")
	}
}

// TestUpstreamFile: what upstream's kubelet wrote is read. What it would not have written, or a power loss left, is set aside,
// and the pod gets other IDs.
func TestUpstreamFile(t *testing.T) {
	for content, want := range map[string]string{
		`{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":0,"length":65536}]}`: "",
		`{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":196608,"containerId":0,"length":65536}]}`: "same",
		`{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[{"hostId":0,"containerId":0,"length":65536}]}`:           "not the kubelet's",
		`{"uidMappings":[{"hostId":131072,"containerId":1,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":1,"length":65536}]}`: "ID 0",
		`{"uidMappings":[{"hostId":131073,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131073,"containerId":0,"length":65536}]}`: "no range",
		`{}`:  "one mapping",
		`{"u`: "invalid",
		``:    "invalid",
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "a"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a", file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := New(Options{PodsDir: dir, MaxPods: 110})
		if err != nil {
			t.Fatalf("%s: %v", content, err)
		}
		if want != "" {
			if _, err := m.parse([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", content, err, want)
			}
			kept, err := os.ReadFile(filepath.Join(dir, "a", file+broken))
			if err != nil || string(kept) != content {
				t.Errorf("%s: set aside is %q, %v", content, kept, err)
			}
			first(t, m, "a")
			continue
		}
		if got := first(t, m, "a"); got != 131072 {
			t.Errorf("the pod has %d", got)
		}
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"idsPerPod":     {IDsPerPod: 1000},
		"above 0":       {IDs: Range{0, unit}},
		"first ID":      {IDs: Range{unit + 1, unit}},
		"multiple":      {IDs: Range{unit, unit + 1}},
		"do not do for": {IDs: Range{unit, unit}, MaxPods: 2},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}

func TestParseSubIDs(t *testing.T) {
	for output, want := range map[string]Range{
		"0: kubelet 65536 7208960\n":       {65536, 7208960},
		"":                                 {},
		"0: kubelet 65536\n":               {},
		"0: kubelet x 7208960\n":           {},
		"0: kubelet 65536 x\n":             {},
		"0: kubelet 1 2\n1: kubelet 3 4\n": {},
		"0: kubelet 65536 99999999999999999999999": {},
	} {
		got, err := parseSubIDs(output)
		if got != want || (err == nil) != (want != Range{}) {
			t.Errorf("%q: %v, %v", output, got, err)
		}
	}
}
