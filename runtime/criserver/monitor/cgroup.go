package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// RemoveCgroup kills the processes of a cgroup and removes it, once they have left. One that is not there is no error.
func RemoveCgroup(ctx context.Context, dir string) error {
	for {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // v2 kills all at once
		pids, _ := cgroups.GetPids(dir)
		for _, pid := range pids {
			if pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		select { // a killed process leaves its cgroup a moment later, and no event tells
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, ctx.Err())
		}
	}
}
