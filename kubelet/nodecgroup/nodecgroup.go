// Package nodecgroup reads the cgroup of a node that is itself a container, one of kind's for example: of the machine it has what
// its own cgroup uses and may use. That is the one which its hierarchies begin with.
package nodecgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Container is what a node in a container has of the machine's memory, in bytes.
type Container struct {
	WorkingSet int64 // in use, without files that were not touched lately
	Limit      int64 // math.MaxInt64 for none
}

// Memory reads the memory of the container in which the files below root, "/" or a test's, are seen. It returns nil on the
// machine itself.
//
// Upstream: cadvisor takes the root of the hierarchies for the node, vendor/github.com/google/cadvisor/container/libcontainer.
func Memory(root string) (*Container, error) {
	dir, v1, err := memoryRoot(root)
	if err != nil || dir == "" {
		return nil, err
	}
	current, limit, inactive := "memory.current", "memory.max", "inactive_file"
	if v1 {
		current, limit, inactive = "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
		// Only where the machine's hierarchy begins there is one. On cgroup v2 there is no memory.current there.
		if _, err := os.Stat(filepath.Join(dir, "release_agent")); err == nil {
			return nil, nil
		}
	}
	used, err := number(filepath.Join(dir, current))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &Container{}
	if c.Limit, err = number(filepath.Join(dir, limit)); err != nil {
		return nil, err
	}
	if c.Limit >= 1<<62 { // v1 writes the largest multiple of a page for none
		c.Limit = math.MaxInt64
	}
	text, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return nil, fmt.Errorf("read the memory of the node's cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == inactive {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read the memory of the node's cgroup: %s: %w", inactive, err)
			}
			used -= min(used, n)
		}
	}
	c.WorkingSet = used
	return c, nil
}

// memoryRoot is where the hierarchy of memory is mounted, "" for nowhere; v1 tells its kind. On a hybrid machine it is
// v1's. Of several mounts the shortest path is that of all cgroups that are seen here.
func memoryRoot(root string) (dir string, v1 bool, err error) {
	file, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("find the node's cgroup: %w", err)
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return "", false, fmt.Errorf("find the node's cgroup: %w", err)
	}
	for _, m := range mounts {
		memory := m.FSType == "cgroup"
		if memory && !strings.Contains(","+m.VFSOptions+",", ",memory,") || !memory && v1 {
			continue
		}
		if dir == "" || memory && !v1 || len(m.Mountpoint) < len(dir) {
			dir, v1 = m.Mountpoint, memory
		}
	}
	if dir != "" {
		dir = filepath.Join(root, dir)
	}
	return dir, v1, nil
}

// number reads a file of one number; "max" is the largest.
func number(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read the memory of the node's cgroup: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the memory of the node's cgroup: %s: %w", path, err)
	}
	return n, nil
}
