// Package shutdown ends the node's pods in good order before the machine goes down: systemd-logind announces it and
// waits until they have ended, the less important ones first.
package shutdown

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	schedulingcorev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	podinfo "minikubelet/config/pod"
	"minikubelet/kubelet/settings"
	"minikubelet/runtime/cri"
)

// Reason and Message are those of a pod that was ended for a shutdown.
//
// Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager.go nodeShutdownReason, nodeShutdownMessage.
const (
	Reason  = "Terminated"
	Message = "Pod was terminated in response to imminent node shutdown."
)

const (
	eventNodeShutdown = "Shutdown"

	// reconnectFirst is the wait before the bus is tried again, reconnectMost the longest.
	//
	// Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go dbusReconnectPeriod.
	reconnectFirst = time.Second
	reconnectMost  = time.Minute
)

// Options is everything a Manager needs.
type Options struct {
	Settings *settings.Settings
	Events   record.EventRecorder
	Node     func() *corev1.ObjectReference // the object of events
	// ActivePods are the pods that may run.
	ActivePods func() []*corev1.Pod
	// Kill ends a pod within so many seconds; it does not wait for that.
	Kill func(pod *corev1.Pod, gracePeriod int64)
	// Cleaned is closed when nothing of the pod is left but its record.
	Cleaned func(types.UID) <-chan struct{}
	// SetShuttingDown is told of the shutdown, and of its being called off.
	SetShuttingDown func(bool)
	// ConfDir is logind's directory of drop-ins by default.
	ConfDir string
}

// Manager waits for the machine's shutdown.
//
// Upstream: pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go managerImpl.
type Manager struct {
	Options
	periods      atomic.Pointer[[]kubeletconfig.ShutdownGracePeriodByPodPriority] // in force, lowest priority first
	changed      chan struct{}                                                    // periods were set anew, capacity 1
	shuttingDown atomic.Bool
}

// New returns a Manager. While the settings give pods no time it leaves the machine alone.
func New(o Options) *Manager {
	o.ConfDir = cmp.Or(o.ConfDir, confDir)
	m := &Manager{Options: o, changed: make(chan struct{}, 1)}
	m.Reconfigure(o.Settings)
	return m
}

// Reconfigure takes shutdownGracePeriod, shutdownGracePeriodCriticalPods and shutdownGracePeriodByPodPriority. A shutdown that
// is under way keeps those that it began with.
func (m *Manager) Reconfigure(s *settings.Settings) {
	periods := groupsOf(s)
	if before := m.periods.Swap(&periods); before != nil && slices.Equal(*before, periods) {
		return
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// groups are the grace periods in force, the lowest priority first.
func (m *Manager) groups() []kubeletconfig.ShutdownGracePeriodByPodPriority { return *m.periods.Load() }

// groupsOf returns the grace periods by priority, the lowest first: those of the settings, or one for critical pods and
// one for all others.
func groupsOf(s *settings.Settings) []kubeletconfig.ShutdownGracePeriodByPodPriority {
	groups := slices.Clone(s.ShutdownGracePeriodByPodPriority)
	all, critical := s.ShutdownGracePeriod.Duration, s.ShutdownGracePeriodCriticalPods.Duration
	if len(groups) == 0 && all > 0 {
		groups = []kubeletconfig.ShutdownGracePeriodByPodPriority{
			{Priority: 0, ShutdownGracePeriodSeconds: int64((all - critical) / time.Second)},
			{Priority: podinfo.SystemCriticalPriority, ShutdownGracePeriodSeconds: int64(critical / time.Second)},
		}
	}
	slices.SortFunc(groups, func(a, b kubeletconfig.ShutdownGracePeriodByPodPriority) int {
		return cmp.Compare(a.Priority, b.Priority)
	})
	return groups
}

// ShuttingDown tells whether the machine is about to go down.
func (m *Manager) ShuttingDown() bool { return m.shuttingDown.Load() }

// Run watches for shutdowns until ctx ends. A machine without logind goes down without notice.
func (m *Manager) Run(ctx context.Context) {
	for wait := reconnectFirst; ; wait = min(2*wait, reconnectMost) {
		for len(m.groups()) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-m.changed:
			}
		}
		began := time.Now()
		err := m.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = reconnectFirst
			continue
		}
		if time.Since(began) > reconnectMost {
			wait = reconnectFirst
		}
		klog.FromContext(ctx).Error(err, "Shutdown: not watching for the machine's shutdown, will be retried", "after", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

var errDisconnected = errors.New("the system bus closed the connection")

// watch returns when the connection to logind ends, without an error when the settings no longer give pods any time.
func (m *Manager) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := connect(ctx, m.ConfDir)
	if err != nil {
		return err
	}
	defer func() { _ = l.close() }()
	announced, err := l.watch(ctx)
	if err != nil {
		return err
	}
	if err := m.prepare(ctx, l); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Shutdown: watching for the machine's shutdown", "gracePeriod", m.period())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.changed: // part: live settings, kubelet/live
			if len(m.groups()) == 0 {
				return nil
			}
			if err := l.extend(ctx, m.period()); err != nil {
				return err
			}
		case start, open := <-announced:
			if !open {
				return errDisconnected
			}
			if err := m.handle(ctx, l, start); err != nil {
				return err
			}
		}
	}
}

// prepare has logind wait for the kubelet. One that was started while the machine goes down gets no lock any more: it goes
// on where the one before ended, for as long as that one's lock, or the machine, lasts.
func (m *Manager) prepare(ctx context.Context, l *logind) error {
	going, err := property[bool](l, "PreparingForShutdown") // a shutdown was announced already
	if err != nil {
		return err
	}
	if going {
		return m.handle(ctx, l, true)
	}
	if err := l.extend(ctx, m.period()); err != nil {
		return err
	}
	if m.ShuttingDown() { // it was called off while there was no connection
		return m.handle(ctx, l, false)
	}
	return l.inhibit(ctx)
}

// period is how long all pods together have.
func (m *Manager) period() time.Duration {
	var sum int64
	for _, g := range m.groups() {
		sum += min(g.ShutdownGracePeriodSeconds, math.MaxInt32)
	}
	return cri.Seconds(sum)
}

// handle ends the pods and lets the machine go down, or takes up its watch again.
func (m *Manager) handle(ctx context.Context, l *logind, start bool) error {
	m.shuttingDown.Store(start)
	m.SetShuttingDown(start)
	if !start {
		m.Events.Event(m.Node(), corev1.EventTypeNormal, eventNodeShutdown, "Shutdown manager detected shutdown cancellation")
		return l.inhibit(ctx)
	}
	klog.FromContext(ctx).Info("Shutdown: the machine goes down, ending its pods")
	m.Events.Event(m.Node(), corev1.EventTypeNormal, eventNodeShutdown, "Shutdown manager detected shutdown event")
	m.endPods(ctx)
	if ctx.Err() != nil {
		return ctx.Err() // it is not over; the next kubelet goes on
	}
	klog.FromContext(ctx).Info("Shutdown: done, the machine may go down")
	return l.release()
}

// endPods ends one group of pods after the other, each when the one before is gone or its time is up.
func (m *Manager) endPods(ctx context.Context) {
	groups := m.groups()
	for i, pods := range byPriority(groups, m.ActivePods()) {
		seconds := groups[i].ShutdownGracePeriodSeconds
		for _, pod := range pods {
			grace := seconds
			if podGrace := pod.Spec.TerminationGracePeriodSeconds; podGrace != nil {
				grace = min(grace, *podGrace)
			}
			klog.FromContext(ctx).Info("Shutdown: ending a pod", "pod", klog.KObj(pod), "podUID", pod.UID, "gracePeriod", grace)
			m.Kill(pod, grace)
		}
		if !m.await(ctx, pods, cri.Seconds(seconds)) {
			klog.FromContext(ctx).Info("Shutdown: not all pods of a group ended in time", "priority", groups[i].Priority, "gracePeriod", seconds)
		}
	}
}

// await tells whether the pods were gone in time.
func (m *Manager) await(ctx context.Context, pods []*corev1.Pod, limit time.Duration) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for _, pod := range pods {
		select {
		case <-m.Cleaned(pod.UID):
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// byPriority puts each pod into the group of the highest priority that is not above its own, or into the lowest. Without
// groups there is none.
func byPriority(groups []kubeletconfig.ShutdownGracePeriodByPodPriority, pods []*corev1.Pod) [][]*corev1.Pod {
	out := make([][]*corev1.Pod, len(groups))
	if len(out) == 0 {
		return nil
	}
	for _, pod := range pods {
		in := 0
		for i, g := range groups {
			if g.Priority <= schedulingcorev1.PodPriority(pod) {
				in = i
			}
		}
		out[in] = append(out[in], pod)
	}
	return out
}
