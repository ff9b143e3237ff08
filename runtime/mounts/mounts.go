// Package mounts lists mounts. All who ask at the same time share one reading of the kernel's table: when hundreds of pods end at
// once, a reading for each volume of each takes more than all the rest.
package mounts

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
)

// Below lists what is mounted on a directory and below it, the last mounted last. The table is read after the call, so it has
// all that was mounted and nothing that was unmounted before. Links above the directory are followed; the directory itself is not
// looked at, since it may be on a file system that does not answer. It is an error if there is nothing above it.
func Below(dir string) ([]*mountinfo.Info, error) {
	above, err := filepath.EvalSymlinks(filepath.Dir(dir)) // the table has real paths
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	dir = filepath.Join(above, filepath.Base(dir))
	all, err := table.read()
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(m *mountinfo.Info) bool {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, dir+"/")
	}), nil
}

var table = readings{get: func() ([]*mountinfo.Info, error) { return mountinfo.GetMounts(nil) }}

// readings reads the table one time after the other.
type readings struct {
	get func() ([]*mountinfo.Info, error)

	mu   sync.Mutex
	last *reading // the newest, nil when it is done
	next *reading // the newest while it has not begun, else nil
}

// reading is one reading of the table. The fields are set when done is closed, and not changed any more.
type reading struct {
	done chan struct{}
	all  []*mountinfo.Info
	err  error
}

// read returns a reading that began after the call.
func (r *readings) read() ([]*mountinfo.Info, error) {
	r.mu.Lock()
	mine, before := r.next, r.last
	if mine != nil {
		r.mu.Unlock()
		<-mine.done
		return mine.all, mine.err
	}
	mine = &reading{done: make(chan struct{})}
	r.next, r.last = mine, mine
	r.mu.Unlock()

	if before != nil {
		<-before.done
	}
	r.mu.Lock()
	r.next = nil // those who ask from now on wait for the one after
	r.mu.Unlock()
	mine.all, mine.err = r.get()
	r.mu.Lock()
	if r.last == mine {
		r.last = nil // nothing is read that others would have to wait for, and the table need not be kept
	}
	r.mu.Unlock()
	close(mine.done)
	return mine.all, mine.err
}
