package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

const maxManifest = 10 << 20 // bytes of one file, or of one answer of a URL

// files is what is remembered of manifest files.
type files struct {
	*Config
	known map[string]fileState // by path
}

// fileState is a file's last good content. A bad edit does not end the pods that the file had before.
type fileState struct {
	size     int64
	modified time.Time
	inode    any
	pods     []*corev1.Pod
}

// watchFiles is the file source. It looks at everything when something in the directory changes, and now and then.
//
// Upstream: pkg/kubelet/config/file.go sourceFile.
func (c *Config) watchFiles(ctx context.Context, send sink) {
	f := &files{Config: c, known: map[string]fileState{}}
	log := klog.FromContext(ctx).WithValues("path", c.opts.ManifestPath)
	tick := time.NewTicker(c.opts.FileCheckFrequency)
	defer tick.Stop()
	changes, stop := f.notify(ctx)
	defer stop()
	for {
		if pods, err := f.scan(ctx); err != nil {
			// The last good set stands. A path that does not exist yet is a source without pods.
			log.Error(err, "Reading static pod manifests failed, will be retried")
		} else {
			send(ctx, pods)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changes:
			settle(ctx, changes)
		}
	}
}

// settle waits until a burst of changes is over: editors write a file in several steps.
func settle(ctx context.Context, changes <-chan struct{}) {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-timer.C:
			return
		}
	}
}

// notify tells of changes in the directory, or in that of the file. Without inotify the slow look has to do.
func (f *files) notify(ctx context.Context) (changes <-chan struct{}, stop func()) {
	out := make(chan struct{}, 1)
	log := klog.FromContext(ctx)
	dir := f.opts.ManifestPath
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(dir); err != nil {
			_ = watcher.Close()
		}
	}
	if err != nil {
		log.Error(err, "Changes of static pod manifests are found by looking only", "path", dir, "period", f.opts.FileCheckFrequency)
		return out, func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case e, ok := <-watcher.Events:
				if !ok {
					return
				}
				if ignored(filepath.Base(e.Name)) || e.Op == fsnotify.Chmod {
					continue
				}
			case err, ok := <-watcher.Errors:
				if !ok {
					return
				}
				log.Error(err, "Watching static pod manifests") // events may be lost: look
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, func() { _ = watcher.Close(); <-done }
}

// ignored tells whether a name is a hidden file or an editor's: .x, x~, #x#, x.swp.
func ignored(name string) bool {
	if name == "..data" {
		return false // the link that a mounted ConfigMap changes
	}
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") ||
		strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".swx") || strings.HasSuffix(name, ".tmp")
}

// scan reads all files. A bad one is told about and keeps the pods it had; the others are not touched.
func (f *files) scan(ctx context.Context) ([]*corev1.Pod, error) {
	paths, err := f.list()
	if err != nil {
		return nil, err
	}
	known := map[string]fileState{}
	var pods []*corev1.Pod
	for _, path := range paths {
		state, err := f.read(path, f.known[path])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Bad static pod manifest", "file", path)
			f.manifestEvent(fmt.Sprintf("static pod manifest %s: %v", path, err))
		}
		known[path] = state
		pods = append(pods, state.pods...)
	}
	f.known = known
	return pods, nil
}

// list returns the paths of the manifests in the order of their names.
func (f *files) list() ([]string, error) {
	info, err := os.Stat(f.opts.ManifestPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{f.opts.ManifestPath}, nil
	}
	entries, err := os.ReadDir(f.opts.ManifestPath)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(f.opts.ManifestPath, e.Name())
		if ignored(e.Name()) || e.Name() == "..data" {
			continue
		}
		// What a link leads to counts: a mounted ConfigMap's files are links.
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// read returns the file's state, the one before if the file has not changed or is bad.
func (f *files) read(path string, before fileState) (fileState, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return before, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return before, err
	}
	if !info.Mode().IsRegular() {
		return before, fmt.Errorf("not a regular file")
	}
	state := fileState{size: info.Size(), modified: info.ModTime(), inode: inode(info), pods: before.pods}
	if state.size == before.size && state.modified.Equal(before.modified) && state.inode == before.inode {
		return before, nil
	}
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return before, err
	}
	pods, err := f.complete(data, SourceFile, "file:"+path)
	if err != nil {
		return state, err
	}
	state.pods = pods
	return state, nil
}

// complete parses manifests and makes them static pods; one that is bad makes all of the file bad.
func (c *Config) complete(data []byte, source, from string) ([]*corev1.Pod, error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("larger than %d bytes", maxManifest)
	}
	parsed, err := parseManifests(data)
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for _, pod := range parsed {
		name := pod.Name
		complete, err := static(pod, source, from, c.opts.NodeName)
		if err != nil {
			return nil, fmt.Errorf("pod %q: %w", name, err)
		}
		complete.Annotations[SeenAnnotation] = time.Now().Format(time.RFC3339Nano)
		pods = append(pods, complete)
	}
	return pods, nil
}

// manifestEvent tells of a bad manifest on the node, which every user can look at.
func (c *Config) manifestEvent(message string) {
	if c.opts.Events == nil {
		return
	}
	node := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: string(c.opts.NodeName)}
	c.opts.Events.Event(node, corev1.EventTypeWarning, "FailedStaticPodManifest", message)
}
