package measure

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Filesystem returns the state of the filesystem that a path is on, and its device, by which two paths on the same one
// are told.
func Filesystem(path string) (state *statsapi.FsStats, device uint64, err error) {
	var s unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(path, &s), unix.Stat(path, &st)); err != nil {
		return nil, 0, fmt.Errorf("measure the filesystem of %s: %w", path, err)
	}
	block := uint64(s.Bsize)
	return &statsapi.FsStats{
		Time: metav1.Now(), CapacityBytes: new(s.Blocks * block), AvailableBytes: new(s.Bavail * block), UsedBytes: new((s.Blocks - s.Bfree) * block),
		Inodes: new(s.Files), InodesFree: new(s.Ffree), InodesUsed: new(s.Files - min(s.Files, s.Ffree)),
	}, st.Dev, nil
}

// Device returns the path of a block device, "" if it has none.
func (m *Machine) Device(major, minor uint64) string {
	for line := range strings.Lines(m.Read(fmt.Sprintf("sys/dev/block/%d:%d/uevent", major, minor))) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return ""
}
