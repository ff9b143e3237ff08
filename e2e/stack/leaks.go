package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Resources lists what the stack holds of the machine: mounts, cgroups,
// processes, network interfaces, and files outside its directory. A test takes
// it before and after, and Leaked says what the code between left behind. It
// counts nothing of other stacks, so tests of several may run at once.
func (s *Stack) Resources() ([]string, error) {
	list := s.print.resources()
	err := s.ns.do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces of %s: %w", s.ns.path, err)
		}
		for _, l := range links {
			list = append(list, "interface "+l.Attrs().Name)
		}
		return nil
	})
	slices.Sort(list)
	return list, err
}

// resources is what of Resources can be told without the running stack.
func (f footprint) resources() []string {
	var list []string
	tree := cgroupOf(f.Name)
	for _, dir := range tree.walk() {
		list = append(list, "cgroup "+dir)
	}
	for _, point := range mountsUnder(f.Dir) {
		list = append(list, "mount "+point)
	}
	for _, path := range f.strayFiles() {
		list = append(list, "file "+path)
	}
	pids := tree.pids()
	for _, pid := range processesNaming(f.Dir + "/") {
		if !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			continue // ended meanwhile
		}
		list = append(list, fmt.Sprintf("process %d %s", pid, strings.TrimSpace(string(comm))))
	}
	return list
}

// Leaked returns what is in after and not in before.
func Leaked(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(after), func(r string) bool { return slices.Contains(before, r) })
}

// processesNaming finds processes with the string in their command line, such
// as a shim outside the stack's cgroup, but not this one.
func processesNaming(text string) []int {
	var pids []int
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range entries {
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil || pid == unix.Getpid() {
			continue
		}
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}
