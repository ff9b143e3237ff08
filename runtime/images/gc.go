package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"minikubelet/runtime/cri"
)

// Reasons of a collector's events on the node.
const (
	eventInvalidDiskCapacity = "InvalidDiskCapacity"
	eventFreeDiskSpaceFailed = "FreeDiskSpaceFailed"
	eventImageGCFailed       = "ImageGCFailed"
)

// gcPeriod is how often a collector looks if nothing is pulled.
const gcPeriod = 5 * time.Minute

// CollectorOptions is everything a Collector needs. CRI, Events and Node are required.
type CollectorOptions struct {
	CRI    *cri.Client
	Events record.EventRecorder
	Node   func() *corev1.ObjectReference // the events' object
	// Pulled, if there is one, rings when an image was pulled: that is what fills the disk.
	Pulled <-chan struct{}

	Limits

	// DiskSpace returns the size of the filesystem that a path is on and what is free of it; statfs by default.
	DiskSpace func(path string) (capacity, available int64, err error)
}

// Collector removes images that nothing uses when the disk that they are on fills up or they get old. Images that the
// runtime has pinned stay. It is safe for concurrent use.
//
// Upstream: pkg/kubelet/images/image_gc_manager.go realImageGCManager
type Collector struct {
	CollectorOptions
	began time.Time

	mu     sync.Mutex // one collection at a time
	images map[string]*seen
	mounts map[string][]string // container ID: images mounted as volumes, which never change
}

// seen is what is known of an image.
type seen struct {
	id                      string
	size                    int64
	pinned, used            bool
	firstDetected, lastUsed time.Time
}

// NewCollector fills in the defaults; Run starts it.
func NewCollector(options CollectorOptions) *Collector {
	if options.DiskSpace == nil {
		options.DiskSpace = diskSpace
	}
	return &Collector{CollectorOptions: options, images: map[string]*seen{}, mounts: map[string][]string{}}
}

func diskSpace(path string) (capacity, available int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, 0, fmt.Errorf("measure the image filesystem %s: %w", path, err)
	}
	return int64(s.Blocks) * s.Bsize, int64(s.Bavail) * s.Bsize, nil
}

// Run collects every 5 minutes, and after pulls, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	c.began = time.Now()
	failed := false
	tick := time.NewTicker(gcPeriod)
	defer tick.Stop()
	for {
		err := c.GarbageCollect(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Image garbage collection failed, will be retried")
			if failed {
				c.Events.Event(c.Node(), corev1.EventTypeWarning, eventImageGCFailed, err.Error())
			}
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.Pulled:
		}
	}
}

// Limits are the settings that may change while a Collector runs.
type Limits struct {
	HighThresholdPercent int           // imageGCHighThresholdPercent: from that usage of the disk on, images are removed
	LowThresholdPercent  int           // imageGCLowThresholdPercent: down to that usage
	MinAge               time.Duration // imageMinimumGCAge: images known for a shorter time stay
	MaxAge               time.Duration // imageMaximumGCAge: images unused for longer go whatever the usage; 0 for none
}

// Reconfigure sets limits, which the next collection goes by.
func (c *Collector) Reconfigure(l Limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Limits = l
}

// GarbageCollect removes images that are too old, and if the disk is too full as many more as it takes, the ones
// longest unused first. With a high threshold of 100 only those that are too old go.
func (c *Collector) GarbageCollect(ctx context.Context) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, end := cri.Step(ctx, "Images/GarbageCollect", nil)
	defer func() { end(err) }()
	now := time.Now()
	if err := c.detect(ctx, now); err != nil {
		return err
	}
	if err := c.freeOld(ctx, now); err != nil {
		return err
	}
	if c.HighThresholdPercent == 100 {
		return nil // images stay however full the disk is
	}
	capacity, available, err := c.measure(ctx)
	if err != nil {
		return err
	}
	percent := 100 - int(available*100/capacity)
	if percent < c.HighThresholdPercent {
		return nil
	}
	want := capacity*int64(100-c.LowThresholdPercent)/100 - available
	klog.FromContext(ctx).Info("The image filesystem is fuller than the high threshold, removing images down to the low one",
		"usage", percent, "highThreshold", c.HighThresholdPercent, "lowThreshold", c.LowThresholdPercent, "amountToFree", want)
	freed, err := c.free(ctx, want, c.notNew(now))
	if err != nil {
		return fmt.Errorf("free %d bytes of images, %d are freed: %w", want, freed, err)
	}
	if freed < want {
		message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", percent, formatSize(capacity), freed)
		c.Events.Event(c.Node(), corev1.EventTypeWarning, eventFreeDiskSpaceFailed, message)
		return errors.New(message)
	}
	return nil
}

// DeleteUnusedImages removes every image that nothing uses, except those younger than MinAge.
func (c *Collector) DeleteUnusedImages(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if err := c.detect(ctx, now); err != nil {
		return err
	}
	_, err := c.free(ctx, math.MaxInt64, c.notNew(now))
	return err
}

// detect records which images are there and which are used. Callers hold mu.
func (c *Collector) detect(ctx context.Context, now time.Time) error {
	// Images first: one that is pulled meanwhile is not known, and so not removed before its container is made.
	listed, err := c.CRI.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	used, err := c.inUse(ctx)
	if err != nil {
		return err
	}
	before := c.images
	c.images = map[string]*seen{}
	for _, image := range listed.GetImages() {
		id := image.GetId()
		s := before[id]
		if s == nil {
			s = &seen{id: id, firstDetected: now}
		}
		s.size, s.pinned, s.used = int64(min(image.GetSize(), math.MaxInt64)), image.GetPinned(), used[id]
		if s.used {
			s.lastUsed = now
		}
		c.images[id] = s
	}
	return nil
}

// inUse returns the images that containers, running or not, were made of or have mounted.
func (c *Collector) inUse(ctx context.Context) (map[string]bool, error) {
	answer, err := c.CRI.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	before := c.mounts
	c.mounts = map[string][]string{}
	for _, container := range answer.GetContainers() {
		used[cmp.Or(container.GetImageId(), container.GetImageRef())] = true
		id := container.GetId()
		mounted, known := before[id]
		if !known {
			if mounted, err = c.mounted(ctx, id); err != nil {
				return nil, err
			}
		}
		c.mounts[id] = mounted
		for _, image := range mounted {
			used[image] = true
		}
	}
	return used, nil
}

// mounted returns the images that a container has as volumes.
func (c *Collector) mounted(ctx context.Context, id string) (images []string, err error) {
	answer, err := c.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if cri.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the images that container %s mounts: %w", id, err)
	}
	for _, mount := range answer.GetStatus().GetMounts() {
		if image := mount.GetImage().GetImage(); image != "" {
			images = append(images, image)
		}
	}
	return images, nil
}

// measure measures the filesystem with the images.
func (c *Collector) measure(ctx context.Context) (capacity, available int64, err error) {
	answer, err := c.CRI.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return 0, 0, fmt.Errorf("find the image filesystem: %w", err)
	}
	if len(answer.GetImageFilesystems()) == 0 {
		return 0, 0, errors.New("the runtime names no image filesystem")
	}
	capacity, available, err = c.DiskSpace(answer.GetImageFilesystems()[0].GetFsId().GetMountpoint())
	if err != nil {
		return 0, 0, err
	}
	if capacity == 0 {
		err := errors.New("invalid capacity 0 on image filesystem")
		c.Events.Event(c.Node(), corev1.EventTypeWarning, eventInvalidDiskCapacity, err.Error())
		return 0, 0, err
	}
	return capacity, min(available, capacity), nil
}

// evictionOrder are the images that could go, the one longest unused first, and of those the one longest here.
func (c *Collector) evictionOrder() []*seen {
	var out []*seen
	for _, s := range c.images {
		if !s.used && !s.pinned {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *seen) int {
		return cmp.Or(a.lastUsed.Compare(b.lastUsed), a.firstDetected.Compare(b.firstDetected), cmp.Compare(a.id, b.id))
	})
	return out
}

// freeOld removes what was not used for MaxAge, once the kubelet has run for that long. Before that it cannot know.
func (c *Collector) freeOld(ctx context.Context, now time.Time) error {
	if c.MaxAge == 0 || now.Sub(c.began) <= c.MaxAge {
		return nil
	}
	_, err := c.free(ctx, math.MaxInt64, func(s *seen) bool {
		return now.Sub(s.lastUsed) > c.MaxAge && now.Sub(s.firstDetected) > c.MaxAge
	})
	return err
}

// notNew leaves out images that were just pulled, perhaps for a container that is about to be made.
func (c *Collector) notNew(now time.Time) func(*seen) bool {
	return func(s *seen) bool { return now.Sub(s.firstDetected) >= c.MinAge }
}

// free removes unused images that may go until that many bytes are free. What an image's removal gives back is not known
// before, since images share layers; its size stands for it.
func (c *Collector) free(ctx context.Context, want int64, mayGo func(*seen) bool) (freed int64, err error) {
	var errs []error
	for _, s := range c.evictionOrder() {
		if freed >= want || !mayGo(s) {
			continue
		}
		if err := c.remove(ctx, s); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += s.size
	}
	return freed, errors.Join(errs...)
}

func (c *Collector) remove(ctx context.Context, s *seen) error {
	klog.FromContext(ctx).Info("Removing an image that nothing uses", "imageID", s.id, "size", s.size, "lastUsed", s.lastUsed)
	_, err := c.CRI.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: s.id}})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", s.id, err)
	}
	delete(c.images, s.id)
	return nil
}

// formatSize writes 1.5 GiB.
func formatSize(bytes int64) string {
	size, unit := float64(bytes), 0
	for ; size >= 1024 && unit < 4; unit++ {
		size /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGT"[unit-1])
}
