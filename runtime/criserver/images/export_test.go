package images

import (
	"errors"
	"maps"
	"testing"
	"time"
)

// SetTimeouts makes pulls impatient for one test.
func SetTimeouts(t *testing.T) {
	stall, describe := stallTimeout, describeTimeout
	stallTimeout, describeTimeout = 300*time.Millisecond, 300*time.Millisecond
	t.Cleanup(func() { stallTimeout, describeTimeout = stall, describe })
}

// UnmountAll unmounts all snapshots.
func (s *Store) UnmountAll() error {
	s.mu.Lock()
	known := maps.Clone(s.snapshots)
	s.mu.Unlock()
	var failed []error
	for key, snap := range known {
		failed = append(failed, s.Unmount(key, snap.Mount))
	}
	return errors.Join(failed...)
}
