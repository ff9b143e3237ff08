package apparmor_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"minikubelet/runtime/criserver/apparmor"
	"minikubelet/runtime/criserver/oci"
)

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	for _, err := range []error{os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), mode)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// host is a machine whose kernel has one profile, and whose parser tells the kernel of each that it is given.
func host(t *testing.T) *apparmor.Host {
	t.Helper()
	dir := t.TempDir()
	loaded := write(t, dir+"/profiles", "other (enforce)\nother-too//child (complain)\n", 0o600)
	parser := write(t, dir+"/parser", "#!/bin/sh\necho $@ >>"+dir+"/calls\ncat >"+dir+"/given\necho '"+apparmor.Default+" (enforce)' >>"+loaded+"\n", 0o700)
	return &apparmor.Host{Enabled: true, Loaded: loaded, Policies: dir, Parser: parser, Confined: "snap.kubelet"}
}

func asks(kind runtimeapi.SecurityProfile_ProfileType, name string) *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: name}
}

// TestProfile: what is asked for on machines with AppArmor and without, by containers with privileges and without.
func TestProfile(t *testing.T) {
	runtimeDefault, unconfined := asks(runtimeapi.SecurityProfile_RuntimeDefault, ""), asks(runtimeapi.SecurityProfile_Unconfined, "")
	named := func(name string) *runtimeapi.SecurityProfile { return asks(runtimeapi.SecurityProfile_Localhost, name) }
	for _, tc := range []struct {
		what             string
		asked            *runtimeapi.SecurityProfile
		none, privileged bool
		want             string
		refused          bool
	}{
		{what: "nothing", want: apparmor.Default},
		{what: "default", asked: runtimeDefault, want: apparmor.Default},
		{what: "unconfined", asked: unconfined},
		{what: "a loaded one", asked: named("other"), want: "other"},
		{what: "one by its old form", asked: named("localhost/other"), want: "other"},
		{what: "the beginning of one", asked: named("othe"), refused: true},
		{what: "one that is not loaded", asked: named("nobody"), refused: true},
		{what: "one without a name", asked: named(""), refused: true},
		{what: "what is none", asked: asks(9, ""), refused: true},
		{what: "privileged, nothing", privileged: true},
		{what: "privileged, default", asked: runtimeDefault, privileged: true},
		{what: "privileged, a loaded one", asked: named("other"), privileged: true, want: "other"},
		{what: "no AppArmor, nothing", none: true},
		{what: "no AppArmor, default", asked: runtimeDefault, none: true},
		{what: "no AppArmor, unconfined", asked: unconfined, none: true},
		{what: "no AppArmor, a name", asked: named("other"), none: true, refused: true},
	} {
		h := host(t)
		h.Enabled = !tc.none
		got, err := h.Profile(t.Context(), tc.asked, tc.privileged)
		if tc.refused != errors.Is(err, oci.ErrInvalid) || !tc.refused && (err != nil || got != tc.want) {
			t.Errorf("%s: %q, %v", tc.what, got, err)
		}
	}
}

// TestDefaultIsLoadedOnce: and again when the kernel has forgotten it.
func TestDefaultIsLoadedOnce(t *testing.T) {
	h := host(t)
	dir := h.Policies
	profile := func() {
		t.Helper()
		if got, err := h.Profile(t.Context(), nil, false); err != nil || got != apparmor.Default {
			t.Fatalf("%q, %v", got, err)
		}
	}
	calls := func() int {
		text, err := os.ReadFile(dir + "/calls")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "--replace")
	}
	profile()
	profile()
	if n := calls(); n != 1 {
		t.Errorf("loaded %d times", n)
	}
	given, err := os.ReadFile(dir + "/given")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"@{PROC}=/proc/\n", "profile " + apparmor.Default + " flags", "deny mount,", `signal (receive) peer="snap.kubelet",`, "deny @{PROC}/sys/[^k]** wkl,"} {
		if !strings.Contains(string(given), want) {
			t.Errorf("the profile lacks %q:\n%s", want, given)
		}
	}
	for _, name := range []string{"abi/3.0", "tunables/global", "abstractions/base"} {
		write(t, filepath.Join(dir, name), "", 0o600)
	}
	write(t, h.Loaded, "", 0o600)
	profile()
	if given, err = os.ReadFile(dir + "/given"); err != nil || !strings.HasPrefix(string(given), "abi <abi/3.0>,\n#include <tunables/global>\nprofile") || calls() != 2 {
		t.Errorf("loaded %d times, %v:\n%s", calls(), err, given)
	}
}

// TestDefaultCannotBeLoaded: who asked for it hears why, who did not runs without.
func TestDefaultCannotBeLoaded(t *testing.T) {
	h := host(t)
	for parser, want := range map[string]string{
		filepath.Join(h.Policies, "not-there"):                                                "install the package apparmor",
		write(t, h.Policies+"/broken", "#!/bin/sh\necho syntax error, line 1\nexit 1", 0o700): "syntax error, line 1",
	} {
		h.Parser = parser
		if got, err := h.Profile(t.Context(), nil, false); err != nil || got != "" {
			t.Errorf("not asked for: %q, %v", got, err)
		}
		if _, err := h.Profile(t.Context(), asks(runtimeapi.SecurityProfile_RuntimeDefault, ""), false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("asked for: %v, want %q", err, want)
		}
	}
}
