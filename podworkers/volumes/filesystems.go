package volumes

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a file system may take to answer before the pod's worker does something else.
const patience = 10 * time.Second

// filesystems tells whether file systems answer. The server of one on the network may be away: a call of the kernel that looks at it
// returns when the server is back, and cannot be cancelled. The zero value is ready.
type filesystems struct {
	mu    sync.Mutex
	asked map[string]*question // by path
}

// question is one that has no answer yet. However many pods ask for a path, one goroutine waits.
type question struct {
	since    time.Time
	answered chan struct{}
}

// answers returns nil if the file system of a path answers, also that the path is not there, and an error if it does not for a while
// or until ctx ends. What the caller then does to the path can still hang, if the server goes just now.
func (f *filesystems) answers(ctx context.Context, path string) error {
	f.mu.Lock()
	q := f.asked[path]
	if q == nil {
		q = &question{time.Now(), make(chan struct{})}
		if f.asked == nil {
			f.asked = map[string]*question{}
		}
		f.asked[path] = q
		go f.ask(path, q)
	}
	until := q.since.Add(patience)
	f.mu.Unlock()
	limited, cancel := context.WithDeadline(ctx, until) // when that is over already nothing is waited for
	defer cancel()
	select {
	case <-q.answered:
		return nil
	case <-limited.Done():
		return fmt.Errorf("the file system of %s does not answer: %w", path, limited.Err())
	}
}

func (f *filesystems) ask(path string, q *question) {
	var s unix.Statfs_t
	_ = unix.Statfs(path, &s) // asks the server each time
	_, _ = os.Stat(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.asked, path)
	close(q.answered)
}
