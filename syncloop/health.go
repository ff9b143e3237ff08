package syncloop

import (
	"fmt"
	"time"
)

// stallLimit is how long the loop may stand still. It turns at every housekeeping at least.
const stallLimit = time.Minute

// Healthy tells why the loop is stuck, nil if it turns.
func (l *Loop) Healthy() error {
	last := l.lastTurn.Load()
	if last == nil {
		return nil // not started yet
	}
	if time.Since(*last) > stallLimit {
		// The time since when, not the duration: the message is in the node's status, which would change all the time.
		return fmt.Errorf("sync loop took longer than expected: no turn since %s, limit %v", last.UTC().Format(time.RFC3339), stallLimit)
	}
	return nil
}
