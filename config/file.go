package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

const maxManifest = 10 << 20 // bytes of one file, or of one answer of a URL

// files is what is remembered of manifest files.
type files struct {
	*Config
	known map[string]fileState // by path
	watch *manifestWatch
}

// fileState is a file's last good content. A bad edit does not end the pods that the file had before.
type fileState struct {
	info os.FileInfo
	pods []*corev1.Pod
}

// unchanged tells whether the file is as it was.
func (s fileState) unchanged(now os.FileInfo) bool {
	return s.info != nil && s.info.Size() == now.Size() && s.info.ModTime().Equal(now.ModTime()) && inode(s.info) == inode(now)
}

// inode tells files apart that were put in each other's place.
func inode(info os.FileInfo) any {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return [3]int64{int64(s.Dev), int64(s.Ino), s.Ctim.Nano()}
	}
	return nil
}

// watchFiles is the file source. It reads the directory when inotify tells of a change, and every FileCheckFrequency.
func (c *Config) watchFiles(ctx context.Context, send sink) {
	f := &files{Config: c, known: map[string]fileState{}, watch: newManifestWatch(ctx, c.opts.ManifestPath, c.opts.FileCheckFrequency)}
	defer f.watch.stop()
	tick := time.NewTicker(c.opts.FileCheckFrequency)
	defer tick.Stop()
	for {
		f.watch.renew(ctx)
		f.deliver(ctx, send)
		if !f.watch.wait(ctx, tick.C) {
			return
		}
	}
}

// deliver sends the pods that the files have now. When a file was removed and made again since the last time, a set without its pods
// is sent first: they end, and start again.
func (f *files) deliver(ctx context.Context, send sink) {
	back := f.watch.back(func(path string) os.FileInfo { return f.known[path].info })
	if len(back) > 0 {
		var others []*corev1.Pod
		for _, path := range back {
			delete(f.known, path)
		}
		for _, path := range slices.Sorted(maps.Keys(f.known)) {
			others = append(others, f.known[path].pods...)
		}
		send(ctx, others)
	}
	pods, err := f.scan(ctx)
	if err != nil {
		// The pods of the last good set stay.
		klog.FromContext(ctx).Error(err, "Reading static pod manifests failed, will be retried", "path", f.opts.ManifestPath)
		return
	}
	send(ctx, pods)
}

// ignored tells whether a name is a hidden file or an editor's: .x, x~, #x#, x.swp.
func ignored(name string) bool {
	if name == "..data" {
		return false // the link that a mounted ConfigMap changes
	}
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") ||
		strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".swx") || strings.HasSuffix(name, ".tmp")
}

// scan reads all files. A bad one is an event, and keeps the pods that it had before.
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
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not wait for a writer
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
	if before.unchanged(info) {
		return before, nil
	}
	state := fileState{info: info, pods: before.pods}
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return before, err
	}
	pods, err := f.complete(data, podinfo.SourceFile, "file:"+path)
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
		complete.Annotations[podinfo.SeenAnnotation] = time.Now().Format(time.RFC3339Nano)
		pods = append(pods, complete)
	}
	return pods, nil
}

// manifestEvent tells of a bad manifest on the node: there is no pod to tell it on.
func (c *Config) manifestEvent(message string) {
	if c.opts.Events == nil {
		return
	}
	node := &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: string(c.opts.NodeName)}
	if c.opts.Node != nil {
		node = c.opts.Node()
	}
	c.opts.Events.Event(node, corev1.EventTypeWarning, "FailedStaticPodManifest", message)
}
