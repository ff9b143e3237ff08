package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestGate: turns come one after the other, one that takes too long does not hold up the others, and leaving twice frees one place.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		start := time.Now()
		leave, err := g.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		entered := make(chan func())
		go func() {
			second, err := g.enter(t.Context())
			if err != nil {
				t.Error(err)
			}
			entered <- second
		}()
		second := <-entered
		if waited := time.Since(start); waited != maxTurn {
			t.Errorf("the second had its turn after %v, want %v", waited, maxTurn)
		}
		leave()
		if len(g.turns) != 1 {
			t.Error("whoever had overrun its turn gave up another's")
		}
		second()
		second()
		if len(g.turns) != 0 {
			t.Errorf("%d turns are taken after all were left", len(g.turns))
		}
		ctx, cancel := context.WithCancel(t.Context())
		third, _ := g.enter(ctx)
		defer third()
		cancel()
		if _, err := g.enter(ctx); err == nil {
			t.Error("a cancelled wait got a turn")
		}
	})
}
