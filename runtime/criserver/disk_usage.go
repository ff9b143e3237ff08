package criserver

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/diskusage"
	"minikubelet/runtime/criserver/store"
)

// diskPatience is how long a call for statistics waits for writable layers to be measured. After that the figures of an
// earlier measurement count, with their time.
const diskPatience = time.Second

// diskUsages tells by container ID what containers take on the disk: their writable layers, and one container of each pod
// also the pod's own files. Those without a writable layer are left out.
func (s *Server) diskUsages(ctx context.Context, containers []*container) map[string]diskusage.Usage {
	usages := layerUsages(ctx, containers, s.images.SnapshotUsage)
	for _, c := range containers {
		if usage, ok := usages[c.ID]; ok {
			s.addPodFiles(&usage, c)
			usages[c.ID] = usage
		}
	}
	return usages
}

// layerUsages measures the writable layers of containers by ID, all at once.
func layerUsages(ctx context.Context, containers []*container, measureLayer func(context.Context, string) (diskusage.Usage, error)) map[string]diskusage.Usage {
	ctx, cancel := context.WithTimeout(ctx, diskPatience)
	defer cancel()
	found := make([]diskusage.Usage, len(containers))
	var all sync.WaitGroup
	for i, c := range containers {
		all.Go(func() {
			usage, err := measureLayer(ctx, c.ID)
			if err != nil { // it may be removed just now
				klog.FromContext(ctx).V(4).Info("Could not measure the writable layer", "container", c.ID, "err", err)
				return
			}
			found[i] = usage
		})
	}
	all.Wait()
	usages := map[string]diskusage.Usage{}
	for i, c := range containers {
		if usage := found[i]; !usage.At.IsZero() {
			usages[c.ID] = usage
		}
	}
	return usages
}

// addPodFiles counts hostname and resolv.conf, which the containers of a pod share and may write to, for one of them: the
// newest that runs, or else the newest. The CRI has no place for what a pod takes on the disk.
func (s *Server) addPodFiles(usage *diskusage.Usage, c *container) {
	sb, ok, _ := s.sandboxes.Get(c.Config.SandboxID)
	if !ok || s.bearer(sb) != c {
		return
	}
	for _, file := range []string{sb.hostnameFile(), sb.resolvConf()} {
		var stat unix.Stat_t
		if unix.Lstat(file, &stat) == nil {
			usage.Bytes += stat.Blocks * 512
			usage.Inodes++
		}
	}
}

// bearer is the container that its pod's own files count for.
func (s *Server) bearer(sb *sandbox) *container {
	var newest *container
	for _, c := range s.containersOf(sb.ID) {
		running := c.State().Phase == store.ContainerRunning
		if newest == nil || running || newest.State().Phase != store.ContainerRunning {
			newest = c
		}
	}
	return newest
}
