package main

import (
	"strings"
	"testing"
)

var some = []spec{
	{name: "[sig-node] Pods should run [LinuxOnly] [Conformance] [NodeConformance]", labels: []string{"sig-node", "Conformance", "NodeConformance"}, chosen: true},
	{name: "[sig-node] Pods should run twice [NodeConformance]", chosen: true},
	{name: "[sig-storage] Volumes [Driver: nfs] should mount", labels: []string{"Slow"}, chosen: true},
	{name: "[sig-storage] Volumes [Driver: local] should mount", chosen: true},
	{name: "[sig-node] Pods should crash [Disruptive]"},
}

// TestFind: a spec is found by its words whatever tags its name has, and wherever they stand in it.
func TestFind(t *testing.T) {
	for entry, want := range map[string]string{
		"[sig-node] Pods should run":                                   some[0].name,
		"[sig-node] Pods [NodeConformance] should run [Conformance]":   some[0].name,
		"[sig-node]  Pods should run twice":                            some[1].name,
		"[sig-storage] Volumes should mount [Driver: local]":           some[3].name,
		"[sig-storage] Volumes should mount [Slow]":                    some[2].name,
		"[sig-node] Pods should run [FeatureGate:Gone]":                "error: the suite has no spec",
		"[sig-apps] Pods should run":                                   "error: the suite has no spec",
		"Pods should":                                                  "error: the suite has no spec",
		"[sig-storage] Volumes should mount":                           "error: \"[sig-storage] Volumes should mount\" is the name of 2 specs",
		"[sig-node] Pods should run [LinuxOnly] and something further": "error: the suite has no spec",
	} {
		s, err := find(entry, some)
		if wrong, isError := strings.CutPrefix(want, "error: "); isError {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: found %q, %v; want an error: %s", entry, s.name, err, wrong)
			}
			continue
		}
		if err != nil || s.name != want {
			t.Errorf("%s: found %q, %v; want %q", entry, s.name, err, want)
		}
	}
}

func TestPlan(t *testing.T) {
	none := write(t, "# none\n")
	p, err := planRun(some, "", write(t, "[sig-node] Pods should run twice # no second pod\n"))
	if err != nil || len(p.names) != 4 || len(p.subset) != 0 || p.known[some[1].name] != "no second pod" {
		t.Errorf("all: %+v, %v", p, err)
	}
	p, err = planRun(some, write(t, "# some\n[sig-node] Pods should run twice\n[sig-node] Pods should run [Conformance]\n"), none)
	if err != nil || len(p.names) != 2 || p.names[0] != some[1].name || p.names[1] != some[0].name {
		t.Errorf("a subset: %+v, %v", p, err)
	}
	if _, err := planRun(some[4:], "", none); err == nil || err.Error() != "label, focus and skip leave out every spec" {
		t.Errorf("a focus that matches nothing: %v", err)
	}
	for why, lists := range map[string][2]string{
		`has no spec "[sig-node] Pods should walk"`: {"[sig-node] Pods should run\n[sig-node] Pods should walk\n", ""},
		"leave out \"" + some[4].name:               {"[sig-node] Pods should crash\n", ""},
		"names no spec":                             {"#\n", ""},
		`has no spec "[sig-node] Pods may fail"`:    {"[sig-node] Pods should run\n", "[sig-node] Pods may fail # they may\n"},
	} {
		if _, err := planRun(some, write(t, lists[0]), write(t, lists[1])); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: error %v, want one that has: %s", lists, err, why)
		}
	}
}

// TestMissing: a spec of the subset that did not run is an error, though all that ran has passed.
func TestMissing(t *testing.T) {
	p := plan{subset: []string{"a", "b", "c"}}
	r := &results{specs: []spec{{name: "a", state: "passed"}, {name: "b", state: "failed"}, {name: "c", state: "passed"}}}
	if err := p.missing(r); err != nil {
		t.Errorf("all ran: %v", err)
	}
	r.specs[2].state, r.specs[2].why = "skipped", "no GPU"
	r.specs = r.specs[1:]
	if err := p.missing(r); err == nil || err.Error() != "did not run: a\nleft itself out: c: no GPU" {
		t.Errorf("missing: %v", err)
	}
}
