// Package plugins finds the node's plugins: each announces itself with a socket in the directory plugins_registry, on
// which it tells what it is and is told how that went.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// Handler takes plugins of one type.
//
// Upstream: pkg/kubelet/pluginmanager/cache/types.go PluginHandler.
type Handler interface {
	// Validate tells why a plugin cannot be taken, nil if it can.
	Validate(name, endpoint string, versions []string) error
	// Register takes a plugin that serves at endpoint.
	Register(ctx context.Context, name, endpoint string, versions []string) error
	// Deregister is told that a plugin that was taken is gone.
	Deregister(ctx context.Context, name, endpoint string)
}

// Watcher watches the directory.
//
// Upstream: pkg/kubelet/pluginmanager/plugin_manager.go pluginManager.
type Watcher struct {
	dir      string
	handlers map[string]Handler

	// What follows belongs to Run's goroutine.
	events  *fsnotify.Watcher
	plugins map[string]*plugin // by the path of their socket
	running sync.WaitGroup
}

// maxPlugins is how many sockets are looked at; each costs a goroutine.
const maxPlugins = 1000

// New returns a watcher of a directory, which is made if need be; handlers are by plugin type.
func New(dir string, handlers map[string]Handler) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, plugins: map[string]*plugin{}}
}

// Run registers the plugins there are and those that come, and hears when they go, until ctx ends. That the kubelet
// ends does not deregister them.
func (w *Watcher) Run(ctx context.Context) {
	defer w.running.Wait()
	log := klog.FromContext(ctx)
	var err error
	if w.events, err = fsnotify.NewWatcher(); err != nil {
		log.Error(err, "Plugins cannot be watched for; none will be registered")
		return
	}
	defer w.events.Close()
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		log.Error(err, "Making the plugins' directory failed; none will be registered")
		return
	}
	w.scan(ctx, w.dir)
	for {
		select {
		case <-ctx.Done():
			return
		case event, open := <-w.events.Events:
			if !open {
				return
			}
			if event.Has(fsnotify.Create) {
				w.scan(ctx, event.Name)
			} else if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
				w.remove(event.Name)
			}
		case err, open := <-w.events.Errors:
			if !open {
				return
			}
			log.Error(err, "Watching for plugins met an error, looking at all of them again")
			for socket := range w.plugins {
				if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
					w.remove(socket)
				}
			}
			w.scan(ctx, w.dir)
		}
	}
}

// scan takes in what stands at a path: a socket, or a directory and all below it.
func (w *Watcher) scan(ctx context.Context, path string) {
	log := klog.FromContext(ctx)
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it went again; an event told, or will
		case err != nil:
			return err
		case entry.IsDir():
			// Watched first and read then: what comes in between is seen twice, not missed.
			if err := w.events.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("watch %s: %w", path, err)
			}
		case entry.Type()&fs.ModeSocket != 0 && !strings.HasPrefix(entry.Name(), "."):
			w.add(ctx, path)
		}
		return nil
	})
	if err != nil {
		log.Error(err, "Looking for plugins failed", "path", path)
	}
}

// add begins to care for a socket. One that is known and stands there anew is another plugin.
func (w *Watcher) add(ctx context.Context, socket string) {
	info, err := os.Lstat(socket)
	if err != nil {
		return
	}
	if known := w.plugins[socket]; known != nil {
		if os.SameFile(known.info, info) && known.info.ModTime().Equal(info.ModTime()) {
			return
		}
		w.remove(socket)
	}
	if len(w.plugins) >= maxPlugins {
		klog.FromContext(ctx).Error(nil, "There are too many plugins, this one is not registered", "socket", socket, "limit", maxPlugins)
		return
	}
	here, gone := context.WithCancel(ctx)
	p := &plugin{socket: socket, info: info, handlers: w.handlers, gone: gone, done: make(chan struct{})}
	w.plugins[socket] = p
	w.running.Go(func() { p.run(ctx, here) })
}

// remove ends the care for a socket, or for all below a directory, and waits until it is over.
func (w *Watcher) remove(path string) {
	for socket, p := range w.plugins {
		if socket == path || strings.HasPrefix(socket, path+string(filepath.Separator)) {
			p.gone()
			<-p.done
			delete(w.plugins, socket)
		}
	}
}
