package images

import (
	"testing"
	"time"
)

// SetStallTimeout makes downloads impatient for one test.
func SetStallTimeout(t *testing.T) {
	old := stallTimeout
	stallTimeout = 300 * time.Millisecond
	t.Cleanup(func() { stallTimeout = old })
}

// MountOld mounts a snapshot as on kernels that cannot take layers one by one.
func (s *Store) MountOld(key string) error {
	snap := s.snapshots[key]
	return mountOld(s.snapshotPath(key), s.lowerDirs(snap.Chains), snap.Mount)
}
