package main

import (
	"strings"
	"testing"

	"minikubelet/runtime/criserver"
)

func TestParse(t *testing.T) {
	o, address, err := parse([]string{"--listen=unix:///x.sock", "--runtime=runc=/bin/runc", "--runtime=crun=/bin/crun", "--pause=always", "--cni-bin-dir=/a,/b"})
	if err != nil || address != "unix:///x.sock" || o.DefaultRuntime != "runc" || len(o.Runtimes) != 2 || o.Pause != criserver.PauseAlways || len(o.CNIBinDirs) != 2 {
		t.Errorf("%+v, %q, %v", o, address, err)
	}
	for args, want := range map[string]string{
		"--runtime=runc":            "handler=program",
		"--runtime=../x=/bin/runc":  "handler=program",
		"--pause=never":             "needed or always",
		"--cgroup-manager=openrc":   "cgroupfs or systemd",
		"--registry-config=/not/it": "/not/it",
		"--what":                    "unknown flag",
		"stray":                     "stray",
	} {
		if _, _, err := parse([]string{args}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestListen(t *testing.T) {
	path := t.TempDir() + "/dir/crid.sock"
	if _, _, err := listen("tcp://127.0.0.1:1"); err == nil {
		t.Error("listens on TCP")
	}
	for range 2 { // what a killed server leaves is no hindrance
		_, release, err := listen("unix://" + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "another server") {
			t.Errorf("a second server: %v", err)
		}
		release()
	}
}
