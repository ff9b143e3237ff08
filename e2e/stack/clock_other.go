//go:build !amd64

package stack

import (
	"errors"
	"time"
)

// CanSetClock tells whether SetClock works on this machine.
const CanSetClock = false

// SetClock has a process take the time of day for another.
func SetClock(int, time.Duration) error {
	return errors.New("the clock of one process can be set on amd64 only")
}
