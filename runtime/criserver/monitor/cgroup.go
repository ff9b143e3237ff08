package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// RemoveCgroup kills the processes of a cgroup, and of those that it made below, and removes it, once they have left. One
// that is not there is no error.
func RemoveCgroup(ctx context.Context, dir string) error {
	for {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2 kills all at once
		pids, _ := cgroups.GetAllPids(dir)
		for _, pid := range pids {
			if pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		// This waits a moment, since a killed process leaves its cgroup later, and no event tells.
		err := cgroups.RemovePath(dir)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return fmt.Errorf("remove cgroup: %w", errors.Join(err, ctx.Err()))
		}
	}
}
