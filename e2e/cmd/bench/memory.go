package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"minikubelet/e2e/stack"
)

// runtimePrograms are those that a CRI runtime consists of: one process for all pods, and one or more for each.
var runtimePrograms = []string{stack.Containerd, "containerd-shim-runc-v2", stack.Crid, "conmon"}

// memory is what processes take, in MiB. RSS counts a page that several share for each of them; PSS divides it among
// them, so that only sums of PSS are what the machine would have again without them.
type memory struct{ rss, pss float64 }

// memory is what the runtime's own processes take: not those of pods, nor sandboxes' pause processes.
func (c *contestant) memory() (memory, error) {
	var sum memory
	err := c.eachOwn(func(pid int) error {
		m, err := memoryOf(pid)
		sum.rss += m.rss
		sum.pss += m.pss
		return err
	})
	return sum, err
}

// ownCPU is the CPU time in seconds that the runtime's own processes have used so far.
func (c *contestant) ownCPU() (float64, error) {
	sum := 0.0
	err := c.eachOwn(func(pid int) error {
		used, err := cpuSeconds(pid)
		sum += used
		return err
	})
	return sum, err
}

// eachOwn calls fn for each process of the runtime: all of them have the stack's directory in their arguments.
func (c *contestant) eachOwn(fn func(pid int) error) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	found := false
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		if err != nil || !slices.Contains(runtimePrograms, filepath.Base(exe)) {
			continue
		}
		arguments, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || !bytes.Contains(arguments, []byte(c.s.Dir)) {
			continue
		}
		found = true
		if err := fn(pid); err != nil && !ended(err) {
			return err
		}
	}
	if !found {
		return fmt.Errorf("find processes of %s: none", c.name)
	}
	return nil
}

func ended(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// memoryOf reads what a process takes.
func memoryOf(pid int) (m memory, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, fmt.Errorf("read memory of %d: %w", pid, err)
	}
	return parseRollup(data)
}

// parseRollup reads smaps_rollup.
func parseRollup(data []byte) (m memory, err error) {
	fields := map[string]*float64{"Rss: %f kB": &m.rss, "Pss: %f kB": &m.pss}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		for format, value := range fields {
			var kib float64
			if _, err := fmt.Sscanf(lines.Text(), format, &kib); err == nil {
				*value = kib / 1024
				delete(fields, format)
			}
		}
	}
	if len(fields) > 0 {
		return m, fmt.Errorf("read memory: no Rss or Pss in %q", data)
	}
	return m, nil
}
