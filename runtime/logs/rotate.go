// Package logs keeps the logs of containers small. The runtime writes them; when one has grown too large this package
// renames it and tells the runtime to open a new one.
//
// A pod that may write to the log directory could put a link where a log was, so every file is opened from its
// directory's descriptor and no link is followed below PodLogsDir.
package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

// Options is everything a Rotator needs; all of it is required.
type Options struct {
	CRI        *cri.Client
	PodLogsDir string        // podLogsDir; logs elsewhere are not touched
	MaxSize    int64         // containerLogMaxSize in bytes: a log of that size is rotated; negative for none
	MaxFiles   int           // containerLogMaxFiles: of one container, the one being written included
	Workers    int           // containerLogMaxWorkers: logs being rotated at once
	Interval   time.Duration // containerLogMonitorInterval
}

// Rotator rotates the logs of running containers.
//
// Upstream: pkg/kubelet/logs/container_log_manager.go containerLogManager
type Rotator struct {
	Options
	// paths are the logs of running containers by ID, relative to PodLogsDir. A container never changes its log.
	paths map[string]string

	mu sync.Mutex // guards MaxSize and MaxFiles
}

// Reconfigure sets the limits from the next check on. A negative size turns the rotation off.
func (r *Rotator) Reconfigure(maxSize int64, maxFiles int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.MaxSize, r.MaxFiles = maxSize, maxFiles
}

func (r *Rotator) limits() (maxSize int64, maxFiles int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.MaxSize, r.MaxFiles
}

// New returns a Rotator; Run starts it.
func New(options Options) *Rotator {
	return &Rotator{Options: options, paths: map[string]string{}}
}

// Run checks the logs every Interval until ctx ends. Events of the file system would come with every write and cost more.
func (r *Rotator) Run(ctx context.Context) {
	tick := time.NewTicker(r.Interval)
	defer tick.Stop()
	for {
		if err := r.RotateLogs(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Rotating container logs failed, will be retried", "after", r.Interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// RotateLogs checks every running container's log once. Calls must not overlap.
func (r *Rotator) RotateLogs(ctx context.Context) error {
	if size, _ := r.limits(); size < 0 {
		return nil
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	answer, err := r.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	errs := r.findPaths(ctx, answer.GetContainers())
	ids := make(chan string)
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range max(r.Workers, 1) {
		workers.Go(func() {
			for id := range ids {
				if err := r.check(ctx, id, r.paths[id]); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("rotate the log of container %s, %s: %w", id, r.paths[id], err))
					mu.Unlock()
				}
			}
		})
	}
	for id := range r.paths {
		ids <- id
	}
	close(ids)
	workers.Wait()
	return errors.Join(errs...)
}

// findPaths asks for the logs of containers that are new and forgets those of containers that are gone.
func (r *Rotator) findPaths(ctx context.Context, containers []*runtimeapi.Container) (errs []error) {
	before := r.paths
	r.paths = map[string]string{}
	for _, container := range containers {
		id := container.GetId()
		if path, known := before[id]; known {
			r.paths[id] = path
			continue
		}
		answer, err := r.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if cri.IsNotFound(err) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("find the log of container %s: %w", id, err))
			continue
		}
		path, err := filepath.Rel(r.PodLogsDir, answer.GetStatus().GetLogPath())
		if err != nil || !filepath.IsLocal(path) {
			klog.FromContext(ctx).V(2).Info("A container's log is not in the log directory and is not rotated",
				"containerID", id, "path", answer.GetStatus().GetLogPath())
			continue // not a pod's container, or made before podLogsDir changed
		}
		r.paths[id] = path
	}
	return errs
}

// check rotates a log that is large enough.
func (r *Rotator) check(ctx context.Context, id, path string) error {
	d, err := openDir(r.PodLogsDir, filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the pod is being removed
	}
	if err != nil {
		return err
	}
	defer d.close()
	name := filepath.Base(path)
	size, err := d.size(name)
	if errors.Is(err, fs.ErrNotExist) {
		// It was moved away, for instance by a kubelet that was killed between rename and reopen.
		if err := r.reopen(ctx, id); err != nil {
			return err
		}
		size, err = d.size(name)
	}
	if err != nil {
		return err
	}
	if most, _ := r.limits(); most < 0 || size < most {
		return nil
	}
	return r.rotate(ctx, d, id, name)
}

func (r *Rotator) reopen(ctx context.Context, id string) error {
	_, err := r.CRI.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("reopen the log: %w", err)
	}
	return nil
}

const (
	timestampFormat = "20060102-150405" // in UTC, so that names sort by age
	compressSuffix  = ".gz"
	tmpSuffix       = ".tmp"
)

// rotate makes room, compresses the logs of earlier rotations and renames the newest. That one is not compressed yet, since the
// runtime may still write to it and a reader follow it.
func (r *Rotator) rotate(ctx context.Context, d *dir, id, name string) error {
	entries, err := d.names()
	if err != nil {
		return err
	}
	_, files := r.limits()
	keep, remove := plan(entries, name, files)
	var errs []error // the log is rotated all the same
	for _, old := range remove {
		errs = append(errs, d.remove(old))
	}
	for _, old := range keep {
		if !strings.HasSuffix(old, compressSuffix) {
			errs = append(errs, d.compress(ctx, old))
		}
	}
	rotated := name + "." + time.Now().UTC().Format(timestampFormat)
	if err := d.rename(name, rotated); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := r.reopen(ctx, id); err != nil {
		// The container goes on writing to the file, which gets its name back and is rotated the next time.
		errs = append(errs, err, d.rename(rotated, name))
	}
	return errors.Join(errs...)
}
