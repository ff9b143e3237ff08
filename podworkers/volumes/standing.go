package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"minikubelet/podworkers/csi"
	"minikubelet/podworkers/objects"
)

// A volume stands once it was mounted completely. When an update of it fails later, because its ConfigMap was deleted or its
// driver is away, the volume stays as it is: the error becomes one event, the update is tried again, and containers that
// restart meanwhile use what is mounted. Only a volume that never stood keeps containers from starting.

const (
	// refreshLimit is how long the first attempt to bring a standing volume up to date may hold the pod's worker. It
	// doubles with each that fails, until lastRefreshLimit.
	refreshLimit     = 5 * time.Second
	lastRefreshLimit = 40 * time.Second
	// slowRefresh is how long a failed attempt took if the next one has to wait for its time.
	slowRefresh      = time.Second
	firstRefreshWait = time.Second
	lastRefreshWait  = time.Minute
	// overdue is when something is tried again that was due before Mount and still is after it.
	overdue = 10 * time.Second
)

// standing is what is known of a pod's volumes that stand.
type standing struct {
	// all says that the pod's sandbox was seen running, before which all volumes were mounted.
	all    bool
	stood  map[string]bool     // those that this kubelet mounted, by name
	behind map[string]*trouble // those that could not be brought up to date
}

// trouble is how far a standing volume is behind.
type trouble struct {
	failures int
	again    time.Time
	slow     bool
}

// Adopt is called when the pod's sandbox runs. All volumes were mounted before the sandbox was made, by this or an earlier
// kubelet, so all count as standing, also those that leave nothing on disk.
func (m *Manager) Adopt(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.standingOf(uid).all = true
}

// standingOf returns the pod's record. Callers hold mu.
func (m *Manager) standingOf(uid types.UID) *standing {
	s := m.standing[uid]
	if s == nil {
		s = &standing{stood: map[string]bool{}, behind: map[string]*trouble{}}
		m.standing[uid] = s
	}
	return s
}

// stood tells whether a volume was mounted completely before, by this kubelet or an earlier one.
func (m *Manager) stood(uid types.UID, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.standingOf(uid)
	return s.all || s.stood[name]
}

// stands tells whether containers can use the volume as it is.
func (m *Manager) stands(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) bool {
	stood := m.stood(pod.UID, v.Name)
	switch dir := m.dir(pod.UID, v); kindOf(v) {
	case "configMap", "secret", "downwardAPI", "projected":
		return complete(dir)
	case "emptyDir":
		return stood && m.emptyDirStands(v.EmptyDir, dir)
	case "elsewhere":
		if _, ok := m.placed(pod.UID, v.Name); ok {
			return true
		}
		if !stood || m.opts.CSI == nil {
			return false
		}
		_, ok := m.standingCSI(ctx, pod, v)
		return ok
	}
	return stood
}

// refresh mounts a volume, or brings one up to date that stands. Errors of the latter are told and not returned.
func (m *Manager) refresh(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	start := time.Now()
	if !m.stands(ctx, pod, v) {
		err := m.mount(ctx, pod, v)
		m.metrics.mounted(pod.UID, v, start, err, err == nil)
		if err == nil {
			m.caughtUp(ctx, pod, v)
		}
		return err
	}
	limit, due := m.attempt(pod.UID, v.Name, start)
	if !due {
		m.metrics.has(pod.UID, v, true)
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := m.mount(limited, pod, v)
	m.metrics.mounted(pod.UID, v, start, err, true)
	switch {
	case err == nil:
		m.caughtUp(ctx, pod, v)
		return nil
	case ctx.Err() != nil:
		return err
	}
	if kindOf(v) == "elsewhere" {
		err = errors.Join(err, m.placeAsItIs(ctx, pod, v))
	}
	m.fellBehind(ctx, pod, v, err, time.Since(start))
	return nil
}

// attempt returns how long an update of a volume may take, and whether to make one now. An update that failed quickly is
// repeated at each sync of the pod, one that took long only when its time has come.
func (m *Manager) attempt(uid types.UID, name string, now time.Time) (limit time.Duration, due bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.standingOf(uid).behind[name]
	if t == nil {
		return refreshLimit, true
	}
	return min(refreshLimit<<min(t.failures, 10), lastRefreshLimit), !t.slow || !now.Before(t.again)
}

func (m *Manager) caughtUp(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) {
	m.mu.Lock()
	s := m.standingOf(pod.UID)
	was := s.behind[v.Name]
	delete(s.behind, v.Name)
	s.stood[v.Name] = true
	m.mu.Unlock()
	if was != nil {
		klog.FromContext(ctx).Info("Volume is up to date again", "volume", v.Name)
	}
}

// fellBehind tells of the first error since the volume was up to date, and says when to try again.
func (m *Manager) fellBehind(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, err error, took time.Duration) {
	m.mu.Lock()
	s := m.standingOf(pod.UID)
	t := s.behind[v.Name]
	first := t == nil
	if first {
		t = &trouble{}
		s.behind[v.Name] = t
	}
	t.again, t.slow = time.Now().Add(min(firstRefreshWait<<min(t.failures, 10), lastRefreshWait)), took > slowRefresh
	t.failures++
	m.mu.Unlock()
	if !first {
		return
	}
	klog.FromContext(ctx).Error(err, "Volume cannot be brought up to date, the pod goes on with it as it stands", "volume", v.Name)
	if ctx.Err() == nil && !errors.Is(err, objects.ErrNotIssued) {
		_ = m.tell(pod, []unmounted{{v.Name, err}}) // one that stands is no reason to refuse the pod
	}
}

// nextRefresh is when the first of the pod's volumes that are behind is to be tried again, zero for never.
func (m *Manager) nextRefresh(uid types.UID) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	var first time.Time
	if s := m.standing[uid]; s != nil {
		for _, t := range s.behind {
			if first.IsZero() || t.again.Before(first) {
				first = t.again
			}
		}
	}
	return first
}

// standingCSI finds a volume that a CSI driver published to the pod for an earlier kubelet, if its file system answers.
func (m *Manager) standingCSI(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (csi.Mounted, bool) {
	return m.opts.CSI.Standing(pod.UID, v.Name, func(path string) error { return m.files.answers(ctx, path) })
}

// placeAsItIs lets containers use a volume that a CSI driver published to the pod for an earlier kubelet.
func (m *Manager) placeAsItIs(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	if _, ok := m.placed(pod.UID, v.Name); ok {
		return nil
	}
	s, ok := m.standingCSI(ctx, pod, v)
	if !ok {
		return nil
	}
	return m.hold(pod.UID, v.Name, place{dir: s.Dir, device: s.Device, readOnly: s.ReadOnly, relabel: !s.ReadOnly, provisional: true})
}

// complete tells whether writeAtomic has written all of a volume before.
func complete(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, dataLink))
	if err != nil {
		return false
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if info, err := os.Lstat(name); err == nil && info.IsDir() {
			continue // containers mount something there
		}
		if to, err := os.Readlink(name); err != nil || to != dataLink+"/"+e.Name() {
			return false
		}
	}
	return true
}
