package runtime

import (
	"context"
	"sync"
	"time"
)

// gate lets a number of pods at a time do what costs the machine much: start, from the sandbox to the last container, or end. More
// at once than the machine does well make all of them slower, and pods that start in turn are ready long before all are. Turns
// come in the order in which they were asked for.
type gate struct {
	turns chan struct{}
}

func newGate(turns int) gate { return gate{turns: make(chan struct{}, turns)} }

// maxTurn is the longest turn. A pod that takes longer waits for something, a pull, a hook or a runtime that hangs, and others do
// not have to wait as well.
const maxTurn = 10 * time.Second

// enter waits for a turn. leave ends it and may be called again.
func (g gate) enter(ctx context.Context) (leave func(), err error) {
	select {
	case g.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	once := sync.OnceFunc(func() { <-g.turns })
	timer := time.AfterFunc(maxTurn, once)
	return func() { timer.Stop(); once() }, nil
}
