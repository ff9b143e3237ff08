package logs

import (
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// Watcher tells readers of changes in directories. All share one inotify instance: a machine has few (128 for root),
// and a reader each would use them up. The zero value is ready for use.
type Watcher struct {
	mu      sync.Mutex
	inotify *fsnotify.Watcher
	readers map[string]map[chan struct{}]struct{} // by directory
	closed  bool
}

// Watch returns a channel that gets a value after something in the directory changed. Without inotify it stays silent,
// and readers have their timers. stop ends it.
func (w *Watcher) Watch(dir string) (changed <-chan struct{}, stop func()) {
	dir = filepath.Clean(dir)
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.start() {
		return c, func() {}
	}
	if w.readers[dir] == nil {
		if err := w.inotify.Add(dir); err != nil {
			klog.Background().V(2).Info("Directory of logs cannot be watched, it is looked at instead", "dir", dir, "err", err)
			return c, func() {}
		}
		w.readers[dir] = map[chan struct{}]struct{}{}
	}
	w.readers[dir][c] = struct{}{}
	return c, func() { w.forget(dir, c) }
}

func (w *Watcher) forget(dir string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.readers[dir], c)
	if len(w.readers[dir]) > 0 || w.readers[dir] == nil {
		return
	}
	delete(w.readers, dir)
	if w.inotify != nil {
		_ = w.inotify.Remove(dir) // fails for a directory that is gone
	}
}

// start makes the inotify instance when it is first needed. The caller holds the lock.
func (w *Watcher) start() bool {
	if w.inotify != nil || w.closed {
		return w.inotify != nil
	}
	inotify, err := fsnotify.NewWatcher()
	if err != nil {
		klog.Background().V(2).Info("Logs cannot be watched, they are looked at instead", "err", err)
		return false
	}
	w.inotify, w.readers = inotify, map[string]map[chan struct{}]struct{}{}
	go w.dispatch(inotify)
	return true
}

// dispatch wakes the readers of a directory until the watcher is closed. An overflow of the queue wakes all.
func (w *Watcher) dispatch(inotify *fsnotify.Watcher) {
	for {
		select {
		case event, ok := <-inotify.Events:
			if !ok {
				return
			}
			w.wake(filepath.Dir(event.Name))
		case _, ok := <-inotify.Errors:
			if !ok {
				return
			}
			w.wake("")
		}
	}
}

func (w *Watcher) wake(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for watched, readers := range w.readers {
		if dir != "" && watched != dir {
			continue
		}
		for c := range readers {
			select {
			case c <- struct{}{}:
			default: // it is awake
			}
		}
	}
}

// Close ends the watching; readers go on by their timers.
func (w *Watcher) Close() error {
	w.mu.Lock()
	inotify := w.inotify
	w.inotify, w.closed = nil, true
	w.mu.Unlock()
	if inotify == nil {
		return nil
	}
	return inotify.Close()
}
