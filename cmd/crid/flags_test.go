package main

import (
	"strings"
	"testing"

	"minikubelet/runtime/criserver"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"--listen=unix:///x.sock", "--oci-runtime=runc=/bin/runc", "--oci-runtime=crun=/bin/crun", "--pause=always", "--cni-bin-dir=/a,/b", "--tracing-endpoint=localhost:4317"})
	if err != nil || o.address != "unix:///x.sock" || o.DefaultRuntime != "runc" || len(o.Runtimes) != 2 || o.Pause != criserver.PauseAlways || len(o.CNIBinDirs) != 2 || o.spans == nil || o.Traces {
		t.Errorf("%+v, %v", o, err)
	}
	for args, want := range map[string]string{
		"--oci-runtime=runc":                    "handler=program",
		"--oci-runtime=../x=/bin/runc":          "handler=program",
		"--pause=never":                         "needed or always",
		"--cgroup-manager=openrc":               "cgroupfs or systemd",
		"--registry-config=/not/it":             "/not/it",
		"--tracing-endpoint=http://localhost":   "want HOST:PORT",
		"--tracing-sampling-rate-per-million=1": "with --tracing-endpoint",
		"--root=here":                           `--root: "here" is not an absolute path`,
		"--state=":                              `--state: "" is not an absolute path`,
		"--what":                                "unknown flag",
		"stray":                                 "stray",
	} {
		if _, err := parse([]string{args}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
