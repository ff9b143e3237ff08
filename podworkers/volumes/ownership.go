package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
)

// Upstream: pkg/volume/volume_linux.go.
const (
	fileMask = fs.FileMode(0o660)
	dirMask  = fileMask | 0o110 | fs.ModeSetgid
)

const (
	firstProgress  = 30 * time.Second // when a pod is told that its volume has many files
	progressPeriod = time.Minute
)

// own gives a volume that was mounted for the pod to the pod's fsGroup, and tells the pod of it while that takes long.
func (m *Manager) own(ctx context.Context, pod *corev1.Pod, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &progress{at: dir}
	if m.opts.Events != nil {
		go m.tellProgress(ctx, pod, p)
	}
	return setOwnership(ctx, p, *podinfo.FSGroup(pod), changePolicy(pod))
}

// progress is how many files of a volume were given to a group.
type progress struct {
	at   string
	done atomic.Int64
}

// tellProgress sends events until ctx ends.
//
// Upstream: pkg/volume/volume_linux.go monitorProgress.
func (m *Manager) tellProgress(ctx context.Context, pod *corev1.Pod, p *progress) {
	what := p.at
	if below, err := filepath.Rel(m.opts.PodsDir, p.at); err == nil {
		what = below
	}
	message := fmt.Sprintf("Setting volume ownership for %s is taking longer than expected, consider using OnRootMismatch - "+
		"https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods", what)
	for wait := firstProgress; ; wait = progressPeriod {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if wait == progressPeriod {
			message = fmt.Sprintf("Setting volume ownership for %s, processed %d files.", what, p.done.Load())
		}
		m.opts.Events.Event(pod, corev1.EventTypeWarning, "VolumePermissionChangeInProgress", message)
	}
}

// changePolicy says whether a volume whose top already is the group's is left as it is.
func changePolicy(pod *corev1.Pod) corev1.PodFSGroupChangePolicy {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroupChangePolicy != nil {
		return *s.FSGroupChangePolicy
	}
	return corev1.FSGroupChangeAlways
}

// setOwnership gives a volume's files to a group, with the owner's permissions, and sets the setgid bit of its directories so
// that new files belong to the group too. Other pods may change the volume meanwhile, so links are not followed. Files that cannot be
// given away, such as those of a snapshot that is mounted in the volume, are logged and left.
func setOwnership(ctx context.Context, p *progress, group int64, policy corev1.PodFSGroupChangePolicy) error {
	root, err := os.OpenRoot(p.at)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	if policy == corev1.FSGroupChangeOnRootMismatch && owned(top, group) {
		return nil
	}
	var refused error
	change := func(path string) {
		p.done.Add(1)
		if err := give(root, path, group); err != nil && refused == nil {
			refused = err
		}
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if path != "." { // the top comes last: its ownership says that all below it is done
			change(path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("set the volume's group: %w", err)
	}
	change(".")
	if refused != nil {
		klog.FromContext(ctx).Error(refused, "Not all files of a volume could be given to the pod's group", "volume", p.at, "fsGroup", group)
	}
	return nil
}

// owned tells whether a volume's top is as setOwnership leaves it.
func owned(top fs.FileInfo, group int64) bool {
	stat, ok := top.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Gid) == group && top.Mode()&dirMask == dirMask
}

func give(root *os.Root, path string, group int64) error {
	err := root.Lchown(path, -1, int(group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went meanwhile
	}
	if err != nil {
		return err
	}
	info, err := root.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return ignoreGone(err)
	}
	mask := fileMask
	if info.IsDir() {
		mask = dirMask
	}
	return ignoreGone(root.Chmod(path, info.Mode()|mask))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
