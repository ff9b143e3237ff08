package runtime

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// gate lets a number of pods at a time do what costs the machine much: start, from the sandbox to the last container,
// or end. More at once than the machine does well make all of them slower, and pods that start in turn are ready long
// before all are. Those who wait have their turns in the order they came.
type gate struct {
	turns   chan struct{}
	waiting *atomic.Int32
	crowd   *crowd
}

func newGate(turns int, c *crowd) gate {
	return gate{turns: make(chan struct{}, turns), waiting: new(atomic.Int32), crowd: c}
}

// maxTurn is the longest turn. Whoever takes longer waits for something, a pull, a hook or a runtime that hangs, and
// that is no reason for others to wait as well.
const maxTurn = 10 * time.Second

// enter waits for a turn. leave ends it and may be called again.
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	g.crowd.add(1)
	select {
	case g.turns <- struct{}{}:
	case <-ctx.Done():
		g.crowd.add(-1)
		return nil, ctx.Err()
	}
	once := sync.OnceFunc(func() {
		<-g.turns
		g.crowd.add(-1)
	})
	timer := time.AfterFunc(maxTurn, once)
	return func() { timer.Stop(); once() }, nil
}

// crowd is how many pods have a turn at a gate or wait for one.
type crowd struct {
	mu   sync.Mutex
	pods int
	gone chan struct{} // closed when there are none; nil before the first
}

func (c *crowd) add(pods int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pods == 0 {
		c.gone = make(chan struct{})
	}
	if c.pods += pods; c.pods == 0 {
		close(c.gone)
	}
}

// wait returns when there is nobody.
func (c *crowd) wait(ctx context.Context) error {
	c.mu.Lock()
	gone, pods := c.gone, c.pods
	c.mu.Unlock()
	if pods == 0 {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
