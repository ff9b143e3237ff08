package stack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// nodePrograms are the programs of the node: the machine whose clock is set has no others.
var nodePrograms = []string{"kubelet", Containerd, "containerd-shim-runc-v2", Crid}

// SetClocks sets the clocks of all programs of the node that run; those that start later must be set as well. Monotonic
// time goes on, and the control plane's clock is another machine's.
func (s *Stack) SetClocks(off time.Duration) error {
	for _, pid := range s.cgroup.pids() {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !slices.Contains(nodePrograms, filepath.Base(exe)) {
			continue
		}
		// A process that ends meanwhile, or becomes another program, has that memory no more.
		err = SetClock(pid, off)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
