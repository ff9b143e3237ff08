package stack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeps: what is missing is installed, on a system without a package chromium too, and elsewhere than on Debian and Ubuntu it is named.
func TestDeps(t *testing.T) {
	for _, tc := range []struct {
		name, args, lacks, policy, want, installs string
		fails                                     bool
	}{
		{name: "nothing is missing", args: "tests"},
		{name: "running needs no browser", lacks: "conmon chromium dbus", installs: "conmon"},
		{name: "Debian", args: "tests", lacks: "conmon chromium", policy: "Candidate: 130.0-1", want: "deps: installing conmon chromium", installs: "conmon chromium"},
		{name: "Ubuntu", args: "tests", lacks: "conmon chromium", policy: "Candidate: (none)", want: "there is no package chromium here", installs: "conmon"},
		{name: "Ubuntu, the second time", args: "tests", lacks: "chromium", want: "there is no package chromium here"},
		{name: "elsewhere", lacks: "apt-get conmon busybox", want: "here install first: conmon, busybox", fails: true},
		{name: "elsewhere, with all", lacks: "apt-get"},
		{name: "Go alone", args: "go", lacks: "apt-get conmon"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			lacks := func(name string) bool { return strings.Contains(" "+tc.lacks+" ", " "+name+" ") }
			for name, text := range map[string]string{
				"id": "echo 0", "go": "echo go1.26.0", "apt-cache": "echo '" + tc.policy + "'", "pkg-config": "exit 0", "chromium": "",
				"dpkg-query": "case ' " + tc.lacks + " ' in *\" $4 \"*) ;; *) printf installed ;; esac",
				"apt-get":    "[ $1 = update ] || echo \"$*\" >>" + dir + "/installs",
				"git":        "", "gcc": "", "make": "", "ip": "", "iptables": "", "mount": "", "conmon": "", "busybox": "", "curl": "",
			} {
				if lacks(name) {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"bash", "sed"} {
				program, err := exec.LookPath(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(filepath.Join(dir, "bash"), append([]string{"deps.sh", dir}, strings.Fields(tc.args)...)...)
			cmd.Env = []string{"PATH=" + dir}
			out, err := cmd.CombinedOutput()
			if (err != nil) != tc.fails || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v: %s\nwant %s", err, out, tc.want)
			}
			installs, _ := os.ReadFile(filepath.Join(dir, "installs"))
			_, packages, _ := strings.Cut(strings.TrimSpace(string(installs)), "--no-install-recommends ")
			if packages != tc.installs {
				t.Errorf("installed: %s\nwant %s", packages, tc.installs)
			}
		})
	}
}
