package criserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"minikubelet/runtime/criserver/trees"
)

// TestPauseRootsWhileProcessesStart: the root file system of a pause process can be made read-only though other processes
// are started at the same time, which have copies of all open files for a moment.
func TestPauseRootsWhileProcessesStart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may mount")
	}
	var others sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := exec.Command("/bin/true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	defer others.Wait()
	defer close(stop)
	dir := filepath.Join(t.TempDir(), "rootfs")
	for range 300 {
		err := makePauseRoot(dir)
		if err := trees.Detach(dir); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
