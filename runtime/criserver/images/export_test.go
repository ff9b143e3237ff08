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

// MountOld mounts as on kernels that cannot take layers one by one.
var MountOld = mountOld
