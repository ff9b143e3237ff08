// Package config knows which pods should run: those of the apiserver, of manifest files and of a URL. Each source
// sends whole sets; merge works out what changed.
package config

import (
	"cmp"
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	podinfo "minikubelet/config/pod"
)

// Op is what happened to the pods of an update.
//
// Upstream: pkg/kubelet/types/pod_update.go PodOperation.
type Op int

// The operations.
const (
	ADD Op = iota
	UPDATE
	REMOVE
	RECONCILE
	DELETE
)

// String is the operation's name as logs show it.
func (o Op) String() string {
	return [...]string{"ADD", "UPDATE", "REMOVE", "RECONCILE", "DELETE"}[o]
}

// PodUpdate is a change to some pods of one source.
type PodUpdate struct {
	Op     Op
	Source string
	Pods   []*corev1.Pod
	Seen   time.Time // when the source had them
}

// Options name the sources; one without a name is left out.
type Options struct {
	// Pods are this node's in the apiserver; nil for no such source.
	Pods cache.ListerWatcher
	// NodeSynced is closed when the node's labels are known. Before that pods that choose nodes by their labels cannot be admitted,
	// so the apiserver's pods are not listed. nil if they are known from the start.
	NodeSynced <-chan struct{}
	NodeName   types.NodeName
	// ManifestPath is a directory or a file, looked at on every change and each FileCheckFrequency.
	ManifestPath       string
	FileCheckFrequency time.Duration
	// ManifestURL is fetched with ManifestURLHeader each HTTPCheckFrequency.
	ManifestURL        string
	ManifestURLHeader  http.Header
	HTTPCheckFrequency time.Duration
	// Events take what is wrong with manifests, on the node. Node refers to it; by default by its name alone.
	Events record.EventRecorder
	Node   func() *corev1.ObjectReference
}

// Config merges the sources.
type Config struct {
	opts    Options
	sources []source

	// updates is written by the sources, one at a time, and read by the sync loop. When it is full, the source that
	// has something to say waits, and the others behind it; the loop never waits for a source.
	updates chan PodUpdate
	// merging makes merging a set and sending what came of it one step, so that updates come out in the order in which
	// they were merged. It is held while updates is full: nothing that the loop calls may take it.
	merging sync.Mutex
	merger  *merger

	mu    sync.Mutex // never held while something is sent
	ready map[string]bool
}

// source is a pod source: its name, and what sends its sets until ctx ends.
type source struct {
	name string
	run  func(context.Context, sink)
}

// sink takes one source's whole set of pods.
type sink func(ctx context.Context, pods []*corev1.Pod)

// New returns a Config of the sources that the options name; Run starts them.
func New(opts Options) (*Config, error) {
	c := &Config{opts: opts, updates: make(chan PodUpdate, 50), ready: map[string]bool{}, merger: newMerger()}
	for _, period := range []*time.Duration{&c.opts.FileCheckFrequency, &c.opts.HTTPCheckFrequency} {
		*period = cmp.Or(max(*period, 0), 20*time.Second)
	}
	if opts.ManifestPath != "" {
		c.opts.ManifestPath = filepath.Clean(opts.ManifestPath)
		c.sources = append(c.sources, source{podinfo.SourceFile, c.watchFiles}) // part: manifest files, config/file.go
	}
	if opts.ManifestURL != "" {
		s, err := newURLSource(c.opts) // part: manifests of a URL, config/http.go
		if err != nil {
			return nil, err
		}
		c.sources = append(c.sources, source{podinfo.SourceHTTP, s.run})
	}
	if opts.Pods != nil {
		c.sources = append(c.sources, source{podinfo.SourceAPI, c.watchPods})
	}
	return c, nil
}

// Run runs the sources until ctx ends.
func (c *Config) Run(ctx context.Context) {
	var sources sync.WaitGroup
	for _, s := range c.sources {
		sources.Go(func() {
			s.run(ctx, func(ctx context.Context, pods []*corev1.Pod) { c.set(ctx, s.name, pods) })
		})
	}
	sources.Wait()
}

// Updates is where changes come out, for one reader.
func (c *Config) Updates() <-chan PodUpdate { return c.updates }

// set merges a source's whole set and sends what changed.
func (c *Config) set(ctx context.Context, source string, pods []*corev1.Pod) {
	seen := time.Now()
	c.merging.Lock()
	defer c.merging.Unlock()
	for _, u := range c.merger.merge(ctx, source, pods) {
		u.Seen = seen
		select {
		case c.updates <- u:
		case <-ctx.Done():
			return
		}
	}
}

// Handled says that the reader of Updates has acted on an update. Its source is ready from then on: a pod that the
// reader still does not know is one that the source does not have. It reports whether the source was not ready before.
func (c *Config) Handled(u PodUpdate) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = !c.ready[u.Source]
	c.ready[u.Source] = true
	return first
}

// SourceReady tells whether the pods that a source sent first have been handled. A source that is not configured sends none and
// counts as ready when all others are.
func (c *Config) SourceReady(name string) bool {
	for _, s := range c.sources {
		if s.name == name {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.ready[name]
		}
	}
	return c.AllReady()
}

// AllReady tells whether every source is ready.
func (c *Config) AllReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sources {
		if !c.ready[s.name] {
			return false
		}
	}
	return true
}
