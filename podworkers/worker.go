package podworkers

import (
	"cmp"
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	podinfo "minikubelet/config/pod"
	"minikubelet/runtime"
	"minikubelet/runtime/cri"
	"minikubelet/status"
)

// worker is one pod's goroutine, with a mailbox that keeps the newest update.
type worker struct {
	opts     Options
	metrics  *metrics
	registry *Workers // lends the pod its full name
	uid      types.UID
	name     string          // full name
	lifetime context.Context // longer than that of a step
	cleaned  chan struct{}   // closed when the pod reaches Finished
	wake     chan ring       // the mailbox's bell, with the reason that it rings for; capacity 1

	// What a step leaves for the next one. Only the worker's goroutine uses it.
	failures int                        // steps in a row that failed
	failed   map[string]runtime.Failure // why containers wait, by name
	override *status.Override           // the end that the node decided on
	seenAt   time.Time                  // when the kubelet first saw the pod
	reported corev1.PodPhase            // in the last status
	waitsFor types.UID                  // the pod that has this one's name, once that was told
	assigned bool                       // the pod has its devices
	released bool                       // the stopped pod has given its name back
	emptied  bool                       // the runtime and the disk have nothing of the finished pod any more

	mu          sync.Mutex
	phase       Phase // changed by apply
	pod         *corev1.Pod
	kill        *Kill
	removed     bool
	updated     bool    // since the last step
	next        *Update // what the pod comes back with after it was removed
	runtimeOnly bool
	cancel      context.CancelFunc // of the step in flight
}

// ring is a reason for another step, and since when there is one.
type ring struct {
	why   string
	since time.Time
}

func newWorker(ws *Workers, pod *corev1.Pod) *worker {
	return &worker{
		opts: ws.opts, metrics: ws.metrics, registry: ws, uid: pod.UID, name: podinfo.FullName(pod), pod: pod, seenAt: seen(pod),
		cleaned: make(chan struct{}), wake: make(chan ring, 1),
	}
}

// deliver puts an update into the mailbox. An update that ends the pod, or ends it sooner, cancels the step in flight. A
// pod that was removed and comes back with its UID, as a static pod does whose manifest is put back, ends first.
func (w *worker) deliver(u Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.removed && !u.runtimeOnly && w.returns(u) {
		return
	}
	before, ending := w.grace(), w.killRequested()
	if u.Pod != nil {
		w.pod = u.Pod
	}
	w.runtimeOnly, w.updated = u.runtimeOnly, true
	if u.Kill != nil {
		w.kill = u.Kill.merge(w.kill)
	}
	if w.killRequested() && (!ending || w.grace() < before) && w.phase <= Terminating && w.cancel != nil {
		w.cancel()
	}
	w.poke("an update of the pod")
}

// returns keeps what comes of a removed pod for the worker that takes it up when this one has ended it, a kill too. It
// tells whether the update is for that worker alone. Callers hold mu.
func (w *worker) returns(u Update) bool {
	if u.Pod == nil && w.next == nil {
		return false
	}
	next := u
	if w.next != nil {
		next.Pod = cmp.Or(u.Pod, w.next.Pod)
		if u.Kill != nil {
			next.Kill = u.Kill.merge(w.next.Kill)
		} else {
			next.Kill = w.next.Kill
		}
	}
	w.next = &next
	return u.Pod != nil
}

// remove says that no source has the pod any more.
func (w *worker) remove() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.killRequested() && w.cancel != nil {
		w.cancel()
	}
	w.removed, w.next = true, nil
	w.poke("no source has the pod any more")
}

// poke rings the bell, for another step. Of several reasons the first is kept.
func (w *worker) poke(why string) { w.ring(ring{why, time.Now()}) }

func (w *worker) ring(bell ring) {
	select {
	case w.wake <- bell:
	default:
	}
}

// merge keeps the earlier kill's cause and the shorter of both grace periods.
func (k *Kill) merge(earlier *Kill) *Kill {
	if earlier == nil {
		return k
	}
	merged := *earlier
	if merged.Override == nil {
		merged.Override = k.Override
	}
	if k.GracePeriod != nil && (merged.GracePeriod == nil || *k.GracePeriod < *merged.GracePeriod) {
		merged.GracePeriod = k.GracePeriod
	}
	return &merged
}

// killRequested tells whether the pod must end although its containers could go on. Callers hold mu.
func (w *worker) killRequested() bool {
	return w.kill != nil || w.removed || w.pod.DeletionTimestamp != nil
}

// grace is how many seconds containers get between TERM and KILL. Callers hold mu.
//
// Upstream: pkg/kubelet/pod_workers.go calculateEffectiveGracePeriod.
func (w *worker) grace() int64 {
	var seconds int64 = corev1.DefaultTerminationGracePeriodSeconds
	if g := w.pod.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	if g := w.pod.DeletionGracePeriodSeconds; w.pod.DeletionTimestamp != nil && g != nil {
		seconds = *g
	}
	if w.kill != nil && w.kill.GracePeriod != nil && *w.kill.GracePeriod < seconds {
		seconds = *w.kill.GracePeriod
	}
	return max(seconds, 1)
}

// run makes a step each time the bell rings or a step's time has come. It returns true when the pod is gone, and false
// when ctx ends.
func (w *worker) run(ctx context.Context) (gone bool) {
	w.lifetime = ctx
	timer := time.NewTimer(0)
	timer.Stop()
	var due time.Time // the next step that the last one asked for
	for {
		var bell ring
		select {
		case <-ctx.Done():
			return false
		case bell = <-w.wake:
		case <-timer.C:
			now := time.Now()
			if wait := sleep(due, now); wait > 0 {
				timer.Reset(wait)
				continue
			}
			bell = ring{"the time has come that the last step named: a retry, or the end of a back-off", now}
		}
		timer.Stop()
		s, again := w.step(ctx, bell)
		if w.apply(ctx, s) == Gone {
			return true
		}
		if again > 0 {
			due = time.Now().Add(again)
			timer.Reset(min(again, longestSleep))
		}
	}
}

// longestSleep is how long a worker sleeps at once.
const longestSleep = time.Minute

// sleep is how long a worker sleeps until it looks again whether a time has come, by the clock on the wall or by the one that timers
// go by. That one stands still while the machine is suspended, and tokens expire all the same.
func sleep(due, now time.Time) time.Duration {
	return min(due.Sub(now), due.Round(0).Sub(now.Round(0)), longestSleep)
}

// mail is what a step works with: the mailbox as it is when the step begins.
type mail struct {
	pod     *corev1.Pod
	kill    *Kill
	ending  bool // killRequested
	removed bool
	updated bool
	grace   int64
}

// takeMail returns the mail, and the context of the step, which mail that comes later may cancel.
func (w *worker) takeMail(ctx context.Context) (context.Context, mail) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, w.cancel = context.WithCancel(ctx)
	m := mail{pod: w.pod, kill: w.kill, ending: w.killRequested(), removed: w.removed, updated: w.updated, grace: w.grace()}
	w.updated = false
	return ctx, m
}

// stepNames are what steps are called in traces, as upstream's are.
var stepNames = [...]string{Syncing: "syncPod", Terminating: "syncTerminatingPod", Terminated: "syncTerminatedPod", Finished: "finishPod"}

// step does once what the pod's phase asks for. It returns what came of it, and after which time to make another step
// without being woken (0: not).
func (w *worker) step(ctx context.Context, bell ring) (s signal, again time.Duration) {
	ctx, m := w.takeMail(ctx)
	defer w.cancel()
	_, awake := cri.Since(ctx, "wakeUp", m.pod, bell.since, cri.Why(bell.why))
	awake(nil)
	if m.ending && w.phase == Syncing {
		return killed, 0
	}
	start, kind := time.Now(), w.stepKind(m)
	ctx, end := cri.Step(ctx, stepNames[w.phase], m.pod, cri.Why(bell.why)) // part: tracing, kubelet/tracing
	var err error
	defer func() {
		end(err)
		w.metrics.step.WithLabelValues(kind).Observe(time.Since(start).Seconds())
	}()
	switch w.phase {
	case Syncing:
		s, again, err = w.syncPod(ctx, m.pod)
	case Terminating:
		s, err = w.terminatePod(ctx, m)
	case Terminated:
		s, err = w.cleanupPod(ctx, m)
	case Finished:
		s, err = w.finishPod(ctx, m)
	}
	switch {
	case err == nil:
		w.failures = 0
		return s, again
	case ctx.Err() != nil:
		return none, 0 // the mail that cancelled the step rang the bell
	}
	klog.FromContext(ctx).Error(err, "Pod step failed, will be retried", "phase", w.phase)
	w.failures++
	if retry := w.backoff(); again == 0 || retry < again {
		again = retry
	}
	return none, again
}

// apply moves the pod to the phase that follows on a step's signal. A new phase begins with a step at once.
func (w *worker) apply(ctx context.Context, s signal) Phase {
	to := w.phase.next(s)
	if to == w.phase {
		return to
	}
	klog.FromContext(ctx).V(2).Info("Pod changes phase", "from", w.phase, "to", to, "signal", s)
	w.mu.Lock()
	w.phase = to
	w.mu.Unlock()
	w.failures = 0
	if to == Finished {
		close(w.cleaned)
	}
	w.poke("the pod is " + to.String() + " now")
	return to
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second
)

func (w *worker) backoff() time.Duration {
	return min(firstRetry<<min(w.failures-1, 10), lastRetry)
}
