package settings

import (
	"bytes"
	"strings"
	"testing"

	"minikubelet/runtime/criserver"
)

// TestEmbedded: what the kubelet's other settings say of the embedded runtime, and where its flags are refused.
func TestEmbedded(t *testing.T) {
	s, err := Load([]string{
		"--container-runtime-endpoint=embedded", "--root-dir=/var/lib/a", "--runtime-state-dir=/run/a", "--cgroup-driver=systemd",
		"--oci-runtime=crun=/bin/crun", "--oci-runtime=runc=/bin/runc", "--cni-bin-dir=/a,/b",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	e := s.Embedded
	if !s.IsEmbedded() || s.RuntimeSocket() != "unix:///run/a/cri.sock" || e.Root != "/var/lib/a/cri" || e.State != "/run/a/cri" {
		t.Errorf("socket %s, %+v", s.RuntimeSocket(), e)
	}
	if e.CgroupManager != criserver.Systemd || e.DefaultRuntime != "crun" || len(e.Runtimes) != 2 || len(e.CNIBinDirs) != 2 || e.Pause != criserver.PauseNeeded {
		t.Errorf("%+v", e)
	}
	if s, err = Load([]string{"--container-runtime-endpoint=/run/x.sock"}, &bytes.Buffer{}); err != nil || s.IsEmbedded() || s.RuntimeSocket() != "unix:///run/x.sock" {
		t.Errorf("another runtime: %v, %v", s, err)
	}
	for args, want := range map[string]string{
		"--conmon=/bin/conmon": "--conmon: needs --container-runtime-endpoint=embedded",
		"--container-runtime-endpoint=embedded --image-service-endpoint=/x":                        "imageServiceEndpoint",
		"--container-runtime-endpoint=/x --image-service-endpoint=embedded":                        "imageServiceEndpoint",
		"--container-runtime-endpoint=embedded --runtime-state-dir=here":                           "--runtime-state-dir",
		"--container-runtime-endpoint=embedded --pause=never":                                      "needed or always",
		"--container-runtime-endpoint=embedded --runtime-state-dir=/" + strings.Repeat("long", 30): "too long",
	} {
		if _, err := Load(strings.Fields(args), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
