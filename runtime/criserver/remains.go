package criserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"

	"minikubelet/runtime/criserver/monitor"
	"minikubelet/runtime/criserver/stats"
)

// end kills a task, if it has not ended, and waits until the OCI runtime has forgotten it. It may have been made half.
func (s *Server) end(ctx context.Context, t *task) error {
	if t.watched.Load() {
		if err := t.kill(ctx); err != nil {
			return err
		}
		return t.delete(ctx)
	}
	if t.hasEnded() {
		return nil
	}
	// No watch records its end. All that is still making it must go first.
	if err := killMakers(ctx, t.id); err != nil {
		return err
	}
	// Without its record the container may be any runtime's.
	for _, runtime := range s.runtimes {
		if err := runtime.Delete(ctx, t.id, true); err != nil {
			return err
		}
	}
	for _, dir := range cgroupsOf(t.id) {
		if err := monitor.RemoveCgroup(ctx, dir); err != nil {
			return err
		}
	}
	t.setEnded()
	t.release()
	return nil
}

// killMakers kills the programs that are making a sandbox or container and waits for their end: conmon and the OCI
// runtime, which have its ID as an argument, and CNI plugins, which have it in their environment. They live on when the
// server is killed, and what they do after it was undone would stay for ever.
func killMakers(ctx context.Context, id string) error {
	for {
		makers, err := makersOf(id)
		if err != nil || len(makers) == 0 {
			return err
		}
		for _, maker := range makers {
			err := maker.Signal(syscall.SIGKILL)
			if err == nil {
				err = maker.Wait(ctx)
			}
			maker.Close()
			if err != nil && !errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("end process %d, which makes %s: %w", maker.PID, id, err)
			}
		}
	}
}

func makersOf(id string) ([]*monitor.Handle, error) {
	processes, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var makers []*monitor.Handle
	for _, process := range processes {
		if !makes(process, id) {
			continue
		}
		handle, err := monitor.Open(process.PID, 0)
		if err != nil {
			continue // it has ended
		}
		if !makes(process, id) { // the PID was given to another
			handle.Close()
			continue
		}
		makers = append(makers, handle)
	}
	return makers, nil
}

func makes(process procfs.Proc, id string) bool {
	arguments, err := process.CmdLine()
	if err != nil || len(arguments) == 0 {
		return false // a kernel thread, or one that has ended
	}
	environment, _ := process.Environ()
	return slices.Contains(arguments, id) || slices.Contains(environment, "CNI_CONTAINERID="+id)
}

// cgroupsOf finds the cgroups that are named after a container, by the directory itself or as a systemd scope: an OCI
// runtime may have made some and not come to write it down.
func cgroupsOf(id string) []string {
	var found []string
	_ = filepath.WalkDir(stats.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // cgroups go at any time
		}
		if name := strings.TrimSuffix(entry.Name(), ".scope"); entry.IsDir() && (name == id || strings.HasSuffix(name, "-"+id)) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
