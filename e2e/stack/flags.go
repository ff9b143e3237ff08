package stack

import (
	"context"
	"fmt"
	"slices"
	"syscall"
)

// Reflag starts a component again with flags besides its own, for a test that needs what is off by default.
// Without any it is as it was.
func (s *Stack) Reflag(ctx context.Context, name string, flags ...string) error {
	c := s.component(name)
	if c == nil {
		return fmt.Errorf("stack has no component %s", name)
	}
	if err := s.StopComponent(ctx, name, syscall.SIGKILL); err != nil {
		return err
	}
	s.mu.Lock()
	if c.own == nil {
		c.own = c.args
	}
	c.args = slices.Concat(c.own, flags)
	s.mu.Unlock()
	return s.StartComponent(ctx, name)
}
