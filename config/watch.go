package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// manifestWatch tells of changes of manifests by inotify. It watches the directory of the manifests, and the one above it,
// since that directory may come and go. Its fields belong to the goroutine of the file source.
type manifestWatch struct {
	path    string            // of the manifests: a directory or a file
	notify  *fsnotify.Watcher // nil without inotify: changes are then found every FileCheckFrequency
	watched map[string]bool
	left    map[string]fsnotify.Op // manifests that were removed or renamed since the last look
}

func newManifestWatch(ctx context.Context, path string, period time.Duration) *manifestWatch {
	w := &manifestWatch{path: path, watched: map[string]bool{}, left: map[string]fsnotify.Op{}}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		w.notify = nil
		klog.FromContext(ctx).Error(err, "Changes of static pod manifests are found by looking only", "path", path, "period", period)
	}
	return w
}

func (w *manifestWatch) stop() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// renew watches the directories that are at the paths now, which may be others than before. Where the one above is missing
// too, the nearest that is there is watched.
func (w *manifestWatch) renew(ctx context.Context) {
	if w.notify == nil {
		return
	}
	wanted := map[string]bool{}
	add := func(dir string) {
		wanted[dir] = true
		if err := w.notify.Add(dir); err != nil && isDir(dir) {
			klog.FromContext(ctx).Error(err, "Changes of static pod manifests are found by looking only", "path", dir)
		}
	}
	// From the top, and again if one further down appeared before its parent was watched.
	for above := w.above(); !wanted[above]; above = w.above() {
		add(above)
	}
	if isDir(w.path) {
		add(w.path)
	}
	for dir := range w.watched {
		if !wanted[dir] {
			_ = w.notify.Remove(dir) // may be gone, and its watch with it
		}
	}
	w.watched = wanted
}

// above is the nearest directory above the manifests that is there.
func (w *manifestWatch) above() string {
	dir := filepath.Dir(w.path)
	for !isDir(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// settleTime is how long a burst of changes may last: editors write a file in several steps.
const settleTime = 20 * time.Millisecond

// wait returns when there is something to look at, or false when ctx ends.
func (w *manifestWatch) wait(ctx context.Context, tick <-chan time.Time) bool {
	var events chan fsnotify.Event
	var errs chan error
	if w.notify != nil {
		events, errs = w.notify.Events, w.notify.Errors
	}
	var settled <-chan time.Time
	for {
		changed := false
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case <-settled:
			return true
		case e := <-events:
			changed = w.concerns(e)
		case err := <-errs:
			klog.FromContext(ctx).Error(err, "Watching static pod manifests") // events may be lost: look
			changed = true
		}
		if changed && settled == nil {
			settled = time.After(settleTime)
		}
	}
}

// concerns tells whether an event is about manifests or about a directory above them. It keeps removed manifests for back.
func (w *manifestWatch) concerns(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		return false
	}
	path := filepath.Clean(e.Name)
	dir, name := filepath.Dir(path), filepath.Base(path)
	switch {
	case dir == w.path && !ignored(name), path == w.path:
		if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
			w.left[path] |= e.Op
		}
		return true
	case name == "..data": // a file whose directory is that of a mounted ConfigMap
		return dir == filepath.Dir(w.path)
	}
	return strings.HasPrefix(w.path, path+"/") // a directory on the way
}

// back returns the manifests that went and are there again. One that was removed is another file now. One that was
// renamed has come back if it is the file that it was; if not, an editor has put the next version in its place.
func (w *manifestWatch) back(known func(path string) os.FileInfo) []string {
	var paths []string
	for path, op := range w.left {
		before := known(path)
		now, err := os.Stat(path)
		if before != nil && err == nil && (op.Has(fsnotify.Remove) || os.SameFile(before, now)) {
			paths = append(paths, path)
		}
	}
	clear(w.left)
	return paths
}
