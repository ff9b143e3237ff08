package runtime

import "context"

// startSlot is a new pod's turn to start, from its sandbox to its last container. More starts at once than the
// machine does well make all of them slower, and pods that start in turn are ready long before all are. What may take
// long without work for this machine, a pull or a hook, gives the turn up.
type startSlot struct{ gate chan struct{} }

// take waits for a slot.
func (s *startSlot) take(ctx context.Context, gate chan struct{}) error {
	select {
	case gate <- struct{}{}:
		s.gate = gate
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave gives the slot back, once.
func (s *startSlot) leave() {
	if s.gate != nil {
		<-s.gate
		s.gate = nil
	}
}
