package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// lookAgain is how often the container's end is looked for: nothing in its log's directory tells of it.
	lookAgain = 250 * time.Millisecond
	// rotationGrace is for what the runtime still writes into the old file while it opens the new one.
	rotationGrace = 200 * time.Millisecond
)

// follow writes until the container has ended: what it wrote before its end was known is in the file by then.
func (r *reader) follow(ctx context.Context, out Writer, watcher *Watcher) error {
	changed, stop := watcher.Watch(filepath.Dir(r.Path))
	defer stop()
	ended, rotated := false, false
	for {
		if err := r.drain(ctx); err != nil {
			return err
		}
		next, err := r.successor()
		if err != nil {
			return err
		}
		switch {
		case next != nil && rotated:
			if err := r.turnTo(next); err != nil {
				return err
			}
			rotated = false
			continue
		case next != nil:
			rotated = true
			if err := errors.Join(next.Close(), wait(ctx, nil, rotationGrace)); err != nil {
				return err
			}
			continue
		case ended:
			return r.rest()
		case !r.Running():
			ended = true
			continue
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if err := wait(ctx, changed, lookAgain); err != nil {
			return err
		}
	}
}

// successor opens the log anew if it is another file by now. A file that was cut is read from its new beginning.
func (r *reader) successor() (*os.File, error) {
	have, err := r.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at log: %w", err)
	}
	if have.Size() < r.offset {
		r.offset, r.buffer, r.inside = 0, r.buffer[:0], false
	}
	next, err := open(r.Root, r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // between two files, or removed with its container
	}
	if err != nil {
		return nil, err
	}
	if info, err := next.Stat(); err == nil && !os.SameFile(have, info) {
		return next, nil
	}
	return nil, next.Close()
}

// turnTo goes on with the file that follows a rotated one.
func (r *reader) turnTo(next *os.File) error {
	if err := r.rest(); err != nil {
		return errors.Join(err, next.Close())
	}
	_ = r.file.Close()
	r.file, r.offset, r.inside = next, 0, false
	return nil
}

func wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) error {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}
