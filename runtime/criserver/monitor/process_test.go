package monitor

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/opencontainers/cgroups"
)

// TestRemoveCgroup: the processes of a cgroup and of one below it are killed, and it is gone when the call returns.
func TestRemoveCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		root += "/pids"
	}
	dir := filepath.Join(root, "remove-"+strconv.Itoa(os.Getpid()))
	for _, in := range []string{dir, filepath.Join(dir, "below")} {
		if err := os.MkdirAll(in, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(in) })
		cmd := exec.Command("sh", "-c", "echo $$ >"+filepath.Join(in, "cgroup.procs")+" && echo in && exec sleep 1000")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill() }()
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatalf("it is not in the cgroup: %v", err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }() // what has ended but was not waited for is still in its cgroup
		if err := RemoveCgroup(t.Context(), dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the cgroup is left: %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the process ended by itself")
		}
		if err := RemoveCgroup(t.Context(), dir); err != nil {
			t.Errorf("one that is not there: %v", err)
		}
	}
}
