package stack

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOwnMachine: what the programs of such a stack write to the machine's directories and cgroups is nowhere on the
// machine, and goes with the stack.
func TestOwnMachine(t *testing.T) {
	requireStack(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := Start(ctx, Options{NoControlPlane: true, OwnMachine: true, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	name := s.Name + "-own"
	var paths []string
	for _, dir := range append([]string{"/var/lib/kubelet"}, machineDirs...) {
		if _, err := os.Stat(dir); err == nil || dir == "/var/lib/kubelet" {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	group := filepath.Join(filepath.Dir(s.cgroup.counting()), name)
	script := "set -e; for path in " + strings.Join(paths, " ") + "; do echo own >$path; done; mkdir " + group + "; tail -n +1 " + strings.Join(paths, " ")
	out, err := s.Exec(ctx, "sh", "-c", script)
	if err != nil || strings.Count(out, "own\n") < len(paths) {
		t.Errorf("inside: %v: %s", err, out)
	}
	if out, err := s.Exec(ctx, "getent", "hosts", s.NodeName); err != nil || !strings.HasPrefix(out, NodeIP) {
		t.Errorf("the node's name: %v: %s", err, out)
	}
	for _, path := range append(paths, group) {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is on the machine", path)
		}
	}
	if _, err := os.Stat(filepath.Join(s.cgroup.counting(), name)); err != nil {
		t.Errorf("the cgroup is not below the stack's: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.RootDir(), name)); err != nil {
		t.Errorf("the usual root directory is not the stack's: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left := s.print.resources(); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Stat(s.Dir); err == nil {
		t.Errorf("left behind: %s", s.Dir)
	}
}
