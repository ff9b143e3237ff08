package criserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"minikubelet/runtime/criserver/monitor"
)

// cgroupRoot is where cgroups are, of version 2 or of all controllers of version 1.
const cgroupRoot = "/sys/fs/cgroup"

// end kills a task, if it has not ended, and waits until the OCI runtime has forgotten it. It may have been made half.
func (s *Server) end(ctx context.Context, t *task) error {
	if t.watched.Load() {
		if err := t.kill(ctx); err != nil {
			return err
		}
		return t.waitCleaned(ctx)
	}
	if t.hasEnded() {
		return nil
	}
	// Nothing records its end. All that is still making it must go first.
	if err := killMakers(ctx, t.id); err != nil {
		return err
	}
	if err := s.deleteFromRuntimes(ctx, t.id); err != nil {
		return err
	}
	if err := removeCgroups(ctx, t.id); err != nil {
		return err
	}
	t.setEnded()
	return nil
}

// deleteFromRuntimes has whichever OCI runtime knows a container forget it: without its record that may be any.
func (s *Server) deleteFromRuntimes(ctx context.Context, id string) error {
	var failed []error
	for handler, runtime := range s.runtimes {
		if handler != "" { // the default has a name as well
			failed = append(failed, runtime.Delete(ctx, id, true))
		}
	}
	return errors.Join(failed...)
}

// killMakers kills the programs that are making a sandbox or container and waits for their end: conmon and the OCI
// runtime, which have its ID as an argument, and CNI plugins, which have it in their environment. They live on when the
// server is killed, and what they do after it was undone would stay for ever.
func killMakers(ctx context.Context, id string) error {
	for {
		makers, err := makersOf(id)
		if err != nil {
			return err
		}
		if len(makers) == 0 {
			return nil
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
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var makers []*monitor.Handle
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || !makes(pid, id) {
			continue
		}
		handle, err := monitor.Open(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if !makes(pid, id) { // the PID was given to another
			handle.Close()
			continue
		}
		makers = append(makers, handle)
	}
	return makers, nil
}

func makes(pid int, id string) bool {
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(arguments) == 0 {
		return false // a kernel thread, or one that has ended
	}
	environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return hasString(arguments, id) || hasString(environment, "CNI_CONTAINERID="+id)
}

// hasString looks for one of the strings in the form of /proc/PID/cmdline.
func hasString(list []byte, one string) bool {
	return slices.ContainsFunc(bytes.Split(list, []byte{0}), func(s []byte) bool { return string(s) == one })
}

// removeCgroups removes the cgroups that an OCI runtime made for a container and did not get to note, with what is in them.
func removeCgroups(ctx context.Context, id string) error {
	for _, dir := range cgroupsOf(id) {
		for {
			if pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
				for pid := range strings.FieldsSeq(string(pids)) {
					if number, err := strconv.Atoi(pid); err == nil && number > 1 {
						_ = syscall.Kill(number, syscall.SIGKILL)
					}
				}
			}
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
			select { // a process that was killed leaves its cgroup a moment later, and no event tells
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s: %w", dir, ctx.Err())
			}
		}
	}
	return nil
}

// cgroupsOf finds the cgroups that are named after a container, by the directory itself or as a systemd scope.
func cgroupsOf(id string) []string {
	var found []string
	_ = filepath.WalkDir(cgroupRoot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // cgroups go at any time
		}
		if !entry.IsDir() {
			return nil
		}
		if name := strings.TrimSuffix(entry.Name(), ".scope"); name == id || strings.HasSuffix(name, "-"+id) {
			found = append(found, path)
		}
		return nil
	})
	return found
}
