// Package live has a running kubelet take what is changed in its configuration files. What only a start can change is
// told, and files with a fault change nothing.
package live

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/settings"
)

// Reasons of events on the node.
const (
	eventApplied = "KubeletConfigApplied"
	eventRestart = "KubeletConfigNeedsRestart"
	eventInvalid = "KubeletConfigInvalid"
	eventWarning = "KubeletConfigWarning"
)

// delay is how long after a change the files are read: several are often written one after the other.
const delay = 200 * time.Millisecond

// Options are what a Reloader reads, and what it tells of changes.
type Options struct {
	Settings *settings.Settings // in force at the start
	Events   record.EventRecorder
	Node     func() *corev1.ObjectReference // the object of the events
	// Apply hands the settings in force to those that take new values.
	Apply func(*settings.Settings) error
}

// Reloader follows the configuration files.
type Reloader struct {
	opts Options

	mu      sync.Mutex
	force   *settings.Settings
	restart []string // fields whose new values need a restart
	last    string   // the last fault that was told
}

// New returns a Reloader.
func New(opts Options) *Reloader { return &Reloader{opts: opts, force: opts.Settings} }

// Current returns the settings in force, which callers must not change, and the fields that differ in the files and need a restart.
func (r *Reloader) Current() (*settings.Settings, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.force, r.restart
}

// Run reads the files again when they change, and at SIGHUP, until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	var changes chan fsnotify.Event
	var faults chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		changes, faults = watcher.Events, watcher.Errors
	} else {
		klog.FromContext(ctx).Error(err, "Configuration files cannot be watched and are read again at SIGHUP only")
	}
	r.watch(ctx, watcher)
	wait := time.NewTimer(delay) // what changed since the start
	defer wait.Stop()
	waiting := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			if !waiting {
				wait.Reset(delay)
			}
			waiting = true
		case err := <-faults:
			klog.FromContext(ctx).Error(err, "Changes of configuration files may have been missed; SIGHUP has them read again")
		case <-hangup:
			notify(ctx, reloading())
			r.Reload(ctx)
			notify(ctx, daemon.SdNotifyReady)
		case <-wait.C:
			waiting = false
			r.watch(ctx, watcher) // before the reading: links may lead elsewhere now
			r.Reload(ctx)
		}
	}
}

// watch watches the directories that the files, and what links lead to, are in: a file that is replaced is another file.
// Watching one twice changes nothing.
func (r *Reloader) watch(ctx context.Context, watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	for _, dir := range r.directories() {
		if err := watcher.Add(dir); err != nil {
			klog.FromContext(ctx).Error(err, "A directory of configuration files cannot be watched", "directory", dir)
		}
	}
}

func (r *Reloader) directories() []string {
	config, drops := r.opts.Settings.Files()
	var files, dirs []string
	if config != "" {
		files = append(files, config)
	}
	if drops != "" {
		dirs = append(dirs, filepath.Dir(filepath.Clean(drops))) // it may be replaced, or made later
		_ = filepath.WalkDir(drops+string(filepath.Separator), func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return fs.SkipDir // the reading tells why
			case entry.IsDir():
				dirs = append(dirs, path)
			default:
				files = append(files, path)
			}
			return nil
		})
	}
	for _, file := range files {
		dirs = append(dirs, filepath.Dir(file))
		if target, err := filepath.EvalSymlinks(file); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Reload reads the files once, and applies and tells what is new.
func (r *Reloader) Reload(ctx context.Context) {
	r.mu.Lock()
	force, restart, last := r.force, r.restart, r.last
	r.mu.Unlock()
	logger := klog.FromContext(ctx)
	change, err := force.Reload()
	if err == nil && len(change.Applied) > 0 {
		if err = r.opts.Apply(change.Settings); err != nil {
			err = fmt.Errorf("apply %s: %w", strings.Join(change.Applied, ", "), err)
		}
	}
	if err != nil {
		if err.Error() != last {
			logger.Error(err, "The changed configuration is not valid, the last good one stays in force")
			r.opts.Events.Event(r.opts.Node(), corev1.EventTypeWarning, eventInvalid, "the last good configuration stays in force: "+err.Error())
		}
		r.set(force, restart, err.Error())
		return
	}
	r.set(change.Settings, change.Restart, "")
	if len(change.Applied) > 0 {
		logger.Info("Changed settings are in force", "fields", change.Applied)
		r.opts.Events.Event(r.opts.Node(), corev1.EventTypeNormal, eventApplied, "in force: "+strings.Join(change.Applied, ", "))
	}
	if len(change.Warnings) > 0 {
		logger.Info("Changed settings are not all as they were meant", "warnings", change.Warnings)
		r.opts.Events.Event(r.opts.Node(), corev1.EventTypeWarning, eventWarning, strings.Join(change.Warnings, "; "))
	}
	if len(change.Restart) > 0 && !slices.Equal(change.Restart, restart) {
		logger.Info("Changed settings need a restart of the kubelet", "fields", change.Restart)
		r.opts.Events.Event(r.opts.Node(), corev1.EventTypeWarning, eventRestart, "changed, and in force after a restart: "+strings.Join(change.Restart, ", "))
	}
}

func (r *Reloader) set(force *settings.Settings, restart []string, last string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.force, r.restart, r.last = force, restart, last
}

// reloading is what a service of systemd's Type=notify-reload says before it says that it is ready again.
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}

// notify does nothing without a supervisor that listens.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		klog.FromContext(ctx).Error(err, "Telling the supervisor failed", "state", state)
	}
}
