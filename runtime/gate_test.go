package runtime

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestGate: turns come one after the other, one that takes too long keeps nobody waiting, and leaving twice frees one place.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, &crowd{})
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

// TestCrowd: whoever waits for quiet waits for all pods at all gates, those that wait included, and a cancelled wait ends.
func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{}
		starts, ends := newGate(1, c), newGate(1, c)
		if err := c.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time as the first
			first, _ := starts.enter(t.Context())
			quiet := make(chan time.Duration)
			began := time.Now()
			go func() {
				if err := c.wait(t.Context()); err != nil {
					t.Error(err)
				}
				quiet <- time.Since(began)
			}()
			go func() {
				leave, _ := starts.enter(t.Context())
				time.Sleep(2 * time.Second)
				leave()
			}()
			other, _ := ends.enter(t.Context())
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := c.wait(ctx); err == nil {
				t.Error("it is quiet while pods start")
			}
			cancel()
			first()
			first()
			time.Sleep(time.Second)
			other()
			if took := <-quiet; took.Round(time.Second) != 3*time.Second {
				t.Errorf("it is quiet after %v", took)
			}
		}
		taken, _ := starts.enter(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := starts.enter(ctx); err == nil {
			t.Error("a cancelled pod got a turn")
		}
		taken()
		if err := c.wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
